"""Pins that no limit promises more than there are descriptors, and that a cut is said with its cure."""

from __future__ import annotations

import pytest

from p2pfwd.daemon.allotment import RESERVE, allot
from p2pfwd.daemon.settings import Settings


@pytest.mark.parametrize("descriptors", [1, 128, 256, 1024, 4096, 8192, 20_000, 65_536])
def test_all_limits_together_leave_the_reserve(descriptors: int) -> None:
    cut = allot(Settings(), descriptors)
    used = cut.max_connections + cut.max_pending_inbound + cut.max_streams
    used += cut.max_turned_away + 2 * cut.relay_legs
    assert used <= max(16, descriptors - RESERVE)
    assert min(cut.max_connections, cut.max_pending_inbound, cut.max_streams) >= 4
    assert cut.low_water <= cut.high_water <= cut.max_connections
    per_one = max(cut.max_streams_per_listener, cut.max_streams_per_peer)
    assert per_one <= cut.max_streams, "or shares mean nothing"


def test_where_there_are_enough_nothing_is_cut_or_said(caplog: pytest.LogCaptureFixture) -> None:
    assert allot(Settings(), 20_000) == Settings()
    assert not caplog.records


def test_a_cut_is_said_with_its_cure(caplog: pytest.LogCaptureFixture) -> None:
    assert allot(Settings(), 1024).max_streams == 522
    assert "limits.streams is 522, not 8192: this machine allows 1024 open files" in caplog.text
    assert "ulimit -n" in caplog.text
