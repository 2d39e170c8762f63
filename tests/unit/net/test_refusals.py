"""Refusals: counted per cause, said once per offender and minute, bounded in all."""

from __future__ import annotations

import logging

import pytest

from p2pfwd.net.refusals import MAX_LINES, Refusals


def test_each_is_counted_and_each_offender_named_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """The count is exact; the log has a line per cause, offender and minute."""
    now = [0.0]
    refusals = Refusals(lambda: now[0])
    with caplog.at_level(logging.WARNING, "p2pfwd.limits"):
        for _ in range(1000):
            refusals.note("too-many-streams", "alice", "opens too many streams")
        refusals.note("too-many-streams", "bob", "opens too many streams")
        assert len(caplog.records) == 2
        now[0] = 60.0
        refusals.note("too-many-streams", "alice", "opens too many streams")
    assert len(caplog.records) == 3
    assert refusals.counts == {"too-many-streams": 1002}


def test_a_thousand_offenders_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Past the bound the next minute's first line says how many were not named."""
    now = [0.0]
    refusals = Refusals(lambda: now[0])
    with caplog.at_level(logging.WARNING, "p2pfwd.limits"):
        for number in range(1000):
            refusals.note("too-many-connections", number, "connects too often")
        assert len(caplog.records) == MAX_LINES
        now[0] = 61.0
        refusals.note("too-many-connections", 1, "connects too often")
    unsaid = 1000 - MAX_LINES
    assert caplog.messages[MAX_LINES] == f"refused {unsaid} more in the minute before, not named here"
    assert refusals.counts["too-many-connections"] == 1001
