"""Waiting for the next small message without going to sleep, while messages follow each other closely.

Waking a process that sleeps takes a few microseconds on bare metal and tens of them on a virtual machine,
whose processor the host has to start again. A round trip through a tunnel has four such wake-ups in its two
daemons: of 225 us on a virtual machine of two processors they were 140 (`make bench`, phase rtt). So while
small messages follow each other closely the loop does not sleep; it keeps asking the kernel, and in between
gives the processor to whoever else wants it. The rules are those of a hypervisor's halt polling:

- it begins only after `STREAK` messages in a row came within the window of the one before, since then the
  next is likely to; a far peer's answers never do;
- it ends when none came within the window, and the streak starts again: at most one window in `STREAK`
  messages is spent for nothing;
- bulk ends it: there the loop rarely sleeps, and others need the processors.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Final

SMALL_BYTES: Final = 4096
"""A read or send of less is a message, of more is bulk."""

STREAK: Final = 8
"""Messages in close succession before the loop stays awake for the next."""


sched_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: None)


class BusyPoll:
    """One per event loop; told of every read and send of its connections. `window_s` 0: never polls.

    `run_ready` asks the kernel, and calls back for what is ready.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        window_s: float,
        run_ready: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        yield_processor: Callable[[], None] = sched_yield,
    ) -> None:
        self._loop = loop
        self._window_s = window_s
        self._run_ready = run_ready
        self._clock = clock
        self._yield_processor = yield_processor
        self._streak = 0
        self._until = 0.0
        self._polling = False
        self.moves = 0
        """How often connections received or sent: who has time to spare asks whether anybody was busy."""

    def moved(self, nbytes: int) -> None:
        """A connection received or sent `nbytes` at once."""
        self.moves += 1
        if nbytes >= SMALL_BYTES or not self._window_s:
            self._streak = 0
            return
        now = self._clock()
        self._streak = self._streak + 1 if now < self._until else 0
        self._until = now + self._window_s
        if self._streak >= STREAK and not self._polling:
            self._polling = True
            self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        """Run once a turn while polling: a loop with something to call does not sleep."""
        if self._streak < STREAK or self._clock() >= self._until:
            self._polling = False
            self._streak = 0
            return
        self._yield_processor()
        self._loop.call_soon(self._poll)
        self._run_ready()

    def close(self) -> None:
        """Poll no more."""
        self._window_s = 0.0
        self._streak = 0
