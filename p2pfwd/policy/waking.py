"""Whether the loop stays awake for the next message of a lively exchange. Pure: time and chance are given.

It costs a processor while it lasts, and pays where a wake-up is dear: on a virtual machine, whose processor
the host has to start again. So it is tried: of an exchange's first runs of messages half are slept through,
half polled through. A coin says which, since the peer at the other end may be trying the same. It goes on
where that made the exchange faster by a good part, until it is tried again. On battery it never does, nor
where nothing says whether this machine has one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

Mode = Literal["auto", "on", "off"]

RUN_MESSAGES: Final = 32
"""Messages in close succession that are compared as one."""

TRIAL_RUNS: Final = 16
"""Runs of either kind before it is judged: a thousand messages, a tenth of a second."""

MOST_PART: Final = 0.85
"""A polled run must take no more than this part of a slept one. Of a round trip of 100 us a wake-up on bare
metal is about 5, and a daemon has two."""

VERDICT_S: Final = 600.0
"""How long a verdict holds: machines are moved, and their load changes."""

POWER_S: Final = 30.0
"""How often it is asked whether there is mains power, while an exchange is lively."""


class Waking:
    """Of one event loop. `on_battery` says None where that is not known; `chance` draws from 0 to 1."""

    def __init__(
        self, mode: Mode, on_battery: Callable[[], bool | None], chance: Callable[[], float]
    ) -> None:
        self._mode = mode
        self._on_battery = on_battery
        self._chance = chance
        self._may = False
        self._asked_at = self._judged_at = float("-inf")
        self._pays = False
        self._slept_s: list[float] = []
        self._polled_s: list[float] = []

    def polls(self, now: float) -> bool:
        """Whether to poll through the run of messages that begins at `now`, seconds of a steady clock."""
        if self._mode != "auto":
            return self._mode == "on"
        if now - self._asked_at >= POWER_S:
            self._asked_at = now
            self._may = self._on_battery() is False
        if not self._may:
            return False
        return self._chance() < 0.5 if self._is_tried(now) else self._pays

    def _is_tried(self, now: float) -> bool:
        return now - self._judged_at >= VERDICT_S

    def ran(self, now: float, took_s: float, *, polled: bool) -> None:
        """A run has come to its end at `now`."""
        if not self._is_tried(now):
            return
        (self._polled_s if polled else self._slept_s).append(took_s)
        if min(len(self._polled_s), len(self._slept_s)) >= TRIAL_RUNS:
            self._pays = pays(self._slept_s, self._polled_s)
            self._judged_at = now
            self._slept_s, self._polled_s = [], []


def pays(slept_s: list[float], polled_s: list[float]) -> bool:
    """Whether polled runs were faster than slept ones by enough; seconds of each."""
    return _mean(polled_s) <= MOST_PART * _mean(slept_s)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
