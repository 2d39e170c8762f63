"""Pins who gives way when a node holds too much: the heaviest network, connection, stream; own peers last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.net.limits import RELIEF, Limits, heaviest
from p2pfwd.net.refusals import Refusals
from p2pfwd.policy.networks import crowd
from p2pfwd.wire.yamux.window import NODE_BYTES, NODE_STREAMS
from tests.support.loops import on_loop
from tests.support.peers import peer

MB = 1 << 20
TOTAL = 64 * MB


class FakeHolder:
    """Holds so much; gives it up by `piece`, or all when it is aborted."""

    def __init__(self, limits: Limits, number: int, host: str, held: int, streams: int = 0) -> None:
        self.remote_peer = peer(number)
        self.remote_addr = Multiaddr.parse(f"/ip4/{host}/tcp/1")
        self.crowd = crowd(self.remote_addr)
        self.abort: Callable[[Exception], None] = self._abort
        self.held_bytes = held
        self.streams = streams
        self.sheds = 0
        self._limits = limits
        limits.ledger.used += held
        limits.ledger.streams += streams

    def _abort(self, _exc: Exception) -> None:
        self.sheds = -1
        self._give(self.held_bytes)

    def _give(self, size: int) -> None:
        self.held_bytes -= size
        self._limits.ledger.used -= size

    def shed_bytes(self) -> None:
        self.sheds += 1
        self._give(min(self.held_bytes, 256 * 1024))

    def shed_streams(self, count: int) -> None:
        self.sheds += 1
        gone = min(self.streams, count)
        self.streams -= gone
        self._limits.ledger.streams -= gone

    def offended(self) -> None:
        self.sheds += 1


def made(*holders: tuple[int, str, int, int]) -> tuple[Limits, list[FakeHolder], Refusals]:
    refusals = Refusals()
    limits = Limits(asyncio.get_running_loop(), refusals)
    limits.ledger.total = TOTAL
    held = [FakeHolder(limits, *holder) for holder in holders]
    limits.holders = lambda: held
    return limits, held, refusals


@on_loop
async def test_the_heaviest_network_gives_way_and_no_more_than_needed() -> None:
    limits, (honest, *crowd), refusals = made(
        (0, "8.8.8.8", 20 * MB, 0), *((n, f"9.9.9.{n}", 9 * MB, 0) for n in range(1, 6))
    )
    assert limits.is_over
    limits.relieve()
    assert not limits.is_over and TOTAL * RELIEF - MB < limits.used_bytes <= TOTAL * RELIEF
    assert honest.sheds == 0 and all(holder.sheds > 5 for holder in crowd)
    assert refusals.counts["memory-shed"] == sum(holder.sheds for holder in crowd)


@on_loop
async def test_own_peers_are_spared_while_a_stranger_is_left() -> None:
    limits, (own, stranger), _ = made((0, "8.8.8.8", 66 * MB, 0), (1, "9.9.9.9", MB, 0))
    limits.is_own = lambda one: one == peer(0)
    limits.relieve()
    assert stranger.held_bytes == 0 and own.sheds > 0
    limits, (own, stranger), _ = made((0, "8.8.8.8", 55 * MB, 0), (1, "9.9.9.9", 10 * MB, 0))
    limits.is_own = lambda one: one == peer(0)
    limits.relieve()
    assert own.sheds == 0


@on_loop
async def test_streams_are_bounded_in_all_too() -> None:
    limits, (honest, greedy), refusals = made((0, "8.8.8.8", 0, 2000), (1, "9.9.9.9", 0, NODE_STREAMS - 1999))
    assert limits.is_over
    limits.relieve()
    assert not limits.is_over and (honest.streams, honest.sheds) == (2000, 0)
    assert refusals.counts["streams-shed"] == greedy.sheds


@on_loop
async def test_what_conduits_keep_counts() -> None:
    kept = NODE_BYTES + 1
    limits = Limits(asyncio.get_running_loop(), kept_bytes=lambda: kept)
    assert limits.is_over
    limits.relieve()  # nobody holds anything: nothing to be done, and no endless loop


@on_loop
async def test_who_floods_is_slowed_then_dropped_unless_it_is_the_owners() -> None:
    limits, (stranger, own), refusals = made((0, "8.8.8.8", MB, 0), (1, "9.9.9.9", MB, 0))
    limits.is_own = lambda one: one == peer(1)
    stirred: list[int] = []
    limits.stirred = lambda: stirred.append(1)
    for holder in (stranger, own):
        limits.flooded(holder, False)
        limits.flooded(holder, True)
    assert (stranger.sheds, own.sheds) == (-1, 0) and stirred
    assert refusals.counts == {"flood-slowed": 2, "flood-dropped": 1}


@on_loop
async def test_nobody_is_heaviest_where_nobody_holds_anything() -> None:
    limits, holders, _ = made((0, "8.8.8.8", 0, 0))
    assert heaviest({holder: holder.held_bytes for holder in holders}) is None
    assert not limits.is_over
