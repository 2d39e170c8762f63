"""A forward: a local address whose every connection becomes one stream to one peer.

Rules: accept at once but never more than `max_pending_opens` connections ahead of their streams (the
rest waits in the kernel's backlog); one short task per connection, none per stream; a connection that
gets no stream ends with RST, because a clean EOF would look like an empty answer; one whose address is
not to be had stays, and says so until it is (`rebind`). A peer takes
every stream before it knows of its service, so a stream that opens proves nothing of a service in doubt:
only an answer does. Why one was reset, a p2pfwd peer is asked.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Final, TypeGuard

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, unix_path
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import ForwardTerms, Life
from p2pfwd.errors import (
    AddressInUse,
    BindFailed,
    ConnectionLost,
    P2PForwardError,
    ProtocolNotSupported,
    ResourceLimitExceeded,
    StreamReset,
    TargetRefused,
    TargetTimeout,
)
from p2pfwd.forwarding.bind import BoundSocket, bind
from p2pfwd.forwarding.events import Events
from p2pfwd.forwarding.probe import ask, not_served
from p2pfwd.forwarding.registry import Listener
from p2pfwd.forwarding.splice import close_with_reset
from p2pfwd.forwarding.streams import StreamRegistry
from p2pfwd.forwarding.values import PEER_UNREACHABLE, READY, UNKNOWN, Direction, ForwardingLimits
from p2pfwd.policy.paths import Way
from p2pfwd.policy.shares import Party
from p2pfwd.system.acceptor import Acceptor, Sockaddr
from p2pfwd.system.descriptors import cure, reason
from p2pfwd.wire.yamux import reset_codes

if TYPE_CHECKING:
    from p2pfwd.net.link.contract import DuplexStream
    from p2pfwd.net.swarm import Swarm

log = logging.getLogger("p2pfwd.forwarding")

ASK_INTERVAL_S: Final = 1.0
"""How often a peer that resets streams is asked why, at most."""
ASK_TIMEOUT_S: Final = 5.0

MAX_ADDRESSES: Final = 32
"""Addresses of the peer that are kept: as many as a command can name. The latest given count."""

_TARGET_STATES: Final = (TargetRefused.code, TargetTimeout.code)


class LocalListener(Listener):
    """One forward. Made by `Forwarding.forward`."""

    direction: ClassVar[Direction] = "forward"
    terms: ForwardTerms

    def __init__(
        self,
        listener_id: int,
        protocol: str,
        peer_id: PeerId,
        address: Multiaddr,
        bound: BoundSocket | None,
        swarm: Swarm,
        streams: StreamRegistry,
        events: Events,
        limits: ForwardingLimits,
        terms: ForwardTerms,
        life: Life,
        addrs: Iterable[Multiaddr] = (),
    ) -> None:
        """`address` is the local one, `bound` its socket, or None where it is yet to be had."""
        super().__init__(listener_id, protocol, events, life)
        self.peer_id = peer_id
        self._pin_tag = f"forward/{listener_id}"
        self._address = address if bound is None else bound.address
        self._bound = bound
        self._target = Multiaddr.parse(f"/p2p/{peer_id}")
        self._swarm = swarm
        self._streams = streams
        self.limits = limits
        self._protocols = (protocol,)
        self.terms = terms
        self._way = Way(terms.path, terms.limited_relay)
        self.addrs: tuple[Multiaddr, ...] = ()
        self._stopped = False
        self._opening: dict[socket.socket, asyncio.Task[None]] = {}
        self._acceptor: Acceptor | None = None
        self._loop = asyncio.get_running_loop()
        self._doubt_id = -1  # the newest stream that says nothing against the doubt about the service
        self._reset_reason: str | None = None  # what the peer said of its latest reset
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = -ASK_INTERVAL_S
        self.know(addrs)
        is_unix = unix_path(self._address) is not None
        if not is_unix and address_class(self._address) is not AddressClass.LOOPBACK:
            log.warning("%s: other machines can connect to %s", self.describe(), self._address)

    @property
    def listen_address(self) -> Multiaddr:
        """The bound address, with the real port; or the one that is to be bound."""
        return self._address

    @property
    def target_address(self) -> Multiaddr:
        """`/p2p/<peer>`."""
        return self._target

    @property
    def key(self) -> tuple[Direction, str]:
        """One forward per bound address."""
        return ("forward", str(self._address))

    def set_terms(self, terms: ForwardTerms) -> None:
        """Other terms from now on; streams that are there keep theirs."""
        self.terms = terms
        self._way = Way(terms.path, terms.limited_relay)
        self._events.listener("changed", self.info)

    def know(self, addrs: Iterable[Multiaddr]) -> None:
        """Keep these addresses of the peer for the life of the forward, besides those it has."""
        self.addrs = tuple(dict.fromkeys((*addrs, *self.addrs)))[:MAX_ADDRESSES]
        self._swarm.peerstore.pin(self.peer_id, self.addrs, self._pin_tag)

    # --- the local address

    def start(self) -> None:
        """Begin to accept."""
        assert self._bound is not None
        self._acceptor = Acceptor(self._bound.sock, self._loop, self._accepted, self._exhausted)

    @property
    def is_bound(self) -> bool:
        """Whether programs can connect."""
        return self._bound is not None

    def bind(self) -> None:
        """Bind an address that was not to be had before, and begin. Raises AddressInUse, BindFailed."""
        if self._bound is not None or self._stopped:
            return
        self._bound = bind(self._address)
        self.start()
        log.warning("%s: listening on %s now", self.describe(), self._address)
        self.told(UNKNOWN, None, None)

    def cannot_bind(self, error: AddressInUse | BindFailed) -> None:
        """Its address cannot be had."""
        super().failed(error)

    def let_go_of_lost_address(self) -> None:
        """Unbind an address that this machine has no more; its streams go on."""
        if self._bound is not None and self._bound.address_is_gone():
            self._unbind()

    def _unbind(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        if self._bound is not None:
            self._bound.remove_file()
            self._bound = None

    # --- what becomes of it

    def failed(self, error: P2PForwardError) -> None:
        """A connection did not go through; nothing beside an address that is not to be had."""
        if self._bound is not None:
            super().failed(error)

    def peer_connected(self) -> None:
        """The peer is there: what was said of its absence no longer holds."""
        if self.health.state == PEER_UNREACHABLE:
            self.told(UNKNOWN, None, None)

    def peer_silent(self, error: P2PForwardError) -> None:
        """It answers nothing, and a new connection to it fails; streams that are there may yet go on."""
        if self.health.state in (READY, UNKNOWN):
            self.failed(error)

    def peer_disconnected(self) -> None:
        """The last connection to the peer is over; nobody knows whether the next dial will work."""
        if self.health.state == READY:
            self.told(UNKNOWN, None, None)

    @property
    def doubts_service(self) -> bool:
        """Whether the peer was there at the last try and its service was not."""
        return self.health.state == StreamReset.code or self.health.state in _TARGET_STATES

    def told(self, state: str, reason: str | None, hint: str | None) -> None:
        """A check found `state`: streams that are there already say nothing against it."""
        if self._bound is None:
            return
        self._doubt_id = self._streams.last_id
        super().told(state, reason, hint)

    def left(self, party: Party | None, *, used: bool) -> None:
        """Nobody's share is counted here: the streams are our own programs'."""

    def stream_ended(self, stream_id: int, error: Exception | None, bytes_in: int) -> None:
        """What the end of a stream says about the peer."""
        if isinstance(error, ProtocolNotSupported):
            self.failed(not_served(self.protocol))
        elif isinstance(error, ConnectionLost):
            self.failed(error)
        elif bytes_in:
            self.stream_answered(stream_id)
        elif _reset_by_peer(error):
            self._doubt(stream_id, error)

    def stream_answered(self, stream_id: int) -> None:
        """The peer sent something on a stream: takes back what was said of its service before."""
        if self.doubts_service and stream_id > self._doubt_id:
            self.worked()

    def _not_opened(self, error: P2PForwardError) -> None:
        if isinstance(error, ProtocolNotSupported):
            self.failed(not_served(self.protocol))
        elif _reset_by_peer(error):
            self._doubt(self._streams.last_id, error)
        else:
            self.failed(error)

    def _doubt(self, stream_id: int, reset: StreamReset) -> None:
        self._doubt_id = stream_id
        self._reset_reason = reset_codes.reason(reset.details.get("reset_code", reset_codes.NO_REASON))
        if self.health.state not in _TARGET_STATES:
            self._reset_before_answer()
        self._ask_why()

    def _reset_before_answer(self) -> None:
        what = "the peer took the stream and reset it before any answer"
        if self._reset_reason is not None:
            self.failed(StreamReset(f"{what}: {self._reset_reason}"))
            return
        hint = "its service may be down, or it does not want this node: see `p2pfwd ls` there"
        self.failed(StreamReset(what, hint=hint))

    def _ask_why(self) -> None:
        now = self._loop.time()
        if self._asking is None and not self._stopped and now - self._asked_at >= ASK_INTERVAL_S:
            self._asked_at = now
            self._asking = self._loop.create_task(self._ask())
            self._asking.add_done_callback(self._asked)

    async def _ask(self) -> None:
        try:
            answer = await ask(self._swarm, self.peer_id, self.protocol, ASK_TIMEOUT_S)
        except (P2PForwardError, TimeoutError) as exc:  # a Kubo knows no probes: what was seen stands
            log.debug("%s: the peer does not say why it resets: %s", self.describe(), exc)
            return
        if not self.doubts_service:  # something came through meanwhile, or the peer is gone
            return
        if answer.state not in _TARGET_STATES:
            self._reset_before_answer()
        elif answer.state != self.health.state:
            log.warning("%s: %s", self.describe(), answer.reason)
            super().told(answer.state, answer.reason, None)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled() and task.exception() is not None:
            log.error("%s: a defect while asking the peer", self.describe(), exc_info=task.exception())

    def _exhausted(self, exc: OSError | None) -> None:
        if exc is None:
            self.worked()
        else:
            why = reason(exc.errno)
            told = f"no more connections can be accepted for now: {why}"
            self.failed(ResourceLimitExceeded(told, hint=cure(exc.errno)))

    def _accepted(self, sock: socket.socket, origin: Sockaddr) -> None:
        try:
            self._streams.admit(self, self.peer_id)
        except ResourceLimitExceeded as exc:
            close_with_reset(sock)
            self.failed(exc)
            return
        stream = self._swarm.open_stream_at_once(self.peer_id, self.protocol, self._way)
        if stream is not None:
            self._splice(sock, origin, stream)
            return
        self._opening[sock] = self._loop.create_task(self._open(sock, origin))
        if len(self._opening) >= self.limits.max_pending_opens and self._acceptor is not None:
            self._acceptor.pause()

    def _splice(self, sock: socket.socket, origin: Sockaddr, stream: DuplexStream) -> None:
        """Connect a client with its stream."""
        try:
            entry = self._streams.add(self, stream, origin)
        except ResourceLimitExceeded as exc:
            stream.reset()
            close_with_reset(sock)
            self._not_opened(exc)
        else:
            self._streams.splice(entry, sock)
            if not self.doubts_service:
                self.worked()

    async def _open(self, sock: socket.socket, origin: Sockaddr) -> None:
        """The one task of a connection: it ends when the stream is there."""
        try:
            stream = await self._swarm.open_stream(
                self.peer_id, self._protocols, timeout_s=self.limits.open_timeout_s, way=self._way
            )
            self._splice(sock, origin, stream)
        except P2PForwardError as exc:
            close_with_reset(sock)
            self._not_opened(exc)
        except asyncio.CancelledError:
            close_with_reset(sock)
            raise
        except Exception:
            close_with_reset(sock)
            log.exception("%s: a defect here ended a connection", self.describe())
        finally:
            self._opened(sock)

    def _opened(self, sock: socket.socket) -> None:
        self._opening.pop(sock, None)
        if self._acceptor is not None and len(self._opening) < self.limits.max_pending_opens:
            self._acceptor.resume()

    def stop(self) -> None:
        """Close the address and end the connections that have no stream yet, with RST."""
        if self._stopped:
            return
        self._stopped = True
        self._unbind()
        self._swarm.peerstore.unpin(self.peer_id, self._pin_tag)
        dropped = set(self._opening.values())
        if self._asking is not None:
            dropped.add(self._asking)

        def ended(task: asyncio.Task[None]) -> None:
            dropped.discard(task)
            if not dropped:
                self.closed.set()

        for sock in self._opening:
            close_with_reset(sock)  # a task cancelled before its first step would not do it
        for task in tuple(dropped):
            task.cancel()
            task.add_done_callback(ended)
        if not dropped:
            self.closed.set()


def _reset_by_peer(error: Exception | None) -> TypeGuard[StreamReset]:
    return isinstance(error, StreamReset) and error.details.get("by") == "remote"
