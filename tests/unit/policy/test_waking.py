"""Pins when a lively exchange keeps the loop awake: where it was found to pay, and never on battery."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import pytest

from p2pfwd.policy.waking import MOST_PART, POWER_S, TRIAL_RUNS, VERDICT_S, Mode, Waking, pays

RUN_S = 0.004


def fair() -> Callable[[], float]:
    coin = cycle((0.2, 0.8))
    return lambda: next(coin)


def never() -> float:
    raise AssertionError("no coin is needed")


def try_it(waking: Waking, now: float, slept_s: float, polled_s: float) -> float:
    """One trial; when it was over."""
    for _ in range(2 * TRIAL_RUNS):
        polled = waking.polls(now)
        now += polled_s if polled else slept_s
        waking.ran(now, polled_s if polled else slept_s, polled=polled)
    return now


@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize("battery", [True, False, None])
def test_the_owners_word_holds_whatever_is_measured(mode: Mode, battery: bool | None) -> None:
    waking = Waking(mode, lambda: battery, never)
    try_it(waking, 0.0, RUN_S, 2 * RUN_S)
    assert waking.polls(1.0) is (mode == "on")


@pytest.mark.parametrize("battery", [True, None])
def test_on_battery_or_where_nobody_knows_it_is_not_even_tried(battery: bool | None) -> None:
    waking = Waking("auto", lambda: battery, never)
    assert not any(waking.polls(second * POWER_S) for second in range(100))


@pytest.mark.parametrize(
    ("slept", "polled", "does"),
    [
        ([100.0], [60.0], True),  # a virtual machine
        ([100.0], [90.0], False),  # bare metal
        ([100.0], [100.0], False),
        ([100.0], [250.0], False),  # it takes the processor from whoever would answer
        ([100.0], [100.0 * MOST_PART], True),
        ([90.0, 110.0], [50.0, 70.0], True),
        ([60.0, 140.0], [60.0, 140.0], False),
    ],
)
def test_it_pays_where_runs_are_shorter_by_a_good_part(
    slept: list[float], polled: list[float], does: bool
) -> None:
    assert pays(slept, polled) is does


@pytest.mark.parametrize(("part", "does"), [(0.6, True), (0.95, False)])
def test_a_trial_takes_both_kinds_of_runs_and_its_verdict_holds_for_a_while(part: float, does: bool) -> None:
    waking = Waking("auto", lambda: False, fair())
    now = try_it(waking, 0.0, RUN_S, part * RUN_S)
    asked = [waking.polls(now + second) for second in range(int(VERDICT_S))]
    assert asked == [does] * len(asked)
    waking.ran(now + 1, 100.0, polled=does)  # of no account until it is tried again
    later = now + VERDICT_S
    assert {waking.polls(later), waking.polls(later)} == {False, True}
    now = try_it(waking, later, RUN_S, (1.5 - part) * RUN_S)
    assert waking.polls(now) is not does


def test_a_coin_that_falls_on_one_side_only_makes_no_verdict() -> None:
    waking = Waking("auto", lambda: False, lambda: 0.1)
    for second in range(100):
        assert waking.polls(float(second))
        waking.ran(float(second), RUN_S, polled=True)


def test_who_is_unplugged_stops_within_half_a_minute_and_the_verdict_outlives_it() -> None:
    battery, asked = [False], [0]

    def on_battery() -> bool:
        asked[0] += 1
        return battery[0]

    waking = Waking("auto", on_battery, fair())
    now = try_it(waking, 0.0, RUN_S, RUN_S / 2)
    battery[0] = True
    assert waking.polls(now) and asked == [1]
    assert not waking.polls(POWER_S) and not waking.polls(POWER_S + 1) and asked == [2]
    battery[0] = False
    assert waking.polls(2 * POWER_S)
