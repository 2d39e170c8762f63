"""Getting into a network, on real hosts in a network in memory: by which peers, and at what cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.daemon import networks
from p2pfwd.daemon.discovery import Discovery
from p2pfwd.daemon.networks import DhtProfile, NetworkProfile
from p2pfwd.host.host import Host, HostSettings
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.peers.claims import KnownAddress
from p2pfwd.policy.bootstrap import AT_ONCE
from p2pfwd.policy.provenance import Provenance, Standing
from p2pfwd.wire.kad.address_filter import Scope
from tests.support.loops import on_loop, until
from tests.support.memory_network import MemoryNetwork, Meter
from tests.support.peers import peer

WAN, LAN = "/ipfs/kad/1.0.0", "/ipfs/lan/kad/1.0.0"
NO_DNS = "127.0.0.1:9"
"""A name server that is not there."""

SETTINGS = HostSettings(swarm=SwarmSettings(connect_timeout_s=0.3, dns_servers=(NO_DNS,)))


@dataclass
class Node:
    """One host of the public network, with its discovery."""

    host: Host
    discovery: Discovery
    meter: Meter

    @property
    def addrs(self) -> list[Multiaddr]:
        return self.host.swarm.listen_addrs()

    def remember(self, peer_id: PeerId, addrs: Sequence[Multiaddr], *dhts: str) -> None:
        """As from an address book."""
        known = [KnownAddress(addr, Provenance.PROVED, 100.0, 100.0) for addr in addrs]
        self.host.swarm.peerstore.restore(peer_id, known, None, Standing.REACHED, dhts)

    def knows(self, other: Node) -> bool:
        return any(other.host.peer_id in dht.table for dht in self.discovery.dhts)

    async def close(self) -> None:
        await self.discovery.close()
        await self.host.close()


@dataclass
class World:
    """Nodes at public addresses, each in a /16 of its own, or on one local segment."""

    stack: AsyncExitStack
    network: MemoryNetwork = field(default_factory=lambda: MemoryNetwork(0.001))
    count: int = 0

    async def node(
        self, *bootstrap: Multiaddr, local: bool = False, is_server: bool = True, begin: bool = True
    ) -> Node:
        self.count += 1
        ip = f"192.168.7.{self.count}" if local else f"{20 + self.count}.7.7.7"
        meter = Meter()
        listen = Multiaddr.parse(f"/ip4/{ip}/tcp/4011")
        make = self.network.node(ip, meter)
        host = await Host.start(PrivateKey.generate(), [listen], SETTINGS, make_transports=make)
        dhts = DhtProfile(WAN, Scope.WAN), DhtProfile(LAN, Scope.LAN)
        profile = NetworkProfile("public", bootstrap, dhts, mdns=False, local_only=False)
        made = Node(host, Discovery(host, profile, "server" if is_server else "client"), meter)
        self.stack.push_async_callback(made.close)
        if begin:
            made.discovery.start()
        return made


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(stack)


def address(ip: str, number: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/{ip}/tcp/4011").with_peer_id(peer(number))


async def joined(node: Node) -> None:
    await until(lambda: node.discovery.bootstrap.report().state == "joined", 20)


@on_loop
async def test_who_served_the_dht_is_remembered_and_who_asks_only_is_not() -> None:
    async with world() as it:
        server, client = await it.node(), await it.node(is_server=False)
        await client.host.swarm.connect(server.host.peer_id, server.addrs)
        await until(lambda: client.knows(server), 10)
        assert client.host.swarm.peerstore.dhts(server.host.peer_id) == {WAN}
        assert server.host.swarm.peerstore.dht_servers() == []


@pytest.mark.parametrize("whose", ["the owner's", "the program's"])
@on_loop
async def test_who_lets_a_node_in_is_one_of_the_owners_peers_on_his_own_word_alone(
    whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stands in a shipped list had a place at every relay, and dials without bound."""
    async with world() as it:
        hub = await it.node()
        given = [addr.with_peer_id(hub.host.peer_id) for addr in hub.addrs]
        if whose == "the program's":
            monkeypatch.setattr(networks, "PUBLIC_BOOTSTRAP", tuple(map(str, given)))
        node = await it.node(*given)
        await joined(node)
        await until(lambda: node.knows(hub))
        store = node.host.swarm.peerstore
        assert store.is_chosen(hub.host.peer_id) is (whose == "the owner's")
        assert store.is_trusted(hub.host.peer_id, hub.addrs[0])
        node.discovery.bootstrap.change([])
        assert not store.is_chosen(hub.host.peer_id) and not store.pinned(hub.host.peer_id)


