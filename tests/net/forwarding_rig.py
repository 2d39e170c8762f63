"""Two real hosts on loopback, one offering and one forwarding, in an event loop of their own thread.

Tests speak to them as programs do, through blocking sockets; `run` executes a coroutine in the loop.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

import uvloop

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.terms import ListenTerms
from p2pfwd.core.typed import parse_endpoint
from p2pfwd.forwarding.forward import LocalListener
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.forwarding.values import ForwardingLimits, ListenerInfo
from p2pfwd.host.host import Host

T = TypeVar("T")
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
ANY_PORT = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")
TIMEOUT_S = 30.0

uvloop.new_event_loop().close()  # libuv opens a pipe for the whole process with its first loop: no leak


class Node:
    """One host with its forwarding service."""

    def __init__(self, host: Host, service: Forwarding) -> None:
        self.host = host
        self.service = service

    @property
    def address(self) -> Multiaddr:
        """Where the host listens."""
        return self.host.swarm.listen_addrs()[0]


class Rig:
    """An event loop in a thread, and the nodes made in it."""

    def __init__(self, loop: str) -> None:
        self._runner = asyncio.Runner(loop_factory=LOOPS[loop])
        self._nodes: list[Node] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="rig")

    def _main(self) -> None:
        with self._runner:
            self._runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._ready.set()
        await self._stop.wait()
        for node in list(self._nodes):
            await self.close(node)

    def __enter__(self) -> Rig:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Execute `work` in the loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT_S)

    def do(self, call: Callable[..., T], *args: Any) -> T:
        """Call something in the loop's thread."""

        async def work() -> T:
            return call(*args)

        return self.run(work())

    async def start(self, listen: Multiaddr = ANY_PORT, key: PrivateKey | None = None, **limits: Any) -> Node:
        """A new node."""
        limits = {"wait_s": 0.0, **limits}
        host = await Host.start(key or PrivateKey.generate(), [listen])
        node = Node(host, Forwarding(host, limits=ForwardingLimits(**limits)))
        self._nodes.append(node)
        return node

    async def close(self, node: Node) -> None:
        """End a node."""
        self._nodes.remove(node)
        await node.service.aclose()
        await node.host.close()


class Pair(Rig):
    """`near` has the forward, `far` the service."""

    near: Node
    far: Node

    def __enter__(self) -> Pair:
        super().__enter__()
        self.near, self.far = self.run(self.start()), self.run(self.start())
        return self

    def listen(
        self, target: Multiaddr | str, protocol: str = "/x/test", *, report_peer_id: bool = False
    ) -> None:
        """Offer `target` at the far side."""
        address = Multiaddr.parse(target) if isinstance(target, str) else target
        self.run(self.far.service.listen(protocol, address, ListenTerms(report_peer_id=report_peer_id)))

    def forward(self, protocol: str = "/x/test", listen: Multiaddr = ANY_PORT) -> int:
        """Forward at the near side; the local port (0 for a unix socket)."""
        self.local = self.run(
            self.near.service.forward(protocol, listen, self.far.host.peer_id, [self.far.address])
        )
        return port_of(self.local)

    def tunnel(self, target: Multiaddr | str, *, report_peer_id: bool = False) -> int:
        """Both; the local port."""
        self.listen(target, report_peer_id=report_peer_id)
        return self.forward()

    def state(self) -> ListenerInfo:
        """What `ls` shows of the forward."""
        return self.do(self.near.service.listeners)[0]

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Afterwards, wait until neither side has a stream; fails when one stays."""
        yield
        for node in (self.near, self.far):
            self.run(no_streams(node.service))


async def no_streams(service: Forwarding) -> None:
    """Wait for the removal of the last stream."""
    removed = asyncio.Event()
    cancel = service.on_event(lambda event: removed.set() if event.change == "removed" else None)
    try:
        async with asyncio.timeout(10):
            while service.streams():
                await removed.wait()
                removed.clear()
    finally:
        cancel()


def port_of(listener: LocalListener) -> int:
    """The bound port."""
    parts = dict(listener.listen_address.components())
    return int(parts.get("tcp") or 0)


def local(port: int) -> Multiaddr:
    """The loopback address with that port."""
    return parse_endpoint(str(port))


class FullBacklog:
    """A loopback port that answers no SYN: its backlog is full."""

    def __enter__(self) -> str:
        self._server = socket.socket()
        self._server.bind(("127.0.0.1", 0))
        self._server.listen(0)
        host, port = self._server.getsockname()
        self._fill = [socket.socket() for _ in range(8)]
        for sock in self._fill:
            sock.setblocking(False)
            sock.connect_ex((host, port))
        return f"/ip4/{host}/tcp/{port}"

    def __exit__(self, *_: object) -> None:
        for sock in (*self._fill, self._server):
            sock.close()
