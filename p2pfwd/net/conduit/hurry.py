"""A cut line is tried again soon: left to itself TCP does so when as much time has passed as the cut lasted.

For a connection that is a part of the way. Who doubts the other end of all of it does not know where the cut
is, so each part is judged by what its own system says of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from p2pfwd.net.conduit.contract import Conduit

STUCK_S: Final = 1.0
"""TCP repeats what is lost after 0.2 and 0.6 s; silence for longer, while something waits, means a cut."""

RETRY_S: Final = 3.0
"""The longest pause between two tries."""


class Hurry:
    """Of one conduit."""

    __slots__ = ("_clock", "_conduit", "_settled_at")

    def __init__(self, conduit: Conduit, clock: Callable[[], float] = time.monotonic) -> None:
        self._conduit = conduit
        self._clock = clock
        self.settled()

    def settled(self) -> None:
        """All was acknowledged until now: what waits is no older. The last answer says nothing of that."""
        self._settled_at = self._clock()

    def look(self) -> bool:
        """To be called every few seconds at least; whether something waits to be acknowledged."""
        silent_s = self._conduit.acknowledged_s() or 0.0
        if not silent_s:
            self.settled()
        waits_s = self._clock() - self._settled_at
        self._conduit.retry_within(waits_s + RETRY_S if silent_s >= STUCK_S else None)
        return silent_s > 0.0
