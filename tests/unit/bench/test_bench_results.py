"""The bench's arithmetic: ratios repeat by repeat, verdicts at their bounds, a report of any subset."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bench.client import Client
from tests.bench.goals import GOALS, Goal, itself, quotient
from tests.bench.phases import Phase, Sizes
from tests.bench.report import above_floor, number, render, spread, verdicts
from tests.bench.results import Results, Spread
from tests.bench.runner import PHASES, STAGES, Plan, Runner
from tests.bench.tunnels import SETUPS, Tunnel
from tests.support.figures import percentile


def filled(**values: list[float]) -> Results:
    results = Results()
    results.about = {"aes": "yes", "processors": 2, "kernel": "k", "python": "p", "client": "c", "repeats": 3}
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
    assert "bulk up, noise" in text and "≥ 2 x" in text and "Not measured: ssh: no sshd" in text
    assert [found["verdict"] for found in verdicts(results)] == ["must"]


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (1, 2), (50, 51), (99, 100), (100, 100)])
def test_percentiles_by_nearest_rank(percent: float, value: float) -> None:
    """Of 1 to 100, in any order; the least is p0, and nothing is past the greatest."""
    assert percentile([*range(100, 50, -1), *range(1, 51)], percent) == value
    assert percentile([7.0], percent) == 7.0


def test_a_change_is_judged_against_the_earlier_run_machine_for_machine() -> None:
    """On a machine half as fast as then, nothing has changed; without that run there is no verdict."""
    parts = [("p2pfwd-noise", "rtt_p50"), ("relay", "rtt_p50")]
    goal = Goal("g", "", parts, quotient, False, 1.0, since=True)
    then = filled(p2pfwd_noise__rtt_p50=[100.0, 110.0, 90.0], relay__rtt_p50=[50.0, 55.0, 45.0])
    now = filled(p2pfwd_noise__rtt_p50=[200.0, 180.0, 400.0], relay__rtt_p50=[100.0, 100.0, 100.0])
    assert goal.value(now) is None
    assert goal.value(now, filled()) is None
    assert goal.value(now, then) == Spread(1.0, 0.9, 2.0)


def test_an_earlier_run_is_read_from_its_json() -> None:
    then = filled(p2pfwd_noise__rtt_p50=[100.0, 90.0], relay__rtt_p50=[50.0, 60.0])
    read = Results.of_document(json.loads(json.dumps(then.document())))
    assert read.figures == then.figures
    found = [(each["figure"], each["median"], each["verdict"]) for each in verdicts(then, read)]
    assert found == [("round trip p50", 1.0, "must")]
    assert not verdicts(then)


def test_each_floor_is_relays_and_its_own_cipher() -> None:
    """The AES floor is the lower one; TLS, ssh and Noise are all held against both."""
    results = filled(
        relay__up_cpu=[0.5], p2pfwd_noise__up_cpu=[1.4], aead__chacha_seal=[0.4], aead__chacha_open=[0.5],
        aead__aes_seal=[0.1], aead__aes_open=[0.1],
    )  # fmt: skip
    cells = [above_floor("up", cipher).cell(results, "p2pfwd-noise") for cipher in ("chacha", "aes")]
    assert cells == ["1.00", "2.00"]
    assert above_floor("up", "aes").cell(results, "relay") == "-"
    found = {each["against"]: each["verdict"] for each in verdicts(results)}
    assert found == {"AES-256-GCM floor": "short"}


def test_goals_for_sizes_are_in_the_units_they_are_told_in() -> None:
    """MB a daemon; KB a stream of one daemon, where both were measured; KB a peer."""
    results = filled(
        p2pfwd_noise__idle_rss=[45e6], p2pfwd_noise__per_stream=[8200.0],
        p2pfwd_crowd__peers_1000_each=[19.5e3],
    )  # fmt: skip
    found = [(each["unit"], each["median"], each["verdict"]) for each in verdicts(results)]
    assert found == [("MB", 45, "must"), ("KB", 4.1, "short"), ("KB", 19.5, "must")]


def test_the_report_shows_levels_the_line_and_ciphers() -> None:
    results = filled(
        p2pfwd_noise__streams_10_rss=[46e6], p2pfwd_noise__streams_1000_each=[2400.0],
        long_direct__long_up_512=[300.0], long_direct__long_down_512=[900.0],
        long_p2pfwd__long_up_16=[25.0], long_p2pfwd__long_up_512=[100.0], long_ssh__long_up_512=[25.0],
    )  # fmt: skip
    results.ciphers["p2pfwd-noise"] = "aes-256-gcm"
    lines = render(results).splitlines()
    assert any(line.startswith("p2pfwd-noise, 1,000") and line.endswith("2.40") for line in lines)
    assert "The line of 60 ms alone carries 300 MB/s up, which bounds what goes over it." in lines
    assert "The line of 60 ms alone carries 900 MB/s down." in lines
    assert "Sealed by: p2pfwd-noise: aes-256-gcm" in lines
    found = {each["against"]: each["verdict"] for each in verdicts(results)}
    assert found == {"long-ssh": "short"}


def test_every_goal_names_tunnels_and_measurements_that_exist() -> None:
    """A tunnel that is spelled otherwise would never be judged, and nobody would see it."""
    known = {*SETUPS, "aead"}
    assert not [goal for goal in GOALS for tunnel, _ in goal.parts if tunnel not in known]
    taken = {tunnel for stage in STAGES for each in stage.phases.values() for tunnel in each.tunnels}
    assert taken == set(SETUPS)
    assert len(set(PHASES)) == len(PHASES)


def test_the_runner_starts_only_the_tunnels_that_a_measurement_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage those of its own; alone, one after the other; the slow ones twice at most."""
    started: list[tuple[int, str]] = []
    taken: list[tuple[int, str, str]] = []

    class Recorded(Runner):
        def _start(self, stack: ExitStack, name: str, server: int) -> Tunnel:
            started.append((server, name))
            return Tunnel(server)

        def _measure(
            self, sample: int, name: str, tunnel: Tunnel, phase: str, measure: Phase, tries: int
        ) -> bool:
            taken.append((sample, phase, name))
            assert tries == (1 if phase == "idle" else 2)
            return True

    class Servers(Client):
        def serve(self, stack: ExitStack, log: Path) -> int:
            return len(started)

    monkeypatch.setattr("tests.bench.runner.aead_s_per_gb", lambda seconds: {})
    names = ("relay", "long-direct", "long-ssh", "kubo-noise", "p2pfwd-noise")
    plan = Plan(names, ("bulk", "long", "idle"), 3, Sizes(), 0.0)
    Recorded(plan, Servers((), ""), Path()).run()
    near, long = ["relay", "kubo-noise", "p2pfwd-noise"], ["long-direct", "long-ssh"]
    alone = ["kubo-noise", "p2pfwd-noise"]
    assert [name for _, name in started] == [*near, *long, *alone, *near, *long, *alone, *near, *alone]
    over_line = [(sample, name) for sample, phase, name in taken if phase == "long"]
    assert over_line == [(0, "long-direct"), (0, "long-ssh"), (1, "long-ssh"), (1, "long-direct")]
