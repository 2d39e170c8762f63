"""Giving memory back to the system when a busy time is over.

Python and glibc keep what was freed, for they may need it again: a daemon that held 150 MB for a minute shows
them for good. So some time after things have ended one look is taken; if much more is resident than in quiet
times, garbage is collected and glibc asked to return free pages. It costs tens of milliseconds, so it is done
seldom, and less and less often where it does not help: then the memory is in use.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from typing import Final

LOOK_AFTER_S: Final = 8.0
"""From the first thing that ended to the look: within the half minute in which memory is to be back."""

SLACK_BYTES: Final = 4 << 20
"""What may be resident beyond the quiet times' without anything being done."""

MAX_TRIES: Final = 3
"""Looks in a row that find much resident, each after twice the time of the one before."""


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
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class MemoryKeeper:
    """Of one event loop. `stir` whenever something that held memory has ended; `close` at the end."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        resident: Callable[[], int] = rss_bytes,
        release: Callable[[], None] = give_back,
        spare: Callable[[], None] = lambda: None,
    ) -> None:
        """`spare` lets go of what is kept for the next busy time; `release` gives free memory back."""
        self._loop = loop
        self._spare = spare
        self._resident = resident
        self._release = release
        self._quiet_bytes = 0
        self._tries = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def started(self) -> None:
        """Quiet times are as now, or will be less."""
        self._quiet_bytes = self._resident()

    def stir(self) -> None:
        """Something has ended."""
        if self._timer is None and not self._closed:
            self._tries = 0
            self._look_after(LOOK_AFTER_S)

    def _look_after(self, delay_s: float) -> None:
        self._timer = self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._is_quiet():
            return
        self._spare()
        self._release()
        self._tries += 1
        if self._is_quiet():
            return
        if self._tries < MAX_TRIES:
            self._look_after(LOOK_AFTER_S * 2**self._tries)
        else:  # it is in use
            self._quiet_bytes = self._resident()

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
