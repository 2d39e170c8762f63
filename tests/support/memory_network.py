"""A network in memory: real hosts, with real handshakes and frames, on conduits that are two queues.

In virtual time an hour of two hundred nodes is minutes. Every byte is counted as it would be on a wire:
each send is a segment with 52 bytes of headers (IPv4, TCP with time stamps) and is answered by one of as
many without data, which is an upper bound, since real acknowledgements ride along or are delayed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, ResourceLimitExceeded
from p2pfwd.net.conduit.contract import Receiver
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.transport.contract import Gate, Transport
from p2pfwd.net.transport.legs import Legs
from p2pfwd.net.transport.relay_transport import Reach
from p2pfwd.net.transport.table import MakeTransports
from p2pfwd.net.transport.tcp_transport import Spawn
from p2pfwd.net.upgrader import Upgrader
from p2pfwd.system.buffers import LARGE_BYTES
from p2pfwd.system.loop_io import LoopIo
from p2pfwd.wire.circuit import Limit

HEADERS_BYTES = 52
CONNECT_BYTES = 3 * 60  # SYN, SYN-ACK, ACK


class Meter:
    """What one node has sent and received, headers included."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        self.dials = 0

    @property
    def bytes(self) -> int:
        """Both ways."""
        return self.sent_bytes + self.received_bytes


class MemoryConduit:
    """One end."""

    congested = False
    progressed_at = 0.0
    heard = False
    limit: Limit | None = None
    limit_left: Limit | None = None
    segment_bytes: int | None = None
    wide_bytes = LARGE_BYTES

    def __init__(self, local: Multiaddr, remote: Multiaddr, latency_s: float, meter: Meter) -> None:
        self.local_addr = local
        self.remote_addr = remote
        self.other: MemoryConduit
        self._latency_s = latency_s
        self._meter = meter
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._coming: deque[bytes | None] = deque()  # None: the end
        self._pending = bytearray()
        self._closed = False
        self._paused = False

    def start(self, receiver: Receiver, leftover: bytes = b"") -> None:
        """See Conduit."""
        self._receiver = receiver
        if self._closed:
            receiver.conduit_lost(None)
            return
        self._pending[:0] = leftover
        self._hand_over()

    def send(self, view: memoryview, *, framed: bool = False, more: bool = False) -> None:
        """See Conduit."""
        if self._closed or not len(view):
            return
        self._count(len(view))
        self._to_other(bytes(view))

    def uncork(self) -> None:
        """See Conduit: nothing ever waits."""

    def _count(self, n: int) -> None:
        on_wire = n + 2 * HEADERS_BYTES
        self._meter.sent_bytes += n + HEADERS_BYTES
        self._meter.received_bytes += HEADERS_BYTES
        self.other._meter.received_bytes += n + HEADERS_BYTES
        self.other._meter.sent_bytes += on_wire - n - HEADERS_BYTES

    def _to_other(self, item: bytes | None) -> None:
        self.other._coming.append(item)
        self._loop.call_later(self._latency_s, self.other._arrived)

    def _arrived(self) -> None:
        if not self._coming:
            return
        item = self._coming.popleft()
        if self._closed:
            return
        if item is None:
            if self._receiver is not None:
                self._receiver.eof_received()
            return
        self.heard = True
        self._pending += item
        self._hand_over()

    def acknowledged_s(self) -> float | None:
        """See Conduit."""
        return None

    def retry_within(self, seconds: float | None) -> None:
        """See Conduit; nothing is ever repeated."""

    def pause(self) -> None:
        """See Conduit."""
        self._paused = True

    def resume(self) -> None:
        """See Conduit."""
        self._paused = False
        self._hand_over()

    def spare(self, spare: bool) -> None:
        """See Conduit; nothing is read here."""

    def tell(self, moved: Callable[[], None] | None) -> None:
        """See Conduit; nobody is told of anything here."""

    @property
    def is_near(self) -> bool:
        return False

    def squeeze(self, room: int | None) -> None:
        """See Conduit; no system holds anything."""

    @property
    def kept_bytes(self) -> int:
        """See Conduit."""
        return len(self._pending)

    def _hand_over(self) -> None:
        if self._receiver is None or self._paused or not self._pending:
            return
        view = memoryview(bytearray(self._pending))
        used = self._receiver.data_received(view)
        if not self._closed:
            self._pending = bytearray(view[used:])

    def finish(self) -> None:
        """See Conduit."""
        if not self._closed:
            self._count(0)
            self._to_other(None)

    def abort(self) -> None:
        """See Conduit."""
        if self._closed:
            return
        self._closed = True
        self._to_other(None)
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.conduit_lost(None)


