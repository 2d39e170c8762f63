"""Waiting for the next small message without going to sleep, while messages follow each other closely.

Waking a process that sleeps takes a few microseconds on bare metal and tens of them on a virtual machine,
whose processor the host has to start again. A round trip through a tunnel has four such wake-ups in its two
daemons: of 225 us on a virtual machine of two processors they were 140 (`make bench`, phase rtt). So while
small messages follow each other closely the loop does not sleep; it keeps asking the kernel, and in between
gives the processor to whoever else wants it. The rules are those of a hypervisor's halt polling:

- it begins only after `STREAK` messages in a row came within the window of the one before, since then the
  next is likely to; a far peer's answers never do;
- it ends when none came within the window, and the streak starts again: at most one window in `STREAK`
  messages is spent for nothing, and never more than one for a message;
- bulk ends it: there the loop rarely sleeps, and others need the processors.

Whether it pays on this machine, and may be done at all, is for `Judge` to say, run by run of messages. An
idle loop does nothing for any of this.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Final, Protocol

WINDOW_S: Final = 0.0005
"""How long the loop stays awake for the next message."""

SMALL_BYTES: Final = 4096
"""A read or send of less is a message, of more is bulk."""

STREAK: Final = 8
"""Messages in close succession before the loop stays awake for the next."""


sched_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: None)


class Judge(Protocol):
    """See `policy.waking`. Asked before and told after each run, which a pause or bulk cuts short untold."""

    def polls(self, now: float) -> bool: ...
    def ran(self, now: float, took_s: float, *, polled: bool) -> None: ...


class BusyPoll:
    """One per event loop; told of every read and send of its connections. Without a `judge` it never polls.

    `run_messages`: of one run. `run_ready` asks the kernel, and calls back for what is ready.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        judge: Judge | None,
        run_messages: int,
        run_ready: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        yield_processor: Callable[[], None] = sched_yield,
    ) -> None:
        self._loop = loop
        self._judge = judge
        self._run_messages = run_messages
        self._run_ready = run_ready
        self._clock = clock
        self._yield_processor = yield_processor
        self._streak = 0
        self._until = 0.0
        self._polling = False
        self._polls = False  # through the run that is under way
        self._run_from = 0.0
        self.moves = 0
        """How often connections received or sent: who has time to spare asks whether anybody was busy."""

    def moved(self, nbytes: int) -> None:
        """A connection received or sent `nbytes` at once."""
        self.moves += 1
        if nbytes >= SMALL_BYTES or self._judge is None:
            self._streak = 0
            return
        now = self._clock()
        self._streak = self._streak + 1 if now < self._until else 0
        self._until = now + WINDOW_S
        if self._streak < STREAK:
            return
        ran = self._streak - STREAK
        if ran % self._run_messages == 0:
            if ran:
                self._judge.ran(now, now - self._run_from, polled=self._polls)
            self._polls, self._run_from = self._judge.polls(now), now
        if self._polls and not self._polling:
            self._polling = True
            self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        """Run once a turn while polling: a loop with something to call does not sleep."""
        if not self._polls or self._streak < STREAK:
            self._polling = False
            return
        if self._clock() >= self._until:
            self._polling = False
            self._streak = 0
            return
        self._yield_processor()
        self._loop.call_soon(self._poll)
        self._run_ready()

    def close(self) -> None:
        """Poll no more."""
        self._judge = None
        self._streak = 0
