"""`--since`: a time in the past, as people and programs write one, into unix seconds."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime, time, timedelta
from typing import Final

from p2pfwd.core.durations import parse_any_duration
from p2pfwd.core.quoting import quoted
from p2pfwd.errors import UsageError

_UNIX: Final = re.compile(r"[0-9]{9,11}(?:\.[0-9]{1,9})?")
"""From 1973 on: a shorter number is somebody's slip."""

_HINT: Final = "write 2h, 30m, yesterday, 02:00, 2026-11-26 02:00, or a unix time"


def parse_since(text: str, now: float) -> float:
    """Unix seconds; without a time zone it is the local one's. Raises UsageError.

    `2h30m` is that long ago, `today` and `yesterday` begin at midnight, `02:00` is the last one that was.
    """
    found = _parsed(text.strip().lower(), now)
    if found is None:
        raise UsageError(f"--since {quoted(text)} is no time", hint=_HINT)
    if found > now:
        raise UsageError(f"--since {quoted(text)} is a time to come", hint=_HINT)
    return max(0.0, found)


def _parsed(text: str, now: float) -> float | None:
    with suppress(ValueError):
        return now - parse_any_duration(text)
    if _UNIX.fullmatch(text):
        return float(text)
    today = datetime.combine(datetime.fromtimestamp(now), time())
    if text in ("today", "yesterday"):
        return (today - timedelta(days=text == "yesterday")).timestamp()
    try:
        if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?", text):
            at = time.fromisoformat(text.zfill(5) if text.count(":") == 1 else text.zfill(8))
            then = datetime.combine(today, at)
            return (then if then.timestamp() <= now else then - timedelta(days=1)).timestamp()
        if not re.match(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}", text):
            return None
        return datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