class MemoryNetwork:
    """Who listens where."""

    def __init__(self, latency_s: float = 0.03) -> None:
        self.latency_s = latency_s
        self.listening: dict[tuple[str, int], tuple[MemoryTransport, Gate]] = {}

    def node(self, ip: str, meter: Meter, *, is_open: bool = True) -> MakeTransports:
        """For `Host(…, make_transports=…)`: a node at this address; not `is_open`: behind a firewall."""

        def make(
            upgrader: Upgrader,
            io: LoopIo,
            settings: SwarmSettings,
            spawn: Spawn,
            _reach: Reach,
            _legs: Legs,
        ) -> Sequence[Transport]:
            return (MemoryTransport(self, ip, meter, upgrader, settings, spawn, is_open),)

        return make


class MemoryTransport:
    """One node's way into a MemoryNetwork."""

    def __init__(
        self,
        network: MemoryNetwork,
        ip: str,
        meter: Meter,
        upgrader: Upgrader,
        settings: SwarmSettings,
        spawn: Spawn,
        is_open: bool,
    ) -> None:
        self.meter = meter
        self._is_open = is_open
        self._network = network
        self._ip = ip
        self._upgrader = upgrader
        self._settings = settings
        self._spawn = spawn
        self._next_port = 40000

    def why_not(self, addr: Multiaddr) -> str | None:
        """See Transport."""
        endpoint = tcp_endpoint(addr)
        return None if endpoint is not None and endpoint.family == "ip4" else "it is not in this network"

    def can_listen(self, addr: Multiaddr) -> bool:
        """See Transport."""
        return self.why_not(addr) is None

    def listen(self, addr: Multiaddr, gate: Gate) -> MemoryListening:
        """See Transport."""
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        key = (endpoint.host, endpoint.port)
        if self._is_open:
            self._network.listening[key] = (self, gate)
        return MemoryListening(addr, lambda: self._network.listening.pop(key, None))

    async def dial(self, peer_id: PeerId, addr: Multiaddr, *, fresh_port: bool = False) -> Conn:
        """See Transport."""
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        self.meter.dials += 1
        self.meter.sent_bytes += CONNECT_BYTES
        there = self._network.listening.get((endpoint.host, endpoint.port))
        if there is None:
            await asyncio.sleep(self._settings.connect_timeout_s)
            raise TimeoutError
        await asyncio.sleep(2 * self._network.latency_s)
        far, gate = there
        self._next_port += 1
        seen = Multiaddr.parse(f"/ip4/{self._ip}/tcp/{self._next_port}")
        near_end = MemoryConduit(seen, addr.without_peer_id(), self._network.latency_s, self.meter)
        far_end = MemoryConduit(addr.without_peer_id(), seen, self._network.latency_s, far.meter)
        near_end.other, far_end.other = far_end, near_end
        far._accepted(far_end, gate)
        async with asyncio.timeout(self._settings.upgrade_timeout_s):
            return await self._upgrader.upgrade(near_end, "outbound", peer_id)

    def _accepted(self, conduit: MemoryConduit, gate: Gate) -> None:
        try:
            leave = gate.admit(conduit.remote_addr, conduit.abort, lambda: conduit.heard)
        except (OSError, ResourceLimitExceeded):
            conduit.abort()
            return
        task = self._spawn(self._inbound(conduit, gate), "inbound upgrade")
        task.add_done_callback(lambda _: leave())

    async def _inbound(self, conduit: MemoryConduit, gate: Gate) -> None:
        try:
            async with asyncio.timeout(self._settings.upgrade_timeout_s):
                conn = await self._upgrader.upgrade(conduit, "inbound")
        except (P2PForwardError, TimeoutError, OSError):
            return
        gate.arrived(conn)


class MemoryListening:
    """One bound address."""

    def __init__(self, addr: Multiaddr, close: Callable[[], object]) -> None:
        self.addr = addr
        self._close = close

    def close(self) -> None:
        """Take nothing more."""
        self._close()
