"""Yamux flow control, the receiving side: how much credit to grant, and when.

A window starts at 256 KiB and is topped up when the application has consumed half of it. When two
top-ups fall within four round trips the window was the bottleneck, so it doubles, up to 16 MiB and
within the session's budget: at 63 ms a fixed 256 KiB is 33 Mb/s, 16 MiB is 2.1 Gb/s.
"""

from __future__ import annotations

from typing import Final

from p2pfwd.wire.yamux.frame import INITIAL_WINDOW_BYTES

MAX_WINDOW_BYTES: Final = 16 << 20
"""Largest window of one stream, as go and js: the bandwidth-delay product of 2 Gb/s at 63 ms."""

SESSION_BUDGET_BYTES: Final = 64 << 20
"""Growth over the initial windows that one session may hold: bounds what one peer can make us buffer."""

GROWTH_ROUND_TRIPS: Final = 4


class WindowBudget:
    """What is left of a session's growth budget, in bytes."""

    __slots__ = ("left",)

    def __init__(self, total_bytes: int = SESSION_BUDGET_BYTES) -> None:
        self.left = total_bytes

    def take(self, nbytes: int) -> bool:
        """Take `nbytes`, or nothing. Half of what is left always stays for other streams."""
        if nbytes * 2 > self.left:
            return False
        self.left -= nbytes
        return True


class ReceiveWindow:
    """The credit one stream has given its peer."""

    __slots__ = ("consumed", "credit", "size", "topped_up_at")

    def __init__(self) -> None:
        self.size = INITIAL_WINDOW_BYTES
        self.credit = INITIAL_WINDOW_BYTES
        """Bytes the peer may still send."""
        self.consumed = 0
        """Bytes the application has taken since the last top-up."""
        self.topped_up_at = -1.0e9

    def due(self, nbytes: int) -> bool:
        """Count `nbytes` as consumed; True when a top-up is due."""
        self.consumed += nbytes
        return self.consumed * 2 >= self.size

    def top_up(self, now: float, rtt_s: float | None, budget: WindowBudget) -> int:
        """The delta to grant at `now` (seconds, monotonic); at least what was consumed."""
        delta = self.consumed
        growth = min(self.size, MAX_WINDOW_BYTES - self.size)
        fast = rtt_s is not None and now - self.topped_up_at < GROWTH_ROUND_TRIPS * rtt_s
        if growth and fast and budget.take(growth):
            self.size += growth
            delta += growth
        self.consumed = 0
        self.credit += delta
        self.topped_up_at = now
        assert self.credit <= self.size
        return delta

    def release(self, budget: WindowBudget) -> None:
        """Give the growth back to the session; the stream is over."""
        budget.left += self.size - INITIAL_WINDOW_BYTES
        self.size = INITIAL_WINDOW_BYTES
