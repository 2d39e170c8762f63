"""Pins that a relay holds within its bounds against clients that ask without end, never answer, or die."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from p2pfwd.policy.relay_bounds import CIRCUITS, RESERVATIONS
from p2pfwd.policy.service_bounds import HOP
from p2pfwd.protocols import relay_service
from p2pfwd.wire import circuit as wire
from p2pfwd.wire.circuit import Status
from p2pfwd.wire.yamux import frame as f
from tests.net.relay_rig import Relay, call, relay, reserve
from tests.net.swarm_rig import stranger, swarm
from tests.support.loops import on_loop, until
from tests.support.raw_peer import RawPeer, delimited, hello, opened

RESERVE = wire.encode_hop_request(wire.HopRequest())
MANY = 2000
FEW = MANY // 8
"""More than a peer's rate lets through in as long as this takes on a slow machine."""


async def flood(made: Relay, peer: RawPeer, message: bytes, count: int = MANY) -> None:
    """So many requests, each on a stream of its own; no answer is read."""
    body = hello(wire.HOP) + delimited(message)
    for at in range(0, count, 50):
        ids = range(1 + 2 * at, 1 + 2 * min(count, at + 50), 2)
        await peer.send(b"".join(opened(stream_id, body) for stream_id in ids))
    await until(lambda: made.swarm.refusals.counts["relay-opens"] > 0)


@on_loop
async def test_thousands_of_places_asked_for_are_one_and_others_get_theirs() -> None:
    async with relay("anyone") as made, swarm() as honest:
        async with await RawPeer.dial(made.swarm.listen_addrs()[0]) as peer:
            await flood(made, peer, RESERVE)
            assert (await reserve(await made.link(honest))).status is Status.OK
            assert len(made.service.places()) <= 2
            counts = made.swarm.refusals.counts
            assert counts["relay-opens"] > 0
            assert made.service.totals.reservations < FEW
        await until(lambda: len(made.service.places()) == 1)


@on_loop
async def test_thousands_of_identities_have_the_places_of_strangers_and_own_peers_theirs() -> None:
    async with swarm() as own, relay("anyone", own) as made:
        held = made.service._places_held
        for _ in range(RESERVATIONS.all):
            held.take(made.swarm.services.party(await made.link(own)))
        async with swarm() as one_more:
            assert (await reserve(await made.link(one_more))).status is Status.RESERVATION_REFUSED
        assert (await reserve(await made.link(own))).status is Status.OK
        assert made.swarm.refusals.counts["relay-reservations"] == 1


@on_loop
async def test_a_target_that_never_answers_holds_as_many_circuits_as_a_stranger_may() -> None:
    """Its dialers give up or wait; the node's other business goes on."""
    async with (
        relay("anyone") as made,
        swarm() as dialer,
        swarm() as honest,
        await RawPeer.dial(made.swarm.listen_addrs()[0]) as target,
    ):
        await target.open(1, wire.HOP)
        await target.frame(f.DATA, 0, 1, body=delimited(RESERVE))
        await until(lambda: len(made.service.places()) == 1)
        link = await made.link(dialer)
        waiting = [asyncio.ensure_future(call(link, target.peer_id)) for _ in range(CIRCUITS.peer)]
        await until(lambda: len(made.service.circuits()) == CIRCUITS.peer)
        refused = await call(link, target.peer_id)
        assert refused.status is Status.RESOURCE_LIMIT_EXCEEDED
        assert (await reserve(await made.link(honest))).status is Status.OK
        target.reset()
        answers = await asyncio.gather(*waiting)
        assert {answer.status for answer in answers} == {Status.CONNECTION_FAILED}
        assert made.service.circuits() == [] and made.service._circuits_held.total == 0
        assert made.swarm.refusals.counts["relay-circuits"] == 1


@on_loop
async def test_circuits_to_nowhere_are_refused_and_paced() -> None:
    async with relay("anyone") as made:
        async with await RawPeer.dial(made.swarm.listen_addrs()[0]) as peer:
            await flood(made, peer, wire.encode_hop_request(wire.HopRequest(stranger())))
            refused = made.service.totals.refused
            await until(lambda: Status.NO_RESERVATION in refused)
            assert refused[Status.NO_RESERVATION] < FEW
            assert made.service.circuits() == []
        await until(lambda: not made.swarm.conns())


@on_loop
async def test_who_asks_for_nothing_in_all_places_of_the_service_keeps_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_service, "HOP", replace(HOP, idle_s=60.0))  # however slow this machine is
    async with swarm() as own, swarm() as newcomer, relay("anyone", own) as made, AsyncExitStack() as stack:
        for _ in range(HOP.most.all // HOP.most.peer):
            peer = await stack.enter_async_context(await RawPeer.dial(made.swarm.listen_addrs()[0]))
            await peer.send(b"".join(opened(1 + 2 * n, hello(wire.HOP)) for n in range(HOP.most.peer)))
        held = made.swarm.services.room(HOP.label).held
        await until(lambda: held.total == HOP.most.all)
        for client in (newcomer, own):
            assert (await reserve(await made.link(client))).status is Status.OK
        assert made.swarm.refusals.counts["relay-streams"] >= 1
        await until(lambda: held.total < HOP.most.all)
