"""Pins when a connection's bytes are taken: its work per turn, its debts, when it is left unread or goes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.net.lanes import (
    BULK_BYTES,
    CROWD_ROOM,
    CROWD_SHARE,
    FEW,
    LEAST_ROOM,
    MODEST_TOLL,
    NAP_S,
    NODE_TOLL,
    OPENS,
    SLOW_SHARE,
    SOFT_TOLL,
    UP_S,
    Lane,
    Lanes,
)
from p2pfwd.net.link import intake as module
from p2pfwd.net.link.intake import (
    DROP_AFTER_S,
    HARD_TOLL,
    OFFENCE_TOLL,
    SLICE_WORK,
    TURN_WORK,
    Intake,
    Taking,
)
from p2pfwd.wire.yamux import frame as f
from p2pfwd.wire.yamux.session import Session
from p2pfwd.wire.yamux.work import FRAME_TOLL
from tests.support.loops import turns, until
from tests.support.peers import peer
from tests.support.virtual_time import in_virtual_time


class FakeChannel:
    """Both a channel and its conduit: remembers what it was told, and may be congested."""

    remote_addr = Multiaddr.parse("/ip4/8.8.8.8/tcp/1")

    def __init__(self) -> None:
        self.conduit = self
        self.paused = self.spared = self.congested = self.timed = False
        self.read_at = 0.0
        self.room: int | None = None
        self.moved: Callable[[], None] | None = None
        self.resumes = 0
        self.failed: Exception | None = None

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self.resumes += 1

    def fail(self, exc: Exception) -> None:
        self.failed = exc

    def spare(self, spare: bool) -> None:
        self.spared = spare

    def squeeze(self, room: int | None) -> None:
        self.room = room

    def tell(self, moved: Callable[[], None] | None) -> None:
        self.moved = moved

    @property
    def squeezed(self) -> bool:
        return self.room == LEAST_ROOM


class Rig:
    """An intake as a connection uses it; `read` is one read of the socket."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.moves = 0
        self.lanes = Lanes(loop, lambda: self.moves, loop.time)
        self.session = Session(client=False)
        self.channel = FakeChannel()
        self.pings = 0
        self.floods: list[bool] = []
        self.is_own = False
        self.loop = loop
        self.it = Intake(self.session, cast("Any", self.channel), self.lanes, loop, self)

    def flooded(self, must_go: bool) -> None:
        self.floods.append(must_go)
        if must_go:
            self.it.end()

    def plaintext_received(self, view: memoryview) -> None:
        self.session.receive(view)
        self.pings += len(self.session.control) // f.HEADER_BYTES
        self.session.control.clear()
        if self.session.work_left <= 0:
            self.it.hold(view[self.session.taken :])

    def turn_ended(self) -> None:
        self.it.settle(self.lanes.clock())

    def crowded(self) -> Lane:
        """From now on it has many neighbours; their lane."""
        self.lanes.crowds[self.it.crowd] = FEW + 1
        lane = self.lanes.crowd(self.it.crowd)
        assert lane is not None
        return lane

    def read(self, pings: int) -> None:
        """A read that brings so many pings, the cheapest of frames."""
        assert not self.channel.paused
        frames = b"".join(f.encode_header(f.PING, f.SYN, 0, n) for n in range(pings))
        self.plaintext_received(memoryview(frames))
        self.turn_ended()


@in_virtual_time
async def test_a_read_of_more_than_a_turns_work_is_taken_in_slices() -> None:
    rig = Rig()
    rig.read(2000)
    assert rig.pings == TURN_WORK // 2 and rig.it.state is Taking.QUEUED
    assert rig.channel.paused and rig.channel.spared
    assert rig.it.held_bytes == rig.session.ledger.used == 1500 * f.HEADER_BYTES
    await turns(3)
    assert TURN_WORK // 2 < rig.pings <= TURN_WORK // 2 + 3 * SLICE_WORK
    assert rig.it._held is not None and memoryview(rig.it._held.obj).nbytes == rig.it.held_bytes
    await turns(40)
    assert rig.pings == 2000 and rig.it.state is Taking.READING and not rig.channel.paused
    assert rig.it.held_bytes == rig.session.ledger.used == 0
    rig.read(10)
    assert rig.session.work_left == TURN_WORK and not rig.channel.spared, "as before"


