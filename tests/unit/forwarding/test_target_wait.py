"""forwarding.target_wait: one dial at a time for all who wait, each for its own time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from p2pfwd.errors import ResourceLimitExceeded, TargetRefused, TargetTimeout
from p2pfwd.forwarding.target import Target
from p2pfwd.forwarding.target_wait import MOST_S, TargetWait
from tests.support.virtual_time import in_virtual_time

DIAL_S = 10.0
FIRST = TargetRefused("the first dial")


class FakeTarget:
    """Refuses as long as `error` is set; a dial takes `takes_s`."""

    def __init__(self) -> None:
        self.error: Exception | None = TargetRefused("refused")
        self.takes_s = 0.0
        self.dials = self.most_at_once = self._at_once = 0

    async def connect(self, timeout_s: float) -> Any:
        assert timeout_s == DIAL_S
        self.dials += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self._at_once -= 1
        if self.error is not None:
            raise self.error
        return object()


def waits(target: FakeTarget) -> TargetWait:
    return TargetWait(cast("Target", target))


@in_virtual_time
async def test_all_get_through_when_it_is_back_and_meanwhile_one_dials() -> None:
    target = FakeTarget()
    wait = waits(target)
    tasks = [asyncio.create_task(wait.connect(FIRST, 60.0, DIAL_S)) for _ in range(100)]
    await asyncio.sleep(30)
    assert target.dials <= 30 / MOST_S + 5 and target.most_at_once == 1
    target.error, target.takes_s = None, 0.1
    await asyncio.sleep(MOST_S + 0.3)
    assert all(task.done() and task.result() for task in tasks)
    assert target.most_at_once > 50  # those behind the first one do not queue


@in_virtual_time
async def test_each_for_its_own_time_and_with_the_latest_reason() -> None:
    target = FakeTarget()
    wait, loop = waits(target), asyncio.get_running_loop()
    began = loop.time()
    ended: dict[float, float] = {}

    async def one(wait_s: float) -> None:
        with pytest.raises(TargetRefused, match="refused"):
            await wait.connect(FIRST, wait_s, DIAL_S)
        ended[wait_s] = loop.time() - began

    await asyncio.gather(one(5.0), one(2.0), one(9.0))
    assert ended == pytest.approx({2.0: 2.0, 5.0: 5.0, 9.0: 9.0})


@in_virtual_time
async def test_who_never_had_a_turn_tells_the_reason_it_came_with() -> None:
    target = FakeTarget()
    target.takes_s = 100.0
    wait = waits(target)
    first = asyncio.create_task(wait.connect(TargetTimeout("late"), 50.0, DIAL_S))
    await asyncio.sleep(1)
    with pytest.raises(TargetRefused, match="the first dial"):
        await wait.connect(FIRST, 3.0, DIAL_S)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


@in_virtual_time
async def test_what_is_no_absence_ends_the_wait() -> None:
    target = FakeTarget()
    target.error = ResourceLimitExceeded("no descriptors")
    with pytest.raises(ResourceLimitExceeded):
        await waits(target).connect(FIRST, 60.0, DIAL_S)
