"""A victim in the test's own event loop, with everything that a stranger can speak to."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.typed import parse_endpoint
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.host.host import Host
from p2pfwd.protocols.kad.service import Dht
from p2pfwd.wire.kad.address_filter import Scope
from tests.hostile import LAN_PROTOCOL
from tests.hostile.kinds import KINDS
from tests.hostile.stage import ONE, Stage
from tests.hostile.victim import BULK, DEAD, ECHO, SINK
from tests.net.forwarding_rig import FullBacklog
from tests.support.loops import until

ANY_PORT = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")


@dataclass
class Victim:
    """A host with identify, ping, a DHT and four listens."""

    host: Host
    forwarding: Forwarding

    @property
    def addr(self) -> Multiaddr:
        return self.host.swarm.listen_addrs()[0]

    @property
    def held(self) -> int:
        """What strangers hold of it: connections, their streams, and tunnels."""
        conns = self.host.swarm.conns()
        return len(conns) + sum(len(conn.streams) for conn in conns) + len(self.forwarding.streams())

    async def left_alone(self) -> None:
        """Return when nobody holds anything of it any more."""
        await until(lambda: self.held == 0)


class _Services:
    """What stands behind the listens; its connections end with it."""

    def __init__(self) -> None:
        self._live: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()

    async def start(self, stack: AsyncExitStack) -> dict[str, str]:
        """Protocol → target."""
        targets = {DEAD: stack.enter_context(FullBacklog())}
        for name, serve in ((ECHO, self._echo), (SINK, self._sink), (BULK, self._bulk)):
            server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=65536)
            stack.push_async_callback(self._close, server)
            targets[name] = str(parse_endpoint(str(server.sockets[0].getsockname()[1])))
        return targets

    async def _close(self, server: asyncio.Server) -> None:
        self._over.set()
        server.close()
        await asyncio.gather(*self._live, return_exceptions=True)

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._run(writer, self._copy(reader, writer))

    async def _sink(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._run(writer, self._wait())

    async def _bulk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._run(writer, self._send(writer))

    async def _run(self, writer: asyncio.StreamWriter, work: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._live.add(task)
        try:
            over = asyncio.ensure_future(self._over.wait())
            serving = asyncio.ensure_future(work)  # type: ignore[call-overload]
            await asyncio.wait({over, serving}, return_when=asyncio.FIRST_COMPLETED)
            for part in (over, serving):
                part.cancel()
            await asyncio.gather(over, serving, return_exceptions=True)
        finally:
            self._live.discard(task)
            writer.transport.abort()

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    @staticmethod
    async def _send(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    @staticmethod
    async def _wait() -> None:
        await asyncio.Event().wait()


@asynccontextmanager
async def victim() -> AsyncIterator[Victim]:
    """One with default limits, on loopback."""
    async with AsyncExitStack() as stack:
        targets = await _Services().start(stack)
        host = await Host.start(PrivateKey.generate(), [ANY_PORT])
        stack.push_async_callback(host.close)
        Dht(host.swarm, LAN_PROTOCOL, scope=Scope.LAN, server=True)
        forwarding = Forwarding(host)
        stack.push_async_callback(forwarding.aclose)
        for protocol, target in targets.items():
            await forwarding.listen(protocol, Multiaddr.parse(target))
        yield Victim(host, forwarding)


@asynccontextmanager
async def attacked(made: Victim, kind: str) -> AsyncIterator[Stage]:
    """`made` under attack by one line while the block lasts."""
    stage = Stage(made.addr, ONE, itertools.repeat("127.0.0.1"))
    task = asyncio.ensure_future(KINDS[kind].run(stage))
    try:
        yield stage
    finally:
        stage.over = True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
