"""Looking around: who is connected to, what is told of whom, which connections stay; in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.daemon.methods.discover import AT_A_TIME, MAX_LOOKED_AT, Near
from p2pfwd.errors import DialFailed, NotFound, UsageError
from p2pfwd.host.host import Host
from p2pfwd.host.routing import Routing
from p2pfwd.net.connmgr import ConnMgr
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.protocols.mdns import Mdns
from p2pfwd.rpc.schema import DiscoverParams, NearPeer
from p2pfwd.rpc.server import CallContext
from p2pfwd.wire import mdns
from tests.support.virtual_time import in_virtual_time
from tests.unit.protocols.mdns_ether import Ether, FakeSwarm, Node


class FakeConn:
    def __init__(self, peer_id: PeerId, direction: str = "outbound") -> None:
        self.remote_peer = peer_id
        self.direction = direction
        self.streams: set[str] = set()
        self.identified: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class DialingSwarm(FakeSwarm):
    """Connects to everybody but `silent` and `refusing`, a second after it was asked to."""

    def __init__(self, listen: str) -> None:
        super().__init__(99, [listen])
        self.connmgr = ConnMgr(SwarmSettings())
        self.live: dict[PeerId, FakeConn] = {}
        self.made: list[FakeConn] = []
        self.silent: set[PeerId] = set()
        self.refusing: set[PeerId] = set()
        self.busy: set[PeerId] = set()
        """Whose connections have a stream as soon as they are there."""
        self.protocols: tuple[str, ...] = ("/ipfs/id/1.0.0", "/x/")
        self.dialing = self.most_dialing = 0
        self.tasks: list[asyncio.Task[Any]] = []

    def conns(self, peer_id: PeerId) -> list[FakeConn]:
        return [self.live[peer_id]] if peer_id in self.live else []

    def spawn(self, work: Coroutine[Any, Any, Any], what: str) -> None:
        self.tasks.append(asyncio.create_task(work, name=what))

    async def connect(
        self, peer_id: PeerId, addrs: Iterable[Multiaddr], *, only: bool, force: bool
    ) -> FakeConn:
        assert only and force, "nobody else is asked where the peer is"
        if peer_id in self.live:
            return self.live[peer_id]
        self.dialing += 1
        self.most_dialing = max(self.dialing, self.most_dialing)
        try:
            await asyncio.sleep(3600 if peer_id in self.silent else 1)
        finally:
            self.dialing -= 1
        if peer_id in self.refusing:
            raise DialFailed("connection refused")
        conn = FakeConn(peer_id)
        self.made.append(conn)
        if peer_id in self.busy:
            conn.streams.add("a stream")
        conn.identified.set_result(None)
        self.peerstore.identified(peer_id, "agent/1", self.protocols)
        return conn


class Rig:
    """A daemon's `Near` on a segment with `count` others."""

    def __init__(
        self,
        count: int,
        monkeypatch: pytest.MonkeyPatch,
        *,
        enabled: bool = True,
        listen: str = "/ip4/10.0.0.99/tcp/4011",
    ) -> None:
        self.ether = Ether()
        self.swarm = DialingSwarm(listen)
        us = Node(self.ether, 99, host="10.0.0.99")

        def made(swarm: Any) -> Mdns:
            return Mdns(swarm, usable=lambda _listing: us.interfaces, open_group=self.ether.join)

        monkeypatch.setattr("p2pfwd.protocols.mdns.Mdns", made)
        self.host = SimpleNamespace(swarm=self.swarm)
        routing = cast("Routing", SimpleNamespace(add=lambda source: None))
        self.near = Near(cast("Host", self.host), routing, enabled=enabled)
        self.others = [Node(self.ether, number) for number in range(1, count + 1)]
        for node in self.others:
            node.mdns.start()
        self.near.start()

    async def discover(self, timeout_s: float = 5.0) -> dict[str, NearPeer]:
        context = cast("CallContext", None)
        result = await self.near.discover(context, DiscoverParams(timeout_s))
        await asyncio.gather(*self.swarm.tasks)
        return {peer.peer: peer for peer in result.peers}

    def close(self) -> None:
        self.near.close()
        for node in self.others:
            node.mdns.close()


