"""Pins what tunnels' sockets may hold in the kernel, and which tunnels are reset when its memory is short."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.forwarding.local_sockets import (
    FEW,
    LET_IN,
    LOOK_EVERY_S,
    MANY,
    MANY_IN_ALL,
    MOVES_BYTES,
    PATIENCE,
    PENALTY_S,
    SMALL_BYTES,
    STALLED_BYTES,
    UNIX_PATIENCE_S,
    UNIX_STANDING,
    LocalSockets,
)
from p2pfwd.net.refusals import Refusals
from p2pfwd.policy.networks import crowd
from p2pfwd.system.tcp_memory import TcpMemory, tcp_memory
from tests.support.virtual_time import in_virtual_time

MB = 1 << 20
PRESSURE = 1000 * MB


@dataclass
class FakeEntry:
    """A tunnel of `peer`, at `host`; it moves on at every look, or stands still."""

    id: int
    peer: str = "stranger"
    host: str = "8.8.8.8"
    stalled: bool = True
    step: int = 0
    resets: int = 0
    moved: int = 0
    splice: Any = field(init=False)
    stream: Any = field(init=False)

    def __post_init__(self) -> None:
        entry = self

        class Splice:
            is_stalled = self.stalled
            bytes_in = 0

            @property
            def bytes_out(self) -> int:
                entry.moved += entry.step
                return entry.moved

            def reset(self, code: int = 0) -> None:
                entry.resets += 1

        self.splice = Splice()
        conn = SimpleNamespace(crowd=crowd(Multiaddr.parse(f"/ip4/{self.host}/tcp/1")))
        self.stream = SimpleNamespace(remote_peer=self.peer, conn=conn)


class Rig:
    def __init__(self, entries: list[FakeEntry], used: int) -> None:
        self.entries = entries
        self.used = used
        self.looks = 0
        self.refusals = Refusals()
        self.it = LocalSockets(
            asyncio.get_running_loop(),
            lambda: cast("Any", self.entries),
            lambda peer: cast("str", peer) == "own",
            self.refusals,
            self.memory,
        )

    def memory(self) -> TcpMemory:
        self.looks += 1
        return TcpMemory(self.used, PRESSURE)

    def take(self, entry: FakeEntry, family: socket.AddressFamily = socket.AF_INET) -> bool:
        with socket.socket(family) as sock:
            return self.it.take(sock, cast("Any", entry), 1, len(self.entries))

    async def look(self, times: int) -> list[int]:
        """Who has been reset after so many looks."""
        self.take(FakeEntry(-1))
        await asyncio.sleep(LOOK_EVERY_S * (times + 0.5))
        return [entry.id for entry in self.entries if entry.resets]


SHORT = int(PRESSURE * PATIENCE[-1][0]) + 1
VERY_SHORT = int(PRESSURE * PATIENCE[0][0]) + 1
PATIENT, HASTY = 104, 5
"""Looks until a tunnel has stood still for too long."""


@in_virtual_time
async def test_what_stands_still_is_reset_while_memory_is_short() -> None:
    rig = Rig([FakeEntry(n) for n in range(FEW + 10)], SHORT + 5 * STALLED_BYTES)
    assert await rig.look(PATIENT - 6) == [], "not at once"
    assert await rig.look(4) == [0, 1, 2, 3, 4, 5]
    assert rig.refusals.counts["tcp-memory"] >= 6
    rig.it.close()


@in_virtual_time
async def test_to_unix_sockets_so_many_stand_still_and_no_more() -> None:
    """Their services' buffers are no TCP memory, and none that this end can bound."""
    crowd = [FakeEntry(n) for n in range(UNIX_STANDING + 2)]
    own = [FakeEntry(1000 + n, peer="own", host="9.9.9.9") for n in range(50)]
    moving = [FakeEntry(2000 + n, step=MOVES_BYTES, host="9.9.9.9") for n in range(50)]
    rig = Rig([*crowd, *own, *moving, FakeEntry(3000, host="9.9.9.9")], 0)
    for entry in rig.entries:
        assert rig.take(entry, socket.AF_UNIX)
    assert await rig.look(int(UNIX_PATIENCE_S / LOOK_EVERY_S) - 2) == [], "not at once"
    assert await rig.look(6) == [0, 1, 2], "of the network that has most, down to what may be"
    assert rig.refusals.counts["unix-memory"] >= 3
    rig.entries = rig.entries[3:]
    assert await rig.look(50) == []
    rig.it.close()


@in_virtual_time
async def test_unix_tunnels_neither_shield_tcp_ones_nor_cost_their_network_its_tunnels() -> None:
    unix = [FakeEntry(n) for n in range(UNIX_STANDING + 2)]
    tcp = [FakeEntry(n, host="9.9.9.9") for n in range(1000, 1000 + FEW)]
    rig = Rig([*unix, *tcp], VERY_SHORT)
    for entry in unix:
        assert rig.take(entry, socket.AF_UNIX)
    assert await rig.look(int(UNIX_PATIENCE_S / LOOK_EVERY_S) + 3) == [0, 1, 1000]
    assert rig.take(FakeEntry(2000, host="8.8.8.99")), "of the network that has most to Unix sockets"
    assert not rig.take(FakeEntry(2001, host="9.9.9.9")), "whose tunnels took the TCP memory"
    rig.it.close()


def test_who_has_few_tunnels_in_all_is_not_remembered_for_ever() -> None:
    async def main() -> None:
        rig = Rig([], 0)
        with socket.socket(socket.AF_UNIX) as sock:
            for n in range(1000):
                assert rig.it.take(sock, cast("Any", FakeEntry(n)), MANY + 1, FEW)
        assert not rig.it._unix, "no look would forget it"

    asyncio.run(main())


