"""Turns for connections whose frames cost more than their bytes: a slice of one of them per turn of the loop.

Everybody else is served at once. Who used up a turn's work waits in the `fair` lane for its next slice; who
sends too much that moves nothing waits in the `slow` one. A lane that has the loop for itself goes as fast as
it can. While others are busy it has a share of the time and no more, whatever the number of connections in
it, and they take turns: a thousand floods cost what one costs. Others are busy until a nap has passed in
which they moved nothing; a lane without credit sleeps meanwhile: other programs need the processors.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from p2pfwd.policy.pace import Pace, Rate

FAIR_SHARE: Final = 0.3
"""Of the time, while others are busy: a burst of 200 opens, or small frames without end, beside a copy."""

SLOW_SHARE: Final = 0.12
"""The same, of those in debt: with the lane before, others keep well above half in the worst case, and above
85 % of their speed under any flood of empty frames."""

RUSH_SHARE: Final = 0.04
"""The same while more than `FEW` of them wait: each sends the more, the sooner it is answered."""

CROWD_SHARE: Final = 0.15
"""The same, of what one crowd sends: see `Lanes.crowd`."""

FEW: Final = 8
"""Connections of strangers of one crowd (a /24, a /56) that each have their own turn."""

BULK_BYTES: Final = 32 * 1024
"""A read of more is bulk."""

LEAST_ROOM: Final = 64 * 1024
"""What the system holds of what a peer in debt sends while it is not read: bytes of SO_RCVBUF."""

CROWD_ROOM: Final = 16 << 20
"""The same for a crowd together that sends in bulk: 1 MiB for each of nine, 128 KiB for each of 128."""

UP_S: Final = 0.0025
"""What a connection costs until it is up, about: a crowd's count as work of the slow lane."""

CREDIT_S: Final = 0.002
"""Time a lane may save up, or owe at most ten times."""

NAP_S: Final = 0.001
"""Between two looks of a lane that must wait whether others are still busy. In one turn of the loop a copy at
full speed may move nothing, while its next bytes are on their way through other programs."""

SOFT_TOLL: Final = Rate(per_s=20_000.0, burst=60_000.0)
"""Toll (`wire.yamux.work`) of one connection before it is slowed, and of one crowd: 250 streams a second that
come to nothing, 1,000 tunnels, 10,000 pings; 2 % of a processor. Slowed, it has all the time that nobody else
needs."""

OPENS: Final = Rate(per_s=500.0, burst=1000.0)
"""Streams of the same before its reads wait in the slow lane, as those of who is in debt do. With nobody else
busy they go as fast as ever; beside others an eighth of the time is theirs, used or not."""

NODE_TOLL: Final = Rate(per_s=60_000.0, burst=120_000.0)
"""Toll of all connections together before those are slowed that pay more than `MODEST_TOLL`: 6 % of a
processor. Thousands of identities from anywhere, each below its own limit, meet this one."""

MODEST_TOLL: Final = Rate(per_s=200.0, burst=2000.0)
"""Of one connection: 25 streams that come to nothing or 100 tunnels at once, then ten tunnels a second. Whom
a flood of others must not slow pays no more."""


