"""Giving memory back to the system when a busy time is over.

Python and glibc keep what was freed, for they may need it again: a daemon that held 150 MB for a minute shows
them for good. So when nothing more has ended for a while a look is taken; if much more is resident than in
quiet times, garbage is collected and glibc asked to return free pages. It costs tens of milliseconds, so it
is done seldom. Where things never cease to end it is done all the same, once a minute.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

LOOK_AFTER_S: Final = 5.0
"""From the first thing that ended to a look, and from one look to the next."""

SLACK_BYTES: Final = 4 << 20
"""What may be resident beyond the quiet times' without anything being done."""

REST_S: Final = 15.0
"""At least so long after memory was given back it is not tried again: all is over within half a minute. Then
it is tried once more, for of who has gone some things are kept for a time."""

BUSY_S: Final = 60.0
"""So long it is put off at most, for a time in which nothing ends."""


def rss_bytes() -> int:
    """Resident memory of this process; where there is no /proc the most it ever was."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def give_back() -> None:
    """Collect garbage, and have glibc return its free pages; another C library is left alone."""
    gc.collect()
    if sys.platform == "linux":
        # A C library without it; a Python without what is below `ctypes`, or with another.
        with suppress(OSError, ImportError, AttributeError, TypeError):
            import _ctypes  # `ctypes` makes 400 objects, in the very memory that is to be freed

            program = _ctypes.dlopen(None, os.RTLD_NOW)  # type: ignore[arg-type]  # as `ctypes.CDLL(None)` does
            _ctypes.call_function(_ctypes.dlsym(program, "malloc_trim"), (0,))


class MemoryKeeper:
    """Of one event loop. `stir` whenever something that held memory has ended; `close` at the end."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        resident: Callable[[], int] = rss_bytes,
        release: Callable[[], None] = give_back,
    ) -> None:
        """`release` gives free memory back."""
        self._loop = loop
        self._spares: list[Callable[[], None]] = []
        self._resident = resident
        self._release = release
        self._quiet_bytes = 0
        self._stirred = False
        """Whether anything has ended since the last look."""
        self._once = False
        """Whether memory was given back since anything has ended."""
        self._released_at = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def started(self) -> None:
        """Quiet times are as now, or will be less."""
        self._quiet_bytes = self._resident()

    def on_spare(self, callback: Callable[[], None]) -> None:
        """Have this called before memory is given back: it lets go of what is kept and needed no more."""
        self._spares.append(callback)

    def stir(self) -> None:
        """Something has ended."""
        self._stirred, self._once = True, False
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(LOOK_AFTER_S, self._look)

    def _look(self) -> None:
        self._timer = None
        was_stirred, self._stirred = self._stirred, False
        if self._is_quiet():
            return
        rested_s = self._loop.time() - self._released_at
        if rested_s >= (BUSY_S if was_stirred else REST_S):
            for spare in self._spares:
                spare()
            self._release()
            self._released_at = self._loop.time()
            if self._once:
                return
            self._once = not was_stirred
        self._timer = self._loop.call_later(LOOK_AFTER_S, self._look)

    def _is_quiet(self) -> bool:
        resident = self._resident()
        if not self._quiet_bytes or resident < self._quiet_bytes:
            self._quiet_bytes = resident
        return resident <= self._quiet_bytes + SLACK_BYTES

    def close(self) -> None:
        """Look no more. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
