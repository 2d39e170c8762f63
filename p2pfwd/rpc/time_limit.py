"""What a time limit given by a person or a program may be; the CLI and the daemon ask the same."""

from __future__ import annotations

from p2pfwd.errors import UsageError

MAX_TIMEOUT_S = 600.0
"""Longest time limit taken."""

MAX_DISCOVER_S = 60.0
"""Longest that one look around in the local network waits for answers."""


def check_timeout(timeout_s: float, most_s: float = MAX_TIMEOUT_S) -> float:
    """The time limit, seconds, if it is one; no NaN either. Raises UsageError."""
    if not 0 < timeout_s <= most_s:
        raise UsageError(f"a time limit of {timeout_s:g} s; it must be above 0 and at most {most_s:g} s")
    return timeout_s
