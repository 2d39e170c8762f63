"""net.recovery with fake connections, in virtual time: who is dialed, who waits, who is told, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import DialFailed, P2PForwardError, TimedOut
from p2pfwd.net import recovery as module
from p2pfwd.net.connections import Connections
from p2pfwd.net.recovery import (
    AT_RELAY,
    AT_RELAY_S,
    LOST_S,
    MAX_DIALS,
    REDIAL_S,
    SILENT_S,
    TIDY_S,
    Recovery,
)
from p2pfwd.net.refusals import Refusals
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.tasks import Tasks
from p2pfwd.system.interfaces import Interface, Interfaces
from tests.support.virtual_time import in_virtual_time

PEER, OTHER = (PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([n]) * 32) for n in (1, 2))


class FakeLiveness:
    def __init__(self, conn: FakeConn) -> None:
        self.conn = conn
        self.doubtful = False
        self.on_doubt: Callable[[FakeConn, bool], None] = lambda _conn, _doubtful: None
        self.on_suspicion: Callable[[FakeConn], None] = lambda _conn: None
        self.is_challenged = False
        self.address_gone = False
        self.silent_s = 1.0
        self.challenges = 0
        self.was_replaced = False

    def challenge(self) -> None:
        self.challenges += 1
        self.is_challenged = True

    def replaced(self) -> None:
        self.was_replaced = True

    def doubt(self, doubtful: bool = True) -> None:
        self.doubtful = doubtful
        self.on_doubt(self.conn, doubtful)


class FakeStream:
    direction = "outbound"


class FakeConn:
    def __init__(self, peer: PeerId = PEER, local: str = "192.168.1.7") -> None:
        self.remote_peer = peer
        self.remote_addr = Multiaddr.parse("/ip4/192.168.1.9/tcp/4011")
        self.local_addr = Multiaddr.parse(f"/ip4/{local}/tcp/999")
        self.direction, self.security, self.is_relayed = "outbound", "/noise", False
        self.loop = asyncio.get_running_loop()
        self.opened_at = self.loop.time()
        self.closed: asyncio.Future[Exception | None] = self.loop.create_future()
        self.streams: dict[int, FakeStream] = {}
        self.liveness = FakeLiveness(self)
        self.ended_by_us = False

    @property
    def can_open(self) -> bool:
        return not self.closed.done()

    @property
    def is_usable(self) -> bool:
        return self.can_open and not self.liveness.doubtful

    def abort(self, cause: Exception | None = None) -> None:
        if not self.closed.done():
            self.closed.set_result(cause)

    async def close(self) -> None:
        self.ended_by_us = True
        self.abort()


class FakeConnMgr:
    def to_trim(self, _conns: object, _now: float) -> list[Any]:
        return []

    def to_let_go(self, _conns: object, _now: float) -> list[Any]:
        return []

    def to_replace(self, _conns: object, _newcomer: object, _now: float) -> None:
        return None

    def is_urgent(self, _peer: object) -> bool:
        return True


class Rig:
    """A recovery; each dial takes `dial_s`, then fails, or works where `reachable`."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.tasks = Tasks(self.loop)
        settings = replace(SwarmSettings(), max_connections_per_peer=3)
        self.connections = Connections(
            OTHER, settings, cast("Any", FakeConnMgr()), self.tasks, Refusals(self.loop.time)
        )
        self.hosts = frozenset({"192.168.1.7"})
        self.interfaces = Interfaces(lambda: (Interface("eth0", 2, self.hosts),), self.loop.time)
        self.kept: set[PeerId] = set()
        self.dials: list[float] = []
        self.asked: list[float] = []
        self.told: list[P2PForwardError | None] = []
        self.dial_s = 0.1
        self.reachable = False
        self.failure = DialFailed("cannot reach it: No route to host")
        self.recovery = Recovery(
            self.connections, self.tasks, self.interfaces, self._dial, self._route, self.kept.__contains__
        )
        self.recovery.on_silent(lambda _peer, error: self.told.append(error))

    async def _dial(self, peer: PeerId) -> FakeConn:
        self.dials.append(self.loop.time())
        await asyncio.sleep(self.dial_s)
        if not self.reachable:
            raise self.failure
        return self.add(FakeConn(peer))

    async def _route(self, _peer: PeerId, failure: P2PForwardError) -> None:
        self.asked.append(self.loop.time())
        await asyncio.sleep(0.5)
        raise failure

    def add(self, conn: FakeConn) -> FakeConn:
        self.connections.add(cast("Any", conn))
        return conn

    @property
    def under_way(self) -> int:
        return len(self.recovery._searches)


