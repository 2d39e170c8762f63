"""Hosts on loopback in the test's own event loop, and handlers that tests often need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.host.host import Host, HostSettings
from p2pfwd.net.conduit.tcp import TcpConduit
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.contract import DuplexStream, Link
from p2pfwd.net.services import Service
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.swarm import Swarm
from p2pfwd.system.poller import LoopPoller, Poller

ANY_PORT = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")
ECHO = "/test/echo/1.0.0"
TAKE = "/test/take/1.0.0"


def stranger() -> PeerId:
    """A peer ID nobody has."""
    return PeerId.from_public_key(PrivateKey.generate().public_key)


@asynccontextmanager
async def swarm(**settings: Any) -> AsyncIterator[Swarm]:
    """A listening swarm without identify: nothing is on its connections but what the test does."""
    made = Swarm(PrivateKey.generate(), SwarmSettings(**settings))
    made.on_connected(lambda conn: conn.identified.set_result(None))
    try:
        await made.listen(ANY_PORT)
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def host(**settings: Any) -> AsyncIterator[Host]:
    """A listening host, with identify and ping."""
    made = await Host.start(PrivateKey.generate(), [ANY_PORT], HostSettings(swarm=SwarmSettings(**settings)))
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def pair(**settings: Any) -> AsyncIterator[tuple[Link, Link]]:
    """Both ends of one connection between two swarms: the dialer's and the listener's."""
    async with swarm(**settings) as near, swarm(**settings) as far:
        arrived = next_conn(far)
        far.services.serve(Service(name=ECHO, handler=echo))
        yield await near.connect(far.peer_id, far.listen_addrs()), await arrived


def next_conn(made: Swarm) -> asyncio.Future[Link]:
    """The next connection that comes up."""
    arrived: asyncio.Future[Link] = asyncio.get_running_loop().create_future()

    def connected(conn: Link) -> None:
        if not arrived.done():
            arrived.set_result(conn)

    made.on_connected(connected)
    return arrived


async def echo(stream: DuplexStream) -> None:
    """Handler: everything back, FIN for FIN."""
    while data := await stream.read():
        await stream.write(data)
    stream.close_write()


class Taken:
    """Handler that hands the streams of one protocol to the test, which then does as it likes."""

    def __init__(self, conn_or_swarm: Swarm, protocol: str = TAKE) -> None:
        self.protocol = protocol
        self._streams: asyncio.Queue[DuplexStream] = asyncio.Queue()
        conn_or_swarm.services.serve(Service(name=protocol, handler=self._handle))

    async def _handle(self, stream: DuplexStream) -> None:
        await self._streams.put(stream)

    async def get(self) -> DuplexStream:
        """The next stream."""
        return await self._streams.get()


@asynccontextmanager
async def stream_pair(**settings: Any) -> AsyncIterator[tuple[DuplexStream, DuplexStream]]:
    """Both ends of one stream between two swarms: the opener's and the other."""
    async with swarm(**settings) as near, swarm(**settings) as far:
        taken = Taken(far)
        await near.connect(far.peer_id, far.listen_addrs())
        stream = await near.open_stream(far.peer_id, [TAKE])
        yield stream, await taken.get()


def conn_of(stream: DuplexStream) -> Conn:
    """The connection that carries the stream."""
    assert isinstance(stream.conn, Conn)
    return stream.conn


def poller_of(stream: DuplexStream) -> Poller | LoopPoller:
    """What watches the sockets of the swarm that the stream is on."""
    conduit = conn_of(stream)._channel.conduit
    assert isinstance(conduit, TcpConduit)
    return conduit._poller


async def read_all(stream: DuplexStream, pause: Callable[[], Awaitable[object]] | None = None) -> bytes:
    """Everything to the remote's FIN; `pause` between reads, to be slow."""
    got = bytearray()
    while data := await stream.read():
        got += data
        if pause is not None:
            await pause()
    return bytes(got)
