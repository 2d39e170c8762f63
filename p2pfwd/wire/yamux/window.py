"""Yamux flow control, the receiving side: how much credit to grant, and when.

A window starts at 256 KiB and is topped up when the application has consumed half of it. When two
top-ups fall within four round trips the window was the bottleneck, so it doubles, up to 16 MiB and
within the session's budget and the node's: at 63 ms a fixed 256 KiB is 33 Mb/s, 16 MiB is 2.1 Gb/s.
"""

from __future__ import annotations

from typing import Final

from p2pfwd.wire.yamux.frame import INITIAL_WINDOW_BYTES

MAX_WINDOW_BYTES: Final = 16 << 20
"""Largest window of one stream, as go and js: the bandwidth-delay product of 2 Gb/s at 63 ms."""

SESSION_BUDGET_BYTES: Final = 32 << 20
"""Growth over the initial windows that one session may hold: bounds what one peer can make us buffer."""

NODE_GROWTH_BYTES: Final = 64 << 20
"""Growth that all sessions of a node may hold: two of them whole. It is a promise to take so much, and most
of it is never held; who makes us hold it is dealt with by `net.limits`."""

NODE_BYTES: Final = 48 << 20
"""Bytes that wait to be consumed in all sessions of a node, and what else its connections hold."""

GROWTH_ROUND_TRIPS: Final = 4


SHRINK_ROUND_TRIPS: Final = 2 * GROWTH_ROUND_TRIPS
"""A circuit's window that has taken longer than this to be used is halved: what the window holds beyond need
is a queue, in which a keystroke waits behind somebody's bulk, and an advantage over those who came later."""

CIRCUIT_RTT_S: Final = 0.001
"""Least round trip that a circuit's window counts with: programs stand in the way, and each takes its time.
Where all are on one machine the measured one is less, and whoever's window grew by chance was ten times as
fast as the others. Not more than this either: a window settles at what is used within eight to sixteen of
them, and all of that is a queue. With 4 ms eight circuits beside each other were 0.2 to 0.3 even."""

NODE_STREAMS: Final = 12_288
"""Streams that peers may have open in all sessions of a node: the tunnels' 8,192, and half as many more."""


class Ledger:
    """What all sessions of one node hold together. Counts only: `net.limits` says who must give way."""

    __slots__ = ("growth_left", "max_streams", "streams", "total", "used")

    def __init__(
        self,
        total_bytes: int = NODE_BYTES,
        growth_bytes: int = NODE_GROWTH_BYTES,
        max_streams: int = NODE_STREAMS,
    ) -> None:
        self.total = total_bytes
        self.max_streams = max_streams
        self.streams = 0
        """Opened by peers."""
        self.used = 0
        """Bytes received and not yet consumed."""
        self.growth_left = growth_bytes

    @property
    def is_tight(self) -> bool:
        """Whether no window should grow any more."""
        return self.used * 2 > self.total


class WindowBudget:
    """A session's growth budget, in bytes, and its fair division.

    A stream may not grow beyond the budget's share of each stream that has grown: otherwise the first
    of twenty bulk streams take it all and are twice as fast as the others for good.
    """

    __slots__ = ("growers", "ledger", "left", "total")

    def __init__(self, total_bytes: int = SESSION_BUDGET_BYTES, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger()
        self.total = total_bytes
        self.left = total_bytes
        self.growers = 0
        """Streams whose window is larger than the initial one."""

    def grow(self, size: int) -> int:
        """By how many bytes a window of `size` may grow now: to its double, or not at all."""
        growth = min(size, MAX_WINDOW_BYTES - size)
        first = size == INITIAL_WINDOW_BYTES
        share = self.total // (self.growers + 1 if first else self.growers)
        if not growth or size + growth > share or growth > self.left:
            return 0
        if growth > self.ledger.growth_left or self.ledger.is_tight:
            return 0
        self.left -= growth
        self.ledger.growth_left -= growth
        self.growers += first
        return growth

    def shrink(self, size: int, by: int) -> None:
        """A window of `size` has become smaller."""
        self.left += by
        self.ledger.growth_left += by
        self.growers -= size - by == INITIAL_WINDOW_BYTES

    def release(self, size: int) -> None:
        """A stream with a window of `size` is over."""
        self.left += size - INITIAL_WINDOW_BYTES
        self.ledger.growth_left += size - INITIAL_WINDOW_BYTES
        self.growers -= size > INITIAL_WINDOW_BYTES


class ReceiveWindow:
    """The credit one stream has given its peer."""

    __slots__ = ("consumed", "credit", "least_rtt_s", "size", "topped_up_at")

    def __init__(self) -> None:
        self.size = INITIAL_WINDOW_BYTES
        self.credit = INITIAL_WINDOW_BYTES
        """Bytes the peer may still send."""
        self.consumed = 0
        """Bytes the application has taken since the last top-up."""
        self.topped_up_at = -1.0e9
        self.least_rtt_s = 0.0

    @property
    def unconsumed(self) -> int:
        """Bytes received that the application has not taken."""
        return self.size - self.credit - self.consumed

    def due(self, nbytes: int) -> bool:
        """Count `nbytes` as consumed; True when a top-up is due."""
        self.consumed += nbytes
        return self.consumed * 2 >= self.size

    def top_up(self, now: float, rtt_s: float | None, budget: WindowBudget) -> int:
        """The delta to grant at `now` (seconds, monotonic): what was consumed, and more where it grows.

        Less, down to nothing, where a circuit's window shrinks.
        """
        delta = self.consumed
        if rtt_s is not None:
            round_trips = (now - self.topped_up_at) / max(rtt_s, self.least_rtt_s, 1e-9)
            if round_trips < GROWTH_ROUND_TRIPS:
                growth = budget.grow(self.size)
                self.size += growth
                delta += growth
            elif self.least_rtt_s and round_trips > SHRINK_ROUND_TRIPS and self.size > INITIAL_WINDOW_BYTES:
                half = self.size // 2
                budget.shrink(self.size, half)
                self.size -= half
                delta -= half
        self.consumed = 0
        self.credit += delta
        self.topped_up_at = now
        assert self.credit <= self.size
        return delta

    def release(self, budget: WindowBudget) -> None:
        """Give the growth back to the session; the stream is over."""
        budget.release(self.size)
        self.size = INITIAL_WINDOW_BYTES
