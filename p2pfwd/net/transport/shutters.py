"""Listening sockets shut to networks that come too fast, for as long as they are turned away.

A flood that is accepted only to be closed comes again at once, five thousand times a second, and had a fifth
of this node. So its networks are kept out by the system, where it can (`system.syn_filter`). Elsewhere, and
until the next look, each of its connections is turned away by itself (`porch`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

from p2pfwd.system import syn_filter

log = logging.getLogger("p2pfwd.net")

LOOK_S: Final = 0.1
"""Between two looks at who is turned away; each may set the filters anew."""


class Shutters:
    """Of all listening sockets together."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._socks: list[socket.socket] = []
        self._out: frozenset[str] = frozenset()
        self._timer: asyncio.TimerHandle | None = None
        self._can = syn_filter.IS_HERE

    def add(self, sock: socket.socket) -> None:
        """One more; it takes whom the others take."""
        self._socks.append(sock)
        if self._out:
            self._keep_out(self._out)

    def remove(self, sock: socket.socket) -> None:
        """It is closed, or will be now. Idempotent."""
        if sock in self._socks:
            self._socks.remove(sock)
        if not self._socks and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._out = frozenset()

    def let_in(self, sock: socket.socket) -> None:
        """One that was accepted: it has the filter of the one that listens, and is to have none."""
        if self._can:
            syn_filter.take_all(sock)

    def look(self, shut_out: Callable[[], frozenset[str]]) -> None:
        """Somebody was turned away: `shut_out` says who is, now and later, until it names nobody."""
        if self._timer is None and self._can:
            self._look(shut_out)

    def _look(self, shut_out: Callable[[], frozenset[str]]) -> None:
        self._timer = None
        out = shut_out()
        if out != self._out:
            self._out = out
            self._keep_out(out)
        if out and self._can:
            self._timer = self._loop.call_later(LOOK_S, self._look, shut_out)

    def _keep_out(self, networks: frozenset[str]) -> None:
        try:
            for sock in self._socks:
                syn_filter.keep_out(sock, networks)
        except OSError as exc:  # forbidden, or no memory: it is done without, then
            log.debug("no filter for listening sockets: %s", exc)
            self._can, self._out = False, frozenset()
            for sock in self._socks:
                syn_filter.take_all(sock)
