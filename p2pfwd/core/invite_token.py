"""An invite as one word: where the inviter is, in which network, and a secret.

    invite<base32 of: version, length, header check | network, secret, peer ID, addresses | checksum>

Rules: letters and digits only, in either case, so that no shell, chat or line break harms it; blanks within
are dropped. The header (4 bytes: version, length of all bytes, first byte of the SHA-256 of these) and the
checksum (first 4 bytes of the SHA-256 of all before) are the same in every version: a word that was cut is
told from one that was mistyped, and both from one of a newer program. No error, no `repr` shows the secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from typing import Final, Literal

from p2pfwd.core import varint
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.errors import InvalidInvite, InvalidMultiaddr, InvalidPeerId, RemoteProtocolError

NetworkName = Literal["public", "lan", "private"]

PREFIX: Final = "invite"
VERSION: Final = 1
SECRET_BYTES: Final = 16
"""128 bits: nobody guesses one."""

KEY_MARK_BYTES: Final = 4
"""Of the fingerprint of a private network's key: enough to tell that it is another network."""

MAX_ADDRESSES: Final = 8
MAX_BYTES: Final = 1024
MAX_TEXT_CHARS: Final = 4096
"""Longest text looked at, blanks included."""

_HEADER_BYTES: Final = 4
_CHECKSUM_BYTES: Final = 4
_HEADER_CHARS: Final = 7  # that hold the header
_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz234567")
_NETWORKS: Final[tuple[NetworkName, ...]] = ("public", "lan", "private")
_COPY: Final = "copy the whole word again from where `p2pfwd invite` printed it"


@dataclass(frozen=True, slots=True)
class InviteToken:
    """Its parts. `addrs` are the inviter's, without its ID; relayed ones end in /p2p-circuit."""

    peer: PeerId
    addrs: tuple[Multiaddr, ...]
    secret: bytes = field(repr=False)
    network: NetworkName = "public"
    key_mark: bytes = b""
    """Of a private network: how the fingerprint of its key begins."""

    def __str__(self) -> str:
        """The word, with its secret."""
        network = bytes([_NETWORKS.index(self.network)]) + self.key_mark
        peer = self.peer.to_bytes()
        body = network + self.secret + bytes([len(peer)]) + peer
        for addr in self.addrs[:MAX_ADDRESSES]:
            data = addr.to_bytes()
            body += varint.encode(len(data)) + data
        head = bytes([VERSION]) + (_HEADER_BYTES + len(body) + _CHECKSUM_BYTES).to_bytes(2)
        data = head + hashlib.sha256(head).digest()[:1] + body
        return PREFIX + _to_base32(data + hashlib.sha256(data).digest()[:_CHECKSUM_BYTES])

    @classmethod
    def parse(cls, text: str) -> InviteToken:
        """The invite that somebody pasted. Raises InvalidInvite, which says what became of the word."""
        return _from_body(_checked(_letters(text)))


def _letters(text: str) -> str:
    """What follows the prefix."""
    if len(text) > MAX_TEXT_CHARS:
        raise InvalidInvite(f"that is no invite: it is longer than {MAX_TEXT_CHARS} characters", hint=_COPY)
    words = text.split()
    if words[:2] == ["p2pfwd", "join"]:  # the whole line was pasted
        words = words[2:]
    word = "".join(words).strip("'\"").lower()
    if not word:
        raise InvalidInvite("no invite is given", hint=_COPY)
    if not word.startswith(PREFIX):
        raise InvalidInvite(
            f"that is no invite, or its beginning is missing: one begins with {PREFIX}", hint=_COPY
        )
    odd = next((char for char in word if char not in _LETTERS), None)
    if odd is not None:
        raise InvalidInvite(f"the invite was mistyped: {quoted(odd)} is in none", hint=_COPY)
    return word[len(PREFIX) :]


def _checked(letters: str) -> bytes:
    """The bytes, header and checksum found to be right."""
    if len(letters) < _HEADER_CHARS:
        left = f"{len(letters)} characters are left after {PREFIX}"
        raise InvalidInvite(f"the invite was cut: {left}", hint=_COPY)
    head = _from_base32(letters[:8].ljust(8, "a"))[:_HEADER_BYTES]
    length = int.from_bytes(head[1:3])
    mistyped = InvalidInvite("the invite was mistyped: its checksum is wrong", hint=_COPY)
    if hashlib.sha256(head[:3]).digest()[0] != head[3] or not _HEADER_BYTES < length <= MAX_BYTES:
        raise mistyped
    chars = (length * 8 + 4) // 5
    if len(letters) != chars:
        has, wanted = len(letters) + len(PREFIX), chars + len(PREFIX)
        if has < wanted:
            raise InvalidInvite(f"the invite was cut: {has} of its {wanted} characters are there", hint=_COPY)
        raise InvalidInvite(f"the invite has {has} characters, and should have {wanted}", hint=_COPY)
    data = _from_base32(letters)
    body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if hashlib.sha256(body).digest()[:_CHECKSUM_BYTES] != checksum or _to_base32(data) != letters:
        raise mistyped
    if body[0] != VERSION:
        raise InvalidInvite(
            f"the invite is of the form {body[0]}, of a newer version of p2pfwd",
            hint="use that version here, too",
        )
    return body[_HEADER_BYTES:]


def _from_body(body: bytes) -> InviteToken:
    """Raises InvalidInvite for what no p2pfwd has made."""
    try:
        name = _NETWORKS[body[0]]
        at = 1 + (KEY_MARK_BYTES if name == "private" else 0)
        key_mark, secret = body[1:at], body[at : at + SECRET_BYTES]
        at += SECRET_BYTES
        end = at + 1 + body[at]
        peer = PeerId.from_bytes(body[at + 1 : end])
        addrs: list[Multiaddr] = []
        while end < len(body):
            size, at = varint.decode(body, end)
            end = at + size
            if end > len(body) or len(addrs) == MAX_ADDRESSES:
                raise ValueError
            addrs.append(Multiaddr.from_bytes(body[at:end]))
    except (IndexError, ValueError, InvalidPeerId, InvalidMultiaddr, RemoteProtocolError):
        raise InvalidInvite("that is no invite: what is in it makes no sense", hint=_COPY) from None
    return InviteToken(peer, tuple(addrs), secret, name, key_mark)


def _to_base32(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def _from_base32(letters: str) -> bytes:
    try:
        return base64.b32decode(letters.upper() + "=" * (-len(letters) % 8))
    except binascii.Error:
        raise InvalidInvite("the invite was cut or mistyped", hint=_COPY) from None
