"""Token buckets: so many a second on average, so many at once. Pure; the time is given.

A bucket is two numbers, so one per peer and network is cheap; `Paces` keeps a bounded number of them and
forgets those that are full again first.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

MAX_KEYS: Final = 4096
"""Buckets kept by one `Paces`: more than the connections a node may have."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_s` on average, `burst` at once."""

    per_s: float
    burst: float


class Pace:
    """One bucket; full at first."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at = now

    def take(self, now: float, n: float = 1.0) -> bool:
        """Whether `n` may be done now; they are then taken. `now`: seconds of any steady clock."""
        self._fill(now)
        if self._tokens < n:
            return False
        self._tokens -= n
        return True

    def owe(self, now: float, n: float) -> float:
        """Take `n`, there or not; what is left, negative for a debt."""
        self._fill(now)
        self._tokens -= n
        return self._tokens

    def wait_s(self, now: float, n: float = 1.0) -> float:
        """How long until `n` may be done, seconds."""
        self._fill(now)
        return max(0.0, (n - self._tokens) / self._rate.per_s)

    def is_full(self, now: float) -> bool:
        """Whether it is as new: forgetting it changes nothing."""
        self._fill(now)
        return self._tokens >= self._rate.burst

    def _fill(self, now: float) -> None:
        elapsed = now - self._at
        if elapsed > 0:
            self._tokens = min(self._rate.burst, self._tokens + elapsed * self._rate.per_s)
            self._at = now


class Paces:
    """A bucket per key, made when it is first asked for; at most `MAX_KEYS`."""

    def __init__(self, rate: Rate, max_keys: int = MAX_KEYS) -> None:
        self._rate = rate
        self._max_keys = max_keys
        self._paces: dict[Hashable, Pace] = {}

    def take(self, key: Hashable, now: float, n: float = 1.0) -> bool:
        """As `Pace.take`, of this key's bucket. Without room for a new key nothing is granted."""
        pace = self._paces.get(key)
        if pace is None:
            if len(self._paces) >= self._max_keys and not self._forget(now):
                return False
            pace = self._paces[key] = Pace(self._rate, now)
        return pace.take(now, n)

    def _forget(self, now: float) -> bool:
        """Drop the buckets that are full; whether there were any."""
        full = [key for key, pace in self._paces.items() if pace.is_full(now)]
        for key in full:
            del self._paces[key]
        return bool(full)