class Lane:
    """One queue of callbacks, each a slice of work."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        share: float,
        moves: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        rush_share: float | None = None,
    ) -> None:
        """`moves` counts what others do: while it stands still nobody is kept waiting.

        `rush_share`: the share while more than `FEW` wait; None: the same.
        """
        self._loop = loop
        self._share = share
        self._rush_share = share if rush_share is None else rush_share
        self._moves = moves
        self._clock = clock
        self._queue: deque[Callable[[], None]] = deque()
        self._own = 0
        self._others = 0
        self._others_at = float("-inf")
        self._due = False
        self._seen = 0
        self._at = 0.0
        self._credit_s = 0.0

    def wait(self, slice_: Callable[[], None]) -> None:
        """Call it when its turn comes."""
        self._queue.append(slice_)
        if not self._due:
            self._due = True
            self._loop.call_soon(self._run)

    def moved(self) -> None:
        """One of its members did what `moves` counts: that makes none of them wait."""
        self._own += 1

    @property
    def is_short(self) -> bool:
        """Whether it has used up its share, and others are busy, as the last charge found."""
        return self._credit_s <= 0 and self._at - self._others_at < NAP_S

    def charge(self, seconds: float) -> None:
        """Work of the lane that was done outside of its slices."""
        self._earn(self._clock())
        self._others_at = min(self._at, self._others_at + seconds)  # nobody else could move meanwhile
        self._credit_s = max(self._credit_s - seconds, -10 * CREDIT_S)

    def _earn(self, now: float) -> None:
        share = self._share if len(self._queue) <= FEW else self._rush_share
        self._credit_s = min(CREDIT_S, self._credit_s + (now - self._at) * share)
        self._at = now
        if (others := self._moves() - self._own) != self._others:
            self._others, self._others_at = others, now

    def _run(self) -> None:
        now = self._clock()
        self._earn(now)
        may_go = self._credit_s > 0 or self._moves() - self._own == self._seen
        try:
            if may_go:
                self._queue.popleft()()
        finally:  # a defect in one's slice must not hold up those behind it
            self.charge(self._clock() - now)
            self._seen = self._moves() - self._own
            if not self._queue:
                self._due = False
            elif may_go:
                self._loop.call_soon(self._run)
            else:
                self._loop.call_later(NAP_S, self._run)


class Purse:
    """What one connection has of toll and opens, or one crowd."""

    __slots__ = ("_opens", "_toll")

    def __init__(self, now: float) -> None:
        self._toll = Pace(SOFT_TOLL, now)
        self._opens = Pace(OPENS, now)

    def pay(self, now: float, toll: int, opens: int) -> bool:
        """Take both, there or not; whether it is in debt."""
        toll_left, opens_left = self._toll.owe(now, toll), self._opens.owe(now, opens)
        return toll_left < 0 or opens_left < 0


class Lanes:
    """Of one node."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        moves: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.fair = Lane(loop, FAIR_SHARE, moves, clock)
        self.slow = Lane(loop, SLOW_SHARE, moves, clock, RUSH_SHARE)
        self.toll = Pace(NODE_TOLL, clock())
        self.crowds: Counter[str] = Counter()
        """How many connections each crowd has."""
        self.in_slice = False
        """Whether a connection has its slice: its lane measures it, with all that it brings for circuits."""
        self._loop = loop
        self._moves = moves
        self._crowd_lanes: dict[str, Lane] = {}
        self._purses: dict[str, Purse] = {}

    def joined(self, crowd: str) -> None:
        """A connection of this crowd has come up."""
        self.crowds[crowd] += 1

    def left(self, crowd: str) -> None:
        """One is over."""
        self.crowds[crowd] -= 1
        if self.crowds[crowd] <= 0:
            del self.crowds[crowd]
            self._purses.pop(crowd, None)
            self._crowd_lanes.pop(crowd, None)  # no sooner: a lane where nobody waits may be in debt

    def purse(self, crowd: str, now: float) -> Purse | None:
        """What the connections of a crowd have together; None where they are few.

        A hundred neighbours, each of them below its own limit, cost as much as one that is a hundred times
        beyond it.
        """
        if self.crowds[crowd] <= FEW:
            return None
        purse = self._purses.get(crowd)
        if purse is None:
            purse = self._purses[crowd] = Purse(now)
        return purse

    def room(self, crowd: str) -> int:
        """What the system may hold for each connection of a crowd with a lane, bytes: a power of two."""
        return max(LEAST_ROOM, 1 << (CROWD_ROOM // self.crowds[crowd]).bit_length() - 1)

    def crowd(self, name: str) -> Lane | None:
        """Where a crowd's connections wait with bulk, and beyond its share with all; None where they are few.

        Each connection reads once a turn, so a hundred from one neighbourhood would have a hundred turns
        for everybody else's one. Together they have one.
        """
        if self.crowds[name] <= FEW:
            return None
        lane = self._crowd_lanes.get(name)
        if lane is None:
            lane = self._crowd_lanes[name] = Lane(self._loop, CROWD_SHARE, self._moves, self.clock)
        return lane
