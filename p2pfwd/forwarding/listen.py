"""A listen: a protocol whose every stream becomes one connection to a local service.

Rules: the stream is registered before its target is dialed, so it can be seen and closed meanwhile; a
target that answers within the first system call costs no task; every dial has a deadline; a target that
cannot be reached resets the stream (never a clean end), at once or when it has been waited for
(`target_wait`); with `report_peer_id` the service reads `<base58 peer id>\\n` first, with `proxy_protocol`
a header of the PROXY protocol.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, ClassVar

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.target_check import read_check
from p2pfwd.core.terms import Life, ListenTerms
from p2pfwd.errors import P2PForwardError, TargetRefused, TargetTimeout, TargetUnhealthy
from p2pfwd.forwarding.admission import ListenAdmission
from p2pfwd.forwarding.events import Events
from p2pfwd.forwarding.health_check import check_health, check_target
from p2pfwd.forwarding.pacing import Pacing
from p2pfwd.forwarding.registry import Listener
from p2pfwd.forwarding.splice import reset_by_default
from p2pfwd.forwarding.streams import StreamEntry, StreamRegistry
from p2pfwd.forwarding.target import Target
from p2pfwd.forwarding.target_wait import TargetWait
from p2pfwd.forwarding.values import READY, CheckOutcome, Direction, ForwardingLimits, ListenerInfo
from p2pfwd.forwarding.watch import Watch
from p2pfwd.policy.shares import Party
from p2pfwd.wire import proxy_protocol
from p2pfwd.wire.yamux.reset_codes import RESOURCE_LIMIT_EXCEEDED

if TYPE_CHECKING:
    from p2pfwd.net.link.contract import DuplexStream, SplicedStream

log = logging.getLogger("p2pfwd.forwarding")


class RemoteListener(Listener):
    """One listen. Made by `Forwarding.listen`."""

    direction: ClassVar[Direction] = "listen"
    terms: ListenTerms

    def __init__(
        self,
        listener_id: int,
        protocol: str,
        target: Target,
        own_id: PeerId,
        streams: StreamRegistry,
        admission: ListenAdmission,
        events: Events,
        limits: ForwardingLimits,
        terms: ListenTerms,
        life: Life,
        watch: Watch,
    ) -> None:
        super().__init__(listener_id, protocol, events, life)
        self.terms: ListenTerms = terms
        self.target = target
        self._listen_address = Multiaddr.parse(f"/p2p/{own_id}")
        self._streams = streams
        self._admission = admission
        self._greeting = _greeting(terms, self._listen_address)
        self._target_wait = TargetWait(target)
        self._tasks: set[asyncio.Task[None]] = set()  # dials, and the watch
        self.limits = limits
        self._stopped = False
        self._loop = asyncio.get_running_loop()
        self._glanced_at = float("-inf")
        self._pacing: Pacing | None = None
        self._limit()
        self._check = read_check(terms.check) if terms.check else None
        if self._check is not None:
            self._spawn(watch.run(self.look, self._looked))

    # --- its limits -------------------------------------------------------------------------------

    def set_terms(self, terms: ListenTerms) -> None:
        """Other terms from now on, of the same target and check; limits for its live streams, too.

        More of these than it may have go on.
        """
        self.terms = terms
        self._greeting = _greeting(terms, self._listen_address)
        self._limit()
        if self._pacing is not None:
            for splice, stream in self._streams.splices(self):
                self._pacing.adopt(splice, stream)
        if terms.idle_timeout_s:
            self._streams.idle.watch(terms.idle_timeout_s)
        self._events.listener("changed", self.info)

    def _limit(self) -> None:
        terms = self.terms
        self._admission.max_streams = terms.max_streams
        self._admission.max_streams_per_peer = terms.max_streams_per_peer
        self.idle_timeout_s = terms.idle_timeout_s
        if terms.rate or terms.rate_per_peer or self._pacing is not None:
            if self._pacing is None:
                self._pacing = Pacing(self._loop)
            self._pacing.set_rates(terms.rate, terms.rate_per_peer)

    def carry(self, stream: DuplexStream) -> SplicedStream:
        """At the rate of this listen, where it has one."""
        return stream if self._pacing is None else self._pacing.carry(stream)

    def info(self, live_in: int = 0, live_out: int = 0) -> ListenerInfo:
        """With its terms, and what is used of them."""
        info = super().info(live_in, live_out)
        return replace(info, busiest=self._admission.busiest)

    @property
    def listen_address(self) -> Multiaddr:
        """`/p2p/<own id>`."""
        return self._listen_address

    @property
    def target_address(self) -> Multiaddr:
        """The local service."""
        return self.target.address

    @property
    def key(self) -> tuple[Direction, str]:
        """One listen per protocol."""
        return ("listen", self.protocol)

    def serve(self, stream: DuplexStream) -> None:
        """Connect a negotiated inbound stream with the target, at once or in a task of its own."""
        try:
            party = self._admission.enter(stream)
        except P2PForwardError as exc:
            stream.reset()
            self.failed(exc)
            return
        if party is None:
            stream.reset(RESOURCE_LIMIT_EXCEEDED)
            return
        try:
            self._streams.admit(self, stream.remote_peer)
        except P2PForwardError as exc:
            self._admission.leave(party, used=True)
            stream.reset()
            self.failed(exc)
            return
        entry = self._streams.add(self, stream, None, party)
        sockets = self._streams.sockets

        def connect() -> None:
            entry.abandon = None
            self._connect(entry, party)

        if not sockets.connect(entry, len(self._streams), connect):
            entry.abandon = lambda: sockets.leave(entry)
            stream.when_over(lambda: self._gone(entry))

    def _connect(self, entry: StreamEntry, party: Party) -> None:
        # A near target mostly answers within the call; another is not touched where it could not be awaited.
        near, may_dial = self.target.is_near, self._admission.may_dial
        if not near and not may_dial(entry.stream, party):
            entry.party = None
            self._admission.leave(party, used=True)  # no service was connected to for nothing
            self._drop(entry)
            return
        try:
            sock, connected = self.target.begin()
        except P2PForwardError as exc:
            if not self._is_waited_for(exc):
                self._refuse(entry, exc)
            elif near and not may_dial(entry.stream, party):
                self._drop(entry)
            else:
                self._wait(entry, None, party, exc)
            return
        if sock is not None and connected:
            self._connected(entry, sock)
        elif near and not may_dial(entry.stream, party):
            if sock is not None:
                sock.close()
            self._drop(entry)
        else:
            self._wait(entry, sock, party)

    def _wait(
        self,
        entry: StreamEntry,
        sock: socket.socket | None,
        party: Party,
        error: P2PForwardError | None = None,
    ) -> None:
        """The target takes its time, or is down (`error`): a task waits, no longer than the stream lives."""
        self._admission.dialing(party)
        task = self._spawn(self._dial(entry, sock, error))
        entry.abandon = task.cancel

        def dialed(task: asyncio.Task[None]) -> None:
            self._admission.dialed(party)
            if task.cancelled() and sock is not None:
                sock.close()  # a task cancelled before its first step has not done it

        task.add_done_callback(dialed)
        entry.stream.when_over(lambda: self._gone(entry))

    def _gone(self, entry: StreamEntry) -> None:
        """The stream is over; if its target is still being dialed, nobody waits for that any more."""
        if entry.abandon is not None:
            entry.abandon()
            entry.abandon = None
            self._streams.remove(entry)

    async def _dial(
        self, entry: StreamEntry, sock: socket.socket | None, error: P2PForwardError | None
    ) -> None:
        try:
            connected = await self._reach(sock, error)
        except P2PForwardError as exc:
            self._refuse(entry, exc)
        except Exception as exc:
            log.exception("%s: a defect here ended a connection", self.describe())
            self._refuse(entry, TargetRefused(f"no connection to the target: {exc}"))
        else:
            self._connected(entry, connected)

    async def _reach(self, sock: socket.socket | None, error: P2PForwardError | None) -> socket.socket:
        if error is None:
            try:
                return await self.target.finish(sock, self.limits.target_timeout_s)
            except TargetRefused as exc:
                if not self._is_waited_for(exc):
                    raise
                error = exc
        assert isinstance(error, TargetRefused)
        self.failed(error)  # the owner sees it while the stream waits
        return await self._target_wait.connect(
            error, self.terms.wait_target_s, self.limits.target_timeout_s
        )

    def _is_waited_for(self, error: P2PForwardError) -> bool:
        return isinstance(error, TargetRefused) and self.terms.wait_target_s > 0

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._stopped and not self._tasks:
            self.closed.set()

    def _connected(self, entry: StreamEntry, sock: socket.socket) -> None:
        first = self._first_words(entry.stream)
        if first:
            try:
                sent = sock.send(first)  # a fresh connection has room for a line
            except OSError as exc:
                sent, why = 0, exc.strerror or str(exc)
            else:
                why = "its buffer is full"
            if sent != len(first):
                sock.close()
                what = "peer ID line" if self.terms.report_peer_id else "PROXY header"
                self._refuse(entry, TargetRefused(f"the target did not take the {what}: {why}"))
                return
        reset_by_default(sock)
        self._streams.splice(entry, sock)
        self.worked()

    def _first_words(self, stream: DuplexStream) -> bytes:
        """What the target is told of the dialer before anything else."""
        if self.terms.report_peer_id:
            return b"%b\n" % str(stream.remote_peer).encode()
        if self.terms.proxy_protocol == "v2":
            conn = stream.conn
            source = None if conn.is_relayed else _endpoint(conn.remote_addr)
            return proxy_protocol.encode(source, _endpoint(conn.local_addr), str(stream.remote_peer))
        return b""

    def _refuse(self, entry: StreamEntry, error: P2PForwardError) -> None:
        self._drop(entry)
        self.failed(error)

    def _drop(self, entry: StreamEntry) -> None:
        entry.abandon = None
        entry.stream.reset()
        self._streams.remove(entry)

    def left(self, party: Party | None, *, used: bool) -> None:
        """A stream is over: its peer has room for another."""
        if party is not None:
            self._admission.leave(party, used=used)

    def stream_ended(self, stream_id: int, error: Exception | None, bytes_in: int) -> None:
        """Says nothing about the target: it answered, or there would have been no stream."""

    # --- how its target is

    async def look(self, timeout_s: float) -> CheckOutcome:
        """See how the target is, as `--check` says, or else whether it answers; nothing is raised."""
        if self._check is not None and self._check.path is not None:
            return await check_health(self.target, self._check.path, self._greeting, timeout_s)
        is_doubted = self.health.state == TargetTimeout.code
        return await check_target(self.target, timeout_s, is_doubted=is_doubted)

    def _looked(self, outcome: CheckOutcome) -> None:
        if self._stopped:
            return
        if outcome.ok and self.health.state != READY:
            log.warning("%s: the target %s is well", self.describe(), self.target.address)
        elif not outcome.ok and outcome.state != self.health.state:
            log.warning("%s: %s", self.describe(), outcome.reason)
        self.told(outcome.state, outcome.reason, outcome.hint)

    def worked(self) -> None:
        """A connection went through: of a service that says it is not well, that proves nothing."""
        if self.health.state != TargetUnhealthy.code:
            super().worked()

    def _is_seen(self) -> bool:
        return self.target.listening_at() is not None

    def glance(self) -> str:
        """The state to tell a probing peer: the last one known, refreshed without touching the service.

        A service that did not answer in time listens all the same: only a connection clears it.
        """
        if self.health.state not in (TargetTimeout.code, TargetUnhealthy.code):
            seen, self._glanced_at = self._admission.glance(self._is_seen, self._glanced_at)
            if seen:
                self.worked()
        return self.health.state

    def stop(self) -> None:
        """Serve no more; streams whose target has not answered are reset."""
        if self._stopped:
            return
        self._stopped = True
        self._streams.drop_dialing(self)
        for task in self._tasks:
            task.cancel()
        if not self._tasks:
            self.closed.set()


def _greeting(terms: ListenTerms, own: Multiaddr) -> bytes:
    """What this node says to the target first where it looks for itself whether all is well."""
    own_id = own.peer_id()
    if terms.report_peer_id:
        return f"{own_id}\n".encode()
    return proxy_protocol.encode(None, None, str(own_id)) if terms.proxy_protocol == "v2" else b""


def _endpoint(addr: Multiaddr) -> proxy_protocol.Endpoint | None:
    """Where a connection ends; None where that is no IP address."""
    found = tcp_endpoint(addr)
    if found is None or found.family not in ("ip4", "ip6"):
        return None
    address = ip_address(found.host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address, found.port
