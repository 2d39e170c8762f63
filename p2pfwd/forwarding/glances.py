"""Looking whether a target's service listens, for strangers who ask: at a pace that they do not set.

Rules: one target is looked at once a second at most, and all of them together take at most a hundredth of
the time, whatever a look costs on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.system.proc_net import somebody_listens

INTERVAL_S: Final = 1.0
SHARE: Final = 0.01
"""Of the event loop's time: a look blocks it."""


class Glances:
    """Of all listens of one node. `clock`: seconds, precise enough to time one look."""

    def __init__(
        self,
        look: Callable[[Multiaddr], bool] = somebody_listens,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._look = look
        self._clock = clock
        self._free_at = float("-inf")

    def at(self, target: Multiaddr, looked_at: float) -> tuple[bool, float]:
        """(whether somebody is seen to listen at `target`, when it was looked at): False is not known.

        `looked_at`: what the last call for this target said; -inf before the first.
        """
        now = self._clock()
        if now - looked_at < INTERVAL_S or now < self._free_at:
            return False, looked_at
        seen = self._look(target)
        self._free_at = now + (self._clock() - now) / SHARE
        return seen, now