@on_loop
async def test_whom_a_name_lists_is_kept_and_not_the_owners_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers for the name says who that is."""
    async with world() as it:
        node, listed = await it.node(Multiaddr.parse("/dnsaddr/boot.example"), begin=False), peer(7)

        async def resolve(_name: Multiaddr) -> list[Multiaddr]:
            return [address("99.7.7.7", 7)]

        monkeypatch.setattr(node.host.swarm.resolver, "resolve", resolve)
        node.discovery.start()
        await until(lambda: node.host.keeper.status(listed) is not None)
        assert not node.host.swarm.peerstore.is_chosen(listed)
        assert node.host.swarm.peerstore.pinned(listed)


@pytest.mark.parametrize(
    "bootstrap",
    [(), (address("99.7.7.7", 9),), (Multiaddr.parse("/dnsaddr/gone.example"),)],
    ids=["none", "gone", "by a name that is gone"],
)
@on_loop
async def test_the_address_book_lets_a_node_in_where_no_bootstrap_peer_does(
    bootstrap: tuple[Multiaddr, ...],
) -> None:
    async with world() as it:
        old, away = await it.node(), await it.node()
        await away.host.swarm.connect(old.host.peer_id, old.addrs)
        node = await it.node(*bootstrap, begin=False)
        for number in range(20, 26):
            node.remember(peer(number), [address(f"{number + 80}.7.7.7", number)], WAN)
        node.remember(old.host.peer_id, old.addrs, WAN)
        node.discovery.start()
        await joined(node)
        await until(lambda: node.knows(old) and node.knows(away), 20)
        assert not node.host.swarm.peerstore.is_chosen(old.host.peer_id), "only its owner may"


@on_loop
async def test_a_running_node_that_loses_everybody_gets_in_again_by_the_address_book() -> None:
    async with world() as it:
        steward, other = await it.node(), await it.node()
        node = await it.node(begin=False)
        await node.host.swarm.connect(steward.host.peer_id, steward.addrs)
        await until(lambda: node.knows(steward), 10)
        node.discovery.start()
        node.remember(other.host.peer_id, other.addrs, WAN)
        await until(lambda: node.discovery.dhts[0].refreshed_at is not None, 10)
        assert not node.knows(other)
        await steward.close()
        node.discovery.refresh()
        await until(lambda: node.knows(other), 15)


@on_loop
async def test_who_served_another_dht_or_none_is_not_dialed() -> None:
    """Of a private network, of this one's twin, or nobody's: what an address book has besides."""
    async with world() as it:
        node = await it.node(begin=False)
        for number, dhts in enumerate([(), ("/p2pfwd/kad/1.0.0 0123",), ("/other/kad/1.0.0",)]):
            node.remember(peer(number), [address(f"{number + 80}.7.7.7", number)], *dhts)
        node.discovery.start()
        report = node.discovery.bootstrap.report
        await until(lambda: report().state == "alone", 10)
        assert (node.meter.dials, report().remembered) == (0, 0)


@on_loop
async def test_a_dead_address_book_is_tried_a_few_at_a_time_and_counted() -> None:
    async with world() as it:
        node = await it.node(begin=False)
        for number in range(10):
            node.remember(peer(number), [address(f"{number + 80}.7.7.7", number)], WAN)
        node.discovery.start()
        report = node.discovery.bootstrap.report
        await until(lambda: node.meter.dials > 0, 10)
        assert node.meter.dials == AT_ONCE
        await until(lambda: report().state == "alone", 20)
        assert report().message == (
            "this node is a bootstrap peer itself, and nobody else of the network is here; "
            "none of 10 peers that served the DHT before answers"
        )
        assert node.meter.dials == 10


@on_loop
async def test_near_peers_let_a_node_in_and_those_that_cannot_are_let_go() -> None:
    async with world() as it:
        neighbour = await it.node(local=True)
        deaf = await it.node(local=True, is_server=False)
        near: Mapping[PeerId, Sequence[Multiaddr]] = {
            deaf.host.peer_id: deaf.addrs,
            neighbour.host.peer_id: neighbour.addrs,
        }
        node = await it.node(local=True, begin=False)
        node.discovery.bootstrap.near = lambda: near
        node.discovery.start()
        await until(lambda: node.knows(neighbour), 10)
        await until(lambda: not node.host.swarm.conns(deaf.host.peer_id), 10)
        assert node.meter.dials == 2
        store = node.host.swarm.peerstore
        assert not any(store.is_chosen(peer_id) for peer_id in near), "nor a neighbour"


@on_loop
async def test_where_the_public_dht_answers_nobody_near_is_dialed() -> None:
    async with world() as it:
        server, neighbour = await it.node(), await it.node(local=True)
        near = {neighbour.host.peer_id: neighbour.addrs}
        node = await it.node(begin=False)
        await node.host.swarm.connect(server.host.peer_id, server.addrs)
        await until(lambda: node.knows(server), 10)
        node.discovery.bootstrap.near = lambda: near
        node.discovery.start()
        node.discovery.bootstrap.look()
        await asyncio.sleep(0.2)
        assert not node.host.swarm.conns(neighbour.host.peer_id)
