"""Pins the lanes: turns in order, a share of the time while others are busy, all of it while nobody is."""

from __future__ import annotations

import asyncio

from p2pfwd.net.lanes import CREDIT_S, FEW, Lane, Lanes
from tests.support.loops import on_loop, turns


class Rig:
    """A lane with a clock that only work moves on."""

    def __init__(self, share: float) -> None:
        self.now = 0.0
        self.moves = 0
        self.done: list[str] = []
        self.lane = Lane(asyncio.get_running_loop(), share, lambda: self.moves, lambda: self.now)

    def flood(self, name: str, seconds: float = 0.0001) -> None:
        """Somebody who always has more to do."""

        def slice_() -> None:
            self.now += seconds
            self.done.append(name)
            self.lane.wait(slice_)

        self.lane.wait(slice_)

    async def busy(self, count: int, seconds: float) -> None:
        """Turns of the loop in which others work for `seconds`."""
        for _ in range(count):
            self.now += seconds
            self.moves += 1
            await asyncio.sleep(0)


@on_loop
async def test_a_lane_alone_goes_on_every_turn_and_its_members_take_turns() -> None:
    rig = Rig(0.1)
    for name in "abc":
        rig.flood(name)
    await turns(30)
    assert "".join(rig.done).startswith("abcabcabcabcabcabcabc")


@on_loop
async def test_while_others_are_busy_it_has_its_share_whatever_their_number() -> None:
    rig = Rig(0.1)
    for name in range(100):
        rig.flood(str(name), 0.001)
    await rig.busy(2000, 0.001)
    spent = 0.001 * len(rig.done)
    assert 0.08 * rig.now < spent < 0.12 * rig.now


@on_loop
async def test_what_was_done_elsewhere_is_charged_and_forgotten_in_the_end() -> None:
    rig = Rig(0.5)
    rig.lane.charge(1000.0)
    rig.flood("a")
    await rig.busy(200, CREDIT_S)
    assert rig.done, "no debt is longer than ten times what may be saved"


@on_loop
async def test_a_crowd_has_one_lane_while_it_is_one_and_nothing_is_kept_of_it() -> None:
    lanes = Lanes(asyncio.get_running_loop(), lambda: 0)
    for _ in range(FEW):
        lanes.joined("a")
    assert lanes.crowd("a") is None
    lanes.joined("a")
    assert lanes.crowd("a") is lanes.crowd("a") is not None
    for name in range(1000):
        for _ in range(FEW + 1):
            lanes.joined(str(name))
        assert lanes.crowd(str(name)) is not None
        for _ in range(FEW + 1):
            lanes.left(str(name))
    for _ in range(FEW + 1):
        lanes.left("a")
    assert not lanes.crowds and len(lanes._crowd_lanes) == 1
