"""Relayed connections that nobody needs any more, for there is a direct one to the same peer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from p2pfwd.net.connections import Connections
from p2pfwd.net.paths import Paths

log = logging.getLogger("p2pfwd.punch")

GRACE_S: Final = 15.0
"""Before a relayed connection without streams is closed, once there is a direct one."""


class Needless:
    """Of one node: `look_later` where there may be some."""

    def __init__(
        self,
        connections: Connections,
        paths: Paths,
        spawn: Callable[[Coroutine[Any, Any, Any], str], object],
    ) -> None:
        self._connections = connections
        self._paths = paths
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def look_later(self) -> None:
        """In a while, and again as long as there are both kinds to a peer."""
        if self._timer is None and not self._connections.closing:
            self._timer = self._loop.call_later(GRACE_S, self._look)

    def close(self) -> None:
        """Look no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        left, now = False, time.monotonic()
        for conn in self._connections.all():
            direct = self._paths.direct(conn.remote_peer) if conn.is_relayed else None
            if direct is None:
                continue
            left = True
            if not conn.streams and now - max(direct.opened_at, conn.opened_at) >= GRACE_S:
                log.info("the relayed connection to %s is not needed any more", conn.remote_peer)
                self._spawn(conn.close(), "close a relayed connection")
        if left:
            self.look_later()
