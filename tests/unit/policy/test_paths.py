"""The table of how long a direct connection is waited for."""

from __future__ import annotations

import pytest

from p2pfwd.policy.paths import worth_waiting_s


@pytest.mark.parametrize(
    ("age_s", "rtt_s", "waits_s"),
    [
        (0.0, 0.001, 0.5),
        (0.0, 0.1, 1.2),
        (0.5, 0.1, 0.7),
        (0.0, 0.4, 2.0),
        (60.0, 0.1, -58.8),
    ],
)
def test_a_young_relayed_connection_is_given_a_moment_and_an_old_one_none(
    age_s: float, rtt_s: float, waits_s: float
) -> None:
    assert worth_waiting_s(age_s, rtt_s) == pytest.approx(waits_s)