@asynccontextmanager
async def made() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    rig.connections.closing = True
    rig.recovery.close()
    rig.recovery.close()
    await rig.tasks.close()
    assert not rig.under_way and not rig.recovery._waiters


@in_virtual_time
async def test_a_doubtful_connection_that_nobody_needs_is_left_alone() -> None:
    async with made() as rig:
        conn = rig.add(FakeConn())
        conn.liveness.doubt()
        await asyncio.sleep(30)
        assert not rig.dials and not rig.told


@in_virtual_time
async def test_one_with_a_stream_of_ours_or_a_kept_peer_gets_another_beside_it_at_once() -> None:
    for kept in (False, True):
        async with made() as rig:
            rig.reachable = True
            conn = rig.add(FakeConn())
            if kept:
                rig.kept.add(PEER)
            else:
                conn.streams[1] = FakeStream()
            began = rig.loop.time()
            conn.liveness.doubt()
            await asyncio.sleep(1)
            assert rig.dials == [began]
            assert conn.liveness.was_replaced and not conn.closed.done(), "its streams stay"
            second = rig.connections.usable(PEER)
            assert second is not None and second is not conn
            assert not rig.told


@in_virtual_time
async def test_in_vain_it_is_tried_again_and_again_asked_for_and_told_once() -> None:
    async with made() as rig:
        rig.kept.add(PEER)
        rig.add(FakeConn()).liveness.doubt()
        await asyncio.sleep(20)
        assert 20 / REDIAL_S - 1 <= len(rig.dials) <= 20 / REDIAL_S + 1
        assert 2 <= len(rig.asked) <= 3
        (error,) = rig.told
        assert "has fallen silent" in str(error) and "No route to host" in str(error)


@in_virtual_time
async def test_dials_that_hang_overlap_up_to_a_bound() -> None:
    async with made() as rig:
        rig.dial_s = 1000.0
        rig.kept.add(PEER)
        rig.add(FakeConn()).liveness.doubt()
        await asyncio.sleep(20)
        assert len(rig.dials) == MAX_DIALS


@in_virtual_time
async def test_who_waits_is_served_by_the_new_connection() -> None:
    async with made() as rig:
        rig.add(FakeConn()).liveness.doubt()
        waiting = [rig.loop.create_task(rig.recovery.another(PEER)) for _ in range(3)]
        await asyncio.sleep(5)
        assert rig.dials and not any(task.done() for task in waiting)
        rig.reachable = True
        await asyncio.sleep(REDIAL_S + 0.2)
        found = {task.result() for task in waiting}
        assert found == {rig.connections.usable(PEER)}
        assert not rig.under_way


@in_virtual_time
async def test_or_by_the_old_one_after_all() -> None:
    async with made() as rig:
        conn = rig.add(FakeConn())
        conn.liveness.doubt()
        waiting = rig.loop.create_task(rig.recovery.another(PEER))
        await asyncio.sleep(5)
        conn.liveness.doubt(False)
        assert await waiting is cast("Any", conn)
        dials = len(rig.dials)
        await asyncio.sleep(10)
        assert len(rig.dials) == dials, "the search is over"


@in_virtual_time
async def test_a_peer_that_is_lost_is_waited_for_a_moment_and_not_longer() -> None:
    async with made() as rig:
        conn = rig.add(FakeConn())
        conn.abort(ConnectionResetError())
        await asyncio.sleep(0.1)
        assert rig.recovery.is_worth_waiting(PEER)
        waiting = rig.loop.create_task(rig.recovery.another(PEER))
        await asyncio.sleep(2)
        rig.reachable = True
        assert await waiting is not None
        for each in rig.connections.of(PEER):
            each.abort(ConnectionResetError())
        rig.reachable = False
        await asyncio.sleep(0.01)
        began = rig.loop.time()
        assert await rig.recovery.another(PEER) is None
        assert LOST_S - 1 < rig.loop.time() - began < LOST_S + REDIAL_S + 1
        assert not rig.recovery.is_worth_waiting(PEER)
        assert "has fallen silent" not in str(rig.told)
        assert f"the connection to {PEER} was lost, and a new one fails: cannot reach it" in str(rig.told[-1])


@in_virtual_time
async def test_a_line_that_was_cut_is_waited_for_longer() -> None:
    async with made() as rig:
        rig.add(FakeConn()).abort(TimedOut("no sign of life for 35 s"))
        await asyncio.sleep(SILENT_S - 1)
        assert rig.recovery.is_worth_waiting(PEER)
        await asyncio.sleep(2)
        assert not rig.recovery.is_worth_waiting(PEER)


@in_virtual_time
async def test_a_connection_that_we_ended_is_not_lost() -> None:
    async with made() as rig:
        await rig.add(FakeConn()).close()
        await asyncio.sleep(0.01)
        assert not rig.recovery.is_worth_waiting(PEER)