def test_everybody_near_is_told_with_what_he_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the connections made to learn it are closed again."""

    @in_virtual_time
    async def script() -> None:
        rig = Rig(3, monkeypatch)
        began = asyncio.get_running_loop().time()
        found = await rig.discover()
        assert asyncio.get_running_loop().time() - began < 3
        assert len(found) == 3
        for node in rig.others:
            peer = found[str(node.peer_id)]
            assert peer.addresses == (f"{node.addr}/p2p/{node.peer_id}",)
            assert (peer.source, peer.agent_version) == ("mdns", "agent/1")
            assert (peer.tunnels, peer.reason) == (True, None)
        assert len(rig.swarm.made) == 3 and all(conn.closed for conn in rig.swarm.made)
        rig.close()

    script()


@pytest.mark.parametrize(
    ("protocols", "tunnels"),
    [(("/x/",), True), (("/x/ssh",), True), (("/ipfs/ping/1.0.0",), False), ((), None)],
)
def test_who_takes_tunnels(
    protocols: tuple[str, ...], tunnels: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubo and p2pfwd list /x/, js-libp2p each name below it; who lists nothing is not known."""

    @in_virtual_time
    async def script() -> None:
        rig = Rig(1, monkeypatch)
        rig.swarm.protocols = protocols
        (peer,) = (await rig.discover()).values()
        assert peer.tunnels is tunnels and (peer.reason is None) == bool(protocols)
        rig.close()

    script()


def test_who_cannot_be_asked_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """One refuses, one never answers: both are near all the same, and nobody waits beyond the time limit."""

    @in_virtual_time
    async def script() -> None:
        rig = Rig(3, monkeypatch)
        refusing, silent, good = (node.peer_id for node in rig.others)
        rig.swarm.refusing.add(refusing)
        rig.swarm.silent.add(silent)
        began = asyncio.get_running_loop().time()
        found = await rig.discover(4.0)
        assert asyncio.get_running_loop().time() - began == pytest.approx(4.0)
        reasons = {str(refusing): "connection refused", str(silent): "it did not answer in time"}
        assert {peer: near.reason for peer, near in found.items()} == {**reasons, str(good): None}
        assert all(near.addresses for near in found.values())
        rig.close()

    script()


def test_connections_in_use_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was there, one with a stream by then, one whose peer is kept."""

    @in_virtual_time
    async def script() -> None:
        rig = Rig(4, monkeypatch)
        there, busy, kept, unused = (node.peer_id for node in rig.others)
        rig.swarm.live[there] = old = FakeConn(there)
        old.identified.set_result(None)
        rig.swarm.peerstore.identified(there, "old/1", ("/x/",))
        rig.swarm.connmgr.protect(kept, "kept")
        rig.swarm.busy.add(busy)
        found = await rig.discover()
        assert found[str(there)].agent_version == "old/1" and not old.closed
        assert {conn.remote_peer: conn.closed for conn in rig.swarm.made} == {
            busy: False,
            kept: False,
            unused: True,
        }
        rig.close()

    script()


def test_a_crowd_is_asked_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And beyond a number of them only told as it was heard."""

    @in_virtual_time
    async def script() -> None:
        rig = Rig(1, monkeypatch)
        for number in range(200, 200 + MAX_LOOKED_AT + 10):
            one = Node(Ether(), number)
            rig.ether.send("10.0.0.7", mdns.answer(b"b" * 32, one.peer_id, [one.addr]))
        found = await rig.discover(60.0)
        assert rig.swarm.most_dialing == AT_A_TIME
        told = [near for near in found.values() if near.reason == "too many peers are near"]
        assert len(found) == MAX_LOOKED_AT + 11 and len(told) == 11
        rig.close()

    script()


def test_where_there_is_nothing_to_look_around_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off; on no network; a time limit that is none. Each says so, and nothing is sent."""

    @in_virtual_time
    async def script() -> None:
        off = Rig(0, monkeypatch, enabled=False)
        with pytest.raises(NotFound, match="is off"):
            await off.discover()
        nowhere = Rig(0, monkeypatch, listen="/ip4/127.0.0.1/tcp/4011")
        with pytest.raises(NotFound, match="on no local network"):
            await nowhere.discover()
        for timeout_s in (0.0, -1.0, 1e9, float("nan")):
            with pytest.raises(UsageError, match="time limit"):
                await off.discover(timeout_s)
        assert not off.ether.sent and not nowhere.ether.sent
        off.close()
        nowhere.close()

    script()
