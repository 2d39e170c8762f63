"""A listen: a protocol whose every stream becomes one connection to a local service.

Rules: the stream is registered before its target is dialed, so it can be seen and closed meanwhile; a
target that answers within the first system call costs no task; every dial has a deadline; a target that
cannot be reached resets the stream (never a clean end); with `report_peer_id` the service reads
`<base58 peer id>\\n` first.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, ClassVar

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import Life, ListenTerms
from p2pfwd.errors import P2PForwardError, TargetRefused, TargetTimeout
from p2pfwd.forwarding.admission import ListenAdmission
from p2pfwd.forwarding.events import Events
from p2pfwd.forwarding.registry import Listener
from p2pfwd.forwarding.streams import StreamEntry, StreamRegistry
from p2pfwd.forwarding.target import Target
from p2pfwd.forwarding.values import Direction, ForwardingLimits
from p2pfwd.policy.shares import Party

if TYPE_CHECKING:
    from p2pfwd.net.link.contract import DuplexStream

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
    ) -> None:
        super().__init__(listener_id, protocol, events, life)
        self.terms = terms
        self.target = target
        self._listen_address = Multiaddr.parse(f"/p2p/{own_id}")
        self._streams = streams
        self._admission = admission
        self.limits = limits
        self._dials: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._loop = asyncio.get_running_loop()
        self._glanced_at = float("-inf")

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

    def set_terms(self, terms: ListenTerms) -> None:
        """Other terms from now on; streams that are there keep theirs."""
        if terms.any_loopback != self.terms.any_loopback:
            self.target = Target(self.target.address, any_loopback=terms.any_loopback)
        self.terms = terms
        self._events.listener("changed", self.info)

    def serve(self, stream: DuplexStream) -> None:
        """Connect a negotiated inbound stream with the target, at once or in a task of its own."""
        try:
            party = self._admission.enter(stream)
        except P2PForwardError as exc:
            stream.reset()
            self.failed(exc)
            return
        if party is None:
            stream.reset()
            return
        try:
            entry = self._streams.add(self, stream, None, party)
        except P2PForwardError as exc:
            self._admission.leave(party, used=True)
            stream.reset()
            self.failed(exc)
            return
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
            self._refuse(entry, exc)
            return
        if sock is not None and connected:
            self._connected(entry, sock)
        elif near and not may_dial(entry.stream, party):
            if sock is not None:
                sock.close()
            self._drop(entry)
        else:
            self._wait(entry, sock, party)

    def _wait(self, entry: StreamEntry, sock: socket.socket | None, party: Party) -> None:
        """The target takes its time: a task waits, no longer than the stream lives."""
        self._admission.dialing(party)
        task = self._loop.create_task(self._dial(entry, sock))
        entry.abandon = task.cancel
        self._dials.add(task)

        def dialed(task: asyncio.Task[None]) -> None:
            self._admission.dialed(party)
            self._dialed(task, sock)

        task.add_done_callback(dialed)
        entry.stream.when_over(lambda: self._gone(entry))

    def _gone(self, entry: StreamEntry) -> None:
        """The stream is over; if its target is still being dialed, nobody waits for that any more."""
        if entry.abandon is not None:
            entry.abandon()
            entry.abandon = None
            self._streams.remove(entry)

    async def _dial(self, entry: StreamEntry, sock: socket.socket | None) -> None:
        try:
            connected = await self.target.finish(sock, self.limits.target_timeout_s)
        except P2PForwardError as exc:
            self._refuse(entry, exc)
        except Exception as exc:
            log.exception("%s: a defect here ended a connection", self.describe())
            self._refuse(entry, TargetRefused(f"no connection to the target: {exc}"))
        else:
            self._connected(entry, connected)

    def _dialed(self, task: asyncio.Task[None], sock: socket.socket | None) -> None:
        self._dials.discard(task)
        if task.cancelled() and sock is not None:
            sock.close()  # a task cancelled before its first step has not done it
        if self._stopped and not self._dials:
            self.closed.set()

    def _connected(self, entry: StreamEntry, sock: socket.socket) -> None:
        if self.terms.report_peer_id:
            line = b"%b\n" % str(entry.stream.remote_peer).encode()
            try:
                sent = sock.send(line)  # a fresh connection has room for a line
            except OSError as exc:
                sent, why = 0, exc.strerror or str(exc)
            else:
                why = "its buffer is full"
            if sent != len(line):
                sock.close()
                self._refuse(entry, TargetRefused(f"the target did not take the peer ID line: {why}"))
                return
        self._streams.splice(entry, sock)
        self.worked()

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

    def _is_seen(self) -> bool:
        return self.target.listening_at() is not None

    def glance(self) -> str:
        """The state to tell a probing peer: the last one known, refreshed without touching the service.

        A service that did not answer in time listens all the same: only a connection clears it.
        """
        if self.health.state != TargetTimeout.code:
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
        if not self._dials:
            self.closed.set()
