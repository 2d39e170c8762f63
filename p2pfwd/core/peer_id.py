"""Peer IDs: the multihash of a public key (libp2p spec: peer-ids).

A key of at most 42 bytes is inlined (identity multihash, `12D3KooW…`), a longer one is hashed
(sha2-256, `Qm…`). Text goes out as base58btc and comes in as base58btc or CIDv1 (codec libp2p-key).
A peer ID says who somebody claims to be; only a verified handshake proves it.
Cheap to import: neither protobuf nor OpenSSL is loaded before a key is asked for.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, final

import base58

from p2pfwd.core import multibase
from p2pfwd.core.quoting import quoted
from p2pfwd.errors import InvalidPeerId

if TYPE_CHECKING:
    from p2pfwd.core.keys import PublicKey

MAX_INLINE_KEY_BYTES = 42
"""Longest public key protobuf that is inlined; longer ones are hashed (spec)."""

MAX_TEXT_CHARS = 128
"""Longest text form looked at: base32 CIDv1 of the longest ID has 75 characters."""

_ED25519 = b"\x00\x24\x08\x01\x12\x20"
_SECP256K1 = b"\x00\x25\x08\x02\x12\x21"
_INLINED = (_ED25519, _SECP256K1)
"""How an ID with a key in it begins: the multihash, and the key's protobuf (type, length) in canonical form.
No other key type is short enough."""

_IDENTITY = 0x00
_SHA2_256 = 0x12
_CID_LIBP2P_KEY = b"\x01\x72"
_HINT = "a peer ID looks like 12D3KooW… or Qm…; `p2pfwd id` on the other machine prints it"


def multihash_fault(data: bytes) -> str | None:
    """Why `data` is no peer ID multihash, or None if it is one."""
    if len(data) < 3 or data[1] != len(data) - 2:
        return "it is incomplete or mistyped"
    if data[0] == _SHA2_256:
        return None if data[1] == 32 else "a sha2-256 digest has 32 bytes"
    if data[0] == _IDENTITY:
        if data[1] > MAX_INLINE_KEY_BYTES:
            return "an inlined key has at most 42 bytes"
        is_key = any(data.startswith(head) and len(data) == 6 + head[5] for head in _INLINED)
        return None if is_key else "it is incomplete or mistyped: there is no key in it"
    return "only identity and sha2-256 multihashes are peer IDs"


@final
class PeerId:
    """One peer's ID: an immutable, hashable value, compared by its multihash bytes."""

    __slots__ = ("_bytes", "_text")

    _bytes: bytes
    _text: str | None

    def __init__(self, multihash: bytes) -> None:
        """Same as `from_bytes`."""
        fault = multihash_fault(multihash)
        if fault is not None:
            raise InvalidPeerId(f"peer ID bytes {multihash[:48].hex()}: {fault}", hint=_HINT)
        self._bytes = bytes(multihash)
        self._text = None

    @classmethod
    def from_bytes(cls, data: bytes) -> PeerId:
        """The peer ID whose multihash is `data`; InvalidPeerId if it is none."""
        return cls(data)

    @classmethod
    def from_public_key(cls, key: PublicKey) -> PeerId:
        """The ID that `key` hashes to."""
        encoded = key.to_protobuf()
        if len(encoded) <= MAX_INLINE_KEY_BYTES:
            return cls(bytes((_IDENTITY, len(encoded))) + encoded)
        return cls(bytes((_SHA2_256, 32)) + hashlib.sha256(encoded).digest())

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """The ID in any text form: base58, or CIDv1 in base32, base36 or base58.

        A leading `/p2p/` or `/ipfs/` is dropped. InvalidPeerId names what is wrong.
        """
        bare = text.removeprefix("/p2p/") if text.startswith("/p2p/") else text.removeprefix("/ipfs/")
        try:
            return cls(decode_text(bare))
        except ValueError as exc:
            raise InvalidPeerId(f"{quoted(text)} is no peer ID: {exc}", hint=_HINT) from exc

    def to_bytes(self) -> bytes:
        """The multihash."""
        return self._bytes

    def public_key(self) -> PublicKey | None:
        """The key inlined in the ID; None if the ID is a hash or what it inlines is no key."""
        from p2pfwd.core.keys import PublicKey
        from p2pfwd.errors import InvalidKey

        if self._bytes[0] != _IDENTITY:
            return None
        try:
            return PublicKey.from_protobuf(self._bytes[2:])
        except InvalidKey:
            return None

    def is_possible(self) -> bool:
        """Whether some key has this ID: what is inlined has to be a point of its curve.

        Of IDs with a slip in the key every other one has none. Costs 50 µs: for what people type.
        """
        from p2pfwd.core import curve_points

        if self._bytes.startswith(_ED25519):
            return curve_points.is_ed25519(self._bytes[6:])
        if self._bytes.startswith(_SECP256K1):
            return curve_points.is_secp256k1(self._bytes[6:])
        return True

    def matches(self, key: PublicKey) -> bool:
        """Whether `key` hashes to this ID."""
        return PeerId.from_public_key(key)._bytes == self._bytes

    def short(self) -> str:
        """A shortened form for people, as `12D3…Xy9zQk`; never parse or compare it."""
        text = str(self)
        return f"{text[:4]}…{text[-6:]}" if len(text) > 11 else text

    def __str__(self) -> str:
        if self._text is None:
            self._text = base58.b58encode(self._bytes).decode("ascii")
        return self._text

    def __repr__(self) -> str:
        return f"PeerId({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not PeerId:
            return NotImplemented
        return self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __lt__(self, other: PeerId) -> bool:
        return self._bytes < other._bytes


def decode_text(text: str) -> bytes:
    """The multihash in a peer ID's text form without prefix; ValueError says what is wrong."""
    if not text:
        raise ValueError("it is empty")
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"it is longer than {MAX_TEXT_CHARS} characters")
    bare = text.startswith(("1", "Qm"))
    try:
        data = multibase.base58btc(text) if bare else multibase.decode(text)
    except ValueError as exc:
        raise ValueError("it is neither base58 nor a CIDv1") from exc
    if not bare:
        if not data.startswith(_CID_LIBP2P_KEY):
            raise ValueError("it is no CIDv1 of a libp2p key")
        data = data[2:]
    fault = multihash_fault(data)
    if fault is not None:
        raise ValueError(fault)
    return data
