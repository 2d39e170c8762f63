"""Any bytes, as the word of an invite and as each message of its protocol: read as itself, or refused.

Further: no error shows what the word had in it, a verdict that is not proved grants nothing, and a proof that
was not made with the secret verifies nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from p2pfwd.core.durations import parse_duration
from p2pfwd.core.invite_token import MAX_ADDRESSES, InviteToken
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidInvite, RemoteProtocolError
from p2pfwd.wire import invite as wire
from p2pfwd.wire.invite import Hello, InviteStatus, Offer, Verdict, Verifier

VECTOR: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors/invite.json").read_text())
SECRET = bytes.fromhex(VECTOR["secret"])
HELLO = Hello(bytes.fromhex(VECTOR["id"]), bytes.fromhex(VECTOR["joiner_nonce"]))
ENDS = PeerId.parse(VECTOR["joiner"]), PeerId.parse(VECTOR["inviter"])
TRANSCRIPT = wire.transcript(HELLO, bytes.fromhex(VECTOR["inviter_nonce"]), *ENDS)
PROOF = bytes.fromhex(VECTOR["proof"])
VERIFIER = Verifier.of(SECRET)
PROVED = {bytes.fromhex(it["message"]) for it in VECTOR["verdicts"]}

SEEDS = [VECTOR["token"].encode(), f"p2pfwd join {VECTOR['token']}\n".encode(), b"1h30m", b"invite"]
SEEDS += [bytes.fromhex(VECTOR[name]) for name in ("hello", "inviter_nonce", "proof", "take", "receipt")]
SEEDS += sorted(PROVED)


def one(data: bytes) -> None:
    """Read `data` in every way and check the invariant."""
    _word(data.decode("utf-8", "replace"))
    _messages(data)
    try:
        assert parse_duration(data.decode("utf-8", "replace")) >= 0
    except ValueError as exc:
        assert str(exc).isprintable() and len(str(exc)) < 2000


def _word(text: str) -> None:
    try:
        token = InviteToken.parse(text)
    except InvalidInvite as exc:
        assert exc.message.isprintable() and len(exc.message) < 120
        return
    assert InviteToken.parse(str(token)) == token and len(token.addrs) <= MAX_ADDRESSES


def _messages(data: bytes) -> None:
    for read in (
        wire.decode_hello,
        wire.decode_nonce,
        wire.decode_proof,
        wire.decode_take,
        wire.decode_receipt,
    ):
        try:
            read(data)
        except RemoteProtocolError as exc:
            assert exc.message.isprintable()
    if len(data) == wire.PROOF_BYTES:
        assert VERIFIER.verifies(data, TRANSCRIPT) == (data == PROOF)
    try:
        verdict = wire.decode_verdict(data, SECRET, TRANSCRIPT)
    except RemoteProtocolError as exc:
        assert exc.message.isprintable()
        return
    if verdict.status is InviteStatus.UNKNOWN:
        assert verdict == Verdict(InviteStatus.UNKNOWN)
    else:
        assert data in PROVED and (verdict.offer in (None, Offer("/x/ssh", True)))


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
