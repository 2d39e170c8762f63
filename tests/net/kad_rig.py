"""DHT nodes on loopback in the test's own event loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from p2pfwd.core import varint
from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.host.host import Host
from p2pfwd.host.routing import DhtSource, Progress, Routing
from p2pfwd.net.link.contract import DuplexStream
from p2pfwd.net.services import Service
from p2pfwd.protocols.kad.service import Dht, DhtSettings
from p2pfwd.protocols.kad.upkeep import Upkeep
from p2pfwd.wire.kad.address_filter import Scope
from p2pfwd.wire.kad.codec import decode_request, encode_response
from p2pfwd.wire.kad.messages import FindNode, KadPeer, MessageType, Response
from p2pfwd.wire.kad.query_values import LookupSettings
from tests.net.swarm_rig import ANY_PORT
from tests.support.loops import until

PROTOCOL = "/test/kad/1.0.0"
QUICK = DhtSettings(lookup=LookupSettings(request_timeout_s=3, total_timeout_s=10, patience_s=0.3))


@dataclass
class Node:
    """One host with a DHT and a router."""

    host: Host
    dht: Dht
    upkeep: Upkeep
    progress: list[Progress]

    @property
    def peer_id(self) -> PeerId:
        return self.host.peer_id

    async def close(self) -> None:
        await self.upkeep.close()
        await self.host.close()

    async def join(self, other: Node) -> None:
        """Connect to a node of the DHT."""
        await self.host.swarm.connect(other.peer_id, other.host.swarm.listen_addrs())


async def start(*, server: bool = True, settings: DhtSettings = QUICK, seed: int = 0) -> Node:
    host = await Host.start(PrivateKey.generate(), [ANY_PORT])
    dht = Dht(host.swarm, PROTOCOL, scope=Scope.PRIVATE, server=server, settings=settings)
    routing = Routing(host.swarm)
    routing.add(DhtSource(dht))
    progress: list[Progress] = []
    routing.on_progress(progress.append)
    return Node(host, dht, Upkeep(host.swarm, dht, random.Random(seed)), progress)


@asynccontextmanager
async def network(servers: int, clients: int = 0, settings: DhtSettings = QUICK) -> AsyncIterator[list[Node]]:
    """Servers, then clients; all joined at the first, and all servers in each other's reach."""
    async with AsyncExitStack() as stack:
        nodes = []
        for index in range(servers + clients):
            node = await start(server=index < servers, settings=settings, seed=index)
            stack.push_async_callback(node.close)
            nodes.append(node)
        await asyncio.gather(*(node.join(nodes[0]) for node in nodes[1:]))
        await until(lambda: all(node.dht.refreshed_at for node in nodes), 15)
        yield nodes


@asynccontextmanager
async def hostile(answer: Callable[[FindNode, PeerId], Sequence[KadPeer]]) -> AsyncIterator[Host]:
    """A server that passes its check, and answers every FIND_NODE with what `answer(request, asker)` says."""

    def encoded(request: FindNode, asker: PeerId) -> bytes:
        told = tuple(answer(request, asker))
        message = encode_response(Response(MessageType.FIND_NODE, request.key, closer_peers=told))
        return varint.encode(len(message)) + message

    async with hostile_bytes(encoded) as host:
        yield host


@asynccontextmanager
async def hostile_bytes(answer: Callable[[FindNode, PeerId], bytes]) -> AsyncIterator[Host]:
    """As `hostile`, with the raw bytes of the answer; b"" is silence."""
    host = await Host.start(PrivateKey.generate(), [ANY_PORT])

    async def serve(stream: DuplexStream) -> None:
        request = decode_request(await stream.read_delimited(65536))
        assert isinstance(request, FindNode)
        if request.key == host.peer_id.to_bytes():  # the live check
            await stream.write_delimited(encode_response(Response(MessageType.FIND_NODE, request.key)))
        elif data := answer(request, stream.remote_peer):
            await stream.write(data)
        else:
            await stream.read()
        await stream.close()

    host.swarm.services.serve(Service(name=PROTOCOL, handler=serve))
    try:
        yield host
    finally:
        await host.close()


def dead_address(port: int) -> Multiaddr:
    """Nobody listens there: port 1 to 9 of some loopback address."""
    return Multiaddr.parse(f"/ip4/127.0.0.{port % 250 + 2}/tcp/9")
