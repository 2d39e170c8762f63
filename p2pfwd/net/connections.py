"""The table of live connections, by peer: who is let in, who is told, who must go.

A second connection to a peer (both dialed at once) is legal and kept; the direct and older one is used. A
full table replaces its least useful connection. Those that nobody needs are let go after a while; idle ones
go sooner where there are too many.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ResourceLimitExceeded, TimedOut
from p2pfwd.net.connmgr import ConnMgr
from p2pfwd.net.link.contract import Link
from p2pfwd.net.refusals import Refusals
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.tasks import Tasks
from p2pfwd.net.upgrader import describe
from p2pfwd.policy.paths import Way

log = logging.getLogger("p2pfwd.net")


TRIM_EVERY_S: Final = 10.0
"""Between two looks at who is idle, while there are too many."""

LOOK_EVERY_S: Final = 30.0
"""... and while there are not: some are needed by nobody."""

BETWEEN_S: Final = 1.0
"""Between two looks at least, though newcomers make it too many: a look at 300 costs a millisecond."""


class Connections:
    """Of one swarm. `closing` is set when the swarm ends; nothing is let in from then on."""

    def __init__(
        self, peer_id: PeerId, settings: SwarmSettings, connmgr: ConnMgr, tasks: Tasks, refusals: Refusals
    ) -> None:
        self.closing = False
        self.refuses: Callable[[Link], bool] = lambda _conn: False
        """Whether the owner wants no connection with this peer, or from there."""
        self._peer_id = peer_id
        self._settings = settings
        self._connmgr = connmgr
        self._tasks = tasks
        self._refusals = refusals
        self._look: asyncio.TimerHandle | None = None
        self._let_go_at = float("-inf")
        connmgr.released = self._released
        self._conns: dict[PeerId, list[Link]] = {}
        self._connected: list[Callable[[Link], None]] = []
        self._disconnected: list[Callable[[Link], None]] = []
        self._on_closed, self._is_urgent = self._remove, connmgr.is_urgent  # the same for all connections

    def of(self, peer_id: PeerId) -> list[Link]:
        """Live connections to one peer, direct and old ones first."""
        return list(self._conns.get(peer_id, ()))

    def all(self) -> list[Link]:
        """Every live connection."""
        return [conn for conns in self._conns.values() for conn in conns]

    def usable(self, peer_id: PeerId) -> Link | None:
        """One on which streams can be opened, and about which there is no doubt."""
        return next((conn for conn in self._conns.get(peer_id, ()) if conn.is_usable), None)

    def fitting(self, peer_id: PeerId, way: Way) -> Link | None:
        """As `usable`, of those that a tunnel may go over."""
        for conn in self._conns.get(peer_id, ()):
            if way.fits(is_relayed=conn.is_relayed, is_limited=conn.limit is not None) and conn.is_usable:
                return conn
        return None

    def on_connected(self, callback: Callable[[Link], None]) -> None:
        """Be told of every new connection."""
        self._connected.append(callback)

    def on_disconnected(self, callback: Callable[[Link], None]) -> None:
        """Be told when one is over."""
        self._disconnected.append(callback)

    def add(self, conn: Link) -> None:
        """Take a connection that has come up. One that is too many is aborted, or another in its place.

        One that is here already is another dial's, too.
        """
        if conn in self._conns.get(conn.remote_peer, ()):
            return
        conns = self._conns.setdefault(conn.remote_peer, [])
        refuse: str | None
        if conn.closed.done():  # before another gives way to it
            refuse = "closed"
        elif self.closing:
            refuse = "shutting down"
        elif conn.remote_peer == self._peer_id:
            refuse = "it is this node"
        elif self.refuses(conn):
            refuse = "it is blocked"
        elif len(conns) >= self._settings.max_connections_per_peer and not self._give_way(conns):
            refuse = f"the peer has {len(conns)} connections"
        else:
            refuse = self._make_room(conn)
        if refuse is not None:
            log.debug("connection to %s dropped: %s", conn.remote_peer, refuse)
            if not conns and conn.remote_peer in self._conns:
                del self._conns[conn.remote_peer]
            conn.abort()
            return
        conns.append(conn)
        conns.sort(key=lambda c: (c.is_relayed, c.opened_at))
        conn.closed.add_done_callback(partial(self._on_closed, conn))
        peer, addr = conn.remote_peer, conn.remote_addr
        log.info("connected to %s at %s (%s, %s)", peer, addr, conn.direction, conn.security)
        for callback in self._connected:
            callback(conn)
        conn.liveness.is_urgent = self._is_urgent
        if self._too_many() and time.monotonic() - self._let_go_at >= BETWEEN_S:
            self._let_go()
        if self._look is None:
            self._look_later(conn.loop)

    def _make_room(self, conn: Link) -> str | None:
        """Let somebody go where all places are taken; why the newcomer is refused, if it is."""
        live = [other for other in self.all() if not other.closed.done()]
        full = self._connmgr.to_replace(live, conn, time.monotonic())
        if full is None:
            return None
        what, victim = full
        if victim is None:
            self._refusals.note("connections-full", conn.crowd, f"refused: {what}, and none can give way")
            return what
        self._refusals.note("connection-replaced", victim.crowd, f"a connection gave way to another: {what}")
        victim.abort(ResourceLimitExceeded("it gave way to another connection"))
        return None

    def _too_many(self) -> bool:
        return sum(map(len, self._conns.values())) > self._settings.high_water

    def _let_go(self) -> None:
        """Close the connections that nobody needs, and idle ones if there are too many."""
        conns, now = self.all(), time.monotonic()
        self._let_go_at = now
        for conn in dict.fromkeys((*self._connmgr.to_let_go(conns, now), *self._connmgr.to_trim(conns, now))):
            log.info("letting go of the idle connection to %s", conn.remote_peer)
            self._tasks.spawn(conn.close(), "let go")

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        def look() -> None:
            self._look = None
            if self._conns and not self.closing:
                self._let_go()
                self._look_later(loop)

        delay_s = TRIM_EVERY_S if self._too_many() else LOOK_EVERY_S
        self._look = loop.call_later(delay_s, look)

    def close(self) -> None:
        """Let nothing in, and look no more. Idempotent."""
        self.closing = True
        if self._look is not None:
            self._look.cancel()

    def _released(self, peer_id: PeerId) -> None:
        """From now on its connections are idle."""
        for conn in self._conns.get(peer_id, ()):
            conn.useful_at = time.monotonic()

    def _give_way(self, conns: list[Link]) -> bool:
        """End one of a peer's connections that is in doubt: the newcomer has just answered."""
        doubtful = [conn for conn in conns if conn.liveness.doubtful]
        if doubtful:
            max(doubtful, key=lambda conn: conn.liveness.silent_s).abort(TimedOut("another took its place"))
        return bool(doubtful)

    def _remove(self, conn: Link, closed: asyncio.Future[Exception | None]) -> None:
        conns = self._conns[conn.remote_peer]
        conns.remove(conn)
        if not conns:
            del self._conns[conn.remote_peer]
        cause = closed.result()
        log.info("disconnected from %s: %s", conn.remote_peer, describe(cause) if cause else "closed")
        for callback in self._disconnected:
            callback(conn)
