"""Events as they come, and which of them are one: bounded in number, whoever causes them. Sans-IO.

Rules: what comes too often of one kind, peer and tunnel is one event with a count ("41 times until 02:15"),
for `FOLD_S` from its first. What strangers cause is one at once, and has its shares per peer, network and in
all (`policy.service_bounds`): beyond them it is counted in one event for the rest, without names.

    one key    EACH ──its rate is used up──▶ FOLDED ──FOLD_S──▶ EACH
    strangers  FOLDED ──FOLD_S──▶ FOLDED anew, or counted among the rest
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from p2pfwd.history.kinds import KINDS, Kind
from p2pfwd.policy.pace import Paces, Rate
from p2pfwd.policy.service_bounds import STRANGERS_EVENTS
from p2pfwd.policy.shares import Paced, Party

Share = Literal["own", "streams", "strangers"]
"""Which part of the history an event fills."""

Value = str | int | float

FOLD_S: Final = 600.0
"""How long an event that stands for several goes on counting."""

EACH: Final = Rate(1 / 300, 10)
"""Events of one kind, peer and tunnel that are told one by one."""

MAX_OPEN: Final = 1024
"""Events that still count; with more, the oldest counts no more."""

MAX_TEXT: Final = 200
"""Characters kept of a text in an event: peers choose some of them."""


@dataclass(slots=True, eq=False)
class Event:
    """What happened, once or several times. Times are unix seconds."""

    code: str
    share: Share
    time: float
    """Of the first."""
    until: float
    """Of the last."""
    peer: str | None = None
    protocol: str | None = None
    count: int = 1
    data: dict[str, Value] = field(default_factory=dict)
    id: int = 0
    """Grows from one to the next, over restarts of the daemon too; 0: it has none yet."""


Key = tuple[str, str | None, str | None, Value | None]


class Folding:
    """Of one history."""

    def __init__(self) -> None:
        self._open: dict[Key, tuple[Event, float]] = {}  # and until when, by the steady clock; oldest first
        self._each = Paces(EACH)
        self._strangers = Paced(STRANGERS_EVENTS)

    def note(
        self,
        code: str,
        peer: str | None,
        protocol: str | None,
        data: dict[str, Value],
        *,
        stranger: Party | bool = False,
        times: int = 1,
        now: float,
        wall: float,
    ) -> tuple[Event, bool]:
        """The event that this is, or is a part of; and whether it is new.

        `stranger`: who caused it, if it was none of the owner's peers; True where that is not known. `now`:
        the steady clock, `wall`: unix seconds.
        """
        kind = KINDS[code]
        key = (code, peer, protocol, data.get("cause"))
        known = self._counting(key, now)
        if known is not None:
            _add(kind, known, data, times, wall)
            return known, False
        share: Share = "strangers" if stranger else kind.share
        folds = kind.fold == "always" or (bool(stranger) and kind.fold != "never")
        if isinstance(stranger, Party) and folds and not self.spends(stranger, now):
            return self._among_the_rest(kind, data, times, now, wall)
        if kind.fold == "often" and not stranger:
            folds = not self._each.take(key, now)
        event = Event(code, share, wall, wall, _clipped(peer), _clipped(protocol), times, _kept(data))
        if folds:
            self._begin(key, event, now)
        return event, True

    def spends(self, stranger: Party, now: float) -> bool:
        """Whether one more event of this stranger's may be told by itself; it is counted then."""
        shares = self._strangers  # asked first: of whoever comes when a share is used up nothing is kept
        spent = shares.is_spent_in_all(now) or shares.is_spent(stranger, now) is not None
        return not spent and shares.empty(stranger, now) is None

    def _among_the_rest(
        self, kind: Kind, data: dict[str, Value], times: int, now: float, wall: float
    ) -> tuple[Event, bool]:
        """The event of those beyond the shares: it names nobody."""
        key: Key = (kind.code, None, None, "the rest")
        sums = {name: data[name] for name in kind.sums}
        known = self._counting(key, now)
        if known is not None:
            _add(kind, known, sums, times, wall)
            return known, False
        event = Event(kind.code, "strangers", wall, wall, None, None, times, sums)
        self._begin(key, event, now)
        return event, True

    def _counting(self, key: Key, now: float) -> Event | None:
        found = self._open.get(key)
        if found is None:
            return None
        event, until = found
        if now < until:
            return event
        del self._open[key]
        return None

    def _begin(self, key: Key, event: Event, now: float) -> None:
        if len(self._open) >= MAX_OPEN:
            del self._open[next(iter(self._open))]
        self._open[key] = (event, now + FOLD_S)


def _add(kind: Kind, event: Event, data: dict[str, Value], times: int, wall: float) -> None:
    event.count += times
    event.until = wall
    sums = kind.sums
    for name, value in data.items():
        old = event.data.get(name)
        if name in sums and isinstance(old, int | float) and isinstance(value, int | float):
            event.data[name] = old + value
        elif old != value:
            event.data[name] = _short(value)


def _kept(data: dict[str, Value]) -> dict[str, Value]:
    return {name: _short(value) for name, value in data.items()}


def _short(value: Value) -> Value:
    return _cut(value) if isinstance(value, str) else value


def _clipped(text: str | None) -> str | None:
    return None if text is None else _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
