"""forwarding.watch: how often a target is looked at, and how many at once."""

from __future__ import annotations

import asyncio

from p2pfwd.forwarding.values import CheckOutcome
from p2pfwd.forwarding.watch import AT_ONCE, LOOK_S, Watch
from tests.support.virtual_time import in_virtual_time

WELL = CheckOutcome(True, "ready")
ILL = CheckOutcome(False, "target-refused", "refused")


class Looks:
    """What a target is like, and when it was looked at."""

    def __init__(self, outcome: CheckOutcome, takes_s: float = 0.0) -> None:
        self.outcome = outcome
        self.takes_s = takes_s
        self.times: list[float] = []
        self.found: list[CheckOutcome] = []
        self._began = asyncio.get_running_loop().time()

    async def look(self, timeout_s: float) -> CheckOutcome:
        assert timeout_s == LOOK_S
        self.times.append(round(asyncio.get_running_loop().time() - self._began, 3))
        await asyncio.sleep(self.takes_s)
        return self.outcome


async def watched(looks: Looks, watch: Watch) -> asyncio.Task[None]:
    task = asyncio.create_task(watch.run(looks.look, looks.found.append))
    await asyncio.sleep(0)
    return task


async def end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@in_virtual_time
async def test_at_once_then_less_and_less_often_while_it_is_well() -> None:
    looks = Looks(WELL)
    task = await watched(looks, Watch(lambda: 0.0))
    await asyncio.sleep(130)
    assert looks.times == [0, 15, 37.5, 67.5, 97.5, 127.5] and set(looks.found) == {WELL}
    await end(task)


@in_virtual_time
async def test_every_ten_seconds_while_it_is_not() -> None:
    looks = Looks(ILL)
    task = await watched(looks, Watch(lambda: 0.0))
    await asyncio.sleep(35)
    looks.outcome = WELL
    await asyncio.sleep(21)
    assert looks.times == [0, 10, 20, 30, 40, 55]
    await end(task)


@in_virtual_time
async def test_chance_shortens_a_pause_by_a_fifth() -> None:
    looks = Looks(ILL)
    task = await watched(looks, Watch(lambda: 0.999999))
    await asyncio.sleep(17)
    assert looks.times == [0, 8, 16]
    await end(task)


@in_virtual_time
async def test_so_many_at_once_and_the_others_after_them() -> None:
    watch = Watch(lambda: 0.0)
    slow = [Looks(ILL, takes_s=5.0) for _ in range(AT_ONCE + 3)]
    tasks = [await watched(looks, watch) for looks in slow]
    await asyncio.sleep(1)
    assert [len(looks.times) for looks in slow] == [1] * AT_ONCE + [0] * 3
    await asyncio.sleep(5)
    assert [len(looks.times) for looks in slow] == [1] * (AT_ONCE + 3)
    await end(*tasks)
