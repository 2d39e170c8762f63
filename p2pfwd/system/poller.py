"""Readiness of the data path's sockets: an epoll of our own, which the event loop watches as one descriptor.

Why not the loop's own readers: uvloop tells of a socket that failed (EPOLLERR) once and then forgets it. A
service that answers and resets in one breath is then read once, and its reset never seen: the tunnel hangs.
Here a socket is told of as long as it is ready, failed ones included, and whatever runs the loop. It costs
2 us an event (of 60 for one of 64 KiB), and less to add and remove than uvloop's handles.

A socket that is not read, because its end was read or because there is no room for more, can still fail.
`watch_failure` takes the reader's place then: epoll tells of failures whatever is asked for.

Where there is no epoll the loop's own readers serve, and a failure shows at the next send or receive.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Callable
from typing import Final, Protocol

log = logging.getLogger("p2pfwd.net")

MAX_EVENTS: Final = 64
"""Taken at once; the loop gets its turn in between."""

_IN: Final = 1  # EPOLLIN, EPOLLOUT: their values are the kernel's
_OUT: Final = 4

Callback = Callable[[], None]


class Readiness(Protocol):
    """What the data path needs of it."""

    def add_reader(self, fd: int, callback: Callback, /) -> object:
        """Call back whenever the descriptor can be read, has ended or has failed."""

    def watch_failure(self, fd: int, callback: Callback, /) -> object:
        """In place of a reader: call back while the descriptor has failed, or is shut down both ways.

        `remove_reader` ends it.
        """

    def remove_reader(self, fd: int, /) -> object:
        """No longer; nothing where there is none."""

    def add_writer(self, fd: int, callback: Callback, /) -> object:
        """Call back whenever the descriptor can be written, or has failed."""

    def remove_writer(self, fd: int, /) -> object:
        """No longer; nothing where there is none."""


class Poller:
    """Of one event loop. Level-triggered; callbacks may add and remove any descriptor. End with `close`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._masks: dict[int, int] = {}
        """What epoll is asked about each descriptor: 0 for one whose reader waits for a failure only."""
        loop.add_reader(self._epoll.fileno(), self.run_ready)

    def add_reader(self, fd: int, callback: Callback, /) -> None:
        """See `Readiness`."""
        self._readers[fd] = callback
        self._ask(fd, self._masks.get(fd, 0) | _IN)

    def watch_failure(self, fd: int, callback: Callback, /) -> None:
        """See `Readiness`."""
        self._readers[fd] = callback
        self._ask(fd, self._masks.get(fd, 0) & ~_IN)

    def add_writer(self, fd: int, callback: Callback, /) -> None:
        """See `Readiness`."""
        self._writers[fd] = callback
        self._ask(fd, self._masks.get(fd, 0) | _OUT)

    def remove_reader(self, fd: int, /) -> None:
        """See `Readiness`."""
        if self._readers.pop(fd, None) is not None:
            self._forget(fd, _IN)

    def remove_writer(self, fd: int, /) -> None:
        """See `Readiness`."""
        if self._writers.pop(fd, None) is not None:
            self._forget(fd, _OUT)

    def _ask(self, fd: int, mask: int) -> None:
        asked = self._masks.get(fd)
        if asked is None:
            self._epoll.register(fd, mask)
        elif asked != mask:
            self._epoll.modify(fd, mask)
        self._masks[fd] = mask

    def _forget(self, fd: int, bit: int) -> None:
        if fd in self._readers or fd in self._writers:
            self._ask(fd, self._masks[fd] & ~bit)
        else:
            del self._masks[fd]
            self._epoll.unregister(fd)

    def shrink(self) -> None:
        """Let go of the room that many descriptors needed: a dictionary keeps it for good."""
        self._readers, self._writers = dict(self._readers), dict(self._writers)
        self._masks = dict(self._masks)

    def run_ready(self) -> None:
        """Call back for what is ready now."""
        readers, writers = self._readers, self._writers
        for fd, events in self._poll(0, MAX_EVENTS):
            try:
                if events != _OUT and (callback := readers.get(fd)) is not None:
                    callback()
                if events != _IN and (callback := writers.get(fd)) is not None:
                    callback()
            except Exception:
                log.exception("a callback of descriptor %d failed", fd)

    def close(self) -> None:
        """Watch nothing any more. Idempotent."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()


class LoopPoller:
    """The same by the loop's own means."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.add_reader = loop.add_reader
        self.remove_reader = loop.remove_reader
        self.add_writer = loop.add_writer
        self.remove_writer = loop.remove_writer

    def watch_failure(self, fd: int, _callback: Callback, /) -> None:
        """Only no longer a reader: a loop's reader of a socket at its end would be called for ever."""
        self.remove_reader(fd)

    def shrink(self) -> None:
        """Nothing: the loop keeps its own."""

    def run_ready(self) -> None:
        """Nothing: the loop does."""

    def close(self) -> None:
        """Nothing."""


def make_poller(loop: asyncio.AbstractEventLoop) -> Poller | LoopPoller:
    """The best there is on this system."""
    return Poller(loop) if hasattr(select, "epoll") else LoopPoller(loop)
