"""Saved forwards keep their peers connected: since when, until when, and whose where there are too many."""

from __future__ import annotations

import asyncio

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import Life
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.forwarding.values import CloseMatch
from p2pfwd.policy import warm
from tests.support.virtual_time import in_virtual_time
from tests.unit.forwarding.conftest import MakeForwarding
from tests.unit.forwarding.fakes import ALICE, BOB, FakeAcceptor, FakeHost, FakeSocket, peer

SAVED = Life("saved")


def local(port: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")


async def forward(made: Forwarding, port: int, to: PeerId, life: Life = SAVED) -> FakeAcceptor:
    await made.forward("/x/a", local(port), to, life=life)
    return FakeAcceptor.made[-1]


def warmth(made: Forwarding) -> list[bool]:
    return [info.warm for info in made.listeners()]


@in_virtual_time
async def test_from_the_start_to_the_last_forwards_close(forwarding: MakeForwarding, host: FakeHost) -> None:
    made, kept = forwarding(), host.keeper.kept
    await forward(made, 1, ALICE)
    assert kept == set()  # this node does not listen yet
    made.keep_warm()
    assert kept == {ALICE}
    await forward(made, 2, ALICE)
    await forward(made, 3, BOB)
    assert kept == {ALICE, BOB} and warmth(made) == [True] * 3
    for port, left in ((1, {ALICE, BOB}), (3, {ALICE}), (2, set())):
        made.close(CloseMatch(listen_address=local(port)))
        assert kept == left
    await made.aclose()


@in_virtual_time
async def test_not_for_ephemeral_and_foreground_ones(forwarding: MakeForwarding, host: FakeHost) -> None:
    made = forwarding()
    made.keep_warm()
    await forward(made, 1, ALICE, Life("ephemeral"))
    acceptor = await forward(made, 2, BOB, Life("foreground"))
    acceptor.accepted(FakeSocket())
    assert host.keeper.kept == set() and warmth(made) == [False, False]
    await made.aclose()


@in_virtual_time
async def test_declared_ones_too_and_one_that_becomes_so(forwarding: MakeForwarding, host: FakeHost) -> None:
    made = forwarding()
    made.keep_warm()
    await forward(made, 1, ALICE, Life("declared"))
    assert host.keeper.kept == {ALICE} and warmth(made) == [True]
    await forward(made, 2, BOB, Life("ephemeral"))
    for lifetime, kept in (("declared", {ALICE, BOB}), ("saved", {ALICE, BOB}), ("ephemeral", {ALICE})):
        made.listener(2).lives(lifetime)
        assert host.keeper.kept == kept
    await made.aclose()


@in_virtual_time
async def test_beyond_the_bound_those_used_last(
    forwarding: MakeForwarding, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "MOST_WARM", 2)
    made = forwarding()
    made.keep_warm()
    acceptors = []
    for number in (4, 5, 6):
        acceptors.append(await forward(made, number, peer(number)))
        await asyncio.sleep(1)
    assert host.keeper.kept == {peer(5), peer(6)} and warmth(made) == [False, True, True]
    acceptors[0].accepted(FakeSocket())
    assert host.keeper.kept == {peer(4), peer(6)} and warmth(made) == [True, False, True]
    made.close(CloseMatch(listen_address=local(4)))
    assert host.keeper.kept == {peer(5), peer(6)}
    await made.aclose()
