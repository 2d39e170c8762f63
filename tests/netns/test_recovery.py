"""A forward is back within five seconds of a fault's end; `make recovery` has the whole table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.netns.recovery_hubs import HUB_FAULTS
from tests.netns.recovery_lab import FAULTS, Fault, Outcome, World, bad_line, suffer
from tests.netns.two_machines import Unavailable

pytestmark = [pytest.mark.netns, pytest.mark.timeout(240)]

BACK_S = 5.0
NAMED = {fault.name: fault for fault in FAULTS}


def after(home: Path, fault: Fault[World]) -> Outcome:
    try:
        world = fault.make(home / "world", False)
    except Unavailable as exc:
        pytest.skip(str(exc))
    with world:
        return suffer(world, fault)


@pytest.mark.parametrize(
    "name",
    [
        "cut 20 s, traffic",
        "own address changed, traffic",
        "peer's address changed, idle",
        "strict NAT rebooted, traffic",
    ],
)
def test_it_is_back_within_5_seconds(home: Path, name: str) -> None:
    outcome = after(home, NAMED[name])
    assert outcome.answered_s is not None and outcome.answered_s < BACK_S, outcome
    if name.startswith("cut"):
        assert outcome.lost_s is None, "what was in flight goes on"


@pytest.mark.parametrize(
    "name",
    [
        "hubs: one killed, relayed",
        "hubs: router there forgets all, relayed",
        "hubs: moved there, direct",
        "hubs: both on one LAN in the end, direct",
    ],
)
def test_behind_routers_it_is_back_within_5_seconds(home: Path, name: str) -> None:
    (fault,) = (one for one in HUB_FAULTS if one.name == name)
    try:
        world = fault.make(home / "world", False)
    except Unavailable as exc:
        pytest.skip(str(exc))
    with world:
        outcome = suffer(world, fault)
    assert outcome.answered_s is not None and outcome.answered_s < BACK_S, outcome
    assert not outcome.was_clean, "a loss is no end"


def test_a_bad_line_is_not_taken_for_dead(home: Path) -> None:
    try:
        world = World(home / "world")
    except Unavailable as exc:
        pytest.skip(str(exc))
    with world:
        try:
            outcome = bad_line(world)
        except Unavailable as exc:
            pytest.skip(str(exc))
    assert outcome.lost_s is None, outcome
