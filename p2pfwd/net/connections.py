"""The table of live connections, by peer: who is let in, who is told, who must go.

A second connection to a peer (both dialed at once) is legal and kept; the direct and older one is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import TimedOut
from p2pfwd.net.connmgr import ConnMgr
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.tasks import Tasks
from p2pfwd.net.upgrader import describe

log = logging.getLogger("p2pfwd.net")


class Connections:
    """Of one swarm. `closing` is set when the swarm ends; nothing is let in from then on."""

    def __init__(self, peer_id: PeerId, settings: SwarmSettings, connmgr: ConnMgr, tasks: Tasks) -> None:
        self.closing = False
        self._peer_id = peer_id
        self._settings = settings
        self._connmgr = connmgr
        self._tasks = tasks
        self._conns: dict[PeerId, list[Conn]] = {}
        self._connected: list[Callable[[Conn], None]] = []
        self._disconnected: list[Callable[[Conn], None]] = []

    def of(self, peer_id: PeerId) -> list[Conn]:
        """Live connections to one peer, direct and old ones first."""
        return list(self._conns.get(peer_id, ()))

    def all(self) -> list[Conn]:
        """Every live connection."""
        return [conn for conns in self._conns.values() for conn in conns]

    def usable(self, peer_id: PeerId) -> Conn | None:
        """One on which streams can be opened, and about which there is no doubt."""
        return next((conn for conn in self._conns.get(peer_id, ()) if conn.is_usable), None)

    def on_connected(self, callback: Callable[[Conn], None]) -> None:
        """Be told of every new connection."""
        self._connected.append(callback)

    def on_disconnected(self, callback: Callable[[Conn], None]) -> None:
        """Be told when one is over."""
        self._disconnected.append(callback)

    def add(self, conn: Conn) -> None:
        """Take a connection that has come up; one that is too many is aborted."""
        conns = self._conns.setdefault(conn.remote_peer, [])
        refuse = None
        if self.closing:
            refuse = "shutting down"
        elif conn.remote_peer == self._peer_id:
            refuse = "it is this node"
        elif len(conns) >= self._settings.max_connections_per_peer and not self._give_way(conns):
            refuse = f"the peer has {len(conns)} connections"
        if refuse is not None or conn.closed.done():
            log.debug("connection to %s dropped: %s", conn.remote_peer, refuse or "closed")
            if not conns:
                del self._conns[conn.remote_peer]
            conn.abort()
            return
        conns.append(conn)
        conns.sort(key=lambda c: (c.is_relayed, c.opened_at))
        conn.closed.add_done_callback(lambda _: self._remove(conn))
        peer, addr = conn.remote_peer, conn.remote_addr
        log.info("connected to %s at %s (%s, %s)", peer, addr, conn.direction, conn.security)
        for callback in self._connected:
            callback(conn)
        for idle in self._connmgr.to_trim(self.all(), conn.loop.time()):
            log.info("trimming the idle connection to %s", idle.remote_peer)
            self._tasks.spawn(idle.close(), "trim")

    def _give_way(self, conns: list[Conn]) -> bool:
        """End one of a peer's connections that is in doubt: the newcomer has just answered."""
        doubtful = [conn for conn in conns if conn.liveness.doubtful]
        if doubtful:
            max(doubtful, key=lambda conn: conn.liveness.silent_s).abort(TimedOut("another took its place"))
        return bool(doubtful)

    def _remove(self, conn: Conn) -> None:
        conns = self._conns[conn.remote_peer]
        conns.remove(conn)
        if not conns:
            del self._conns[conn.remote_peer]
        cause = conn.closed.result()
        log.info("disconnected from %s: %s", conn.remote_peer, describe(cause) if cause else "closed")
        for callback in self._disconnected:
            callback(conn)
