"""Two conduits, moved into each other: what comes on the one is sent on the other, as it is.

Rules:
- A piece that has come is sent at once. While the other conduit cannot send, this one is not read: at most
  one read waits here for each way, and the system's own windows slow the sender.
- The end of what one sends is passed on behind it, and so is the loss of one: the other is aborted.
- While bytes pass, or wait, a line that is cut is tried again every few seconds.
- Once one has ended, the other has `LINGER_S` to end as well.
- Two on which nothing passes for `IDLE_S` are ended: their machines may be gone without a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from p2pfwd.net.conduit.contract import Conduit
from p2pfwd.net.conduit.hurry import Hurry

LINGER_S: Final = 30.0
"""For what was sent before the end to arrive, and its receiver to end as well."""

IDLE_S: Final = 300.0
"""Connections of p2pfwd ask each other whether they live every two minutes, at least."""

WATCH_S: Final = 1.0
"""Between two looks at whether the lines are whole, while there is traffic."""


class Pair:
    """Of two conduits that nobody else reads. `on_over()` is called exactly once."""

    def __init__(
        self, one: Conduit, other: Conduit, loop: asyncio.AbstractEventLoop, on_over: Callable[[], None]
    ) -> None:
        self.is_over = False
        self.one, self.other = End(self, one), End(self, other)
        self.one.opposite, self.other.opposite = self.other, self.one
        self._loop = loop
        self._on_over = on_over
        self._linger: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._watched = 0
        """Bytes that had passed at the last look."""
        self._lines = Hurry(one, loop.time), Hurry(other, loop.time)

    def start(self, first: bytes) -> None:
        """Send `first` on both, then move bytes."""
        for end in (self.one, self.other):
            end.conduit.send(memoryview(first))
        for end in (self.one, self.other):
            if not self.is_over:
                end.conduit.start(end)
        self._look(-1)

    def _look(self, before: int) -> None:
        passed = self.one.passed + self.other.passed
        if passed == before:
            self.abort()
        elif not self.is_over:
            self._idle = self._loop.call_later(IDLE_S, self._look, passed)

    def stir(self) -> None:
        """Something has passed: watch the lines."""
        if self._watch is None and not self.is_over:
            for line in self._lines:
                line.settled()  # nothing was on its way
            self._watch_later()

    def _watch_later(self) -> None:
        self._watch = self._loop.call_later(WATCH_S, self._look_at_lines)

    def _look_at_lines(self) -> None:
        self._watch = None
        waits = [line.look() for line in self._lines]
        before, self._watched = self._watched, self.one.passed + self.other.passed
        if any(waits) or self._watched != before:
            self._watch_later()

    def ended(self) -> None:
        """One of them has ended: nothing of it waits in the other, or it had not been read to its end."""
        if self.one.at_eof and self.other.at_eof:
            self.abort()
        elif self._linger is None:
            self._linger = self._loop.call_later(LINGER_S, self.abort)

    def abort(self) -> None:
        """End both at once. Idempotent."""
        if self.is_over:
            return
        self.is_over = True
        for timer in (self._linger, self._idle, self._watch):
            if timer is not None:
                timer.cancel()
        self.one.conduit.abort()
        self.other.conduit.abort()
        self._on_over()


class End:
    """One of them, and its receiver."""

    __slots__ = ("at_eof", "conduit", "opposite", "pair", "passed")

    opposite: End
    missing = 0

    def __init__(self, pair: Pair, conduit: Conduit) -> None:
        self.pair = pair
        self.conduit = conduit
        self.at_eof = False
        self.passed = 0
        """Bytes that have come from it."""

    def data_received(self, view: memoryview) -> int:
        """They go on at once, or wait in the other conduit."""
        other = self.opposite.conduit
        other.send(view)
        self.passed += len(view)
        self.pair.stir()
        if other.congested:
            self.conduit.pause()
        return len(view)

    def drained(self) -> None:
        """What the opposite one gave has been sent."""
        self.opposite.conduit.resume()

    def eof_received(self) -> None:
        """No more comes from it."""
        self.at_eof = True
        self.opposite.conduit.finish()
        self.pair.ended()

    def conduit_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.pair.abort()