@in_virtual_time
async def test_who_gives_up_waiting_ends_the_search_that_nobody_else_wants() -> None:
    async with made() as rig:
        rig.add(FakeConn()).liveness.doubt()
        waiting = rig.loop.create_task(rig.recovery.another(PEER))
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.sleep(REDIAL_S + 1)
        assert not rig.under_way and not rig.recovery._waiters


@in_virtual_time
async def test_news_of_an_address_or_a_network_make_it_dial_at_once() -> None:
    for news in ("address", "network"):
        async with made() as rig:
            rig.kept.add(PEER)
            rig.add(FakeConn()).liveness.doubt()
            await asyncio.sleep(0.5)
            before = len(rig.dials)
            if news == "address":
                rig.recovery.address_learned(PEER)
            else:
                rig.recovery.network_changed()
            await asyncio.sleep(0.06)
            assert len(rig.dials) == before + 1


@in_virtual_time
async def test_a_change_of_network_challenges_everybody_and_knows_which_addresses_are_gone() -> None:
    async with made() as rig:
        ours, loopback = rig.add(FakeConn()), rig.add(FakeConn(local="127.0.0.2"))
        rig.hosts = frozenset({"10.0.0.7"})
        rig.interfaces.refresh()
        rig.recovery.network_changed()
        assert [conn.liveness.challenges for conn in (ours, loopback)] >= [1, 1]
        assert ours.liveness.address_gone and not loopback.liveness.address_gone
        rig.interfaces.is_complete = False
        rig.recovery.network_changed()
        assert not ours.liveness.address_gone, "what cannot be listed is not known to be gone"


@in_virtual_time
async def test_a_newcomer_beside_a_connection_has_the_old_one_asked() -> None:
    async with made() as rig:
        old = rig.add(FakeConn())
        rig.add(FakeConn())
        assert old.liveness.challenges == 1 and not old.liveness.was_replaced


@in_virtual_time
async def test_a_second_connection_that_was_not_needed_goes_when_it_is_idle() -> None:
    async with made() as rig:
        old = rig.add(FakeConn())
        old.streams[1] = FakeStream()
        rig.reachable = True
        old.liveness.doubt()
        await asyncio.sleep(0.2)
        second = cast("Any", rig.connections.usable(PEER))
        second.streams[1] = FakeStream()
        old.liveness.doubt(False)
        await asyncio.sleep(2 * TIDY_S + 1)
        assert not second.closed.done(), "it carries something"
        second.streams.clear()
        await asyncio.sleep(TIDY_S + 1)
        assert second.closed.done() and not old.closed.done()


@in_virtual_time
async def test_a_second_connection_that_took_the_others_place_stays() -> None:
    async with made() as rig:
        rig.kept.add(PEER)
        old = rig.add(FakeConn())
        rig.reachable = True
        old.liveness.doubt()
        await asyncio.sleep(0.2)
        old.abort(ConnectionResetError())
        await asyncio.sleep(3 * TIDY_S)
        assert rig.connections.usable(PEER) is not None and not rig.recovery._seconds


@in_virtual_time
async def test_a_full_table_of_one_peer_gives_way_where_one_is_in_doubt() -> None:
    async with made() as rig:
        conns = [rig.add(FakeConn()) for _ in range(3)]
        refused = rig.add(FakeConn())
        assert refused.closed.done()
        conns[1].liveness.doubt()
        taken = rig.add(FakeConn())
        assert not taken.closed.done() and conns[1].closed.done()


@in_virtual_time
async def test_what_is_remembered_and_searched_for_is_bounded() -> None:
    async with made() as rig:
        peers = [PeerId(b"\x00\x24\x08\x01\x12\x20" + n.to_bytes(32, "big")) for n in range(300)]
        rig.kept.update(peers)
        rig.recovery.is_own = rig.kept.__contains__
        conns = [rig.add(FakeConn(peer)) for peer in peers]
        for conn in conns:
            conn.liveness.doubt()
        assert rig.under_way == module.MAX_AT_ONCE
        for conn in conns:
            conn.abort(ConnectionResetError())
        await asyncio.sleep(0.01)
        assert len(rig.recovery._lost) == module.MAX_LOST


