"""The bench's arithmetic: ratios repeat by repeat, verdicts at their bounds, a report of any subset."""

from __future__ import annotations

import pytest

from tests.bench.goals import Goal, itself
from tests.bench.report import number, render, spread, verdicts
from tests.bench.results import Results, Spread


def filled(**values: list[float]) -> Results:
    results = Results()
    results.about = {"processors": 2, "kernel": "k", "python": "p", "client": "c", "repeats": 3}
    for key, series in values.items():
        tunnel, name = key.split("__")
        for repeat, value in enumerate(series):
            results.add(tunnel.replace("_", "-"), repeat, {name: value})
    return results


def test_a_ratio_is_taken_repeat_by_repeat() -> None:
    """A machine that is twice as slow in one repeat does not move a ratio."""
    results = filled(p2pfwd_noise__up=[200, 100, 200], kubo_noise__up=[100, 50, 100])
    assert results.ratio(("p2pfwd-noise", "up"), ("kubo-noise", "up")) == Spread(2, 2, 2)


def test_only_repeats_with_all_parts_count() -> None:
    results = filled(a__up=[1, 2, 3])
    results.add("b", 2, {"up": 6})
    assert results.ratio(("b", "up"), ("a", "up")) == Spread(2, 2, 2)
    assert results.ratio(("c", "up"), ("a", "up")) is None


@pytest.mark.parametrize(
    ("value", "more", "must", "aim", "verdict"),
    [
        (1.7, True, 1.3, 1.7, "aim"),
        (1.3, True, 1.3, 1.7, "must"),
        (1.29, True, 1.3, 1.7, "short"),
        (0.6, False, 0.9, 0.6, "aim"),
        (0.61, False, 0.9, 0.6, "must"),
        (0.91, False, 0.9, 0.6, "short"),
        (1.4, False, None, 1.3, "over"),
        (1.4, False, None, None, ""),
    ],
)
def test_verdict_at_its_bounds(
    value: float, more: bool, must: float | None, aim: float | None, verdict: str
) -> None:
    goal = Goal("g", "", [("t", "f")], itself, more, must, aim)
    assert goal.verdict(Spread(value, value, value)) == verdict


def test_numbers_show_three_figures() -> None:
    shown = [number(value) for value in (0, 0.123, 9.87, 12.34, 1234.5)]
    assert shown == ["0", "0.12", "9.87", "12.3", "1,234"]
    assert spread(Spread(2, 1, 3)) == "2.00 (1.00–3.00)"


def test_the_report_stands_with_whatever_was_measured() -> None:
    """Of nothing, of one tunnel, with reasons for what is missing."""
    assert "Medians of 3" in render(filled())
    results = filled(p2pfwd_noise__up=[200.0], kubo_noise__up=[100.0])
    results.skipped["ssh"] = "no sshd or no ssh here"
    text = render(results)
    assert "bulk up, noise" in text and "≥ 1.3 x" in text and "Not measured: ssh: no sshd" in text
    assert [found["verdict"] for found in verdicts(results)] == ["aim"]
