"""Looks on one tick: at most as late as asked for, together, and no timer without them."""

from __future__ import annotations

import asyncio

import pytest

from p2pfwd.forwarding.looks import TICK_S, Looks
from tests.support.virtual_time import in_virtual_time


def timers() -> int:
    """Timers of this loop that are not cancelled."""
    return sum(not timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]


@in_virtual_time
async def test_all_of_a_tick_are_taken_at_once() -> None:
    """None is later than it asked for, and none before the next tick."""
    loop = asyncio.get_running_loop()
    looks, taken, asked = Looks(loop), list[float](), list[float]()
    before = timers()
    for _ in range(4):
        asked.append(loop.time())
        looks.later(TICK_S, lambda: taken.append(loop.time()))
        assert timers() == before + 1
        await asyncio.sleep(TICK_S / 5)
    await asyncio.sleep(TICK_S)
    assert len(taken) == 4 and len(set(taken)) <= 2, "at most one tick was among them"
    assert all(0 < at - since <= TICK_S + 1e-6 for at, since in zip(taken, asked, strict=True))
    assert timers() == before
    looks.close()


@in_virtual_time
async def test_later_ones_are_taken_on_a_tick_too() -> None:
    loop = asyncio.get_running_loop()
    looks, taken = Looks(loop), list[float]()
    start = loop.time()
    for delay_s in (8.0, 0.1, 2.0):
        looks.later(delay_s, lambda: taken.append(loop.time() - start))
    await asyncio.sleep(10)
    assert taken == [pytest.approx(delay_s, abs=TICK_S) for delay_s in (0.1, 2.0, 8.0)]
    assert all(time / TICK_S == pytest.approx(round(time / TICK_S)) for time in (start + it for it in taken))
    looks.close()


@in_virtual_time
async def test_without_a_look_there_is_no_timer() -> None:
    """When all are cancelled, whatever the order, and after the end."""
    looks, before = Looks(asyncio.get_running_loop()), timers()
    some = [looks.later(delay_s, lambda: pytest.fail("it was cancelled")) for delay_s in (0.05, 0.05, 1.0)]
    for look in some:
        assert timers() == before + 1
        look.cancel()
        look.cancel()
    assert timers() == before
    looks.later(1.0, lambda: pytest.fail("it is the end"))
    looks.close()
    looks.close()
    assert timers() == before
    await asyncio.sleep(2)


@in_virtual_time
async def test_a_look_may_ask_for_another_and_cancel_one() -> None:
    """The other one is not taken in the same tick, or a client that is there would be looked at for ever."""
    loop = asyncio.get_running_loop()
    looks, taken = Looks(loop), list[str]()

    def first() -> None:
        taken.append("first")
        second.cancel()
        looks.later(0.0, lambda: taken.append("third"))
        assert taken == ["first"]

    looks.later(TICK_S, first)
    second = looks.later(TICK_S, lambda: taken.append("second"))
    await asyncio.sleep(TICK_S)
    assert taken == ["first"]
    await asyncio.sleep(TICK_S)
    assert taken == ["first", "third"]
    looks.close()


@in_virtual_time
async def test_one_that_fails_keeps_no_other_from_its_turn() -> None:
    loop = asyncio.get_running_loop()
    looks, taken, failures = Looks(loop), list[str](), list[object]()
    loop.set_exception_handler(lambda _loop, context: failures.append(context["exception"]))
    looks.later(TICK_S, lambda: 1 // 0)
    looks.later(TICK_S, lambda: taken.append("the other"))
    await asyncio.sleep(2 * TICK_S)
    assert taken == ["the other"] and len(failures) == 1
    looks.close()
