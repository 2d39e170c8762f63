"""protocols.keep on a swarm in memory: who is dialed, looked up, protected; and that it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ConnectionLost, DialFailed, SelfDial, TimedOut
from p2pfwd.net.connmgr import ConnMgr
from p2pfwd.net.dialer import NAME, NETWORK, Attempt
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.swarm import Swarm
from p2pfwd.peers.store import Peerstore
from p2pfwd.policy.dial_schedule import DialLimits, KeptStatus, Priority
from p2pfwd.policy.provenance import Provenance
from p2pfwd.protocols.keep import PeerKeeper
from p2pfwd.system.interfaces import Interfaces
from p2pfwd.system.network_watch import NetworkWatch
from tests.support.peers import peer

QUICK = DialLimits(redial_s=0.0, backoff_first_s=0.001, backoff_most_s=0.001, stable_s=0.0)


def addr(number: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{number}")


SELF, ALICE, BOB = peer(1), peer(2), peer(3)


class FakeConn:
    def __init__(self, remote_peer: PeerId) -> None:
        self.remote_peer = remote_peer
        self.limit: object = None
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()


class FakeSwarm:
    """Connects where `reachable` says so; each dial is noted, and held back while `gate` is shut."""

    def __init__(self) -> None:
        self.peer_id = SELF
        self.peerstore = Peerstore()
        self.connmgr = ConnMgr(SwarmSettings())
        self.live: dict[PeerId, list[FakeConn]] = {}
        self.reachable: set[Multiaddr] = set()
        self.failure: list[Attempt] = []
        self.dials: asyncio.Queue[tuple[PeerId, tuple[Multiaddr, ...]]] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()
        self.tasks: list[asyncio.Task[Any]] = []
        self._up: list[Callable[[Any], None]] = []
        self._down: list[Callable[[Any], None]] = []

    def on_connected(self, callback: Callable[[Any], None]) -> None:
        self._up.append(callback)

    def on_disconnected(self, callback: Callable[[Any], None]) -> None:
        self._down.append(callback)

    def conns(self, peer_id: PeerId) -> list[FakeConn]:
        return list(self.live.get(peer_id, ()))

    def spawn(self, work: Coroutine[Any, Any, Any], what: str) -> asyncio.Task[Any]:
        self.tasks.append(asyncio.get_running_loop().create_task(work, name=what))
        return self.tasks[-1]

    async def connect(
        self, peer_id: PeerId, addrs: Iterable[Multiaddr], *, force: bool, only: bool
    ) -> FakeConn:
        assert force and only
        given = tuple(addrs)
        self.dials.put_nowait((peer_id, given))
        await self.gate.wait()
        if not self.reachable.intersection(given):
            raise DialFailed(
                f"cannot reach {peer_id}: refused", attempts=[one.detail for one in self.failure]
            )
        return self.come(peer_id)

    def come(self, peer_id: PeerId) -> FakeConn:
        conn = FakeConn(peer_id)
        self.live.setdefault(peer_id, []).append(conn)
        for callback in self._up:
            callback(conn)
        return conn

    def go(self, conn: FakeConn, cause: Exception | None) -> None:
        self.live[conn.remote_peer].remove(conn)
        conn.closed.set_result(cause)
        for callback in self._down:
            callback(conn)


class Rig:
    def __init__(self, limits: DialLimits = QUICK) -> None:
        self.swarm = FakeSwarm()
        self.network = NetworkWatch(Interfaces(tuple))
        self.keeper = PeerKeeper(cast(Swarm, self.swarm), self.network, limits)

    async def dial(self) -> tuple[PeerId, tuple[Multiaddr, ...]]:
        return await asyncio.wait_for(self.swarm.dials.get(), 5)

    async def until(self, who: PeerId, met: Callable[[KeptStatus], bool]) -> KeptStatus:
        async with asyncio.timeout(5):
            while True:
                status = self.keeper.status(who)
                assert status is not None
                if met(status):
                    return status
                await asyncio.sleep(0)

    async def close(self) -> None:
        self.network.close()
        await self.keeper.close()
        await self.keeper.close()
        assert all(task.done() for task in self.swarm.tasks)


def run(story: Callable[[Rig], Awaitable[None]], limits: DialLimits = QUICK) -> None:
    async def main() -> None:
        rig = Rig(limits)
        await story(rig)
        await rig.close()

    asyncio.run(main())


def test_nobody_kept_nothing_runs() -> None:
    async def story(rig: Rig) -> None:
        rig.keeper.network_changed()
        rig.keeper.release(ALICE)
        await asyncio.sleep(0)
        assert rig.swarm.tasks == [] and rig.keeper.statuses() == []

    run(story)


def test_what_the_last_dial_failed_with_is_known_until_the_peer_is_there_or_kept_no_more() -> None:
    async def story(rig: Rig) -> None:
        rig.swarm.failure = [Attempt("one", "no such name", NAME), Attempt("other", "refused", NETWORK)]
        rig.keeper.keep(ALICE, [addr(1), addr(2)])
        rig.keeper.keep(BOB, [addr(3)])
        for who in (ALICE, BOB):
            await rig.until(who, lambda status: status.failures > 0)
            assert rig.keeper.causes(who) == {NAME, NETWORK}
        rig.swarm.reachable.add(addr(1))
        await rig.until(ALICE, lambda status: status.state == "connected")
        rig.keeper.release(BOB)
        assert rig.keeper.causes(ALICE) == rig.keeper.causes(BOB) == frozenset()

    run(story)


def test_a_kept_peer_is_dialed_until_it_is_there_and_again_when_it_is_lost() -> None:
    async def story(rig: Rig) -> None:
        rig.keeper.keep(ALICE, [addr(1), addr(2)])
        assert await rig.dial() == (ALICE, (addr(1), addr(2)))
        assert await rig.dial() == (ALICE, (addr(1), addr(2)))
        status = await rig.until(ALICE, lambda it: it.failures > 0)
        assert status.outcome == f"cannot reach {ALICE}: refused"
        rig.swarm.reachable.add(addr(2))
        await rig.until(ALICE, lambda it: it.state == "connected")
        rig.swarm.reachable.clear()
        while not rig.swarm.dials.empty():
            rig.swarm.dials.get_nowait()
        (conn,) = rig.swarm.conns(ALICE)
        rig.swarm.go(conn, ConnectionLost("the peer is gone"))
        status = await rig.until(ALICE, lambda it: it.state == "waiting")
        assert status.outcome == "connection lost: the peer is gone"
        assert await rig.dial() == (ALICE, (addr(1), addr(2)))

    run(story)


def test_a_second_connection_lost_is_no_loss() -> None:
    async def story(rig: Rig) -> None:
        one, two = rig.swarm.come(ALICE), rig.swarm.come(ALICE)
        rig.keeper.keep(ALICE, [addr(1)])
        rig.swarm.go(one, None)
        status = rig.keeper.status(ALICE)
        assert status is not None and status.state == "connected"
        rig.swarm.go(two, None)
        status = rig.keeper.status(ALICE)
        assert status is not None and status.outcome == "the connection was closed"
        await rig.dial()

    run(story)


def test_protection_and_pins_last_as_long_as_the_reason() -> None:
    async def story(rig: Rig) -> None:
        rig.swarm.gate.clear()
        rig.keeper.keep(ALICE, [addr(1)], Priority.BOOTSTRAP)
        rig.keeper.keep(ALICE, [addr(2)], Priority.STATIC)
        assert rig.swarm.connmgr.is_protected(ALICE)
        assert rig.swarm.peerstore.addrs(ALICE) == [addr(1), addr(2)]
        rig.keeper.release(ALICE, Priority.STATIC)
        (status,) = rig.keeper.statuses()
        assert status.priority is Priority.BOOTSTRAP
        assert rig.swarm.connmgr.is_protected(ALICE)
        rig.keeper.release(ALICE, Priority.BOOTSTRAP)
        assert rig.keeper.statuses() == [] and rig.keeper.status(ALICE) is None
        assert not rig.swarm.connmgr.is_protected(ALICE) and rig.swarm.peerstore.addrs(ALICE) == []

    run(story)


def test_this_node_itself_cannot_be_kept() -> None:
    async def story(rig: Rig) -> None:
        with pytest.raises(SelfDial):
            rig.keeper.keep(SELF)
        assert rig.keeper.statuses() == []

    run(story)


def test_an_address_learned_is_tried_at_once() -> None:
    async def story(rig: Rig) -> None:
        rig.keeper.keep(ALICE)
        for _ in range(10):
            await asyncio.sleep(0)
        assert rig.swarm.dials.empty()
        rig.swarm.peerstore.add_addrs(ALICE, [addr(7)], 60.0, Provenance.HEARSAY)
        assert await rig.dial() == (ALICE, (addr(7),))

    run(story, DialLimits())


@pytest.mark.parametrize("found", [[addr(9).with_peer_id(ALICE)], []])
def test_who_has_no_address_is_looked_up(found: list[Multiaddr]) -> None:
    async def story(rig: Rig) -> None:
        async def resolve(peer_id: PeerId) -> Sequence[Multiaddr]:
            assert peer_id == ALICE
            return found

        rig.keeper.keep(ALICE)
        rig.keeper.set_resolve(resolve)
        if found:
            assert await rig.dial() == (ALICE, (addr(9),))
            status = await rig.until(ALICE, lambda it: it.failures > 0)
            assert status.outcome == f"cannot reach {ALICE}: refused"
            (known,) = rig.swarm.peerstore.known(ALICE)
            assert (known.addr, known.provenance) == (addr(9), Provenance.HEARSAY)
        else:
            status = await rig.until(ALICE, lambda it: it.failures > 0)
            assert status.outcome == f"no address is known for {ALICE}"

    run(story, DialLimits())


def test_known_addresses_go_first_and_a_look_up_that_fails_hides_no_reason() -> None:
    async def story(rig: Rig) -> None:
        async def resolve(peer_id: PeerId) -> Sequence[Multiaddr]:
            raise TimedOut("the DHT does not answer")

        rig.keeper.set_resolve(resolve)
        rig.keeper.keep(ALICE, [addr(1)])
        assert await rig.dial() == (ALICE, (addr(1),))
        status = await rig.until(ALICE, lambda it: it.failures > 0)
        assert status.outcome == f"cannot reach {ALICE}: refused"

    run(story, DialLimits(stale_failures=0))


def test_a_network_change_dials_the_missing() -> None:
    async def story(rig: Rig) -> None:
        rig.swarm.come(ALICE)
        rig.keeper.keep(ALICE, [addr(1)])
        rig.keeper.keep(BOB, [addr(2)])
        assert await rig.dial() == (BOB, (addr(2),))
        await rig.until(BOB, lambda it: it.failures > 0)
        rig.keeper.network_changed()
        assert await rig.dial() == (BOB, (addr(2),))

    run(story, DialLimits())


def test_closing_breaks_dials_off() -> None:
    async def story(rig: Rig) -> None:
        rig.swarm.gate.clear()
        rig.keeper.keep(ALICE, [addr(1)])
        await rig.dial()
        await rig.close()
        rig.keeper.keep(BOB, [addr(2)])
        await asyncio.sleep(0)
        assert rig.swarm.dials.empty()

    run(story)
