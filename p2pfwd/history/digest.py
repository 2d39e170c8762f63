"""The last 24 hours in a few numbers, for `status` and `ls`: in memory, and bounded. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar, Final

from p2pfwd.history.folding import Event
from p2pfwd.history.kinds import DROPS, PROBLEMS

HOUR_S: Final = 3600.0

MAX_DROPS: Final = 1024
"""Drops remembered: 43 an hour; of more, the latest."""

MAX_TUNNELS: Final = 1024
"""Tunnels whose last problem is remembered; of more, those that had one last."""

_COUNTED: Final = {
    "stream-ended": "streams",
    "stream-broken": "streams",
    "streams-summed": "streams",
    "access-denied": "denied",
    "access-requested": "denied",
    "daemon-lost": "lost",
}


@dataclass(frozen=True, slots=True)
class Drop:
    """How often one peer's connection was lost. `last_at` in unix seconds."""

    peer: str
    times: int
    last_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What was last wrong with a tunnel. `at` in unix seconds."""

    code: str
    at: float
    reason: str


class Digest:
    """Of one history."""

    SPAN_S: ClassVar[float] = 24 * HOUR_S

    def __init__(self) -> None:
        self._hours: dict[int, dict[str, int]] = {}
        self._drops: deque[tuple[float, str, str]] = deque(maxlen=MAX_DROPS)
        self._problems: dict[tuple[str, str], Problem] = {}

    def note(self, event: Event, times: int, at: float) -> None:
        """It happened so many times more, last `at`."""
        what = _COUNTED.get(event.code)
        if what is not None:
            self._count(what, times, at)
        elif event.share == "strangers":
            return
        elif event.code in DROPS and event.peer is not None:
            reason = str(event.data.get("reason", ""))
            for _ in range(min(times, MAX_DROPS)):
                self._drops.append((at, event.peer, reason))
        elif event.code in PROBLEMS:
            key = tunnel(event)
            self._problems.pop(key, None)
            self._problems[key] = Problem(event.code, at, str(event.data.get("reason", "")))
            if len(self._problems) > MAX_TUNNELS:
                del self._problems[next(iter(self._problems))]

    def _count(self, what: str, times: int, at: float) -> None:
        hour = int(at // HOUR_S)
        counts = self._hours.get(hour)
        if counts is None:
            for old in [it for it in self._hours if not 0 <= hour - it <= 24]:
                del self._hours[old]
            counts = self._hours[hour] = {}
        counts[what] = counts.get(what, 0) + times

    def count(self, what: str, now: float) -> int:
        """How many `streams` ended, were `denied`, or daemons were `lost` in the span, to the hour."""
        oldest = int((now - self.SPAN_S) // HOUR_S)
        return sum(counts.get(what, 0) for hour, counts in self._hours.items() if hour > oldest)

    def drops(self, now: float) -> list[Drop]:
        """Peers whose connection was lost in the span, the one that was lost last first."""
        found: dict[str, Drop] = {}
        for at, peer, reason in self._drops:
            if at < now - self.SPAN_S:
                continue
            before = found.pop(peer, None)
            found[peer] = Drop(peer, 1 + (before.times if before else 0), at, reason)
        return list(found.values())[::-1]

    def problem(self, direction: str, name: str, now: float) -> Problem | None:
        """What was wrong with a tunnel last, if it was in the span. `name`: see `tunnel`."""
        found = self._problems.get((direction, name))
        return found if found is not None and found.at >= now - self.SPAN_S else None


def tunnel(event: Event) -> tuple[str, str]:
    """Which tunnel it is about: its direction, and the protocol of a listen, the address of a forward."""
    direction = str(event.data.get("direction", "listen"))
    if direction == "listen":
        return direction, event.protocol or ""
    return direction, str(event.data.get("address", ""))
