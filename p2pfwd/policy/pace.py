"""Token buckets: so many a second on average, so many at once. Pure; the time is given.

A bucket is two numbers, so one per peer and network is cheap; `Paces` keeps a bounded number of them and
forgets those that are full again first, then those least used.
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

    def has(self, now: float, n: float = 1.0) -> bool:
        """Whether `n` may be done now; nothing is taken."""
        self._fill(now)
        return self._tokens >= n

    def reserve(self, now: float, most_s: float, later_s: float = 0.0) -> float | None:
        """Take one that is done in `later_s` at the earliest: how long it has to wait beyond that.

        None, and nothing is taken, where that is longer than `most_s`.
        """
        self._fill(now)
        wait_s = max(0.0, (1.0 - self._tokens) / self._rate.per_s - later_s)
        if wait_s > most_s:
            return None
        self._tokens -= 1.0
        return wait_s

    def owe(self, now: float, n: float) -> float:
        """Take `n`, there or not; what is left, negative for a debt."""
        self._fill(now)
        self._tokens -= n
        return self._tokens

    def owes_s(self, now: float, n: float, most_s: float) -> float:
        """Take `n`, there or not, but owe no more than `most_s` pay: seconds until the debt is paid."""
        self._tokens = max(self.owe(now, n), -most_s * self._rate.per_s)
        return max(0.0, -self._tokens) / self._rate.per_s

    def wait_s(self, now: float, n: float = 1.0) -> float:
        """How long until `n` may be done, seconds."""
        self._fill(now)
        return max(0.0, (n - self._tokens) / self._rate.per_s)

    def is_full(self, now: float) -> bool:
        """Whether it is as new: forgetting it changes nothing."""
        return self.tokens(now) >= self._rate.burst

    def tokens(self, now: float) -> float:
        """How many may be done now; below 0 where some were reserved."""
        self._fill(now)
        return self._tokens

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

    def __len__(self) -> int:
        return len(self._paces)

    def of(self, key: Hashable, now: float) -> Pace:
        """This key's bucket; where there are too many, those least used are forgotten for it."""
        pace = self._of(key, now)
        assert pace is not None, "a quarter is forgotten where none is full"
        return pace

    def take(self, key: Hashable, now: float, n: float = 1.0) -> bool:
        """As `Pace.take`, of this key's bucket. Without room for a new key nothing is granted."""
        pace = self._of(key, now)
        return pace is not None and pace.take(now, n)

    def has(self, key: Hashable, now: float) -> bool:
        """As `Pace.has`; a key without a bucket has all of it."""
        pace = self._paces.get(key)
        return pace is None or pace.has(now)

    def reserve(self, key: Hashable, now: float, most_s: float, later_s: float = 0.0) -> float | None:
        """As `Pace.reserve`, of this key's bucket."""
        pace = self._of(key, now)
        return None if pace is None else pace.reserve(now, most_s, later_s)

    def owes_s(self, key: Hashable, now: float, n: float, most_s: float) -> float:
        """As `Pace.owes_s`, of this key's bucket."""
        pace = self._of(key, now)
        return 0.0 if pace is None else pace.owes_s(now, n, most_s)

    def forget_full(self, now: float) -> bool:
        """Drop the buckets that are full: it changes nothing. Whether there were any."""
        before = len(self._paces)
        self._paces = {key: pace for key, pace in self._paces.items() if not pace.is_full(now)}
        return len(self._paces) < before

    def _of(self, key: Hashable, now: float) -> Pace | None:
        pace = self._paces.get(key)
        if pace is None and (len(self._paces) < self._max_keys or self._forget(now)):
            pace = self._paces[key] = Pace(self._rate, now)
        return pace

    def _forget(self, now: float) -> bool:
        """Drop the buckets that are full, else the quarter least used; whether there were any."""
        if self.forget_full(now):
            return True
        by_use = sorted(self._paces, key=lambda key: self._paces[key].tokens(now), reverse=True)
        gone = by_use[: len(by_use) // 4]
        for key in gone:
            del self._paces[key]
        return bool(gone)
