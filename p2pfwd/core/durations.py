"""Durations and times, as people type and read them: `2h`, `1d12h`, `90s`; `1 h 12 min`."""

from __future__ import annotations

import re
from math import ceil
from typing import Final

from p2pfwd.core.quoting import quoted

_SECONDS: Final = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_WORDS: Final = {"d": "d", "h": "h", "m": "min", "s": "s"}

_WRITTEN: Final = re.compile("".join(rf"(?:([0-9]{{1,9}}){unit})?" for unit in _SECONDS), re.ASCII)

MAX_S: Final = 100 * 365 * 86_400
"""100 years: longer ones are slips of the finger."""

MAX_TIME: Final = 253_402_300_799.0
"""The last second of the year 9999, in unix seconds: what every clock and calendar can show."""


def read_time(value: object) -> float:
    """A time that stands in a file, unix seconds, from 1970 to 9999. Raises ValueError for what is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_TIME:
        raise ValueError(f"{value!r} is no time")
    return float(value)


def parse_duration(text: str) -> int:
    """Seconds, above 0 and at most `MAX_S`; otherwise as `parse_any_duration`."""
    seconds = parse_any_duration(text)
    if not seconds:
        raise ValueError(f"{quoted(text)} is no time at all: write it as 90s, 30m, 2h or 1d12h")
    if seconds > MAX_S:
        raise ValueError(f"{quoted(text)} is longer than 100 years")
    return seconds


def parse_any_duration(text: str) -> int:
    """Seconds. Raises ValueError, with a sentence for people, for what is no duration.

    Whole numbers with units, the largest first, each once: w, d, h, m, s.
    """
    found = _WRITTEN.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        raise ValueError(f"{quoted(text)} is no duration: write it as 90s, 30m, 2h or 1d12h")
    return sum(int(n) * size for n, size in zip(found.groups("0"), _SECONDS.values(), strict=True))


def duration_text(seconds: float) -> str:
    """In its two largest units: `12 s`, `3 min`, `1 h 12 min`, `4 d 3 h`; seconds below a minute only."""
    left = max(0, int(seconds))
    if left < 60:
        return f"{left} s"
    parts = []
    for unit, word in _WORDS.items():
        n, left = divmod(left, _SECONDS[unit])
        if n and unit != "s":
            parts.append(f"{n} {word}")
        elif parts:  # `1 d 5 min` is read as more than it is
            break
    return " ".join(parts[:2])


def exact_duration_text(seconds: int) -> str:
    """In all its units, as a bound is told: `1 min 30 s`, `2 h`; nothing is rounded."""
    parts, left = [], seconds
    for unit, word in _WORDS.items():
        n, left = divmod(left, _SECONDS[unit])
        if n:
            parts.append(f"{n} {word}")
    return " ".join(parts) or "0 s"


def utc_text(unix_s: float) -> str:
    """A time of `read_time` in UTC, to the microsecond: `2026-12-01T18:00:00Z`, `2026-12-01T18:00:00.25Z`."""
    from datetime import UTC, datetime  # of a file or a list of ends alone

    text = datetime.fromtimestamp(unix_s, UTC).isoformat().removesuffix("+00:00")
    return (text.rstrip("0") if "." in text else text) + "Z"


def time_left_text(seconds: float) -> str:
    """What is left, as `duration_text`; what has begun counts, so that 2 hours begin as `2 h`."""
    return duration_text(ceil(seconds / 60) * 60 if seconds > 60 else ceil(seconds))