@in_virtual_time
async def test_within_the_budgets_nothing_is_ever_paused() -> None:
    rig = Rig()
    for _ in range(100):
        rig.read(100)
        await asyncio.sleep(0.05)  # 2,000 a second
    assert rig.channel.resumes == 0 and not rig.channel.squeezed


@in_virtual_time
async def test_in_debt_it_is_read_in_the_slow_lane_until_it_has_paid() -> None:
    rig = Rig()
    for _ in range(int(SOFT_TOLL.burst) // 820 + 1):
        rig.read(400)
    assert rig.it.state is Taking.QUEUED and rig.channel.squeezed
    await turns(3)
    assert rig.it.state is Taking.READING and rig.channel.resumes
    await asyncio.sleep(SOFT_TOLL.burst / SOFT_TOLL.per_s)
    rig.read(1)
    assert rig.it.state is Taking.READING and not rig.channel.squeezed


@in_virtual_time
async def test_many_opens_wait_while_others_are_busy_and_are_no_debt() -> None:
    rig, ids, opened = Rig(), itertools.count(1, 2), 0

    def read() -> None:
        nonlocal opened
        opened += 1
        rig.plaintext_received(memoryview(f.encode_header(f.WINDOW_UPDATE, f.SYN, next(ids), 0)))
        rig.turn_ended()

    while rig.it.state is Taking.READING:
        read()
    assert opened == OPENS.burst + 1 and rig.channel.spared, "a burst is free"
    opened = 0
    for _ in range(1000):
        rig.moves += 1
        await asyncio.sleep(NAP_S / 2)
        if rig.it.state is Taking.READING:
            read()
    assert opened < 1.2 * OPENS.per_s / 2, "half a second, in which others were busy"
    await asyncio.sleep(2 * NAP_S)
    for _ in range(1000):
        await turns(4)
        if rig.it.state is Taking.READING:
            read()
    assert opened > OPENS.per_s and not rig.floods, "with nobody else busy they go as fast as they come"


@in_virtual_time
async def test_in_a_lane_a_read_counts_for_the_time_that_it_took() -> None:
    """A frame may hold a thousand refused proposals, and a ping come in twelve messages."""
    rig, took_s, reads = Rig(), 0.0, 0
    rig.lanes.clock = lambda: rig.loop.time() + took_s
    while rig.it.state is Taking.READING:
        rig.read(400)
    assert rig.channel.timed
    for _ in range(2000):
        rig.moves += 1
        await asyncio.sleep(NAP_S / 2)
        if rig.it.state is Taking.READING:
            reads += 1
            rig.channel.read_at, took_s = rig.lanes.clock(), took_s + 0.0005
            rig.read(75)
    assert SLOW_SHARE / 0.0005 / 2 < reads < 1.2 * SLOW_SHARE / 0.0005, "a second, in which others were busy"
    rig.it.end()


@in_virtual_time
async def test_in_its_own_slice_the_toll_counts_besides_the_time() -> None:
    """The lane measures a slice, and not what ended streams make work after it."""
    rig = Rig()
    while rig.it.state is Taking.READING:
        rig.read(400)
    await turns(3)
    assert rig.it.state is Taking.READING and rig.channel.timed
    charged: list[float] = []
    rig.lanes.slow.charge = charged.append  # type: ignore[method-assign]
    rig.read(150)
    outside, taken = sum(charged), rig.pings
    assert rig.it.held_bytes
    await turns(3)
    assert sum(charged) - outside >= (rig.pings - taken) * FRAME_TOLL * 1e-6 > 0
    rig.it.end()


@in_virtual_time
async def test_a_circuit_that_comes_within_a_lanes_slice_is_not_counted_twice() -> None:
    """The connection to the relay has its turn, which is measured, and in it is what a circuit brings."""
    relay, circuit, took_s = Rig(), Rig(), 0.0
    circuit.it._lanes = relay.lanes
    relay.lanes.clock = lambda: relay.loop.time() + took_s
    while circuit.it.state is Taking.READING:
        circuit.read(400)
    await turns(3)
    assert circuit.channel.timed and circuit.it.state is Taking.READING
    charged: list[float] = []
    relay.lanes.slow.charge = charged.append  # type: ignore[method-assign]

    def plaintext_received(view: memoryview) -> None:
        nonlocal took_s
        relay.session.work_left = TURN_WORK
        circuit.channel.read_at, took_s = relay.lanes.clock(), took_s + 0.0005
        circuit.read(75)

    relay.it.hold(memoryview(b"a frame"))
    relay.turn_ended()
    relay.plaintext_received = plaintext_received  # type: ignore[method-assign]
    assert relay.it.state is Taking.QUEUED and not relay.lanes.slow._queue
    await turns(3)
    assert relay.it.state is Taking.READING and circuit.pings >= 75 and sum(charged) == 0
    circuit.it.end()


@in_virtual_time
async def test_the_nodes_debt_slows_those_who_pay_more_than_a_trickle_and_nobody_else() -> None:
    rig = Rig()
    rig.lanes.toll.owe(asyncio.get_running_loop().time(), 1e6)
    rig.read(100)
    assert rig.it.state is Taking.READING
    for _ in range(10):
        rig.read(400)
        if rig.it.state is not Taking.READING:
            break
    assert rig.it.state is Taking.QUEUED


@in_virtual_time
async def test_a_crowd_pays_together_and_who_only_moves_bytes_is_not_slowed_for_it() -> None:
    rig = Rig()
    crowd = rig.it.crowd
    rig.lanes.crowds[crowd] = FEW + 1
    purse = rig.lanes.purse(crowd, rig.loop.time())
    assert purse is not None
    assert purse.pay(rig.loop.time(), int(SOFT_TOLL.burst) + 1, 0), "the neighbours' doing"
    rig.it.turn_bytes = 1000
    rig.turn_ended()
    assert rig.it.state is Taking.READING
    rig.read(1)
    assert rig.it.state is Taking.QUEUED and rig.channel.spared
    assert not rig.channel.squeezed, "it has paid next to nothing"
    await turns(3)
    assert rig.it.state is Taking.READING
    rig.turn_ended()
    assert not rig.channel.spared, "until it pays again"
    rig.is_own = True
    rig.read(1)
    assert rig.it.state is Taking.READING, "the owner's peers have no part in it"
    rig.is_own = False
    rig.lanes.crowds[crowd] = FEW
    rig.read(1)
    assert rig.it.state is Taking.READING, "a few are no crowd"


@in_virtual_time
async def test_a_crowds_opens_are_counted_together() -> None:
    rig = Rig()
    rig.lanes.crowds[rig.it.crowd] = FEW + 1
    rig.session.opens = int(OPENS.burst)
    rig.turn_ended()
    assert rig.it.state is Taking.READING
    other = Rig()
    other.it._lanes = rig.lanes
    other.session.opens = 1
    other.turn_ended()
    assert other.it.state is Taking.QUEUED
    rig.it.end()
    other.it.end()


@in_virtual_time
async def test_the_nodes_debt_does_not_slow_who_is_modest_however_long_it_lasts() -> None:
    rig = Rig()
    for _ in range(100):
        rig.lanes.toll.owe(rig.loop.time(), 1e6)
        rig.read(80)
        assert rig.it.state is Taking.READING
        await asyncio.sleep(200 / MODEST_TOLL.per_s)
    rig.read(400)
    rig.read(400)
    rig.read(400)
    assert rig.it.state is Taking.QUEUED and rig.channel.squeezed
    rig.it.end()


async def keep_on(rig: Rig, seconds: float) -> None:
    """Send as much as is read, for so long."""
    until = rig.loop.time() + seconds
    while rig.loop.time() < until and rig.it.state is not Taking.ENDED:
        if rig.channel.paused:
            await asyncio.sleep(0.001)
        else:
            rig.read(400)
            await turns(1)


@in_virtual_time
async def test_deep_in_debt_it_is_left_unread_and_in_the_end_dropped() -> None:
    rig = Rig()
    await keep_on(rig, DROP_AFTER_S - 5)
    assert rig.floods == [False] and rig.channel.resumes > 10
    spent = 2 * rig.pings / (DROP_AFTER_S - 5 + HARD_TOLL.burst / HARD_TOLL.per_s)
    assert spent < 1.2 * HARD_TOLL.per_s, "the rate is kept while it goes on"
    await keep_on(rig, 60)
    assert rig.floods == [False, True] and rig.it.state is Taking.ENDED


@in_virtual_time
async def test_who_stops_for_a_while_is_not_dropped() -> None:
    rig = Rig()
    for _ in range(3):  # together more than `DROP_AFTER_S`
        await keep_on(rig, 8.0)
        await asyncio.sleep(module.BREAK_S + 1)
    assert True not in rig.floods and rig.it.state is not Taking.ENDED
    rig.it.end()


async def offend(rig: Rig, per_s: float, seconds: float) -> None:
    """Be refused so often, on what a service does not answer; each costs no more than a frame."""
    until = rig.loop.time() + seconds
    while rig.loop.time() < until and rig.it.state is not Taking.ENDED:
        if rig.channel.paused:
            await asyncio.sleep(0.001)
        else:
            rig.it.offended()
            rig.read(1)
            await asyncio.sleep(1 / per_s)


@in_virtual_time
async def test_who_goes_on_with_what_is_refused_is_left_unread_and_in_the_end_dropped() -> None:
    rig = Rig()
    await offend(rig, 200, DROP_AFTER_S - 1)
    assert rig.floods == [False] and rig.channel.resumes > 10
    await offend(rig, 200, 30)
    assert rig.floods == [False, True] and rig.it.state is Taking.ENDED
    assert rig.lanes.toll.tokens(rig.loop.time()) > 0.9 * NODE_TOLL.burst, "and nobody else was slowed for it"


@in_virtual_time
async def test_who_is_refused_now_and_then_or_in_a_burst_is_not_dropped() -> None:
    rig = Rig()
    await offend(rig, 0.8 * HARD_TOLL.per_s / OFFENCE_TOLL, 300)
    assert not rig.floods
    for _ in range(10_000):
        rig.it.offended()
    rig.read(1)
    assert rig.it.state is Taking.UNREAD
    await asyncio.sleep(2 * OFFENCE_TOLL / HARD_TOLL.per_s)
    assert rig.it.state is Taking.READING, "however many: for a moment"
    await asyncio.sleep(DROP_AFTER_S)
    rig.it.offended()
    rig.read(1)
    assert True not in rig.floods
    rig.it.end()


@in_virtual_time
async def test_a_peer_that_reads_no_answers_is_not_read_from_but_not_for_ever() -> None:
    rig = Rig()
    rig.channel.congested = True
    rig.session.control += bytes(module.CHOKED_BYTES + 1)
    rig.it.settle(rig.loop.time())
    assert rig.it.state is Taking.UNREAD and rig.channel.paused
    await asyncio.sleep(module.CHOKED_S + 0.1)
    assert rig.it.state is Taking.READING, "two nodes must not wait for each other"
    rig.it.settle(rig.loop.time())
    assert rig.it.state is Taking.READING, "once for each time that it takes nothing"
    rig.it.drained()
    rig.it.settle(rig.loop.time())
    assert rig.it.state is Taking.UNREAD
    rig.it.drained()
    await turns(3)
    assert rig.it.state is Taking.READING, "at once when it reads"
    rig.it.end()


@in_virtual_time
async def test_a_crowds_connections_come_at_the_slow_lanes_cost() -> None:
    """Else a flood that comes and goes has a share for its handshakes and another one for what it sends."""
    for others, cost_s in ((FEW, 0.0), (FEW + 1, UP_S)):
        rig = Rig()
        rig.lanes.crowds[rig.it.crowd] = others
        charged: list[float] = []
        rig.lanes.slow.charge = charged.append  # type: ignore[method-assign]
        rig.it.start()
        assert sum(charged) == cost_s
    rig.is_own = True
    rig.it.start()
    assert sum(charged) == cost_s, "the owner's come as ever"


@in_virtual_time
async def test_the_bulk_of_a_crowd_takes_turns() -> None:
    rig = Rig()

    def bulk() -> None:
        rig.it.turn_bytes = BULK_BYTES + 1
        rig.it.settle(rig.loop.time())

    rig.lanes.crowds["8.8.8.0/24"] = FEW
    bulk()
    assert rig.it.state is Taking.READING, "a few have their own turns"
    assert rig.channel.room is None and not rig.channel.timed
    rig.lanes.crowds["8.8.8.0/24"] = FEW + 1
    rig.it.start()
    assert rig.channel.room is not None, "from the first byte on, who comes into a crowd"
    rig.it.settle(rig.loop.time())
    assert rig.it.state is Taking.READING, "so has who sends little"
    bulk()
    assert rig.it.state is Taking.QUEUED
    assert rig.channel.room is not None and rig.channel.room * (FEW + 1) <= CROWD_ROOM, "little waits unread"
    await turns(3)
    assert rig.it.state is Taking.READING and rig.channel.resumes
    rig.is_own = True
    bulk()
    assert rig.it.state is Taking.READING, "and the owner's peers"
    assert rig.channel.room is None and not rig.channel.timed


@in_virtual_time
async def test_the_small_reads_of_a_crowd_count_and_wait_once_its_share_is_used_up() -> None:
    """Reads of 32,000 bytes are no bulk: 128 lines that sent them had a third of a processor."""
    rig, took_s, reads = Rig(), 0.0, 0
    rig.lanes.clock = lambda: rig.loop.time() + took_s
    rig.crowded()
    rig.it.start()
    began_at = rig.lanes.clock()
    for _ in range(2000):
        rig.moves += 1
        await asyncio.sleep(NAP_S / 2)
        while rig.it.state is Taking.READING and reads < 5000:
            reads += 1
            rig.moves += 1
            rig.channel.read_at, took_s = rig.lanes.clock(), took_s + 0.0005
            rig.it.turn_bytes = BULK_BYTES
            rig.it.settle(rig.lanes.clock())
    whole_s = rig.lanes.clock() - began_at
    assert 0.7 * CROWD_SHARE < reads * 0.0005 / whole_s < 1.1 * CROWD_SHARE, "while others are busy"
    rig.it.end()


@in_virtual_time
async def test_whoever_waits_with_its_crowd_is_read_as_ever_when_its_turn_comes() -> None:
    """Once in the fair lane it had a slice's work and reads of 32 KiB as long as its crowd had too much."""
    rig = Rig()
    lane = rig.crowded()
    rig.read(2000)
    assert rig.channel.spared
    await until(lambda: rig.pings == 2000 and rig.it.state is Taking.READING)
    lane.charge(1.0)
    rig.moves += 1
    rig.read(10)
    assert rig.it.state is Taking.QUEUED and rig.channel.timed
    assert rig.session.work_left == TURN_WORK and not rig.channel.spared
    rig.it.end()


@in_virtual_time
async def test_who_reads_no_answers_is_not_read_from_though_its_crowd_has_used_up_its_share() -> None:
    rig = Rig()
    lane = rig.crowded()
    lane.charge(1.0)
    rig.moves += 1
    rig.channel.congested = True
    rig.session.control += bytes(module.CHOKED_BYTES + 1)
    rig.it.settle(rig.loop.time())
    assert rig.it.state is Taking.UNREAD, "a turn of its crowd's would bring more to answer"
    rig.it.end()


@in_virtual_time
async def test_a_crowd_alone_goes_as_fast_as_it_can_and_what_is_sent_to_it_costs_it_nothing() -> None:
    """Its own reads were somebody's business, for which it waited: a nap for each read beyond its share."""
    rig, took_s, reads = Rig(), 0.0, 0
    rig.lanes.clock = lambda: rig.loop.time() + took_s
    lane = rig.crowded()
    rig.it.start()
    assert rig.channel.moved is not None
    began_at = rig.loop.time()
    while reads < 1000:
        if rig.it.state is Taking.READING:
            reads += 1
            rig.channel.read_at, took_s = rig.lanes.clock(), took_s + 0.0005
            rig.moves += 1
            rig.channel.moved()
            rig.it.settle(rig.lanes.clock())
        assert rig.it.state is Taking.READING, "nor is there a turn to wait for"
    assert rig.loop.time() == began_at
    charged: list[float] = []
    lane.charge = charged.append  # type: ignore[method-assign]
    rig.channel.read_at, now, took_s = rig.lanes.clock(), rig.lanes.clock() + 0.0001, took_s + 0.5
    rig.it.settle(now)
    assert sum(charged) == pytest.approx(0.0001), "half a second of sending"
    rig.is_own = True
    rig.it.settle(now)
    assert rig.channel.moved is None
    rig.it.end()


@pytest.mark.parametrize("over_a_relay", [False, True])
@in_virtual_time
async def test_small_reads_over_a_relay_wait_for_no_crowd(
    over_a_relay: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All who come over one hub are one crowd, and the hub's connection has moved what each of them reads."""
    if over_a_relay:
        addr = Multiaddr.parse(f"/ip4/8.8.8.8/tcp/1/p2p/{peer(1)}/p2p-circuit")
        monkeypatch.setattr(FakeChannel, "remote_addr", addr)
    rig = Rig()
    lane = rig.crowded()
    rig.it.start()
    lane.charge(1000.0)
    rig.moves += 1
    rig.turn_ended()
    assert rig.it.state is (Taking.READING if over_a_relay else Taking.QUEUED)
    rig.it.turn_bytes = BULK_BYTES + 1
    await until(lambda: rig.it.state is Taking.READING)
    rig.turn_ended()
    assert rig.it.state is Taking.QUEUED, "bulk has turns"
    rig.it.end()


@pytest.mark.parametrize("lane", ["crowd", "slow"])
@in_virtual_time
async def test_who_has_a_part_of_a_message_left_reads_on_in_its_slice(lane: str) -> None:
    """It was given the part again, which ended a turn that brought nothing, and waited for the next slice."""
    rig = Rig()
    owner = rig.crowded() if lane == "crowd" else rig.lanes.slow
    rig.it.start()

    def resume() -> None:
        rig.channel.paused = False
        rig.channel.resumes += 1
        rig.turn_ended()

    rig.channel.resume = resume  # type: ignore[method-assign]
    if lane == "slow":
        while rig.it.state is Taking.READING:
            rig.read(400)
    else:
        rig.it.turn_bytes = BULK_BYTES + 1
        rig.turn_ended()
    assert rig.it.state is Taking.QUEUED
    owner.charge(1000.0)
    await until(lambda: rig.channel.resumes)
    assert rig.it.state is Taking.READING and not rig.channel.paused
    rig.it.end()


@in_virtual_time
async def test_a_crowd_has_no_second_share_in_the_slow_lane() -> None:
    rig, took_s = Rig(), 0.0
    rig.lanes.clock = lambda: rig.loop.time() + took_s
    lane = rig.crowded()
    rig.it.start()
    while not rig.lanes.slow._queue:
        rig.channel.read_at = rig.lanes.clock()
        rig.read(400)
        await turns(2)
    await until(lambda: rig.it.state is Taking.READING)
    assert rig.channel.timed
    charged: list[float] = []
    lane.charge = charged.append  # type: ignore[method-assign]
    rig.channel.read_at, took_s = rig.lanes.clock(), took_s + 0.0005
    rig.read(75)
    assert sum(charged) == pytest.approx(0.0005) and rig.lanes.slow._queue
    rig.it.end()


@in_virtual_time
async def test_the_end_takes_back_what_was_held() -> None:
    rig = Rig()
    rig.read(2000)
    rig.it.end()
    assert rig.session.ledger.used == 0
    before = rig.pings
    await turns(5)
    assert rig.pings == before


@in_virtual_time
async def test_a_defect_in_a_slice_ends_its_connection_and_holds_up_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig, other = Rig(), Rig()
    other.it = Intake(other.session, cast("Any", other.channel), rig.lanes, rig.loop, other)
    defects: list[object] = []
    rig.loop.set_exception_handler(lambda _loop, context: defects.append(context["exception"]))

    def breaks(_view: memoryview) -> None:
        raise KeyError("a defect")

    rig.read(2000)
    monkeypatch.setattr(rig, "plaintext_received", breaks)
    other.read(2000)
    assert rig.it.state is other.it.state is Taking.QUEUED
    await asyncio.sleep(1)
    assert isinstance(rig.channel.failed, KeyError) and defects == [rig.channel.failed]
    assert other.it.state is Taking.READING and other.pings == 2000, "its turns have come all the same"