@in_virtual_time
async def test_the_fuller_it_is_the_shorter_the_patience() -> None:
    rig = Rig([FakeEntry(n) for n in range(FEW + 10)], VERY_SHORT)
    assert await rig.look(HASTY) == [0]
    rig.it.close()


@in_virtual_time
async def test_a_network_that_was_reset_gets_no_new_tunnels_for_a_moment() -> None:
    rig = Rig([FakeEntry(n) for n in range(FEW + 10)], VERY_SHORT)
    assert await rig.look(HASTY) == [0]
    rig.used = 0
    assert not rig.take(FakeEntry(100)) and not rig.take(FakeEntry(101, host="8.8.8.9"))
    assert rig.take(FakeEntry(102, host="9.9.9.9")) and rig.take(FakeEntry(103, peer="own"))
    await asyncio.sleep(PENALTY_S)
    assert rig.take(FakeEntry(104))
    rig.it.close()


@in_virtual_time
async def test_nobody_is_reset_who_moves_or_waits_for_nothing_or_is_the_owners() -> None:
    moving = [FakeEntry(n, step=MOVES_BYTES) for n in range(FEW)]
    idle = [FakeEntry(n, stalled=False) for n in range(FEW, 2 * FEW)]
    own = [FakeEntry(n, peer="own") for n in range(2 * FEW, 3 * FEW)]
    rig = Rig([*moving, *idle, *own], 2 * PRESSURE)
    assert await rig.look(50) == []
    rig.it.close()


@in_virtual_time
async def test_a_byte_now_and_then_is_no_motion() -> None:
    rig = Rig([FakeEntry(n) for n in range(FEW + 10)], VERY_SHORT)
    for entry in rig.entries:
        entry.step = 1
    assert await rig.look(HASTY) == [0]
    rig.it.close()


@in_virtual_time
async def test_the_heaviest_network_loses_first() -> None:
    single = [FakeEntry(n, host=f"8.8.{n}.1") for n in range(30)]
    many = [FakeEntry(n, host=f"9.9.9.{n}") for n in range(30, 70)]
    rig = Rig([*single, *many], SHORT + 9 * STALLED_BYTES)
    assert await rig.look(PATIENT) == list(range(30, 40))
    rig.it.close()


@in_virtual_time
async def test_with_few_tunnels_or_much_memory_nothing_is_looked_at_for_long() -> None:
    rig = Rig([FakeEntry(n) for n in range(FEW)], 2 * PRESSURE)
    assert await rig.look(5) == [] and rig.looks == 0
    rig = Rig([FakeEntry(n) for n in range(FEW + 1)], SHORT - 2)
    assert await rig.look(5) == [] and rig.looks == 5
    rig.entries = []
    await asyncio.sleep(100)
    assert rig.looks == 5, "and no timer is left"


@in_virtual_time
async def test_a_network_of_which_many_stand_still_connects_slowly_and_in_order() -> None:
    rig = Rig([FakeEntry(n) for n in range(FEW + 1)], 0)
    connected: list[int] = []

    def connect(entry: FakeEntry) -> bool:
        return rig.it.connect(cast("Any", entry), len(rig.entries), lambda: connected.append(entry.id))

    waiting = [FakeEntry(n) for n in range(100, 100 + 3 * LET_IN)]
    assert [connect(entry) for entry in waiting] == LET_IN * [True] + 2 * LET_IN * [False]
    assert connect(FakeEntry(200, host="9.9.9.9")) and connect(FakeEntry(201, peer="own"))
    assert connected == [*range(100, 100 + LET_IN), 200, 201]
    rig.it.leave(cast("Any", waiting[LET_IN]))
    await asyncio.sleep(1.5 * LOOK_EVERY_S)
    assert connected[LET_IN + 2 :] == [entry.id for entry in waiting[LET_IN + 1 : 2 * LET_IN + 1]]
    for entry in rig.entries:
        entry.splice.is_stalled = False
    await asyncio.sleep(LOOK_EVERY_S)
    assert connected[-1] == waiting[-1].id, "nobody stands still any more: all the rest"
    rig.it.close()


@in_virtual_time
async def test_those_that_move_or_are_few_connect_at_once() -> None:
    rig = Rig([FakeEntry(n, stalled=False) for n in range(1000)], 0)
    connected: list[int] = []
    for n in range(1000):
        assert rig.it.connect(cast("Any", FakeEntry(n)), len(rig.entries), lambda: connected.append(1))
    rig.entries = [FakeEntry(n) for n in range(FEW)]
    assert rig.it.connect(cast("Any", FakeEntry(0)), FEW, lambda: connected.append(1))
    assert len(connected) == 1001
    rig.it.close()


@pytest.mark.parametrize(
    ("of_peer", "in_all", "small"), [(1, 1, False), (MANY + 1, 30, True), (1, MANY_IN_ALL + 1, True)]
)
def test_buffers_are_bounded_where_there_are_many(of_peer: int, in_all: int, small: bool) -> None:
    async def main() -> None:
        rig = Rig([], 0)
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()) as sock,
        ):
            before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            assert rig.it.take(sock, cast("Any", FakeEntry(1)), of_peer, in_all)
            after = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            assert after in (SMALL_BYTES, 2 * SMALL_BYTES) if small else after == before
        near, far = socket.socketpair()
        assert rig.it.take(near, cast("Any", FakeEntry(1)), of_peer, 1)
        near.close()
        far.close()
        rig.it.close()

    asyncio.run(main())


def test_this_machine_tells_what_its_tcp_holds() -> None:
    memory = tcp_memory()
    if memory is None:
        assert not Path("/proc/net/sockstat").exists()
    else:
        assert memory.used >= 0 and memory.pressure > 0