@in_virtual_time
async def test_strangers_that_fall_silent_or_leave_take_nothing_from_the_owners_peers() -> None:
    async with made() as rig:
        own, *strangers = (PeerId(b"\x00\x24\x08\x01\x12\x20" + n.to_bytes(32, "big")) for n in range(300))
        rig.kept |= {own, *strangers}  # as whoever has a tunnel is
        rig.recovery.is_own = own.__eq__
        mine = rig.add(FakeConn(own))
        theirs = [rig.add(FakeConn(peer)) for peer in strangers]
        for conn in theirs:
            conn.liveness.doubt()
        assert rig.under_way == module.MAX_STRANGERS
        mine.liveness.doubt()
        assert rig.under_way == module.MAX_STRANGERS + 1, "its line is dialed beside at once"
        mine.abort(ConnectionResetError())
        for conn in theirs:
            conn.abort(ConnectionResetError())
        await asyncio.sleep(0.01)
        assert len(rig.recovery._lost) == module.MAX_LOST
        assert rig.recovery.is_worth_waiting(own), "who wants it is not refused meanwhile"


@in_virtual_time
async def test_when_one_falls_silent_the_kept_ones_are_asked_and_nobody_else() -> None:
    """A router that has forgotten all has forgotten the way to the relays, too."""
    async with made() as rig:
        relay, heard, other, silent = (
            rig.add(FakeConn(PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([n]) * 32))) for n in (3, 4, 5, 6)
        )
        rig.kept |= {relay.remote_peer, heard.remote_peer}
        relay.liveness.silent_s, heard.liveness.silent_s, other.liveness.silent_s = 15.0, 0.2, 15.0
        relay.liveness.on_suspicion(relay)
        assert not relay.liveness.challenges, "it is the one that is silent"
        silent.liveness.on_suspicion(silent)
        assert [conn.liveness.challenges for conn in (relay, heard, other)] == [1, 0, 0]
        silent.liveness.doubt()
        assert relay.liveness.challenges == 1, "it has not answered yet; again would give it more time"
        relay.liveness.is_challenged = False
        silent.liveness.doubt()
        assert [conn.liveness.challenges for conn in (relay, heard, other)] == [2, 0, 0]


@in_virtual_time
async def test_a_relay_that_is_back_has_those_dialed_who_may_be_reached_by_it() -> None:
    async with made() as rig:
        relay = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([3]) * 32)
        rig.kept |= {PEER, relay}
        rig.add(FakeConn()).liveness.doubt()
        await asyncio.sleep(0.5)
        before = len(rig.dials)
        rig.add(FakeConn(relay))
        await asyncio.sleep(0.06)
        assert len(rig.dials) == before + 1


def not_at(code: str) -> DialFailed:
    """What a dial over a relay ends with that refuses."""
    attempt = {"Address": "/p2p-circuit", "Reason": "the relay refuses", "Code": code}
    return DialFailed("cannot reach it: the relay refuses", attempts=[attempt])


@in_virtual_time
async def test_a_relay_where_the_peer_is_not_yet_is_asked_again_soon() -> None:
    """Both ends have lost it, and this one is back first. What else a relay refuses lasts longer."""
    for code, pause_s in (("not-at-relay", AT_RELAY_S), ("relay-refused", REDIAL_S - 0.1)):
        async with made() as rig:
            rig.failure = not_at(code)
            rig.kept.add(PEER)
            rig.add(FakeConn()).liveness.doubt()
            await asyncio.sleep(2.0)
            first, second, *_ = rig.dials
            assert second - first - rig.dial_s == pytest.approx(pause_s), code


@in_virtual_time
async def test_relays_are_asked_for_all_peers_together_no_more_than_they_take() -> None:
    async with made() as rig:
        rig.failure = not_at("not-at-relay")
        peers = [PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([n]) * 32) for n in range(10, 30)]
        rig.kept.update(peers)
        for peer in peers:
            rig.add(FakeConn(peer)).liveness.doubt()
        await asyncio.sleep(9.9)
        usual = len(peers) * (1 + 9.9 / REDIAL_S)
        assert len(rig.dials) <= usual + AT_RELAY.burst + 10 * AT_RELAY.per_s


@in_virtual_time
async def test_a_peer_that_is_in_doubt_again_while_its_search_ends_is_searched_anew() -> None:
    """Dials that are given up take a moment; nothing else would begin another search."""
    async with made() as rig:
        dial, ending = rig._dial, asyncio.Event()

        async def slow_to_end(peer: PeerId) -> FakeConn:
            try:
                return await dial(peer)
            finally:
                ending.set()
                await asyncio.sleep(0.2)

        rig.recovery._dial = slow_to_end
        rig.dial_s = 60.0
        rig.kept.add(PEER)
        conn = rig.add(FakeConn())
        conn.liveness.doubt()
        await asyncio.sleep(0.01)
        conn.liveness.doubt(False)
        await ending.wait()
        before = len(rig.dials)
        conn.liveness.doubt()
        await asyncio.sleep(0.5)
        assert len(rig.dials) == before + 1
