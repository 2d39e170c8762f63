"""Looks after clients whose end of data is held: on one tick for all, by one kept socket of the kernel's.

What all looks of a tick find out, the FINs they send above all, goes out in one message and costs one wake-up
on either side. There is no timer while there is nobody to look after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from p2pfwd.system.sock_diag import SockDiag

TICK_S: Final = 0.05


class Look:
    """One that is due; `cancel` when it is not wanted any more."""

    __slots__ = ("_looks", "callback", "tick")

    def __init__(self, looks: Looks, tick: int, callback: Callable[[], None]) -> None:
        self._looks = looks
        self.tick = tick
        self.callback = callback

    def cancel(self) -> None:
        """Idempotent; nothing after it was taken."""
        self._looks.cancel(self)


class Looks:
    """Of one forwarding service; end with `close`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, diag: SockDiag | None = None) -> None:
        self._loop = loop
        self._due: dict[int, dict[Look, None]] = {}
        """By tick, counted from the loop's beginning of time."""
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0  # for which tick the timer is, or was
        self._taken = 0  # the last tick whose looks were taken
        self.diag = diag or SockDiag()

    def later(self, delay_s: float, callback: Callable[[], None]) -> Look:
        """Call back at the last tick that is no more than `delay_s` away, or else at the next one."""
        now = self._loop.time()
        tick = max(self._taken + 1, int(now / TICK_S) + 1, int((now + delay_s) / TICK_S))
        look = Look(self, tick, callback)
        self._due.setdefault(tick, {})[look] = None
        if self._timer is None or tick < self._armed:
            self._arm(tick, now)
        return look

    def cancel(self, look: Look) -> None:
        """See `Look.cancel`."""
        looks = self._due.get(look.tick)
        if looks is None:
            return
        looks.pop(look, None)
        if not looks:
            del self._due[look.tick]
            if not self._due:
                self._disarm()

    def _arm(self, tick: int, now: float) -> None:
        self._disarm()
        self._armed = tick
        self._timer = self._loop.call_later(max(0.0, tick * TICK_S - now), self._tick)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._taken = self._armed
        try:
            while self._due and (tick := min(self._due)) <= self._taken:
                look = next(iter(self._due[tick]))
                self.cancel(look)
                look.callback()
        finally:  # with those that a failed one was in the way of
            if self._due:
                self._arm(min(self._due), self._loop.time())
            else:
                self._timer = None

    def close(self) -> None:
        """Look no more. Idempotent."""
        self._due.clear()
        self._disarm()
        self.diag.close()
