"""Pins how a pair watches its lines, in virtual time; its bytes are in `tests/net/test_pair`."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from p2pfwd.net.conduit.hurry import RETRY_S, STUCK_S
from p2pfwd.net.conduit.pair import WATCH_S, Pair
from tests.support.virtual_time import in_virtual_time


class Line:
    """A conduit; `stuck_at`: since when something waits. `heard_at`: when there was any answer."""

    congested = False
    receiver: Any

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.stuck_at: float | None = None
        self.heard_at = 0.0
        self.looks = 0
        self.retries: list[float] = []

    def start(self, receiver: object) -> None:
        self.receiver = receiver

    def send(self, view: memoryview) -> None:
        pass

    def abort(self) -> None:
        pass

    def acknowledged_s(self) -> float:
        self.looks += 1
        if self.stuck_at is None:
            return 0.0
        return self.loop.time() - max(self.stuck_at, self.heard_at)

    def retry_within(self, seconds: float | None) -> None:
        if seconds is not None:
            self.retries.append(seconds)


@in_virtual_time
async def test_a_line_that_is_cut_is_hurried_until_all_has_passed_and_an_idle_one_is_not_looked_at() -> None:
    lines = Line(), Line()
    one, other = lines
    overs: list[bool] = []
    pair = Pair(
        cast("Any", one), cast("Any", other), asyncio.get_running_loop(), lambda: overs.append(True)
    )
    pair.start(b"first")
    await asyncio.sleep(100)
    assert not one.looks
    other.stuck_at = one.loop.time()
    one.receiver.data_received(memoryview(b"some"))
    await asyncio.sleep(20 + WATCH_S / 2)
    assert not one.retries and other.retries == [RETRY_S + n * WATCH_S for n in range(1, 21)]
    other.heard_at = one.loop.time()  # something else has come: what waits is as old as ever
    await asyncio.sleep(2 * STUCK_S)
    assert other.retries[20:] == [RETRY_S + 22 * WATCH_S]
    other.stuck_at = None
    await asyncio.sleep(2 * WATCH_S)
    looks = other.looks
    await asyncio.sleep(100)
    assert other.looks == looks and not overs
    one.receiver.data_received(memoryview(b"more"))
    pair.abort()
    await asyncio.sleep(2 * WATCH_S)
    assert other.looks == looks and overs == [True]
