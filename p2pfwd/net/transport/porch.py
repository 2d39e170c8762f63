"""Connections that are turned away: each stays for a moment, unread, before it is closed.

A flood comes again as soon as it is refused. Closed at once, its connections were taken and closed a thousand
times a second, which was a tenth of what this node did. So whoever is turned away has to wait first.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from typing import Final

STAY_S: Final = 1.0
"""How long a connection stays; closed up to a tenth of it earlier, some together."""

ROOM: Final = 2048
"""What the system may hold of what one sends: bytes of SO_RCVBUF. Linux takes one packet more: 32 KiB at most
between two programs of one machine, and a tenth of that from elsewhere."""


class Porch:
    """Of all listening sockets together: who stays holds a descriptor, of which the process has so many."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        """`most` stay; the next is closed at once."""
        self._loop = loop
        self._most = most
        self._stays: deque[tuple[float, socket.socket]] = deque()  # the first to go first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._stays)

    def keep(self, sock: socket.socket) -> None:
        """Close it in a while; at once where there are too many."""
        if len(self._stays) >= self._most:
            sock.close()
            return
        with contextlib.suppress(OSError):  # macOS: of a peer that has gone already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        self._stays.append((self._loop.time() + STAY_S, sock))
        if self._timer is None:
            self._timer = self._loop.call_later(STAY_S, self._close_due)

    def _close_due(self) -> None:
        until = self._loop.time() + STAY_S / 10
        while self._stays and self._stays[0][0] <= until:
            self._stays.popleft()[1].close()
        self._timer = self._loop.call_at(self._stays[0][0], self._close_due) if self._stays else None

    def close(self) -> None:
        """Close all now. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._stays:
            self._stays.popleft()[1].close()
