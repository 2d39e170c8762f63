"""Taking up an invite: p2pfwd's own protocol, six messages, both ends proved by the invite's secret.

    joiner                                             inviter
      │ ── hello: the invite's ID, a nonce ──────────▶ │
      │ ◀───────────────────── challenge: a nonce ──── │
      │ ── proof ────────────────────────────────────▶ │
      │ ◀── verdict: status, its own proof, the offer ─│   nothing has been used up yet
      │ ── take ─────────────────────────────────────▶ │   now it is, and it is on the disk
      │ ◀────────────────────────── receipt: status ── │

The proofs are those of SCRAM (RFC 5802) with SHA-256: of the secret the inviter keeps what lets it verify,
and what proves itself, and neither lets anybody in. They cover both peer IDs, as the secure channel has
proved them, and a fresh nonce of each end. Each message has its length in front.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from p2pfwd.core import varint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError

PROTOCOL: Final = "/p2pfwd/invite/1.0.0"

ID_BYTES: Final = 5
NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
TAKE: Final = b"\x01"

MAX_NAME_BYTES: Final = 1024
"""Longest protocol name that is offered."""

MAX_REQUEST_BYTES: Final = ID_BYTES + NONCE_BYTES
MAX_VERDICT_BYTES: Final = 2 + PROOF_BYTES + MAX_NAME_BYTES

_LISTENS: Final = 0x01


class InviteStatus(IntEnum):
    """The inviter's verdict, and its receipt."""

    OK = 0
    UNKNOWN = 1
    """No such invite, or the proof is wrong: which of them is not told."""
    EXPIRED = 2
    USED_UP = 3
    """Other peers have taken it, as many as it was for."""
    REVOKED = 4
    DENIED = 5
    """The owner keeps this peer out by its ID, or has taken away what the invite gave it."""
    BUSY = 6
    """It could not be written down: try again."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The joiner's first message."""

    invite: bytes
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Offer:
    """What the invite is for."""

    protocol: str
    listens: bool
    """Whether there is such a listen now."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the inviter makes of a proof; with an offer where the status is OK."""

    status: InviteStatus
    offer: Offer | None = None


@dataclass(frozen=True, slots=True)
class Verifier:
    """What the inviter keeps of a secret."""

    stored_key: bytes = field(repr=False)
    """Verifies the joiner."""
    inviter_key: bytes = field(repr=False)
    """Proves the inviter."""

    @classmethod
    def of(cls, secret: bytes) -> Verifier:
        """Of a new invite."""
        return cls(hashlib.sha256(_joiner_key(secret)).digest(), _inviter_key(secret))

    def verifies(self, proof: bytes, transcript: bytes) -> bool:
        """Whether who made the proof has the secret."""
        key = _xor(proof, _mac(self.stored_key, transcript))
        return hmac.compare_digest(hashlib.sha256(key).digest(), self.stored_key)


def invite_id(secret: bytes) -> bytes:
    """By which an invite is spoken of; tells nothing of the secret."""
    return _mac(secret, b"p2pfwd invite id")[:ID_BYTES]


def id_text(invite: bytes) -> str:
    """The same for people: eight letters and digits."""
    return base64.b32encode(invite).decode("ascii").lower()


def transcript(hello: Hello, nonce: bytes, joiner: PeerId, inviter: PeerId) -> bytes:
    """What the proofs are about; `nonce` is the inviter's."""
    parts = (PROTOCOL.encode(), joiner.to_bytes(), inviter.to_bytes(), hello.invite, hello.nonce, nonce)
    return b"".join(varint.encode(len(part)) + part for part in parts)


def joiner_proof(secret: bytes, transcript: bytes) -> bytes:
    """That this end has the secret; of no use for another transcript."""
    key = _joiner_key(secret)
    return _xor(key, _mac(hashlib.sha256(key).digest(), transcript))


# --- messages -------------------------------------------------------------------------------------


def encode_hello(hello: Hello) -> bytes:
    """Without its length, as all of these."""
    return hello.invite + hello.nonce


def decode_hello(data: bytes) -> Hello:
    """Raises RemoteProtocolError, as all of these."""
    if len(data) != ID_BYTES + NONCE_BYTES:
        raise RemoteProtocolError("invite: the peer's first message has a wrong length")
    return Hello(data[:ID_BYTES], data[ID_BYTES:])


def decode_nonce(data: bytes) -> bytes:
    """The inviter's challenge."""
    if len(data) != NONCE_BYTES:
        raise RemoteProtocolError("invite: the peer's challenge has a wrong length")
    return data


def decode_proof(data: bytes) -> bytes:
    """The joiner's proof."""
    if len(data) != PROOF_BYTES:
        raise RemoteProtocolError("invite: the peer's proof has a wrong length")
    return data


def decode_take(data: bytes) -> None:
    """The joiner's word that it wants what is offered."""
    if data != TAKE:
        raise RemoteProtocolError("invite: the peer sends what is no take")


def encode_verdict(verdict: Verdict, verifier: Verifier | None, transcript: bytes) -> bytes:
    """Proved by the verifier's key; without one, to who has proved nothing, the status alone."""
    status = bytes([verdict.status])
    if verifier is None:
        return status
    offer = verdict.offer
    body = b"" if offer is None else bytes([_LISTENS * offer.listens]) + offer.protocol.encode()
    return status + _mac(verifier.inviter_key, transcript + status + body) + body


def decode_verdict(data: bytes, secret: bytes, transcript: bytes) -> Verdict:
    """The same at the joiner's end: a verdict without proof can only be UNKNOWN."""
    status = decode_receipt(data[:1])
    if status is InviteStatus.UNKNOWN:
        return Verdict(status)
    proof, body = data[1 : 1 + PROOF_BYTES], data[1 + PROOF_BYTES :]
    expected = _mac(_inviter_key(secret), transcript + data[:1] + body)
    if not hmac.compare_digest(proof, expected):
        raise RemoteProtocolError("invite: the peer does not prove that the invite is its own")
    if status is not InviteStatus.OK:
        return Verdict(status)
    try:
        protocol = body[1:].decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError("invite: the name that is offered is no text") from None
    if not protocol or len(body) > 1 + MAX_NAME_BYTES:
        raise RemoteProtocolError("invite: the name that is offered is none")
    return Verdict(status, Offer(protocol, bool(body[0] & _LISTENS)))


def encode_receipt(status: InviteStatus) -> bytes:
    """Whether it was taken."""
    return bytes([status])


def decode_receipt(data: bytes) -> InviteStatus:
    """The same at the joiner's end."""
    if len(data) != 1 or data[0] not in InviteStatus._value2member_map_:
        raise RemoteProtocolError("invite: the peer's answer is none that is known here")
    return InviteStatus(data[0])


# --- keys -----------------------------------------------------------------------------------------


def _joiner_key(secret: bytes) -> bytes:
    return _mac(secret, b"p2pfwd invite joiner")


def _inviter_key(secret: bytes) -> bytes:
    return _mac(secret, b"p2pfwd invite inviter")


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
