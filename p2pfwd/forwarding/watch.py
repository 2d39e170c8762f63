"""Watching the target of a listen (`listen --check`), so that its state is known before anybody connects.

Rules: a target is looked at every 10 s, of one that is well ever less often, every 30 s at last; a look has a
time limit and reads a bounded answer; so many looks of all listens run at once. `tcp` looks whether somebody
listens, and connects only where that cannot be seen.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from p2pfwd.forwarding.values import CheckOutcome

log = logging.getLogger("p2pfwd.forwarding")

FIRST_S: Final = 10.0
MOST_S: Final = 30.0
GROWTH: Final = 1.5
"""From one look to the next while the target is well; one that is not is looked at every `FIRST_S`."""

JITTER: Final = 0.2
"""Part of a pause that is left to chance."""

LOOK_S: Final = 5.0
"""For one look."""

AT_ONCE: Final = 16
"""Looks that run at the same time, over all listens: after a start a thousand listens want theirs."""


class Watch:
    """What all listens of a node share. `rng` gives numbers in [0, 1)."""

    def __init__(self, rng: Callable[[], float] = random.random) -> None:
        self._rng = rng
        self._room = asyncio.Semaphore(AT_ONCE)

    async def run(
        self, look: Callable[[float], Awaitable[CheckOutcome]], found: Callable[[CheckOutcome], None]
    ) -> None:
        """Look now and again, until cancelled; `look` is given its time limit, and raises nothing."""
        pause_s = FIRST_S
        while True:
            async with self._room:
                outcome = await look(LOOK_S)
            found(outcome)
            pause_s = min(pause_s * GROWTH, MOST_S) if outcome.ok else FIRST_S
            await asyncio.sleep(pause_s * (1 - JITTER * self._rng()))
