"""A host, swarm, streams, sockets and splices in memory: the shapes forwarding relies on, and no I/O."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from socket import AF_INET
from types import SimpleNamespace
from typing import Any

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, StreamReset
from p2pfwd.forwarding.bind import BoundSocket
from p2pfwd.net.refusals import Refusals
from p2pfwd.net.services import Services
from p2pfwd.policy.dial_schedule import Priority
from p2pfwd.policy.paths import PathCode, Way


def peer(number: int) -> PeerId:
    """A valid peer ID, the same for the same number (an inlined ed25519 key of that byte)."""
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([number]) * 32)


SELF, ALICE, BOB = peer(1), peer(2), peer(3)


class FakeConn:
    def __init__(self, remote_peer: PeerId) -> None:
        self.remote_peer = remote_peer
        self.remote_addr = Multiaddr.parse(f"/ip4/192.0.{remote_peer.to_bytes()[-1]}.7/tcp/4002")
        self.local_addr = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")
        self.is_relayed = False
        self.limit_left = None
        self.rtt_s: float | None = 0.002
        self.security = "/noise"
        self.cipher = "aes-256-gcm"
        self.identified: asyncio.Future[None] | None = None

    async def measure_rtt(self, timeout_s: float) -> float:
        return 0.003


class FakeStream:
    """Reads what was put into `incoming` (bytes, b"" for FIN, or an error to raise); waits when empty."""

    def __init__(self, remote_peer: PeerId, protocol: str) -> None:
        self.remote_peer = remote_peer
        self.protocol = protocol
        self.conn = FakeConn(remote_peer)
        self.incoming: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.sent: list[bytes] = []
        self.resets = self.reset_code = 0
        self.finished = False
        self._when_over: list[Callable[[], object]] = []

    def when_over(self, callback: Callable[[], object]) -> None:
        self._when_over.append(callback)

    def over(self) -> None:
        """It is gone from its connection: by a reset of the peer, if nothing else was said."""
        callbacks, self._when_over = self._when_over, []
        for callback in callbacks:
            callback()

    def discard_input(self) -> None:
        pass

    def reset(self, code: int = 0) -> None:
        self.resets += 1
        self.reset_code = code
        self.over()

    def close_write(self) -> None:
        self.finished = True

    async def close(self) -> None:
        self.finished = True

    async def read(self, max_bytes: int = 65536) -> bytes:
        item = await self.incoming.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def read_delimited(self, max_bytes: int) -> bytes:
        return await self.read(max_bytes)

    async def write_delimited(self, message: bytes) -> None:
        self.sent.append(message)


class FakeSocket:
    family = AF_INET

    def getpeername(self) -> Any:
        return self.name

    def __init__(self, name: Any = ("127.0.0.1", 50000), takes: int | OSError = 1 << 20) -> None:
        self.name = name
        self.takes = takes
        self.sent = b""
        self.closed = False
        self.lingers: list[bytes] = []

    def send(self, data: bytes) -> int:
        if isinstance(self.takes, OSError):
            raise self.takes
        self.sent += data[: self.takes]
        return min(len(data), self.takes)

    def setsockopt(self, level: int, option: int, value: bytes | int) -> None:
        if option == socket.SO_LINGER:
            self.lingers.append(value)

    def close(self) -> None:
        self.closed = True

    @property
    def was_reset(self) -> bool:
        return self.closed and bool(self.lingers)


class FakeSplice:
    """Counts nothing by itself; `end` is what a real one does when both directions are over."""

    made: list[FakeSplice]

    def __init__(
        self,
        stream: Any,
        sock: Any,
        poller: Any,
        loop: Any,
        on_closed: Callable[[Any], None],
        *,
        kubo: bool,
        hold_s: float | None,
        looks: object,
    ) -> None:
        self.stream, self.sock, self.kubo, self.hold_s = stream, sock, kubo, hold_s
        self.holds_fin = False
        self.bytes_in = self.bytes_out = 0
        self.error: Exception | None = None
        self.started = False
        self._on_closed = on_closed

    def start(self) -> None:
        self.started = True

    def reset(self, code: int = 0) -> None:
        self.stream.reset()
        self.end(StreamReset("reset here", by="local"))

    def end(self, error: Exception | None = None) -> None:
        self.error = error
        self.sock.close()
        self._on_closed(self)
        self.stream.over()


class FakeConnMgr:
    def __init__(self) -> None:
        self.protected: set[tuple[PeerId, str]] = set()

    def protect(self, peer_id: PeerId, tag: str) -> None:
        self.protected.add((peer_id, tag))

    def unprotect(self, peer_id: PeerId, tag: str) -> None:
        self.protected.discard((peer_id, tag))


class FakePeerstore:
    def __init__(self) -> None:
        self.pinned: dict[tuple[PeerId, str], tuple[Multiaddr, ...]] = {}
        self.agents: dict[PeerId, str] = {}
        self.forwarded: set[PeerId] = set()
        self.served: set[PeerId] = set()
        self.listed: dict[PeerId, frozenset[str]] = {}

    def note_forwarded(self, peer_id: PeerId) -> None:
        self.forwarded.add(peer_id)

    def note_served(self, peer_id: PeerId) -> None:
        self.served.add(peer_id)

    def pin(self, peer_id: PeerId, addrs: Sequence[Multiaddr], tag: str) -> None:
        self.pinned[peer_id, tag] = tuple(addrs)

    def unpin(self, peer_id: PeerId, tag: str) -> None:
        self.pinned.pop((peer_id, tag), None)

    def agent(self, peer_id: PeerId) -> str | None:
        return self.agents.get(peer_id)

    def protocols(self, peer_id: PeerId) -> frozenset[str]:
        return self.listed.get(peer_id, frozenset())


class FakeTasks:
    """In place of net.tasks.Tasks."""

    def spawn(self, work: Any, what: str) -> Any:
        return asyncio.ensure_future(work)


class FakeSwarm:
    """`answers` decides what open_stream does: a stream, an error, or a future of either."""

    def __init__(self) -> None:
        self.peer_id = SELF
        self.connmgr = FakeConnMgr()
        self.limits = SimpleNamespace(is_own=lambda _peer: False)
        self.refusals = Refusals()
        self.memory = SimpleNamespace(on_spare=lambda _callback: None)
        self.io = SimpleNamespace(poller=None)
        self.paths = SimpleNamespace(code=lambda _conn: PathCode.DIRECT)
        self.ways: list[Way | None] = []
        self.peerstore = FakePeerstore()
        self.services = Services(FakeTasks())  # type: ignore[arg-type]
        self.forced: list[bool] = []
        self.at_once = False
        self.answers: list[Any] = []
        self.asked: list[tuple[PeerId, tuple[str, ...]]] = []
        self.connected: list[Callable[[Any], None]] = []
        self.disconnected: list[Callable[[Any], None]] = []
        self.live: dict[PeerId, list[Any]] = {}
        self.silent: list[Callable[[PeerId, P2PForwardError | None], None]] = []

    async def open_stream(
        self,
        peer_id: PeerId,
        protocols: Sequence[str],
        *,
        timeout_s: float | None = None,
        way: Way | None = None,
    ) -> Any:
        self.ways.append(way)
        self.asked.append((peer_id, tuple(protocols)))
        answer = self.answers.pop(0) if self.answers else FakeStream(peer_id, protocols[0])
        if isinstance(answer, asyncio.Future):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def open_stream_at_once(self, peer_id: PeerId, protocol: str, way: Way | None = None) -> Any:
        """Only with `at_once` set: a peer known to serve the protocol."""
        if not self.at_once:
            return None
        self.asked.append((peer_id, (protocol,)))
        return self.answers.pop(0) if self.answers else FakeStream(peer_id, protocol)

    async def connect(self, peer_id: PeerId, *, timeout_s: float, force: bool = False) -> Any:
        self.forced.append(force)
        conn = FakeConn(peer_id)
        conn.identified = asyncio.get_running_loop().create_future()
        conn.identified.set_result(None)
        return conn

    async def connect_by(self, peer_id: PeerId, way: Way, timeout_s: float) -> Any:
        return await self.connect(peer_id, timeout_s=timeout_s)

    def conns(self, peer_id: PeerId) -> list[Any]:
        return self.live.get(peer_id, [])

    def on_connected(self, callback: Callable[[Any], None]) -> None:
        self.connected.append(callback)

    def on_disconnected(self, callback: Callable[[Any], None]) -> None:
        self.disconnected.append(callback)

    def on_silent(self, callback: Callable[[PeerId, P2PForwardError | None], None]) -> None:
        self.silent.append(callback)


class FakeNetwork:
    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def on_change(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def changed(self) -> None:
        """This machine is in another network."""
        for callback in self.callbacks:
            callback()


class FakeKeeper:
    """Notes whom it is to keep."""

    def __init__(self) -> None:
        self.kept: set[PeerId] = set()

    def keep(self, peer_id: PeerId, *, priority: Priority) -> None:
        assert priority is Priority.FORWARD
        self.kept.add(peer_id)

    def release(self, peer_id: PeerId, priority: Priority) -> None:
        assert priority is Priority.FORWARD
        self.kept.remove(peer_id)


class FakeHost:
    def __init__(self) -> None:
        self.keeper = FakeKeeper()
        self.swarm = FakeSwarm()
        self.peer_id = self.swarm.peer_id
        self.network = FakeNetwork()


class FakeAcceptor:
    """In place of net.acceptor.Acceptor: the test hands in the connections."""

    made: list[FakeAcceptor]

    def __init__(
        self, sock: Any, loop: Any, accepted: Callable[[Any, Any], None], exhausted: Any = None
    ) -> None:
        self.sock, self.exhausted = sock, exhausted
        self._accepted = accepted
        self.paused = self.closed = False
        FakeAcceptor.made.append(self)

    def accepted(self, sock: FakeSocket) -> None:
        """A client has connected."""
        self._accepted(sock, sock.name)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.closed = True
        self.sock.close()


def fake_bind(address: Multiaddr) -> BoundSocket:
    """In place of bind.bind: port 0 becomes 40000."""
    text = str(address).replace("/tcp/0", "/tcp/40000")
    return BoundSocket(FakeSocket(), Multiaddr.parse(text))  # type: ignore[arg-type]


async def turns(count: int = 5) -> None:
    """Let what is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)
