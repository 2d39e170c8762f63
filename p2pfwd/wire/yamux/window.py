"""Yamux flow control, the receiving side: how much credit to grant, and when.

A window starts at 256 KiB and doubles, up to 32 MiB, each time half of it was consumed within four round
trips, and twice at once within two: then it was the bottleneck. At 63 ms a fixed 256 KiB is 33 Mb/s, 32 MiB
is 4.2 Gb/s. Growth is within a budget of the session and one of the node; a session that has
more than its share of it gives half back.

Credit is granted in smaller steps than halves where the window is large (`credit_step`): a sender that
waits for a credit of half the window keeps half of the line empty.

A relay's circuit is bounded by the windows of the two streams it is made of, at the relay and at the end
that receives. What they hold beyond need is a queue, so their credit comes in halves, they shrink, and those
of one node that are busy have equal shares (`BusyCircuits`). The window of a stream over it holds no queue of
its own: it grows until it is not what bounds the stream.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from p2pfwd.wire.yamux.frame import INITIAL_WINDOW_BYTES

MAX_WINDOW_BYTES: Final = 32 << 20
"""Largest window of one stream: the bandwidth-delay product of 4 Gb/s at 63 ms. go, rust and js grant no more
than 16 MiB themselves, but take any credit that fits in 32 bits."""

COMMON_WINDOW_BYTES: Final = 16 << 20
"""A larger one is lent: while so much of the node's growth is left for others, who may have this much."""

CREDIT_PARTS: Final = 8
"""A large window's credit comes back in eighths: seven are with the sender while one is on its way."""

CREDIT_BYTES: Final = 512 * 1024
"""Least credit of a window that has grown: each is a message, which both ends seal or open."""

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
Not more than this: a window settles at what is used within eight to sixteen of them, and all of that is a
queue."""

ONE_CIRCUIT_BYTES: Final = 4 << 20
"""Largest window of a circuit where the way is short and no other of this node is busy."""

CIRCUITS_BYTES: Final = 2 << 20
"""The same of all that are busy together: each has an equal share, and the initial window at least. They
stand in one queue, in which all wait equally long, and who has more of it is faster: a circuit that was there
before the others, with a window grown while it was alone, was up to eight times as fast, and stayed so."""

CIRCUITS_BYTES_PER_S: Final = 1_000_000_000
"""A longer way holds more: their windows together may be what passes at this rate in the round trip beyond
`SHORT_S`."""

OVER_CIRCUIT: Final = 4
"""The window of a stream over a circuit is up to so many times as large as the circuit's: it has to cover two
of these one after the other, and to grow by doubling."""

OVER_CIRCUIT_RTT_S: Final = 0.01
"""Least round trip that such a window counts with: what waits in the circuit is no reason not to grow."""

SHORT_S: Final = 0.005
"""A round trip measured on a busy machine may be as long as this where both ends are on it."""

BUSY_S: Final = 0.2
"""A circuit is busy when half of its window was used in this period or in the one before."""

NODE_STREAMS: Final = 12_288
"""Streams that peers may have open in all sessions of a node: the tunnels' 8,192, and half as many more."""


class Kind(Enum):
    """What a stream is, for its window."""

    PLAIN = auto()
    CIRCUIT = auto()
    """A relay's circuit, or half of one."""
    OVER_CIRCUIT = auto()


