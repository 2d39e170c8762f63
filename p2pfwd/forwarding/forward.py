"""A forward: a local address whose every connection becomes one stream to one peer.

Rules: accept at once but never more than `max_pending_opens` connections ahead of their streams (the
rest waits in the kernel's backlog); one short task per connection (`opening`), none per stream; one that gets
no stream ends with RST, because a clean EOF would look like an empty answer; a forward whose address
is not to be had stays, and says so until it is (`rebind`). A peer takes every stream before it knows of its
service, so a stream that opens proves nothing of a service in doubt: only an answer does. Why one was
reset, a p2pfwd peer is asked; one that says that this node is not allowed is asked again (`denied`), also
after it was away, or the address here was.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Final, TypeGuard

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, unix_path
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import ForwardTerms, Life, Lifetime
from p2pfwd.errors import (
    AddressInUse,
    BindFailed,
    ConnectionLost,
    DialFailed,
    NotAllowed,
    P2PForwardError,
    PeerIdMismatch,
    PeerNotFound,
    ProtocolNotSupported,
    ResourceLimitExceeded,
    StreamReset,
    TargetRefused,
    TargetTimeout,
    TargetUnhealthy,
    TimedOut,
)
from p2pfwd.forwarding.bind import BoundSocket, bind
from p2pfwd.forwarding.denied import AskingAgain
from p2pfwd.forwarding.events import Events
from p2pfwd.forwarding.opening import Openings
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
    from p2pfwd.forwarding.warm import WarmPeers
    from p2pfwd.net.link.contract import DuplexStream
    from p2pfwd.net.swarm import Swarm

log = logging.getLogger("p2pfwd.forwarding")

ASK_INTERVAL_S: Final = 1.0
"""How often a peer that resets streams is asked why, at most."""
ASK_TIMEOUT_S: Final = 5.0

MAX_ADDRESSES: Final = 32
"""Addresses of the peer that are kept: as many as a command can name. The latest given count."""

COMING_BACK_S: Final = 5.0
"""For so long after its connection came up a p2pfwd peer that lacks the protocol may be making it again."""

_AWAY: Final = (DialFailed, PeerNotFound, ConnectionLost, TimedOut)

_TARGET_STATES: Final = (TargetRefused.code, TargetTimeout.code, TargetUnhealthy.code)
_NOT_FOR_US: Final = (ProtocolNotSupported.code, NotAllowed.code)
_TELLS_NOTHING: Final = (
    UNKNOWN,
    PEER_UNREACHABLE,
    AddressInUse.code,
    BindFailed.code,
    ResourceLimitExceeded.code,
)
"""States that take nothing back of what the peer said of this node's rights."""


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
        warm: WarmPeers,
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
        self._warm = warm
        self.limits = limits
        self._protocols = (protocol,)
        self.terms: ForwardTerms = terms
        self.way = Way(terms.path, terms.limited_relay)
        self.addrs: tuple[Multiaddr, ...] = ()
        self._stopped = False
        self._acceptor: Acceptor | None = None
        self._loop = asyncio.get_running_loop()
        self._openings = Openings(self, self._loop, streams.looks.diag)
        self.used_at = self._loop.time()
        """When a program connected last, by the loop's clock; before the first, when it was made."""
        self._doubt_id = -1  # the newest stream that says nothing against the doubt about the service
        self._reset_reason: str | None = None  # what the peer said of its latest reset
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = -ASK_INTERVAL_S
        self._again = AskingAgain(self._loop, self._ask_why)
        self._denial: tuple[str | None, str | None] | None = None  # reason and hint, until it says otherwise
        self.know(addrs)
        if not self.has_file and address_class(self._address) is not AddressClass.LOOPBACK:
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

    @property
    def is_warm(self) -> bool:
        """Whether its peer is kept connected for it."""
        return self._warm.is_warm(self)

    @property
    def waiting(self) -> int:
        """Local connections that wait for the peer."""
        return self._openings.waiting

    def lives(self, lifetime: Lifetime) -> None:
        """As long as this from now on; so is its peer kept."""
        super().lives(lifetime)
        self._warm.look()

    def set_terms(self, terms: ForwardTerms) -> None:
        """Other terms from now on; streams that are there keep theirs."""
        self.terms = terms
        self.way = Way(terms.path, terms.limited_relay)
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

    @property
    def has_file(self) -> bool:
        """Whether its local address is a Unix socket."""
        return unix_path(self._address) is not None

    def bind(self) -> None:
        """Bind an address that was not to be had before, and begin. Raises AddressInUse, BindFailed."""
        if self._bound is not None or self._stopped:
            return
        self._bound = bind(self._address)
        self.start()
        log.warning("%s: listening on %s now", self.describe(), self._address)
        self._nothing_in_the_way()

    def cannot_bind(self, error: AddressInUse | BindFailed) -> None:
        """Its address cannot be had."""
        super().failed(error)

    def let_go_of_lost_address(self) -> None:
        """Unbind an address that this machine has no more, or whose file was removed; its streams go on."""
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

    def try_again(self) -> None:
        """Connections that wait for the peer need wait no longer: the network has changed."""
        self._openings.tell()

    def peer_connected(self) -> None:
        """The peer is there: what was said of its absence no longer holds."""
        self._openings.tell()
        if self.health.state == PEER_UNREACHABLE:
            self._nothing_in_the_way()
        elif self.health.state == NotAllowed.code:
            self._ask_why()

    def _nothing_in_the_way(self) -> None:
        """The peer is there again, or the address here: it stands as denied if it did, and asks."""
        if self._denial is None:
            self.told(UNKNOWN, None, None)
        else:
            self.told(NotAllowed.code, *self._denial)
            self._ask_why()

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
            self._not_served()
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

    def not_opened(self, error: P2PForwardError) -> None:
        """A try to open a stream has failed."""
        if isinstance(error, ProtocolNotSupported):
            self._not_served()
        elif _reset_by_peer(error):
            self._doubt(self._streams.last_id, error)
        else:
            self.failed(error)

    def _not_served(self) -> None:
        """It may be served to others; a peer that tells so is asked."""
        if self.health.state != NotAllowed.code:
            self.failed(not_served(self.protocol))
        self._ask_why()

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
        except NotAllowed as exc:
            if self.health.state != NotAllowed.code:  # else it was asked again, in vain
                self.failed(exc)
            return
        except ProtocolNotSupported as exc:
            if self.health.state == NotAllowed.code:  # it was closed there since
                self.failed(not_served(self.protocol))
            log.debug("%s: the peer does not say why: %s", self.describe(), exc)
            return
        except (P2PForwardError, TimeoutError) as exc:  # a Kubo knows no probes: what was seen stands
            if self.health.state == NotAllowed.code and isinstance(exc, _AWAY):
                self.failed(exc)
                return
            log.debug("%s: the peer does not say why it resets: %s", self.describe(), exc)
            return
        if self.health.state in _NOT_FOR_US:  # it is now
            log.warning("%s: the peer lets this node use it now", self.describe())
            super().told(answer.state, answer.reason, None)
            self._openings.tell()
            return
        if not self.doubts_service:  # something came through meanwhile, or the peer is gone
            return
        if answer.state not in _TARGET_STATES:
            self._reset_before_answer()
        elif answer.state != self.health.state:
            log.warning("%s: %s", self.describe(), answer.reason)
            super().told(answer.state, answer.reason, None)

    def _state_changed(self) -> None:
        super()._state_changed()
        is_denied = self.health.state == NotAllowed.code
        if is_denied:
            self._denial = (self.health.reason, self.health.hint)
        elif self.health.state not in _TELLS_NOTHING:
            self._denial = None
        self._again.stands(not self._stopped and is_denied)

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
        self.used_at = self._loop.time()
        self._warm.used(self)
        try:
            self._streams.admit(self, self.peer_id)
        except ResourceLimitExceeded as exc:
            close_with_reset(sock)
            self.failed(exc)
            return
        stream = self._swarm.open_stream_at_once(self.peer_id, self.protocol, self.way)
        if stream is not None:
            self._connect(sock, origin, stream)
        else:
            self._openings.open(sock, origin)

    def opened(self, sock: socket.socket, origin: Sockaddr, stream: DuplexStream) -> None:
        """Connect a client that has waited for its stream."""
        try:
            self._streams.admit(self, self.peer_id)
        except ResourceLimitExceeded as exc:
            stream.reset()
            close_with_reset(sock)
            self.not_opened(exc)
        else:
            self._connect(sock, origin, stream)

    def _connect(self, sock: socket.socket, origin: Sockaddr, stream: DuplexStream) -> None:
        self._streams.splice(self._streams.add(self, stream, origin), sock)
        if not self.doubts_service:
            self.worked()

    # --- what `opening` asks of it

    async def open_stream(self) -> DuplexStream:
        """One try to open a stream. Raises as `Swarm.open_stream`."""
        return await self._swarm.open_stream(
            self.peer_id, self._protocols, timeout_s=self.limits.open_timeout_s, way=self.way
        )

    def is_worth_waiting(self, error: P2PForwardError) -> bool:
        """Whether the peer is away; one that refuses is not, unless it is just coming back."""
        if isinstance(error, ProtocolNotSupported):
            return self._is_coming_back()
        return isinstance(error, _AWAY) and not isinstance(error, PeerIdMismatch)

    def _is_coming_back(self) -> bool:
        """Whether a p2pfwd has connected a moment ago: it may make its listens again."""
        now, conns = time.monotonic(), self._swarm.conns(self.peer_id)
        is_new = bool(conns) and all(now - conn.opened_at < COMING_BACK_S for conn in conns)
        return is_new and (self._swarm.peerstore.agent(self.peer_id) or "").startswith("p2pfwd/")

    def has_room(self, room: bool) -> None:
        """Whether more connections may be accepted ahead of their streams."""
        if self._acceptor is not None:
            if room:
                self._acceptor.resume()
            else:
                self._acceptor.pause()

    # --- the end

    def stop(self) -> None:
        """Close the address and end the connections that have no stream yet, with RST."""
        if self._stopped:
            return
        self._stopped = True
        self._again.stands(False)
        self._unbind()
        self._swarm.peerstore.unpin(self.peer_id, self._pin_tag)
        dropped = self._openings.stop()
        if self._asking is not None:
            dropped.add(self._asking)
            self._asking.cancel()

        def ended(task: asyncio.Task[None]) -> None:
            dropped.discard(task)
            if not dropped:
                self.closed.set()

        for task in tuple(dropped):
            task.add_done_callback(ended)
        if not dropped:
            self.closed.set()


def _reset_by_peer(error: Exception | None) -> TypeGuard[StreamReset]:
    return isinstance(error, StreamReset) and error.details.get("by") == "remote"
