"""Pins the lanes: turns in order, a share of the time while others are busy, all of it while nobody is."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, cast

from p2pfwd.net.lanes import CREDIT_S, FEW, NAP_S, Lane, Lanes
from tests.support.loops import on_loop


class Rig:
    """A lane in a loop turned by hand, with a clock that only work and sleep move on."""

    def __init__(self, share: float) -> None:
        self.now = 0.0
        self.moves = 0
        self.done: list[str] = []
        self._due: list[tuple[float, Callable[[], None]]] = []
        self.lane = Lane(cast("Any", self), share, lambda: self.moves, lambda: self.now)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """As a loop's."""
        self.call_later(0.0, callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """As a loop's."""
        self._due.append((self.now + delay_s, callback))

    def turn(self, seconds: float = 0.0) -> None:
        """One turn of the loop, after it has slept or others have worked for so long."""
        self.now += seconds
        due = [callback for at, callback in self._due if at <= self.now]
        self._due = [(at, callback) for at, callback in self._due if at > self.now]
        for callback in due:
            callback()

    def flood(self, name: str, seconds: float = 0.0001) -> None:
        """Somebody who always has more to do."""

        def slice_() -> None:
            self.now += seconds
            self.done.append(name)
            self.lane.wait(slice_)

        self.lane.wait(slice_)

    def busy(self, count: int, seconds: float) -> None:
        """Turns of the loop in which others work for `seconds`."""
        for _ in range(count):
            self.moves += 1
            self.turn(seconds)


def test_a_lane_alone_goes_on_every_turn_and_its_members_take_turns() -> None:
    rig = Rig(0.1)
    for name in "abc":
        rig.flood(name)
    for _ in range(21):
        rig.turn()
    assert "".join(rig.done) == 7 * "abc"


def test_while_others_are_busy_it_has_its_share_whatever_their_number() -> None:
    rig = Rig(0.1)
    for name in range(100):
        rig.flood(str(name), 0.001)
    rig.busy(20_000, 0.0001)
    spent = 0.001 * len(rig.done)
    assert 0.08 * rig.now < spent < 0.12 * rig.now


def test_what_its_own_members_move_makes_nobody_wait() -> None:
    rig = Rig(0.1)
    rig.flood("a")
    for _ in range(100):
        rig.moves += 1
        rig.lane.moved()
        rig.turn(0.0001)
    assert len(rig.done) == 100


def test_what_its_members_do_themselves_is_no_nap_of_the_others() -> None:
    """A hundred who read in one turn of the loop: all but the first two found that nobody else was busy."""
    rig = Rig(0.1)
    rig.moves += 1
    for _ in range(100):
        rig.now += NAP_S / 2
        rig.lane.charge(NAP_S / 2)
        assert rig.lane.is_short
    rig.now += 1.01 * NAP_S
    rig.lane.charge(0.0)
    assert not rig.lane.is_short


def test_a_rush_has_less_than_a_few() -> None:
    shares = []
    for members in (FEW, FEW + 2):  # one is at work while the others wait
        rig = Rig(0.1)
        rig.lane._rush_share = 0.02
        for name in range(members):
            rig.flood(str(name), 0.001)
        rig.busy(20_000, 0.0001)
        shares.append(0.001 * len(rig.done) / rig.now)
    assert 0.08 < shares[0] < 0.12 and 0.016 < shares[1] < 0.024


def test_others_are_busy_until_a_whole_nap_has_passed_without_them() -> None:
    rig = Rig(0.1)
    rig.lane.charge(1000.0)
    rig.flood("a")
    for _ in range(10):
        rig.moves += 1
        for _ in range(5):  # in most turns nobody moves anything
            rig.turn(NAP_S / 10)
    assert not rig.done, "their next bytes are on their way"
    for _ in range(3):
        rig.turn(NAP_S)
    assert rig.done, "they have nothing to do"


def test_what_was_done_elsewhere_is_charged_and_forgotten_in_the_end() -> None:
    rig = Rig(0.5)
    rig.lane.charge(1000.0)
    rig.flood("a")
    rig.busy(200, CREDIT_S)
    assert rig.done, "no debt is longer than ten times what may be saved"


@on_loop
async def test_a_crowd_has_one_lane_while_it_is_one_and_nothing_is_kept_of_it() -> None:
    lanes = Lanes(asyncio.get_running_loop(), lambda: 0)
    for _ in range(FEW):
        lanes.joined("a")
    assert lanes.crowd("a") is None and lanes.purse("a", 0.0) is None
    lanes.joined("a")
    assert lanes.crowd("a") is lanes.crowd("a") is not None
    for name in range(1000):
        for _ in range(FEW + 1):
            lanes.joined(str(name))
        assert lanes.crowd(str(name)) is not None
        assert lanes.purse(str(name), 0.0) is lanes.purse(str(name), 1.0) is not None
        for _ in range(FEW + 1):
            lanes.left(str(name))
    for _ in range(FEW + 1):
        lanes.left("a")
    assert not lanes.crowds and not lanes._purses and not lanes._crowd_lanes


@on_loop
async def test_a_crowd_that_has_used_up_its_share_has_no_new_one_because_another_comes() -> None:
    """Where nobody waited, two networks of strangers made each other's debts forgotten."""
    moves = itertools.count()
    lanes = Lanes(asyncio.get_running_loop(), lambda: next(moves), lambda: 100.0)  # others are busy
    for name in (FEW + 1) * "ab":
        lanes.joined(name)
    for name in "abab":
        lane = lanes.crowd(name)
        assert lane is not None
        lane.charge(CREDIT_S)
    lane = lanes.crowd("a")
    assert lane is not None
    lane.charge(0.0)
    assert lane.is_short
