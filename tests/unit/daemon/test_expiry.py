"""What ends by itself: one wait for the earliest, by a wall clock that may be set."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from p2pfwd.daemon.expiry import LOOK_S, Expiry, end_after
from p2pfwd.errors import UsageError
from tests.support.virtual_time import in_virtual_time

NOON = 1_700_000_000.0


class Wall:
    """A wall clock that can be set; otherwise it goes as the loop's does."""

    def __init__(self) -> None:
        self._offset = NOON - asyncio.get_running_loop().time()

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self._offset

    def set(self, by_s: float) -> None:
        self._offset += by_s


class Kind:
    """Things with an end; when each did, by the loop's clock."""

    ends_changed: Callable[[], None]

    def __init__(self, *ends: float) -> None:
        self.ends = list(ends)
        self.ended: list[tuple[float, float]] = []
        self.asked = 0
        self.broken = False
        self.disk = asyncio.Event()
        self.disk.set()

    def next_end(self) -> float | None:
        self.asked += 1
        return min(self.ends, default=None)

    async def end_due(self, now: float) -> None:
        if self.broken:
            raise RuntimeError("a defect")
        await self.disk.wait()
        for end in [end for end in self.ends if end <= now]:
            self.ends.remove(end)
            self.ended.append((end - NOON, asyncio.get_running_loop().time()))


@in_virtual_time
async def test_each_ends_at_its_time_and_nothing_is_looked_at_without_any() -> None:
    began = asyncio.get_running_loop().time()
    one, other = Kind(NOON + 100, NOON + 7200), Kind(NOON + 50)
    expiry = Expiry((one, other), Wall())
    expiry.start()
    await asyncio.sleep(10_000)
    assert other.ended == [(50, pytest.approx(began + 50))]
    assert one.ended == [(100, pytest.approx(began + 100)), (7200, pytest.approx(began + 7200))]
    asked = one.asked
    await asyncio.sleep(100_000)
    assert one.asked == asked, "no timer where nothing ends"
    await expiry.close()
    await expiry.close()


@in_virtual_time
async def test_what_is_new_is_waited_for_and_what_was_moved() -> None:
    kind = Kind()
    expiry = Expiry((kind,), Wall())
    expiry.start()
    await asyncio.sleep(1)
    kind.ends.append(NOON + 3)
    kind.ends_changed()
    await asyncio.sleep(1)
    kind.ends[0] = NOON + 5
    kind.ends_changed()
    await asyncio.sleep(2)
    assert not kind.ended
    await asyncio.sleep(1.1)
    assert [end for end, _ in kind.ended] == [5]
    await expiry.close()


@in_virtual_time
async def test_a_clock_set_forward_ends_it_within_a_look() -> None:
    wall, kind = Wall(), Kind(NOON + 7200)
    expiry = Expiry((kind,), wall)
    expiry.start()
    await asyncio.sleep(1)
    wall.set(+7200)
    await asyncio.sleep(LOOK_S)
    assert [end for end, _ in kind.ended] == [7200]
    await expiry.close()


@in_virtual_time
async def test_a_clock_set_back_lets_it_last_longer() -> None:
    wall, kind = Wall(), Kind(NOON + 100)
    expiry = Expiry((kind,), wall)
    expiry.start()
    await asyncio.sleep(50)
    wall.set(-3600)
    await asyncio.sleep(3600)
    assert not kind.ended
    await asyncio.sleep(60)
    assert [end for end, _ in kind.ended] == [100]
    await expiry.close()


@in_virtual_time
async def test_a_defect_neither_spins_nor_ends_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Kind(NOON + 1), Kind(NOON + 1)
    bad.broken = True
    expiry = Expiry((bad, good), Wall())
    expiry.start()
    await asyncio.sleep(10 * LOOK_S)
    assert [end for end, _ in good.ended] == [1]
    assert bad.asked < 40
    assert "a defect here" in caplog.text
    caplog.clear()
    await expiry.close()


@in_virtual_time
async def test_a_kind_that_waits_for_its_disk_keeps_no_other_from_ending() -> None:
    slow, other = Kind(NOON + 1), Kind(NOON + 2)
    slow.disk.clear()
    expiry = Expiry((slow, other), Wall())
    expiry.start()
    await asyncio.sleep(3)
    assert [end for end, _ in other.ended] == [2]
    slow.disk.set()
    await asyncio.sleep(0.1)
    assert [end for end, _ in slow.ended] == [1]
    await expiry.close()


def test_an_end_is_so_far_away() -> None:
    assert end_after(None) == 0.0
    assert end_after(7200, lambda: NOON) == NOON + 7200


@pytest.mark.parametrize("expires_s", [0, -1, math.nan, math.inf, 1e12])
def test_what_is_no_end_is_refused(expires_s: float) -> None:
    with pytest.raises(UsageError, match="above 0 and at most 100 years"):
        end_after(expires_s)