class BusyCircuits:
    """How many circuits' windows of a node are in use, and how much each of them may be."""

    __slots__ = ("_before", "_count", "_since", "period")

    def __init__(self) -> None:
        self.period = 1
        self._since = 0.0
        self._count = self._before = 0

    def note(self, last: int, now: float) -> int:
        """Half of a window was used, as it was in the period `last` before; the period that it is now."""
        if now - self._since >= BUSY_S:
            self._before = self._count if now - self._since < 2 * BUSY_S else 0
            self._since, self._count = now, 0
            self.period += 1
        if last != self.period:
            self._count += 1
        return self.period

    def share(self, rtt_s: float) -> int:
        """The largest window one of them may have, where a round trip takes so long."""
        busy = max(self._count, self._before, 1)
        short = ONE_CIRCUIT_BYTES if busy == 1 else CIRCUITS_BYTES
        together = max(short, int((rtt_s - SHORT_S) * CIRCUITS_BYTES_PER_S))
        return max(INITIAL_WINDOW_BYTES, together // busy)


class Ledger:
    """What all sessions of one node hold together. Counts only: `net.limits` says who must give way."""

    __slots__ = ("circuits", "growth_left", "max_streams", "streams", "total", "used")

    def __init__(
        self,
        total_bytes: int = NODE_BYTES,
        growth_bytes: int = NODE_GROWTH_BYTES,
        max_streams: int = NODE_STREAMS,
    ) -> None:
        self.total = total_bytes
        self.circuits = BusyCircuits()
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
        spare = COMMON_WINDOW_BYTES if size + growth > COMMON_WINDOW_BYTES else 0
        if growth + spare > self.ledger.growth_left or self.ledger.is_tight:
            return 0
        self.left -= growth
        self.ledger.growth_left -= growth
        self.growers += first
        return growth

    def is_excessive(self, size: int) -> bool:
        """Whether a window of `size` must give half of it back, for others came later."""
        if size == INITIAL_WINDOW_BYTES:
            return False
        lent = size > COMMON_WINDOW_BYTES and self.ledger.growth_left < COMMON_WINDOW_BYTES
        return lent or size * self.growers > self.total

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


def credit_step(size: int) -> int:
    """Bytes to be consumed before a window of `size` gets credit: half of a small one, less of a large."""
    return max(size // CREDIT_PARTS, min(size // 2, CREDIT_BYTES))


class ReceiveWindow:
    """The credit one stream has given its peer."""

    __slots__ = ("_busy_in", "consumed", "credit", "due_at", "kind", "marked_at", "size", "spent")

    def __init__(self) -> None:
        self.size = INITIAL_WINDOW_BYTES
        self.credit = INITIAL_WINDOW_BYTES
        """Bytes the peer may still send."""
        self.consumed = 0
        """Bytes the application has taken since the last top-up."""
        self.due_at = credit_step(INITIAL_WINDOW_BYTES)
        """How many of them make a top-up due; half a window where one is to shrink."""
        self.spent = 0
        """Bytes topped up since the last mark; with half a window comes the next, at which it may change."""
        self.marked_at = -1.0e9
        self.kind = Kind.PLAIN
        """Set by the owner."""
        self._busy_in = 0

    @property
    def unconsumed(self) -> int:
        """Bytes received that the application has not taken."""
        return self.size - self.credit - self.consumed

    def due(self, nbytes: int) -> bool:
        """Count `nbytes` as consumed; True when a top-up is due."""
        self.consumed += nbytes
        return self.consumed >= self.due_at

    def top_up(self, now: float, rtt_s: float | None, budget: WindowBudget) -> int:
        """The delta to grant at `now` (seconds, monotonic): what was consumed, and more where it grows.

        Less, down to nothing, where it shrinks.
        """
        self.spent += self.consumed
        half = self.size // 2
        if self.spent >= half:
            change = self._change(now, rtt_s, budget)
            self.marked_at, self.spent = now, 0
            if change < 0:
                if self.consumed < half:  # the peer may still send what is to be taken back
                    self.due_at = half
                    return 0
                budget.shrink(self.size, half)
            self.size += change
            self.consumed += change
            self.due_at = self.size // 2 if self.kind is Kind.CIRCUIT else credit_step(self.size)
        delta, self.consumed = self.consumed, 0
        self.credit += delta
        assert self.credit <= self.size
        return delta

    def _change(self, now: float, rtt_s: float | None, budget: WindowBudget) -> int:
        """By how many bytes it should grow or shrink."""
        if budget.is_excessive(self.size):
            return -(self.size // 2)
        if rtt_s is None:
            return 0
        since_s = now - self.marked_at
        if self.kind is Kind.CIRCUIT:
            return self._change_of_circuit(now, since_s / max(rtt_s, CIRCUIT_RTT_S), rtt_s, budget)
        if self.kind is Kind.OVER_CIRCUIT:
            if self.size * 2 > OVER_CIRCUIT * budget.ledger.circuits.share(rtt_s):
                return 0
            rtt_s = max(rtt_s, OVER_CIRCUIT_RTT_S)
        round_trips = since_s / max(rtt_s, 1e-9)
        if round_trips >= GROWTH_ROUND_TRIPS:
            return 0
        growth = budget.grow(self.size)
        if growth and round_trips * 2 < GROWTH_ROUND_TRIPS and self.kind is Kind.PLAIN:
            growth += budget.grow(self.size + growth)  # the next mark would say so, a round trip later
        return growth

    def _change_of_circuit(self, now: float, round_trips: float, rtt_s: float, budget: WindowBudget) -> int:
        circuits = budget.ledger.circuits
        self._busy_in = circuits.note(self._busy_in, now)
        most = circuits.share(rtt_s)
        if self.size > most or (self.size > INITIAL_WINDOW_BYTES and round_trips > SHRINK_ROUND_TRIPS):
            return -(self.size // 2)
        return budget.grow(self.size) if round_trips < GROWTH_ROUND_TRIPS and self.size * 2 <= most else 0

    def release(self, budget: WindowBudget) -> None:
        """Give the growth back to the session; the stream is over."""
        budget.release(self.size)
        self.size = INITIAL_WINDOW_BYTES
