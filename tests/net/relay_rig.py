"""A relay and its clients on loopback: places by hand, and both ends of a circuit as plain streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from p2pfwd.core.peer_id import PeerId
from p2pfwd.host.host import Host
from p2pfwd.net.link.contract import DuplexStream, Link
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.transport import relay_transport
from p2pfwd.policy.relay_bounds import Serve
from p2pfwd.protocols.relay_client import RelayClient
from p2pfwd.protocols.relay_service import RelayService
from p2pfwd.wire import circuit as wire
from p2pfwd.wire.circuit import HopAnswer, Limit, Status, StopRequest
from tests.net.swarm_rig import swarm
from tests.support.loops import until


@dataclass
class Relay:
    """One, and whose peers are its owner's."""

    swarm: Swarm
    service: RelayService
    own: set[PeerId] = field(default_factory=set)

    async def link(self, client: Swarm) -> Link:
        """The client's connection to it."""
        return await client.connect(self.swarm.peer_id, self.swarm.listen_addrs())


@asynccontextmanager
async def relay(serve: Serve = "peers", *own: Swarm) -> AsyncIterator[Relay]:
    """A relay for these swarms."""
    async with swarm() as made:
        service = RelayService(made)
        found = Relay(made, service, {one.peer_id for one in own})
        service.is_own = found.own.__contains__
        service.serve(serve)
        try:
            yield found
        finally:
            service.close()


async def placed(client: Host, relay: Host) -> RelayClient:
    """The client's own asking for a place there, once it has one; to be closed."""
    asking = RelayClient(client.swarm, strangers=False, is_public=lambda: False)
    asking.start()
    asking.name(relay.peer_id)
    await client.swarm.connect(relay.peer_id, relay.swarm.listen_addrs())
    await until(asking.places)
    return asking


async def ask(link: Link, message: bytes) -> HopAnswer:
    """What the relay says to this."""
    stream = await link.open_stream([wire.HOP])
    await stream.write_delimited(message)
    answer = wire.decode_hop_answer(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))
    await stream.close()
    return answer


async def reserve(link: Link) -> HopAnswer:
    """Ask for a place."""
    return await ask(link, wire.encode_hop_request(wire.HopRequest()))


async def call(link: Link, target: PeerId) -> HopAnswer:
    """Ask for a circuit, for the answer alone."""
    return await ask(link, wire.encode_hop_request(wire.HopRequest(target)))


class Target:
    """Takes circuits, or answers otherwise."""

    def __init__(self, made: Swarm, status: Status = Status.OK) -> None:
        self.status = status
        self._came: asyncio.Queue[tuple[StopRequest, DuplexStream]] = asyncio.Queue()
        made.services.serve(Service(name=wire.STOP, handler=self._stop))

    async def _stop(self, stream: DuplexStream) -> None:
        request = wire.decode_stop_request(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))
        await stream.write_delimited(wire.encode_stop_answer(self.status))
        await self._came.put((request, stream))

    async def next(self) -> tuple[StopRequest, DuplexStream]:
        """The next circuit: who it is from, and this end of it."""
        return await self._came.get()


@dataclass
class Joined:
    """A circuit, its ends as streams."""

    relay: Relay
    dialer: Swarm
    target: Swarm
    near: DuplexStream
    far: DuplexStream
    limit: Limit | None

    @property
    def refused(self) -> dict[str, int]:
        """What the relay has counted."""
        return dict(self.relay.swarm.refusals.counts)


@asynccontextmanager
async def joined(serve: Serve = "peers", *, own: bool = True) -> AsyncIterator[Joined]:
    """A circuit between two of the owner's peers, or two strangers."""
    async with swarm() as dialer, swarm() as target, relay(serve, *([dialer, target] if own else [])) as made:
        taking = Target(target)
        assert (await reserve(await made.link(target))).status is Status.OK
        near, answer = await relay_transport.connect(await made.link(dialer), target.peer_id)
        _, far = await taking.next()
        yield Joined(made, dialer, target, near, far, answer.limit)
