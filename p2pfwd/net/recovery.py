"""Back within five seconds: what is done about a connection that `policy.doubt` no longer trusts.

Rules:
- A doubtful connection keeps its streams and gets no new ones. Where somebody waits for the peer, has opened
  a stream to it, or keeps it, another connection is dialed beside it at once, again every `REDIAL_S` and when
  an address, a network or a relay comes; whoever may know where the peer is, is asked too. A relay where the
  peer has no place yet is asked again after `AT_RELAY_S`: both ends lost it together, and one is back first.
- Whichever answers serves: the new one, or the old one after all. Who waited is served by that one.
- A peer that was lost is waited for in the same way for `LOST_S`, where its line was lost for `SILENT_S`,
  instead of refusing what comes meanwhile.
- One connection that falls silent may be a router's doing, which has forgotten all: kept peers that said
  nothing for `QUIET_S` are asked at once whether they are there, before it is certain.
- A second connection that was not needed after all is closed when it is idle.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from p2pfwd.core.multiaddrs import tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import NotAtRelay, P2PForwardError, TimedOut
from p2pfwd.net.connections import Connections
from p2pfwd.net.dialer import attempts_of
from p2pfwd.net.link.contract import Link
from p2pfwd.net.tasks import Tasks
from p2pfwd.policy.pace import Pace, Rate
from p2pfwd.system.interfaces import Interfaces

log = logging.getLogger("p2pfwd.net")

REDIAL_S: Final = 1.5
"""Between two dials beside a doubtful connection: TCP alone would knock after 1, 3 and 7 s."""

AT_RELAY_S: Final = 0.25
"""Before a relay is asked again that has no place for the peer, ..."""

AT_RELAY: Final = Rate(2.0, 12)
"""... for all peers together: a relay takes no more than so many requests (`policy.service_bounds.HOP`)."""

MAX_DIALS: Final = 3
"""Of them under way for one peer; each ends by itself after the time a connect may take."""

MAX_AT_ONCE: Final = 64
"""Peers dialed at a time: a cut line makes all connections doubtful, and all dials are in vain."""

MAX_STRANGERS: Final = 16
"""Of them those that only use this node: a hundred strangers whose tunnels fall silent would take all, and
have this node knock for a minute wherever they said they were. An honest one comes anew by itself."""

ROUTE_S: Final = 10.0
"""Between two questions where the peer is."""

LOST_S: Final = 5.0
"""A daemon that is restarted is back within a few seconds; one that is not is refused after them."""

SILENT_S: Final = 30.0
"""A line that was cut for so long that TCP gave up is still waited for; each open has a limit of its own."""

QUIET_S: Final = 1.0
"""Who was heard within this is there."""

MAX_LOST: Final = 256
TIDY_S: Final = 5.0

Dial = Callable[[PeerId], Coroutine[Any, Any, object]]
Route = Callable[[PeerId, P2PForwardError], Coroutine[Any, Any, None]]
Silent = Callable[[PeerId, P2PForwardError | None], None]


class Recovery:
    """Of one swarm. `dial` makes a new connection, `route` asks where the peer is and connects."""

    def __init__(
        self,
        connections: Connections,
        tasks: Tasks,
        interfaces: Interfaces,
        dial: Dial,
        route: Route,
        is_kept: Callable[[PeerId], bool],
    ) -> None:
        self._connections = connections
        self._tasks = tasks
        self._interfaces = interfaces
        self._dial = dial
        self._route = route
        self._is_kept = is_kept
        self.is_own: Callable[[PeerId], bool] = lambda _peer: False
        """Whether the owner has chosen the peer, or this node wants it by itself."""
        self._loop = asyncio.get_running_loop()
        self._searches: dict[PeerId, _Search] = {}
        self._waiters: dict[PeerId, set[asyncio.Future[None]]] = {}
        self._lost: dict[PeerId, float] = {}
        self._local: dict[Link, str] = {}  # its end's address, where an interface had it
        self._seconds: set[Link] = set()
        self._tidying: asyncio.TimerHandle | None = None
        self._silent: list[Silent] = []
        self._on_doubt, self._on_suspicion = self._doubted, self._ask_kept  # the same for all connections
        self._at_relay = Pace(AT_RELAY, self._loop.time())
        connections.on_connected(self._connected)
        connections.on_disconnected(self._disconnected)

    def on_silent(self, callback: Silent) -> None:
        """Be told of a peer that is silent on all its connections and not reached by a new one either.

        The callback gets the peer and why it is not reached; None when a connection answers again.
        """
        self._silent.append(callback)

    # --- for those who want a connection ----------------------------------------------------------

    def is_worth_waiting(self, peer_id: PeerId) -> bool:
        """Whether the peer's connections are in doubt, or the last one was lost a moment ago."""
        return self._is_doubtful(peer_id) or self._is_lost(peer_id)

    def trouble(self, peer_id: PeerId) -> str:
        """What is wrong with the connection to a peer that is worth waiting for, in words."""
        is_there = bool(self._connections.of(peer_id))
        return f"the connection to {peer_id} {'has fallen silent' if is_there else 'was lost'}"

    async def another(self, peer_id: PeerId) -> Link | None:
        """The first connection to the peer that answers, an old or a new one; None: not to be waited for."""
        waiters = self._waiters.setdefault(peer_id, set())
        waiter: asyncio.Future[None] = self._loop.create_future()
        waiters.add(waiter)
        try:
            while self.is_worth_waiting(peer_id):
                if (conn := self._connections.usable(peer_id)) is not None:
                    return conn
                self._search(peer_id)
                await waiter
                waiters.discard(waiter)
                waiter = self._loop.create_future()
                waiters.add(waiter)
            return self._connections.usable(peer_id)
        finally:
            waiters.discard(waiter)
            if not waiters:
                self._waiters.pop(peer_id, None)

    def network_changed(self) -> None:
        """From the network watch: every peer is asked at once, and every search begins anew."""
        hosts = self._interfaces.hosts() if self._interfaces.is_complete else None
        for conn in self._connections.all():
            local = self._local.get(conn)
            conn.liveness.address_gone = hosts is not None and local is not None and local not in hosts
            conn.liveness.challenge()
        for search in self._searches.values():
            search.hurry()

    def address_learned(self, peer_id: PeerId) -> None:
        """From the peerstore."""
        if (search := self._searches.get(peer_id)) is not None:
            search.hurry()

    # --- what happens to connections --------------------------------------------------------------

    def _connected(self, conn: Link) -> None:
        peer_id = conn.remote_peer
        self._lost.pop(peer_id, None)
        endpoint = tcp_endpoint(conn.local_addr)
        if endpoint is not None and endpoint.host in self._interfaces.hosts():
            self._local[conn] = endpoint.host
        conn.liveness.on_doubt = self._on_doubt
        conn.liveness.on_suspicion = self._on_suspicion
        for older in self._connections.of(peer_id):
            if older is not conn:  # why should there be another, if this one worked?
                if older.liveness.doubtful:
                    older.liveness.replaced()
                else:
                    older.liveness.challenge()
        if peer_id in self._searches:
            self._seconds.add(conn)
            self._tidy_later()
        if not conn.is_relayed and self._is_kept(peer_id):
            for search in self._searches.values():
                search.hurry()  # it may be the relay by which the other is reached
        self._wake(peer_id)

    def _doubted(self, conn: Link, doubtful: bool) -> None:
        peer_id = conn.remote_peer
        if not doubtful:
            log.info("%s answers again at %s", peer_id, conn.remote_addr)
            self.tell_silent(peer_id, None)
            self._wake(peer_id)
            return
        log.info("%s is silent at %s for %.1f s", peer_id, conn.remote_addr, conn.liveness.silent_s)
        self._ask_kept(conn)
        if self._connections.usable(peer_id) is not None:
            conn.liveness.replaced()
        elif self._is_wanted(peer_id):
            self._search(peer_id)

    def _ask_kept(self, silent: Link) -> None:
        """Over a connection that no router knows any more nobody reaches this node: by a relay, say.

        Asked where `silent` is suspect, and again where it is doubtful.
        """
        for conn in self._connections.all():
            life = conn.liveness
            is_known = conn is silent or conn.is_relayed or life.doubtful or life.is_challenged
            if not is_known and life.silent_s > QUIET_S and self._is_kept(conn.remote_peer):
                life.challenge()

    def _disconnected(self, conn: Link) -> None:
        peer_id = conn.remote_peer
        self._local.pop(conn, None)
        self._seconds.discard(conn)
        if not self._connections.of(peer_id) and not conn.ended_by_us and not self._connections.closing:
            self._lost.pop(peer_id, None)
            silent = isinstance(conn.closed.result(), TimedOut | TimeoutError)
            self._lost[peer_id] = self._loop.time() + (SILENT_S if silent else LOST_S)
            if len(self._lost) > MAX_LOST:
                strangers = (one for one in self._lost if not self.is_own(one))
                del self._lost[next(strangers, next(iter(self._lost)))]
        self._wake(peer_id)

    def forget_lost(self) -> None:
        """Let go of those who were lost too long ago to be waited for."""
        self._lost = {peer_id: until for peer_id, until in self._lost.items() if self._is_lost(peer_id)}

    def _wake(self, peer_id: PeerId) -> None:
        for waiter in self._waiters.get(peer_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    def _is_doubtful(self, peer_id: PeerId) -> bool:
        return any(conn.can_open and conn.liveness.doubtful for conn in self._connections.of(peer_id))

    def _is_lost(self, peer_id: PeerId) -> bool:
        return self._lost.get(peer_id, 0.0) > self._loop.time()

    def _is_wanted(self, peer_id: PeerId) -> bool:
        if self._waiters.get(peer_id) or self._is_kept(peer_id):
            return True
        conns = self._connections.of(peer_id)
        return any(stream.direction == "outbound" for conn in conns for stream in conn.streams.values())

    # --- searching --------------------------------------------------------------------------------

    def _search(self, peer_id: PeerId) -> None:
        if peer_id in self._searches or len(self._searches) >= MAX_AT_ONCE:
            return
        strangers = sum(not self.is_own(other) for other in self._searches)
        if strangers >= MAX_STRANGERS and not self.is_own(peer_id):
            return
        search = self._searches[peer_id] = _Search(self, peer_id)
        self._tasks.spawn(search.run(), f"dial {peer_id} beside")

    def still_wanted(self, peer_id: PeerId) -> bool:
        """Whether a search is to go on."""
        if self._connections.closing or self._connections.usable(peer_id) is not None:
            return False
        return self.is_worth_waiting(peer_id) and self._is_wanted(peer_id)

    def attempt(self, peer_id: PeerId) -> Coroutine[Any, Any, object]:
        """One more dial."""
        return self._dial(peer_id)

    def may_ask_relay(self) -> bool:
        """Whether a relay may be asked again at once where a peer is not yet; it is counted."""
        return self._at_relay.take(self._loop.time())

    def ask_where(self, peer_id: PeerId, failure: P2PForwardError) -> Coroutine[Any, Any, None]:
        """Ask whoever may know, and connect."""
        return self._route(peer_id, failure)

    def search_ended(self, peer_id: PeerId) -> None:
        """Found, or given up; or wanted anew since, when this one had made up its mind."""
        del self._searches[peer_id]
        self._wake(peer_id)
        for other in (peer_id, *self._waiters):
            if other not in self._searches and self.still_wanted(other):
                self._search(other)

    def tell_silent(self, peer_id: PeerId, error: P2PForwardError | None) -> None:
        """The first dial beside was in vain; None: it is not needed any more."""
        for callback in tuple(self._silent):
            callback(peer_id, error)

    # --- order ------------------------------------------------------------------------------------

    def _tidy_later(self) -> None:
        if self._tidying is None and self._seconds and not self._connections.closing:
            self._tidying = self._loop.call_later(TIDY_S, self._tidy)

    def _tidy(self) -> None:
        self._tidying = None
        for conn in tuple(self._seconds):
            first = self._connections.usable(conn.remote_peer)
            if first is None or first is conn:
                if len(self._connections.of(conn.remote_peer)) == 1:
                    self._seconds.discard(conn)  # it has taken the other's place
            elif not conn.streams:
                self._seconds.discard(conn)
                self._tasks.spawn(conn.close(), "close the second connection")
        self._tidy_later()

    def close(self) -> None:
        """End the timer; the searches are the swarm's tasks. Idempotent."""
        if self._tidying is not None:
            self._tidying.cancel()
            self._tidying = None


class _Search:
    """For one peer: dials, one after the other and overlapping, and a question now and then."""

    def __init__(self, recovery: Recovery, peer_id: PeerId) -> None:
        self._recovery = recovery
        self._peer_id = peer_id
        self._loop = asyncio.get_running_loop()
        self._dial_at = self._ask_at = self._loop.time()
        self._news = asyncio.Event()
        self._dials: set[asyncio.Task[object]] = set()
        self._asking: asyncio.Task[None] | None = None
        self._told = False

    def hurry(self) -> None:
        """Something changed: dial now."""
        self._news.set()

    async def run(self) -> None:
        """Until there is a connection that answers, or nobody wants one."""
        try:
            while self._recovery.still_wanted(self._peer_id):
                now = self._loop.time()
                if (now >= self._dial_at or self._news.is_set()) and len(self._dials) < MAX_DIALS:
                    self._news.clear()
                    self._dial_at = now + REDIAL_S
                    self._dials.add(self._loop.create_task(self._recovery.attempt(self._peer_id)))
                full = len(self._dials) >= MAX_DIALS
                await self._wait(REDIAL_S if full else max(0.05, self._dial_at - self._loop.time()))
                self._reap()
        finally:
            left = [*self._dials, *([self._asking] if self._asking is not None else [])]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            self._recovery.search_ended(self._peer_id)

    async def _wait(self, timeout_s: float) -> None:
        """For news, for the end of a dial, or for the next one's time."""
        news = self._loop.create_task(self._news.wait())
        waits: set[asyncio.Task[Any]] = {*self._dials, news}
        if self._asking is not None:
            waits.add(self._asking)
        if len(self._dials) >= MAX_DIALS:
            waits.discard(news)
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            await asyncio.gather(news, return_exceptions=True)

    def _reap(self) -> None:
        """What became of those that ended. Raises what is no failure of a dial."""
        for dial in [task for task in self._dials if task.done()]:
            self._dials.discard(dial)
            failure = dial.exception()
            if isinstance(failure, P2PForwardError):
                self._failed(failure)
            elif failure is not None:
                raise failure
        if self._asking is not None and self._asking.done():
            failure = None if self._asking.cancelled() else self._asking.exception()
            self._asking = None
            if failure is not None and not isinstance(failure, P2PForwardError):
                raise failure

    def _failed(self, failure: P2PForwardError) -> None:
        now = self._loop.time()
        is_not_there = any(one.code == NotAtRelay.code for one in attempts_of(failure))
        if is_not_there and self._recovery.may_ask_relay():
            self._dial_at = min(self._dial_at, now + AT_RELAY_S)
        if self._asking is None and now >= self._ask_at:
            self._ask_at = now + ROUTE_S
            self._asking = self._loop.create_task(self._recovery.ask_where(self._peer_id, failure))
        if not self._told:
            self._told = True
            why = f"{self._recovery.trouble(self._peer_id)}, and a new one fails: {failure.message}"
            self._recovery.tell_silent(self._peer_id, TimedOut(why))
