"""Taking up an invite: the vectors, computed here once more by hand, and what no end believes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.core.invite_token import InviteToken
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import invite as wire
from p2pfwd.wire.invite import Hello, InviteStatus, Offer, Verdict, Verifier

VECTOR: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors/invite.json").read_text())
SECRET = bytes.fromhex(VECTOR["secret"])
JOINER, INVITER = PeerId.parse(VECTOR["joiner"]), PeerId.parse(VECTOR["inviter"])
HELLO = Hello(bytes.fromhex(VECTOR["id"]), bytes.fromhex(VECTOR["joiner_nonce"]))
NONCE = bytes.fromhex(VECTOR["inviter_nonce"])
TRANSCRIPT = wire.transcript(HELLO, NONCE, JOINER, INVITER)
VERIFIER = Verifier.of(SECRET)
OFFER = Verdict(InviteStatus.OK, Offer("/x/ssh", True))


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, "sha256").digest()


def test_the_vectors_are_what_the_manual_describes() -> None:
    """By hashlib and hmac alone, as somebody would who reads p2pfwd-protocols(7)."""
    joiner_key = mac(SECRET, b"p2pfwd invite joiner")
    stored_key, inviter_key = sha256(joiner_key), mac(SECRET, b"p2pfwd invite inviter")
    parts = [b"/p2pfwd/invite/1.0.0", JOINER.to_bytes(), INVITER.to_bytes()]
    parts += [mac(SECRET, b"p2pfwd invite id")[:5], HELLO.nonce, NONCE]
    transcript = b"".join(bytes([len(part)]) + part for part in parts)
    proof = bytes(a ^ b for a, b in zip(joiner_key, mac(stored_key, transcript), strict=True))
    assert VECTOR["stored_key"] == stored_key.hex() and VECTOR["inviter_key"] == inviter_key.hex()
    assert VECTOR["transcript"] == transcript.hex() and VECTOR["proof"] == proof.hex()
    assert VECTOR["hello"] == (parts[3] + HELLO.nonce).hex()
    ok, expired, unknown = (bytes.fromhex(it["message"]) for it in VECTOR["verdicts"])
    offer = b"\x01/x/ssh"
    assert ok == b"\x00" + mac(inviter_key, transcript + b"\x00" + offer) + offer
    assert expired == b"\x02" + mac(inviter_key, transcript + b"\x02")
    assert unknown == b"\x01"
    letters = VECTOR["token"].removeprefix("invite").upper()
    data = base64.b32decode(letters + "=" * (-len(letters) % 8))
    assert data[:3] == bytes([1, 0, len(data)]) and data[3] == sha256(data[:3])[0]
    assert data[4:21] == b"\x00" + SECRET and data[21:60] == bytes([38]) + INVITER.to_bytes()
    assert data[-4:] == sha256(data[:-4])[:4]


def test_the_engine_makes_and_reads_the_vectors() -> None:
    token = InviteToken.parse(VECTOR["token"])
    assert (token.secret, token.peer, [*map(str, token.addrs)]) == (
        SECRET,
        INVITER,
        VECTOR["addresses"],
    )
    assert str(token) == VECTOR["token"]
    assert wire.invite_id(SECRET).hex() == VECTOR["id"]
    assert wire.id_text(wire.invite_id(SECRET)) == VECTOR["id_text"]
    assert wire.encode_hello(HELLO).hex() == VECTOR["hello"] and wire.TAKE.hex() == VECTOR["take"]
    assert wire.decode_hello(bytes.fromhex(VECTOR["hello"])) == HELLO
    assert wire.joiner_proof(SECRET, TRANSCRIPT).hex() == VECTOR["proof"]
    assert VERIFIER.verifies(bytes.fromhex(VECTOR["proof"]), TRANSCRIPT)
    for it in VECTOR["verdicts"]:
        offer = Offer(it["protocol"], it["listens"]) if "protocol" in it else None
        verdict = Verdict(InviteStatus[it["status"]], offer)
        message = bytes.fromhex(it["message"])
        assert wire.decode_verdict(message, SECRET, TRANSCRIPT) == verdict
        verifier = None if verdict.status is InviteStatus.UNKNOWN else VERIFIER
        assert wire.encode_verdict(verdict, verifier, TRANSCRIPT) == message
    assert wire.decode_receipt(bytes.fromhex(VECTOR["receipt"])) is InviteStatus.OK


OTHERS = [
    wire.transcript(HELLO, NONCE, INVITER, JOINER),
    wire.transcript(HELLO, NONCE[::-1], JOINER, INVITER),
    wire.transcript(Hello(HELLO.invite, HELLO.nonce[::-1]), NONCE, JOINER, INVITER),
    wire.transcript(Hello(HELLO.invite[::-1], HELLO.nonce), NONCE, JOINER, INVITER),
    wire.transcript(HELLO, NONCE, JOINER, JOINER),
]


@pytest.mark.parametrize("other", OTHERS)
def test_a_proof_is_of_no_use_to_another_peer_nor_a_second_time(other: bytes) -> None:
    proof = wire.joiner_proof(SECRET, TRANSCRIPT)
    assert not VERIFIER.verifies(proof, other)
    message = wire.encode_verdict(OFFER, VERIFIER, TRANSCRIPT)
    with pytest.raises(RemoteProtocolError, match="does not prove"):
        wire.decode_verdict(message, SECRET, other)


def test_what_the_inviter_keeps_lets_nobody_in() -> None:
    """Who has read `invites.json` cannot make a proof of it by any of the engine's ways."""
    for key in (VERIFIER.stored_key, VERIFIER.inviter_key):
        assert not VERIFIER.verifies(wire.joiner_proof(key, TRANSCRIPT), TRANSCRIPT)
        assert not VERIFIER.verifies(key, TRANSCRIPT)
    assert SECRET.hex() not in repr(VERIFIER) and VERIFIER.stored_key.hex() not in repr(VERIFIER)


def test_every_bit_of_a_verdict_is_proved() -> None:
    message = wire.encode_verdict(OFFER, VERIFIER, TRANSCRIPT)
    for at in range(len(message)):
        changed = message[:at] + bytes([message[at] ^ 0x40]) + message[at + 1 :]
        with pytest.raises(RemoteProtocolError):
            wire.decode_verdict(changed, SECRET, TRANSCRIPT)
    for status in (InviteStatus.OK, InviteStatus.REVOKED):  # of one that proves nothing
        with pytest.raises(RemoteProtocolError):
            wire.decode_verdict(bytes([status]), SECRET, TRANSCRIPT)


@pytest.mark.parametrize("body", [b"", b"\x00", b"\x00\xff", b"\x00" + b"/" * 1025])
def test_an_offer_that_is_none_is_refused_also_when_it_is_proved(body: bytes) -> None:
    message = b"\x00" + mac(VERIFIER.inviter_key, TRANSCRIPT + b"\x00" + body) + body
    with pytest.raises(RemoteProtocolError, match="name that is offered"):
        wire.decode_verdict(message, SECRET, TRANSCRIPT)


@pytest.mark.parametrize(
    "read", [wire.decode_hello, wire.decode_nonce, wire.decode_proof, wire.decode_take, wire.decode_receipt]
)
@pytest.mark.parametrize("data", [b"", b"\x63", bytes(31), bytes(33), bytes(38)])
def test_a_message_of_another_length_is_refused(read: Any, data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="invite: "):
        read(data)
