"""Streams on which no byte passes either way: reset after their listen's idle timeout; the peer is told why.

One timer for all of them, which looks now and then: a stream is never reset early, and at most a look late.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol

from p2pfwd.wire.yamux.reset_codes import IDLE

if TYPE_CHECKING:
    from p2pfwd.forwarding.registry import Listener
    from p2pfwd.forwarding.splice import Splice

log = logging.getLogger("p2pfwd.forwarding")

LOOKS: Final = 10
"""In an idle timeout."""

LEAST_LOOK_S: Final = 0.5
MOST_LOOK_S: Final = 30.0


class Tunnel(Protocol):
    """What is asked of a tunnelled connection (`forwarding.streams.StreamEntry`)."""

    id: int
    listener: Listener
    splice: Splice | None

    def describe(self) -> str:
        """For log lines."""


class IdleWatch:
    """Of one forwarding service; `entries` gives the live streams."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, entries: Callable[[], Iterable[Tunnel]]
    ) -> None:
        self._loop = loop
        self._entries = entries
        self._moved: dict[int, tuple[int, float]] = {}
        """By stream: how many bytes had passed when it was last seen to move, and when that was."""
        self._timer: asyncio.TimerHandle | None = None
        self._look_s = MOST_LOOK_S

    def watch(self, idle_timeout_s: int) -> None:
        """A stream with this timeout is there from now on."""
        look_s = min(MOST_LOOK_S, max(LEAST_LOOK_S, idle_timeout_s / LOOKS))
        if self._timer is None or look_s < self._look_s:
            self.close()
            self._look_s = look_s
            self._look()

    def _look(self) -> None:
        self._timer = None
        now, before, self._moved = self._loop.time(), self._moved, {}
        shortest = 0
        for entry in tuple(self._entries()):
            timeout_s, splice = entry.listener.idle_timeout_s, entry.splice
            if not timeout_s:
                continue
            shortest = min(shortest or timeout_s, timeout_s)
            if splice is None:
                continue  # its target is still being dialed
            moved = splice.bytes_in + splice.bytes_out
            was, since = before.get(entry.id, (-1, now))
            if moved != was:
                since = now
            if now - since >= timeout_s:
                log.info("%s: nothing passed for %d s", entry.describe(), timeout_s)
                splice.reset(IDLE)
            else:
                self._moved[entry.id] = moved, since
        if shortest:
            self._look_s = min(MOST_LOOK_S, max(LEAST_LOOK_S, shortest / LOOKS))
            self._timer = self._loop.call_later(self._look_s, self._look)

    def close(self) -> None:
        """Look no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
