"""Looking whether a target's service listens, for strangers who ask: at a pace that they do not set.

Rules: one target is looked at once a second at most, and all of them together take at most a hundredth of
the time, whatever a look costs on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

INTERVAL_S: Final = 1.0
SHARE: Final = 0.01
"""Of the event loop's time: a look blocks it."""


class Glances:
    """Of all listens of one node. `clock`: seconds, precise enough to time one look."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._free_at = float("-inf")

    def at(self, look: Callable[[], bool], looked_at: float) -> tuple[bool, float]:
        """(what `look` says of a target, when it was looked at): False is not known.

        `looked_at`: what the last call for this target said; -inf before the first.
        """
        now = self._clock()
        if now - looked_at < INTERVAL_S or now < self._free_at:
            return False, looked_at
        seen = look()
        self._free_at = now + (self._clock() - now) / SHARE
        return seen, now
