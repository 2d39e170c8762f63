"""What ends by itself: tunnels and rights made with `--expires`, at the time that the wall clock shows.

Rules: for each kind one task waits for its earliest end, so that none waits for the disk of another. It looks
at the clock again every `LOOK_S`, so a clock that is set forward, or a machine that slept, ends things within
that time; one that is set back lets them last longer. What has ended does so in memory, whether or not the
disk takes it; it is dropped at a start, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from p2pfwd.core.durations import MAX_S
from p2pfwd.errors import UsageError

log = logging.getLogger("p2pfwd.state")

LOOK_S: Final = 30.0
"""A wait is cut into pieces of this: the wall clock may be set meanwhile."""


class Ending(Protocol):
    """One kind of things that end."""

    ends_changed: Callable[[], None]

    def next_end(self) -> float | None:
        """Unix seconds of what ends first; None where nothing does."""

    async def end_due(self, now: float) -> None:
        """End what is to end at `now` or before."""


class Expiry:
    """Of one daemon."""

    def __init__(self, kinds: Sequence[Ending], clock: Callable[[], float] = time.time) -> None:
        self._kinds = {kind: asyncio.Event() for kind in kinds}
        """With what tells that its ends have changed."""
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []
        for kind, changed in self._kinds.items():
            kind.ends_changed = changed.set

    def start(self) -> None:
        """From now on things end."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run(*one)) for one in self._kinds.items()]

    async def close(self) -> None:
        """Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, kind: Ending, changed: asyncio.Event) -> None:
        while True:
            changed.clear()
            end = kind.next_end()
            wait_s = None if end is None else min(LOOK_S, max(0.0, end - self._clock()))
            try:
                async with asyncio.timeout(wait_s):
                    await changed.wait()
            except TimeoutError:
                await self._end_due(kind)

    async def _end_due(self, kind: Ending) -> None:
        now, end = self._clock(), kind.next_end()
        if end is None or end > now:
            return
        try:
            await kind.end_due(now)
        except Exception:
            log.exception("a defect here kept what has expired")
            await asyncio.sleep(LOOK_S)


def end_after(expires_s: float | None, clock: Callable[[], float] = time.time) -> float:
    """Unix seconds of an end that is so far away; 0 for none. Raises UsageError."""
    if expires_s is None:
        return 0.0
    if not 0 < expires_s <= MAX_S:
        raise UsageError(f"an end in {expires_s:g} s; it must be above 0 and at most 100 years away")
    return clock() + expires_s
