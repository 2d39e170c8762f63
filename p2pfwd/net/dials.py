"""How a peer is connected to: the connection there is, a dial that callers share, or whoever may know.

Rules: concurrent callers share one dial, to which each adds what it knows, and one look-up per peer; a caller
that gives up ends neither. A direct connection that comes up in another way ends the shared dial. A dial
through a relay reaches that by a dial of its own, which leads through none: two peers that are each other's
relays would wait for each other. Dials of strangers are few at a time (`net.dial_slots`): they are made on
others' word, and each has sockets of its own. What the owner wants does not wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Final

from p2pfwd.core.multiaddrs import Multiaddr, is_relayed
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import (
    ConnectionLost,
    DialFailed,
    DialTimeout,
    NoDirectPath,
    P2PForwardError,
    PeerNotFound,
    SelfDial,
    ShuttingDown,
    TimedOut,
)
from p2pfwd.net.connections import Connections
from p2pfwd.net.dial_slots import DialSlots, dialed
from p2pfwd.net.dialer import Dialer, attempts_of, cure, told
from p2pfwd.net.link.contract import Link
from p2pfwd.net.recovery import Recovery
from p2pfwd.net.upgrader import describe
from p2pfwd.peers.store import TYPED_TTL_S, Peerstore
from p2pfwd.policy.paths import Way
from p2pfwd.policy.provenance import Provenance
from p2pfwd.policy.shares import Party

log = logging.getLogger("p2pfwd.net")

DIRECT: Final = Way("direct")

Router = Callable[[PeerId, P2PForwardError], Coroutine[Any, Any, None]]


class Dials:
    """Of one swarm."""

    def __init__(
        self,
        peer_id: PeerId,
        dialer: Dialer,
        connections: Connections,
        peerstore: Peerstore,
        own_addrs: Callable[[], Sequence[Multiaddr]],
    ) -> None:
        self.router: Router | None = None
        """Whom to ask when no known address of a peer works.

        `router(peer_id, failure)` connects, or raises what is then the failure of the `connect`.
        """
        self.recovery: Recovery | None = None
        """Who replaces what is in doubt; set by the swarm."""
        self._peer_id = peer_id
        self.dialer = dialer
        self._connections = connections
        self._peerstore = peerstore
        self._own_addrs = own_addrs
        self._loop = asyncio.get_running_loop()
        self.is_own: Callable[[PeerId], bool] = lambda _peer: False
        """Whether the owner has chosen the peer."""
        self.check_blocked: Callable[[PeerId], None] = lambda _peer: None
        """See `net.blocklist.Blocklist.check`."""
        self._slots = DialSlots()
        self._dialing: dict[PeerId, asyncio.Task[Link]] = {}
        self._routing: dict[PeerId, asyncio.Task[None]] = {}

    async def connect(
        self,
        peer_id: PeerId,
        addrs: Iterable[Multiaddr],
        *,
        timeout_s: float | None,
        force: bool,
        only: bool,
        route: bool,
    ) -> Link:
        """See `Swarm.connect`."""
        self._refuse_when_closing()
        if peer_id == self._peer_id:
            raise SelfDial("the peer is this node itself", hint="use the peer ID of the other machine")
        self.check_blocked(peer_id)
        given = list(addrs)
        if given and not only:
            self._peerstore.add_addrs(peer_id, given, TYPED_TTL_S, Provenance.GIVEN)
        if (conn := self._connections.usable(peer_id)) is not None:
            return conn
        failure: P2PForwardError | None = None
        try:
            async with asyncio.timeout(timeout_s):
                patient = route and not (only or force)  # the DHT asks others, a person wants to know why
                if patient and (conn := await self._patiently(peer_id)) is not None:
                    return conn
                try:
                    return await self._connect(peer_id, given, force, only)
                except (DialFailed, PeerNotFound) as exc:
                    if self.router is None or only or not route:
                        raise
                    failure = exc
                    await self._route(peer_id, self.router, exc)
                return self._connections.usable(peer_id) or await self._connect(peer_id, (), True, False)
        except TimeoutError:
            raise self._timed_out(peer_id, timeout_s, failure) from None

    def _timed_out(
        self, peer_id: PeerId, timeout_s: float | None, failure: P2PForwardError | None
    ) -> TimedOut:
        """With what was found out until then: why it takes so long is what the caller wants to know."""
        attempts = attempts_of(failure) if failure is not None else []
        attempts += self.dialer.so_far(peer_id)
        because = f": {told(attempts)}" if attempts else ""
        return TimedOut(
            f"{peer_id} could not be reached within {timeout_s:g} s{because}",
            hint=cure(peer_id, attempts),
            attempts=[attempt.detail for attempt in attempts],
        )

    async def _patiently(self, peer_id: PeerId) -> Link | None:
        """In place of a connection that is in doubt or was lost a moment ago; None where there was none."""
        if self.recovery is None or not self.recovery.is_worth_waiting(peer_id):
            return None
        try:
            async with asyncio.timeout(self.dialer.dial_timeout_s):
                return await self.recovery.another(peer_id)
        except TimeoutError:
            raise TimedOut(f"{self.recovery.trouble(peer_id)}, and no new one was made") from None

    async def to_relay(self, peer_id: PeerId, addrs: Sequence[Multiaddr]) -> Link:
        """A connection to a relay, for a dial that leads through it and has its slot.

        At `addrs`, or whatever is known. Raises as `connect`.
        """
        self._refuse_when_closing()
        if peer_id == self._peer_id:
            raise SelfDial("the relay is this node itself")
        self.check_blocked(peer_id)
        if (conn := self._connections.fitting(peer_id, DIRECT)) is not None:
            return conn
        known = addrs or self._peerstore.dialable(peer_id)
        return await self._dial(peer_id, known, force=True, direct=True)

    async def beside(
        self, peer_id: PeerId, addrs: Sequence[Multiaddr] | None = None, *, fresh_port: bool = False
    ) -> Link:
        """A new connection, though there is one: at `addrs`, or whatever is known.

        `fresh_port`: see `Transport.dial`. Raises as `connect`.
        """
        known = self._peerstore.dialable(peer_id) if addrs is None else addrs
        return await self._dial(peer_id, known, force=True, fresh_port=fresh_port)

    async def over_relay(self, peer_id: PeerId, timeout_s: float | None, way: Way) -> Link:
        """A new connection over a relay, though there is a direct one.

        Raises NoDirectPath, PeerNotFound where no relay is known, and as `connect`.
        """
        known = [addr for addr in self._peerstore.dialable(peer_id) if is_relayed(addr)]
        if not known:
            hint = "p2pfwd status there shows its relays; --path any takes the direct connection"
            text = f"{peer_id} has told no address over a relay, and only that will do"
            raise PeerNotFound(text, hint=hint)
        try:
            async with asyncio.timeout(timeout_s):
                conn = await self.beside(peer_id, known)
        except TimeoutError:
            raise TimedOut(f"{peer_id} could not be reached over a relay in time") from None
        if way.fits(is_relayed=conn.is_relayed, is_limited=conn.limit is not None):
            return conn
        hint = "--allow-limited-relay uses it for a tunnel all the same, for as long as it lasts"
        raise NoDirectPath(f"the relay that leads to {peer_id} carries little", hint=hint)

    async def ask_where(self, peer_id: PeerId, failure: P2PForwardError) -> None:
        """Ask the router, as a `connect` that has failed does. Raises `failure`, or what that raises."""
        if self.router is None:
            raise failure
        await self._route(peer_id, self.router, failure)

    async def _connect(self, peer_id: PeerId, given: Sequence[Multiaddr], force: bool, only: bool) -> Link:
        if (task := self._dialing.get(peer_id)) is not None:
            if force or self.is_own(peer_id):
                await asyncio.sleep(0)  # one that was made in this turn of the loop does not wait yet
                self._slots.let_pass(peer_id)
                await asyncio.sleep(0)  # only what has begun takes more addresses
            known = given if only else [*given, *self._peerstore.dialable(peer_id)]
            joined = self.dialer.join(peer_id, known)
            try:
                return await asyncio.shield(task)
            except (DialFailed, PeerNotFound) as exc:
                # One that ran out of time may have had none for what came late; none but a forced dial passes
                # over back-offs.
                has_tried = not given or (joined and not isinstance(exc, DialTimeout))
                if has_tried and not force:
                    raise
        if only:
            return await self._dial(peer_id, given, force)
        return await asyncio.shield(self._dialing.get(peer_id) or self._shared_dial(peer_id, force))

    def _shared_dial(self, peer_id: PeerId, force: bool) -> asyncio.Task[Link]:
        def ended(task: asyncio.Task[Link]) -> None:
            del self._dialing[peer_id]
            if not task.cancelled():
                task.exception()  # retrieved, also when nobody waits any more

        dial = self._dial(peer_id, self._peerstore.dialable(peer_id), force, is_shared=True)
        task = self._dialing[peer_id] = self._loop.create_task(dial)
        task.add_done_callback(ended)
        return task

    async def _dial(
        self,
        peer_id: PeerId,
        addrs: Sequence[Multiaddr],
        force: bool,
        *,
        fresh_port: bool = False,
        is_shared: bool = False,
        direct: bool = False,
    ) -> Link:
        at_once = force or self.is_own(peer_id)
        async with nullcontext() if at_once else self._slots.one(self._whose(peer_id, addrs)):
            if is_shared and (there := self._connections.usable(peer_id)) is not None:
                return there  # it came while this waited for its slot
            conn = await self.dialer.dial(
                peer_id,
                addrs,
                self._own_addrs(),
                force=force,
                fresh_port=fresh_port,
                is_shared=is_shared,
                direct=direct,
            )
        self._connections.add(conn)
        if conn.closed.done():
            self._refuse_when_closing()
            raise ConnectionLost(f"the connection to {peer_id} ended as it came up")
        return conn

    def _whose(self, peer_id: PeerId, addrs: Sequence[Multiaddr]) -> Party:
        return dialed(peer_id, [addr for addr in addrs if self.dialer.why_not(addr) is None])

    def arrived(self, conn: Link) -> None:
        """A connection has come up in another way, by the peer or another dial."""
        self.dialer.arrived(conn)
        if self._connections.usable(conn.remote_peer) is not None:  # or it is dialed all the same
            self._slots.let_pass(conn.remote_peer)

    async def _route(self, peer_id: PeerId, router: Router, failure: P2PForwardError) -> None:
        """One look-up per peer at a time, shared."""
        task = self._routing.get(peer_id)
        if task is None:
            task = self._routing[peer_id] = self._loop.create_task(router(peer_id, failure))
            task.add_done_callback(lambda done: self._routed(peer_id, done))
        await asyncio.shield(task)

    def _routed(self, peer_id: PeerId, task: asyncio.Task[None]) -> None:
        del self._routing[peer_id]
        if not task.cancelled():
            task.exception()  # retrieved, also when nobody waits any more

    async def dial_back(self, peer_id: PeerId, addr: Multiaddr) -> bool:
        """Whether the peer can be dialed at this address, by one it does not know: closed at once."""
        try:
            conn = await self.dialer.attempt(peer_id, addr, fresh_port=True)
        except (P2PForwardError, OSError) as exc:
            log.debug("%s cannot be dialed back at %s: %s", peer_id, addr, describe(exc))
            return False
        await conn.close()
        return True

    def _refuse_when_closing(self) -> None:
        if self._connections.closing:
            raise ShuttingDown("the swarm is shutting down")

    def under_way(self) -> list[asyncio.Task[Any]]:
        """The dials and look-ups that run."""
        return [*self._dialing.values(), *self._routing.values()]

    async def close(self) -> None:
        """Cancel what is under way. Idempotent."""
        left = self.under_way()
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
