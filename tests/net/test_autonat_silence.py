"""Strangers that claim to serve AutoNAT v2 and answer nothing hold up what a node learns for seconds only.

Hosts in a network in memory, in virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.host.host import Host
from p2pfwd.net.link.contract import DuplexStream
from p2pfwd.net.services import Service
from p2pfwd.protocols.autonat.service import AT_ONCE, SLOW_S, AutoNat, AutoNatSettings
from p2pfwd.protocols.autonat.v2 import ANSWER_S
from p2pfwd.wire import autonat2 as wire
from p2pfwd.wire.autonat2 import DialStatus, Response, Status
from p2pfwd.wire.reachability import Reachability
from tests.support.memory_network import MemoryNetwork, Meter
from tests.support.virtual_time import in_virtual_time

SOON_S = 1.0
"""Some round trips of this network, and a dial back."""


@pytest.fixture(autouse=True)
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of both versions is their loop's."""
    clock = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time())
    for module in ("service", "v1"):
        monkeypatch.setattr(f"p2pfwd.protocols.autonat.{module}.time", clock)


@dataclass
class World:
    """A node that wants to know, and others."""

    network: MemoryNetwork
    node: Host
    client: AutoNat
    hosts: list[Host] = field(default_factory=list)
    dialed: set[Multiaddr] = field(default_factory=set)
    asked: int = 0
    """How often those that say nothing were."""

    async def host(self) -> Host:
        """One more, in a network of its own."""
        self.hosts.append(await start(self.network, 2 + len(self.hosts)))
        return self.hosts[-1]

    async def say_nothing(self, stream: DuplexStream) -> None:
        self.asked += 1
        while await stream.read():
            pass

    async def refuse(self, stream: DuplexStream) -> None:
        await stream.write_delimited(wire.encode_response(Response(Status.REFUSED)))
        await stream.close()

    async def stranger(self, answer: Callable[[DuplexStream], Coroutine[Any, Any, None]]) -> PeerId:
        """It comes, and claims to speak v2."""
        made = await self.host()
        made.swarm.services.serve(Service(name=wire.REQUEST, handler=answer))
        await made.swarm.connect(self.node.peer_id, self.node.swarm.listen_addrs())
        await within(SOON_S, lambda: bool(self.node.swarm.conns(made.peer_id)))
        (conn,) = self.node.swarm.conns(made.peer_id)
        await conn.identified
        return made.peer_id

    async def meet(self, server: Host) -> None:
        """Dial it, from the listening port."""
        conn = await self.node.swarm.connect(server.peer_id, server.swarm.listen_addrs())
        await conn.identified
        self.dialed.add(conn.remote_addr)


async def start(network: MemoryNetwork, number: int) -> Host:
    ip = f"{20 + number}.7.7.7"
    addr = Multiaddr.parse(f"/ip4/{ip}/tcp/4011")
    return await Host.start(PrivateKey.generate(), [addr], make_transports=network.node(ip, Meter()))


@asynccontextmanager
async def world(settings: AutoNatSettings | None = None) -> AsyncIterator[World]:
    network = MemoryNetwork()
    node = await start(network, 1)
    made = World(network, node, AutoNat(node.swarm, settings))
    node.swarm.own_addresses.is_contacted = made.dialed.__contains__  # type: ignore[method-assign]
    try:
        yield made
    finally:
        await made.client.close()
        for host in (node, *made.hosts):
            await host.close()


async def within(seconds: float, condition: Callable[[], bool]) -> None:
    """Virtual seconds until it holds; AssertionError where that is longer."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    while not condition():
        assert loop.time() - begin <= seconds
        await asyncio.sleep(0.01)


@in_virtual_time
async def test_a_crowd_that_says_nothing_delays_the_verdict_by_one_slow_answer() -> None:
    async with world() as it:
        for _ in range(12):
            await it.stranger(it.say_nothing)
        server = await it.host()
        AutoNat(server.swarm).serve(True)
        await it.meet(server)
        it.client.start()
        await within(SLOW_S + SOON_S, lambda: it.client.reachability is Reachability.PUBLIC)
        assert it.asked == AT_ONCE + 1, "who was not dialed would have told most; then one beside the server"


@in_virtual_time
async def test_who_was_silent_is_asked_behind_all_others() -> None:
    async with world() as it:
        silent = [await it.stranger(it.say_nothing) for _ in range(AT_ONCE)]
        other = await it.stranger(it.refuse)

        def order() -> list[PeerId]:
            return [conn.remote_peer for conn in it.client._servers_of_v2()]

        assert order() == [*silent, other]
        it.client.start()
        await asyncio.sleep(ANSWER_S + SOON_S)
        assert order() == [other, *silent]


@in_virtual_time
async def test_what_a_slow_server_says_counts_all_the_same() -> None:
    async def cannot_connect(stream: DuplexStream) -> None:
        await stream.read_delimited(wire.MAX_MESSAGE_BYTES)
        await asyncio.sleep(2 * SLOW_S)
        await stream.write_delimited(wire.encode_response(Response(Status.OK, 0, DialStatus.DIAL_ERROR)))
        await stream.close()

    async with world() as it:
        for _ in range(AT_ONCE):
            server = await it.host()
            server.swarm.services.serve(Service(name=wire.REQUEST, handler=cannot_connect))
            await it.meet(server)
        it.client.start()
        await within(2 * SLOW_S + SOON_S, lambda: it.client.reachability is Reachability.PRIVATE)


@in_virtual_time
async def test_servers_of_v1_are_asked_where_those_of_v2_say_nothing() -> None:
    async with world(AutoNatSettings(ask_again_s=1.0)) as it:
        await it.stranger(it.say_nothing)
        server = await it.host()
        AutoNat(server.swarm).serve(True)
        server.swarm.services.withdraw(wire.REQUEST)
        await it.meet(server)
        it.client.start()
        await within(ANSWER_S + 5 * SOON_S, lambda: it.client.reachability is Reachability.PUBLIC)
