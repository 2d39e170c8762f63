"""A forward that stands as denied asks its peer again: the owner there may let it in at any time.

Rules: one question at a time, the first after `FIRST_S`, ever less often, every `MOST_S` at last; none once
it stands otherwise. A question is a probe: it touches no service, and counts as no denied stream there. One
whose peer was away in between stands as denied again when it is back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

FIRST_S: Final = 5.0
MOST_S: Final = 30.0
GROWTH: Final = 1.5
"""From one question to the next."""

JITTER: Final = 0.2
"""Part of a pause that is left to chance: many forwards may be denied by one peer."""


class AskingAgain:
    """Of one forward. `ask` begins a question, and waits for nothing; `rng` gives numbers in [0, 1)."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ask: Callable[[], None],
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._loop = loop
        self._ask = ask
        self._rng = rng
        self._pause_s = FIRST_S
        self._timer: asyncio.TimerHandle | None = None

    def stands(self, is_denied: bool) -> None:
        """How the forward stands now."""
        if is_denied and self._timer is None:
            self._pause_s = FIRST_S
            self._later()
        elif not is_denied and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _later(self) -> None:
        self._timer = self._loop.call_later(self._pause_s * (1 - JITTER * self._rng()), self._again)

    def _again(self) -> None:
        self._pause_s = min(self._pause_s * GROWTH, MOST_S)
        self._later()
        self._ask()
