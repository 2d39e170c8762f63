"""The forwarding service: what `listen`, `forward`, `ls`, `close` and `stream` do, on one host.

Semantics are Kubo's `ipfs p2p` with its faults mended. Rule: what can be
refused is refused before anything is changed; deciding is synchronous, so no locks are needed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.core.target_check import check_wait, read_check
from p2pfwd.core.terms import PLAIN_FORWARD, PLAIN_LISTEN, UNSAVED, ForwardTerms, Life, ListenTerms
from p2pfwd.errors import (
    AddressInUse,
    BindFailed,
    ListenerExists,
    NotFound,
    P2PForwardError,
    SelfDial,
    ShuttingDown,
)
from p2pfwd.forwarding import probe
from p2pfwd.forwarding.access import ListenAccess
from p2pfwd.forwarding.admission import Admission
from p2pfwd.forwarding.bind import BoundSocket, bind, numeric
from p2pfwd.forwarding.check import check_peer
from p2pfwd.forwarding.events import EventCallback, Events
from p2pfwd.forwarding.forward import LocalListener
from p2pfwd.forwarding.health_check import check_target
from p2pfwd.forwarding.kubo import make_splice
from p2pfwd.forwarding.listen import RemoteListener
from p2pfwd.forwarding.names import PREFIX, belongs_to_the_node, check_protocol
from p2pfwd.forwarding.rebind import Rebinding, try_to_bind
from p2pfwd.forwarding.registry import Listener, ListenerRegistry
from p2pfwd.forwarding.streams import SpliceFactory, StreamRegistry, StreamWatcher
from p2pfwd.forwarding.target import Target
from p2pfwd.forwarding.values import (
    READY,
    CheckOutcome,
    CloseMatch,
    Direction,
    ForwardingLimits,
    ListenerInfo,
    StreamInfo,
)
from p2pfwd.forwarding.warm import WarmPeers
from p2pfwd.forwarding.watch import Watch
from p2pfwd.net.services import Service
from p2pfwd.policy.access import Access
from p2pfwd.policy.service_bounds import PROBE, tunnels

if TYPE_CHECKING:
    from p2pfwd.host.host import Host
    from p2pfwd.net.link.contract import DuplexStream, Link

log = logging.getLogger("p2pfwd.forwarding")

_ALL: Final = CloseMatch(all=True)


class Forwarding:
    """All listeners and streams of one host. Make it inside the running event loop."""

    def __init__(
        self, host: Host, *, limits: ForwardingLimits | None = None, make_splice: SpliceFactory = make_splice
    ) -> None:
        self.limits = limits if limits is not None else ForwardingLimits()
        self._host = host
        self._swarm = host.swarm
        self._loop = asyncio.get_running_loop()
        self._events = Events()
        self._listeners = ListenerRegistry(self._events)
        self._streams = StreamRegistry(self._swarm, self._loop, self._events, self.limits, make_splice)
        self._rebinding = Rebinding(self._loop, self._forwards)
        self._warm = WarmPeers(host.keeper, self._forwards)
        self._watch = Watch()
        self._ending: list[Listener] = []  # stopped, with a task or two still on their way out
        self._closing = False
        self.access = ListenAccess(self._swarm, self._loop)
        probes = probe.ProbeService(self._listeners, self._is_probed, self._tells)
        services = self._swarm.services
        self._admission = Admission(services, self.limits, self._loop.time)
        self._bounds = tunnels(self.limits.max_streams, self.limits.max_streams_per_peer)
        services.serve(
            Service(
                name=PREFIX,
                is_prefix=True,
                accepts=self._serves,
                handler=self._serve,
                bounds=self._bounds,
            )
        )
        services.serve(
            Service(
                name=probe.PREFIX,
                is_prefix=True,
                accepts=probes.accepts,
                talk=probes.serve,
                bounds=PROBE,
            )
        )
        unused = self._admission.unused
        self._swarm.memory.on_spare(lambda: unused.forget_full(self._loop.time()))
        self._swarm.memory.on_spare(self.access.requests.forget_full)
        self._swarm.on_connected(self._connected)
        self._swarm.on_disconnected(self._disconnected)
        self._swarm.on_silent(self._silent)
        host.network.on_change(self._network_changed)

    # --- listen -----------------------------------------------------------------------------------

    async def listen(
        self,
        protocol: str,
        target: Multiaddr,
        terms: ListenTerms = PLAIN_LISTEN,
        life: Life = UNSAVED,
    ) -> RemoteListener:
        """Offer the service at `target` under `protocol`; unless the terms have a check it is not tried.

        Raises InvalidMultiaddr, InvalidProtocol, UsageError, ListenerExists, ProtocolTaken, ShuttingDown.
        """
        checked = self.check_listen(protocol, target, terms)
        listener = RemoteListener(
            self._listeners.take_id(),
            protocol,
            checked,
            self._host.peer_id,
            self._streams,
            self._admission.of_listen(),
            self._events,
            self.limits,
            terms,
            life,
            self._watch,
        )
        if not protocol.startswith(PREFIX):
            self._swarm.services.serve(
                Service(
                    name=protocol,
                    handler=self._serve,
                    bounds=self._bounds,
                    accepts=self._serves,
                    is_listed=lambda peer: self.access.rules.admits(peer, protocol),
                )
            )
        self._listeners.register(listener)
        return listener

    def check_listen(self, protocol: str, target: Multiaddr, terms: ListenTerms) -> Target:
        """The target of a listen that could be made now. Raises as `listen`, and changes nothing."""
        self._refuse_when_closing()
        checked = Target(target, any_loopback=terms.any_loopback)
        self.check_name(protocol, terms)
        self._listeners.refuse_duplicate(("listen", protocol))
        return checked

    def check_name(self, protocol: str, terms: ListenTerms) -> None:
        """Whether a listen may have this name and these terms here. Raises InvalidProtocol, UsageError."""
        check_wait(terms.wait_target_s)
        if terms.check:
            read_check(terms.check)
        check_protocol(protocol, allow_custom=terms.custom_protocol, serving=True)
        if self._swarm.services.is_reserved(protocol):
            raise belongs_to_the_node(protocol)

    def _serves(self, peer: PeerId, protocol: str) -> bool:
        """A name that this peer is denied is as one that is not there; the owner hears of it later."""
        return self._listeners.find("listen", protocol) is not None and self.access.admits(peer, protocol)

    def _is_probed(self, peer: PeerId, protocol: str) -> bool:
        """As `_serves`, of a probe: who is told asks again and again, and is written down once."""
        is_news = not (self._tells(peer, protocol) and self.access.is_known(peer, protocol))
        return is_news and self._serves(peer, protocol)

    def _tells(self, peer: PeerId, protocol: str) -> bool:
        """Whether a probe of this peer is told that the name is there, and not for it."""
        return self._listeners.find("listen", protocol) is not None and self.access.rules.tells(
            peer, protocol
        )

    def is_listening(self, protocol: str) -> bool:
        """Whether there is a listen of this name."""
        return self._listeners.find("listen", protocol) is not None

    def set_access(self, rules: Access, *, keep_live: bool = False) -> list[StreamInfo]:
        """Let in whom these rules let in; the streams that were reset, of those who have lost a right."""
        before, self.access.rules = self.access.rules, rules
        self.access.settle()
        if keep_live:
            return []

        def has_lost(listener: Listener, peer: PeerId) -> bool:
            had = listener.direction == "listen" and before.admits(peer, listener.protocol)
            return had and not rules.admits(peer, listener.protocol)

        return self._streams.close_where(has_lost)

    def _serve(self, stream: DuplexStream) -> None:
        listener = self._listeners.find("listen", stream.protocol or "")
        if isinstance(listener, RemoteListener):
            listener.serve(stream)
        else:  # closed since the negotiation
            stream.reset()

    # --- forward ----------------------------------------------------------------------------------

    async def forward(
        self,
        protocol: str,
        listen: Multiaddr,
        peer_id: PeerId,
        addrs: Iterable[Multiaddr] = (),
        terms: ForwardTerms = PLAIN_FORWARD,
        life: Life = UNSAVED,
        *,
        may_wait: bool = False,
    ) -> LocalListener:
        """Open `listen`; each of its connections becomes a stream of `protocol` to `peer_id`.

        `addrs` are kept for the life of the forward. Nothing is dialed yet. With `may_wait` an address
        that is not to be had is waited for.
        Raises InvalidMultiaddr, InvalidProtocol, SelfDial, ListenerExists, AddressInUse, BindFailed,
        ShuttingDown.
        """
        self._refuse_when_closing()
        if peer_id == self._host.peer_id:
            raise SelfDial(
                f"{peer_id} is this node itself",
                hint="give the peer ID of the other machine: `p2pfwd id` there prints it",
            )
        check_protocol(protocol, allow_custom=terms.custom_protocol, serving=False)
        address = await numeric(listen)
        self._refuse_when_closing()
        self._listeners.refuse_duplicate(("forward", str(address)))
        bound = self._bound(address)
        if not may_wait and not isinstance(bound, BoundSocket):
            raise bound
        listener = LocalListener(
            self._listeners.take_id(),
            protocol,
            peer_id,
            address,
            bound if isinstance(bound, BoundSocket) else None,
            self._swarm,
            self._streams,
            self._events,
            self.limits,
            terms,
            life,
            self._warm,
            addrs,
        )
        self._listeners.register(listener)
        self._warm.look()
        if listener.has_file:
            self._rebinding.watch_files()
        if isinstance(bound, BoundSocket):
            listener.start()
        else:
            listener.cannot_bind(bound)
            self._rebinding.begin()
        return listener

    def _bound(self, address: Multiaddr) -> BoundSocket | AddressInUse | BindFailed:
        """The socket, or why there is none. Raises ListenerExists."""
        try:
            bound = bind(address)
        except (AddressInUse, BindFailed) as exc:
            return exc
        try:  # port 0 may give the one that another forward waits for
            self._listeners.refuse_duplicate(("forward", str(bound.address)))
        except ListenerExists:
            bound.close()
            raise
        return bound

    def _forwards(self) -> list[LocalListener]:
        return [listener for listener in self._listeners.all() if isinstance(listener, LocalListener)]

    def _forwards_to(self, peer_id: PeerId) -> Iterator[LocalListener]:
        yield from (listener for listener in self._forwards() if listener.peer_id == peer_id)

    def keep_warm(self) -> None:
        """Keep the peers of saved forwards connected from now on."""
        self._warm.start()

    def _network_changed(self) -> None:
        self._rebinding.network_changed()
        for listener in self._forwards():
            listener.try_again()

    def _connected(self, conn: Link) -> None:
        for listener in self._forwards_to(conn.remote_peer):
            listener.peer_connected()

    def _silent(self, peer_id: PeerId, error: P2PForwardError | None) -> None:
        for listener in self._forwards_to(peer_id):
            if error is None:
                listener.peer_connected()
            else:
                listener.peer_silent(error)

    def _disconnected(self, conn: Link) -> None:
        self.access.disconnected(conn)
        if not self._swarm.conns(conn.remote_peer):
            for listener in self._forwards_to(conn.remote_peer):
                listener.peer_disconnected()

    # --- asking -----------------------------------------------------------------------------------

    def listeners(self) -> list[ListenerInfo]:
        """Every listen and forward, in the order in which they came."""
        live = self._streams.live_bytes()
        for listener in self._forwards():
            if listener.doubts_service:
                newest = self._streams.newest_answered(listener)
                if newest is not None:
                    listener.stream_answered(newest)
        return [listener.info(*live.get(listener.id, (0, 0))) for listener in self._listeners.all()]

    def listener(self, listener_id: int) -> Listener:
        """Raises NotFound."""
        return self._listeners.get(listener_id)

    def standing(self, direction: Direction, key: str) -> Listener | None:
        """The listen of this protocol, or the forward at this address."""
        return self._listeners.find(direction, key)

    def set_limits(self, limits: ForwardingLimits) -> None:
        """Other limits from now on, of those that are asked each time: times, half-close, waiting opens."""
        self.limits = self._streams.limits = replace(
            self.limits,
            max_pending_opens=limits.max_pending_opens,
            open_timeout_s=limits.open_timeout_s,
            target_timeout_s=limits.target_timeout_s,
            wait_s=limits.wait_s,
            kubo_half_close=limits.kubo_half_close,
            kubo_hold_s=limits.kubo_hold_s,
        )
        for listener in self._listeners.all():
            listener.limits = self.limits

    def find(self, listener: Listener) -> Listener | None:
        """The listener itself, if it is still there."""
        found = self._listeners.find(*listener.key)
        return listener if found is listener else None

    def listening(self, protocol: str) -> RemoteListener:
        """The listen of this name. Raises NotFound."""
        found = self._listeners.find("listen", protocol)
        if not isinstance(found, RemoteListener):
            raise NotFound(f"there is no listen {quoted(protocol)}", hint="p2pfwd ls shows those there are")
        return found

    def ending(self) -> list[Listener]:
        """Those that are to be closed at some time."""
        return [listener for listener in self._listeners.all() if listener.ends_at]

    def streams(self) -> list[StreamInfo]:
        """Every live stream, by id."""
        return self._streams.snapshot()

    def totals(self) -> tuple[int, int]:
        """Bytes in and out of all streams so far."""
        live = self._streams.live_bytes().values()
        return (
            self._streams.bytes_in + sum(bytes_in for bytes_in, _ in live),
            self._streams.bytes_out + sum(bytes_out for _, bytes_out in live),
        )

    def on_event(self, callback: EventCallback) -> Callable[[], None]:
        """Call `callback` with a ForwardingEvent at every change; it must not raise. Returns its end."""
        return self._events.subscribe(callback)

    def on_listener_event(self, callback: EventCallback) -> None:
        """As `on_event`, of listeners alone: streams cost nothing then."""
        self._events.subscribe(callback, streams=False)

    def watch_streams(self, watcher: StreamWatcher) -> None:
        """Show every stream to this one, from now on."""
        self._streams.watcher = watcher

    async def check(self, listener_id: int, timeout_s: float = 30.0) -> CheckOutcome:
        """Try a listener once and keep what was found as its state; see `probe` on what its service notices.

        Of a forward that waits for its local address, this is tried, and its peer only then. Raises NotFound.
        """
        listener = self._listeners.get(listener_id)
        if isinstance(listener, LocalListener):
            if not listener.is_bound and not try_to_bind(listener):
                health = listener.health
                return CheckOutcome(False, health.state, health.reason, health.hint)
            outcome = await check_peer(
                self._swarm, listener.peer_id, listener.protocol, timeout_s, listener.way
            )
        else:
            assert isinstance(listener, RemoteListener)
            return await self.look(listener, timeout_s)
        self._found(listener, outcome)
        return outcome

    async def look(self, listener: RemoteListener, timeout_s: float) -> CheckOutcome:
        """`check` of a listen that may have been closed meanwhile: nothing is raised."""
        outcome = await listener.look(min(timeout_s, self.limits.target_timeout_s))
        self._found(listener, outcome)
        return outcome

    def _found(self, listener: Listener, outcome: CheckOutcome) -> None:
        if self.find(listener) is not None:
            why = outcome.reason if outcome.state != READY else None  # a remark on the try, not on the state
            listener.told(outcome.state, why, outcome.hint)

    async def check_target(self, target: Multiaddr) -> CheckOutcome:
        """Does a service answer at `target`? Raises InvalidMultiaddr."""
        return await check_target(Target(target), self.limits.target_timeout_s)

    # --- ending -----------------------------------------------------------------------------------

    def close(self, match: CloseMatch) -> list[ListenerInfo]:
        """Close the listeners that match; their live streams stay. The addresses are free on return."""
        found = self.matching(match)
        with self.together():
            for listener, _ in found:
                self.close_one(listener)
        return [info for _, info in found]

    def matching(self, match: CloseMatch) -> list[tuple[Listener, ListenerInfo]]:
        """What `close` would close."""
        live = self._streams.live_bytes()
        found = self._listeners.matching(match)
        return [(listener, listener.info(*live.get(listener.id, (0, 0)))) for listener in found]

    def close_one(self, listener: Listener) -> None:
        """Close exactly this one, if it is still there; at a cost that does not grow with their number."""
        if self.find(listener) is None:
            return
        self._listeners.close(listener)
        self._ending = [it for it in (*self._ending, listener) if not it.closed.done()]
        if isinstance(listener, RemoteListener) and not listener.protocol.startswith(PREFIX):
            self._swarm.services.withdraw(listener.protocol)
        self._warm.look()

    def together(self) -> AbstractContextManager[None]:
        """Around many changes: whose peers to keep is looked at once, at the end."""
        return self._warm.held()

    def close_stream(self, stream_id: int) -> StreamInfo:
        """Reset one stream. Raises StreamNotFound."""
        return self._streams.close(stream_id)

    def close_all_streams(self) -> list[StreamInfo]:
        """Reset every stream."""
        return self._streams.close_all()

    async def drain(self, timeout_s: float) -> int:
        """Take nothing new, give live streams `timeout_s` to end, reset the rest; returns how many."""
        self._closing = True
        self._rebinding.close()
        self.close(_ALL)
        try:
            async with asyncio.timeout(timeout_s):
                await self._streams.wait_empty()
        except TimeoutError:
            left = self.close_all_streams()
            if left:
                log.warning("%d streams were still open after %g s and were reset", len(left), timeout_s)
            return len(left)
        return 0

    async def aclose(self) -> None:
        """End everything now. Idempotent."""
        self._closing = True
        self._rebinding.close()
        self.close(_ALL)
        self.close_all_streams()
        for listener in self._ending:
            await listener.closed
        await self._streams.wait_empty()
        self._streams.sockets.close()
        self._streams.idle.close()
        self._streams.looks.close()
        self.access.close()

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise ShuttingDown("the daemon is shutting down and takes nothing new")
