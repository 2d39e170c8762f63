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

CROWD_SHARE: Final = 0.3
"""The same, of the bulk of one crowd: see `Lanes.crowd`."""

FEW: Final = 8
"""Connections of strangers of one crowd (a /24, a /56) that each have their own turn."""

BULK_BYTES: Final = 32 * 1024
"""A read of more is bulk."""

CREDIT_S: Final = 0.002
"""Time a lane may save up, or owe at most ten times."""

NAP_S: Final = 0.001
"""Between two looks of a lane that must wait whether others are still busy. In one turn of the loop a copy at
full speed may move nothing, while its next bytes are on their way through other programs."""

NODE_TOLL: Final = Rate(per_s=60_000.0, burst=120_000.0)
"""Toll (`wire.yamux.work`) of all connections together before those that pay more than a trickle are slowed:
6 % of a processor. Thousands of identities, each below its own limit, meet this one."""


class Lane:
    """One queue of callbacks, each a slice of work."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        share: float,
        moves: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`moves` counts what others do: while it stands still nobody is kept waiting."""
        self._loop = loop
        self._share = share
        self._moves = moves
        self._clock = clock
        self._queue: deque[Callable[[], None]] = deque()
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

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not self._queue

    def charge(self, seconds: float) -> None:
        """Work of the lane that was done outside of its slices."""
        self._credit_s = max(self._credit_s - seconds, -10 * CREDIT_S)

    def _run(self) -> None:
        now = self._clock()
        self._credit_s = min(CREDIT_S, self._credit_s + (now - self._at) * self._share)
        self._at = now
        may_go = self._credit_s > 0 or self._moves() == self._seen
        if may_go:
            self._queue.popleft()()
            self.charge(self._clock() - now)
        self._seen = self._moves()
        if not self._queue:
            self._due = False
        elif may_go:
            self._loop.call_soon(self._run)
        else:
            self._loop.call_later(NAP_S, self._run)


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
        self.slow = Lane(loop, SLOW_SHARE, moves, clock)
        self.toll = Pace(NODE_TOLL, clock())
        self.crowds: Counter[str] = Counter()
        """How many connections each crowd has."""
        self._loop = loop
        self._moves = moves
        self._crowd_lanes: dict[str, Lane] = {}

    def joined(self, crowd: str) -> None:
        """A connection of this crowd has come up."""
        self.crowds[crowd] += 1

    def left(self, crowd: str) -> None:
        """One is over."""
        self.crowds[crowd] -= 1
        if self.crowds[crowd] <= 0:
            del self.crowds[crowd]

    def crowd(self, name: str) -> Lane | None:
        """Where the bulk of a crowd's connections waits; None where they are few.

        Each connection reads once a turn, so a hundred from one neighbourhood would have a hundred turns
        for everybody else's one. Together they have one.
        """
        if self.crowds[name] <= FEW:
            return None
        lane = self._crowd_lanes.get(name)
        if lane is None:
            for idle in [key for key, one in self._crowd_lanes.items() if one.is_empty]:
                del self._crowd_lanes[idle]
            lane = self._crowd_lanes[name] = Lane(self._loop, CROWD_SHARE, self._moves, self.clock)
        return lane
