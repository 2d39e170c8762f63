"""Invites at work: taking one up, and letting in who does (the messages are those of `wire.invite`).

Rules: whether an invite exists is told to nobody who has not its secret: for an unknown one the same work is
done, and the answer is the same. It comes late, so that a peer that guesses waits, with one of
its few places taken.
The joiner believes no verdict but one that the invite's secret proves. No message is logged.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import (
    ConnectionLost,
    InviteRefused,
    ProtocolNotSupported,
    RemoteProtocolError,
    ResourceLimitExceeded,
    StreamReset,
    TimedOut,
)
from p2pfwd.net.exchange import exchange
from p2pfwd.net.link.contract import DuplexStream, Link
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.visits import Visit
from p2pfwd.policy.service_bounds import INVITE, Bounds
from p2pfwd.policy.shares import Party
from p2pfwd.wire import invite as wire
from p2pfwd.wire.invite import Hello, InviteStatus, Offer, Verdict, Verifier

ANSWER_S: Final = 30.0
"""For all of it, the disks of both ends included."""

WRONG_S: Final = 2.0
"""How long who has not the secret waits for being told so."""

MAX_WRONG: Final = 8
"""How many wait so at once; more are reset, so that guessers leave half of the places to others."""

_ASK: Final = "ask for a new one: p2pfwd invite, there"
_WHY: Final[dict[InviteStatus, tuple[str, str]]] = {
    InviteStatus.UNKNOWN: (
        "it knows no such invite",
        f"an invite is known there for a week after its end; {_ASK}",
    ),
    InviteStatus.EXPIRED: ("the invite has expired", _ASK),
    InviteStatus.USED_UP: (
        "the invite is used up: another machine has taken it",
        f"if that was none of yours, somebody else has seen it: tell them, and {_ASK}",
    ),
    InviteStatus.REVOKED: ("the invite was revoked", _ASK),
    InviteStatus.DENIED: (
        "this machine is kept out there by its peer ID, or its right was taken away",
        "p2pfwd id prints it; p2pfwd allow PROTOCOL ID, there, lets it in",
    ),
    InviteStatus.BUSY: (
        "it could not write it down just now",
        "p2pfwd join again in a moment: what was used up is this machine's",
    ),
}


# --- the joiner ---------------------------------------------------------------------------------------


async def take_up(
    link: Link, secret: bytes, own: PeerId, prepare: Callable[[Offer], Awaitable[None]]
) -> Offer:
    """Take up the invite of this secret at the other end of the link; what it is for.

    `prepare` is called with the offer before anything is used up; what it raises ends it there. Raises
    InviteRefused (its `status` says why; UNSURE: the answer was lost), RemoteProtocolError, TimedOut, and as
    `Link.open_stream`.
    """
    inviter = link.remote_peer
    taking = False
    try:
        async with exchange(link, wire.PROTOCOL, ANSWER_S) as stream:
            offer = _granted(inviter, await _prove(stream, secret, own, inviter))
            await prepare(offer)
            taking = True
            await stream.write_delimited(wire.TAKE)
            receipt = wire.decode_receipt(await stream.read_delimited(1))
    except ProtocolNotSupported as exc:
        raise InviteRefused(
            f"{inviter} knows no invites", hint=f"its invites are all long over; {_ASK}", status="NONE"
        ) from exc
    except (TimeoutError, ConnectionLost, StreamReset, RemoteProtocolError) as exc:
        if taking:
            raise InviteRefused(
                f"the answer of {inviter} was lost, and the invite may be used up",
                hint="p2pfwd join again: if it was used, it is this machine's",
                status="UNSURE",
            ) from exc
        if isinstance(exc, TimeoutError):
            raise TimedOut(f"{inviter} did not answer about the invite within {ANSWER_S:g} s") from None
        if isinstance(exc, StreamReset):
            raise InviteRefused(
                f"{inviter} broke off, and nothing was used up",
                hint="it bounds how often one may try: wait a minute, then p2pfwd join again",
                status="BROKEN_OFF",
            ) from exc
        raise
    return _granted(inviter, Verdict(receipt, offer))


async def _prove(stream: DuplexStream, secret: bytes, own: PeerId, inviter: PeerId) -> Verdict:
    hello = Hello(wire.invite_id(secret), secrets.token_bytes(wire.NONCE_BYTES))
    await stream.write_delimited(wire.encode_hello(hello))
    nonce = wire.decode_nonce(await stream.read_delimited(wire.NONCE_BYTES))
    transcript = wire.transcript(hello, nonce, own, inviter)
    await stream.write_delimited(wire.joiner_proof(secret, transcript))
    answer = await stream.read_delimited(wire.MAX_VERDICT_BYTES)
    return wire.decode_verdict(answer, secret, transcript)


def _granted(inviter: PeerId, verdict: Verdict) -> Offer:
    if verdict.status is InviteStatus.OK and verdict.offer is not None:
        return verdict.offer
    why, hint = _WHY[verdict.status]
    raise InviteRefused(f"{inviter} refuses: {why}", hint=hint, status=verdict.status.name)


# --- the inviter --------------------------------------------------------------------------------------


class Desk(Protocol):
    """Who knows the invites, and gives the rights."""

    def verifier(self, invite: bytes) -> Verifier | None:
        """Of the invite with this ID, whatever has become of it."""

    def judge(self, invite: bytes, peer: PeerId) -> Verdict:
        """What a peer that has proved the secret is told; nothing changes."""

    async def claim(self, invite: bytes, peer: PeerId) -> InviteStatus:
        """It takes it: on OK the use is written down, and the right is given."""

    def refused(self, party: Party, cause: str) -> None:
        """Somebody tried one in vain."""


class InviteService:
    """The inviter's side; `serve` begins and ends it."""

    def __init__(self, swarm: Swarm, desk: Desk, bounds: Bounds = INVITE) -> None:
        self._swarm = swarm
        self._desk = desk
        self._bounds = bounds
        self._decoy = Verifier.of(secrets.token_bytes(wire.PROOF_BYTES))
        self._serving = False
        self._wrong = 0
        swarm.services.reserve(wire.PROTOCOL)

    def serve(self, on: bool) -> None:
        """Know of invites, or no longer."""
        if on == self._serving:
            return
        self._serving = on
        if on:
            service = Service(
                name=wire.PROTOCOL,
                talk=self._talk,
                bounds=self._bounds,
                is_listed=lambda _peer: False,  # who has an invite knows without being told
            )
            self._swarm.services.serve(service)
        else:
            self._swarm.services.withdraw(wire.PROTOCOL)

    async def _talk(self, visit: Visit) -> None:
        peer = visit.party.peer
        hello = wire.decode_hello(await _next(visit))
        nonce = secrets.token_bytes(wire.NONCE_BYTES)
        await visit.answer(nonce)
        proof = wire.decode_proof(await _next(visit))
        transcript = wire.transcript(hello, nonce, peer, self._swarm.peer_id)
        verifier = self._desk.verifier(hello.invite)
        is_right = (verifier or self._decoy).verifies(proof, transcript)
        if verifier is None or not is_right:
            self._refused(visit.party, InviteStatus.UNKNOWN)
            await self._wait()
            await visit.answer(wire.encode_verdict(Verdict(InviteStatus.UNKNOWN), None, transcript))
        else:
            await self._proved(visit, hello.invite, verifier, transcript)
        await visit.stream.close()

    async def _wait(self) -> None:
        """Let somebody wait who has not the secret. Raises ResourceLimitExceeded."""
        if self._wrong >= MAX_WRONG:
            raise ResourceLimitExceeded("invite: too many guess")
        self._wrong += 1
        try:
            await asyncio.sleep(WRONG_S)
        finally:
            self._wrong -= 1

    async def _proved(self, visit: Visit, invite: bytes, verifier: Verifier, transcript: bytes) -> None:
        peer = visit.party.peer
        verdict = self._desk.judge(invite, peer)
        await visit.answer(wire.encode_verdict(verdict, verifier, transcript))
        if verdict.status is not InviteStatus.OK:
            self._refused(visit.party, verdict.status)
            return
        wire.decode_take(await _next(visit))
        status = await self._desk.claim(invite, peer)
        if status is not InviteStatus.OK:
            self._refused(visit.party, status)
        await visit.answer(wire.encode_receipt(status))

    def _refused(self, party: Party, status: InviteStatus) -> None:
        words = status.name.lower().replace("_", " ")
        self._swarm.refusals.note("invite-refused", party.peer, f"invite: it was not let in ({words})")
        self._desk.refused(party, words)


async def _next(visit: Visit) -> bytes:
    """Raises RemoteProtocolError where the peer has ended before its turn, and as `Visit.message`."""
    message = await visit.message()
    if message is None:
        raise RemoteProtocolError("invite: the peer ended in the middle")
    return message
