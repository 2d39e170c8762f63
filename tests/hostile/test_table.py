"""Pins the arithmetic of the hostile table: what is demanded, against what, and that every row is there."""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import ground
from tests.hostile.__main__ import parse, plan
from tests.hostile.honest import TICK_S, Echo
from tests.hostile.kinds import KINDS
from tests.hostile.measure import Measured
from tests.hostile.report import MUSTS, OK, is_doubtful, render, short_of, verdict
from tests.hostile.stage import LINES, strangers
from tests.hostile.victim import tcp_queued


def held(**changes: Any) -> Measured:
    """A victim that holds, but for the changes."""
    figures: dict[str, Any] = {
        "before": {"mb_s": 400.0, "p50_ms": 1.0, "p99_ms": 3.0},
        "burned": {"mb_s": 300.0, "p50_ms": 2.0, "p99_ms": 5.0},
        "during": {"mb_s": 300.0, "p50_ms": 2.0, "p99_ms": 9.0},
        "attacker_cores": 1.0,
        "newcomers_s": [0.1, 0.2],
        "owner_s": 0.3,
        "start_mb": 40.0,
        "peak_mb": 60.0,
        "after_mb": 45.0,
    }
    return Measured("some-kind", "one", **(figures | changes))


@pytest.mark.parametrize(
    ("changes", "short"),
    [
        ({}, []),
        ({"during": {"mb_s": 211.0, "p50_ms": 2.0}}, []),  # 70 % of the 75 % that the control leaves
        ({"during": {"mb_s": 209.0, "p50_ms": 2.0}}, ["speed"]),
        ({"during": {"mb_s": 279.0, "p50_ms": 2.0}, "attacker_cores": 0.0}, ["speed"]),  # it did not burn
        ({"during": {"mb_s": 400.0, "p50_ms": 5.1}}, ["echo"]),
        ({"burned": {"mb_s": 300.0, "p50_ms": 8.0}, "during": {"mb_s": 400.0, "p50_ms": 11.9}}, []),
        ({"during": {}}, ["speed", "echo"]),
        ({"newcomers_s": [0.1, None]}, ["newcomer"]),
        ({"newcomers_s": [0.1, 1.1]}, ["newcomer"]),
        ({"newcomers_s": []}, ["newcomer"]),
        ({"peak_mb": 151.0}, ["memory"]),
        ({"after_mb": 48.1}, ["back"]),
        ({"after_mb": None}, ["back"]),
        ({"tcp_mb": 151.0}, ["kernel"]),
        ({"tcp_others_mb": 1000.0}, []),
        ({"owner_s": None}, ["owner"]),
        ({"died": True}, ["alive"]),
    ],
)
def test_each_demand_at_its_bound(changes: dict[str, Any], short: list[str]) -> None:
    m = held(**changes)
    assert short_of(m) == short
    assert verdict(m) == (f"SHORT: {' '.join(short)}" if short else OK)


def test_every_demand_can_fail() -> None:
    nothing = Measured("some-kind", "one", died=True, peak_mb=1000.0, tcp_mb=1000.0)
    assert short_of(nothing) == list(MUSTS)


def test_a_control_that_is_faster_than_before_allows_no_loss() -> None:
    assert held(burned={"mb_s": 500.0, "p50_ms": 1.0}).control_ratio == 1


def test_the_second_control_is_measured_not_reckoned() -> None:
    m = held(spun={"mb_s": 250.0}, during={"mb_s": 200.0, "p50_ms": 2.0}, spinner_cores=0.9)
    assert m.speed_of_spinner == pytest.approx(0.8)
    assert "80 (1.00, 0.90)" in render([m])
    assert held().speed_of_spinner is None
    assert short_of(m) == ["speed"]  # the demand is on the first


def test_what_of_the_victims_time_went_to_strangers() -> None:
    m = held(victim_before_cores=0.8, victim_cores=0.9)  # 300 of 400 MB/s are left: 0.6 for the honest
    assert m.strangers_share == pytest.approx(1 / 3)
    assert held(victim_before_cores=0.8, victim_cores=0.5).strangers_share == 0
    assert held().strangers_share == 0


def test_a_stall_counts_for_every_echo_that_was_due_meanwhile() -> None:
    """A hundred good echoes do not hide the second in which none came."""
    echo = Echo()
    echo._times = [0.001] * 100 + [1.0]
    said = echo.report()
    assert said["p50_ms"] > 100
    assert said["max_ms"] == 1000
    echo._times = [TICK_S / 2] * 10
    assert echo.report()["p99_ms"] == 1000 * TICK_S / 2


def test_short_times_on_a_busy_machine_are_doubted_and_nothing_else_is() -> None:
    slow = {"during": {"mb_s": 150.0, "p50_ms": 2.0}}
    assert is_doubtful(held(**slow, others_cores=0.5))
    assert not is_doubtful(held(**slow, others_cores=0.1))
    assert not is_doubtful(held(**slow, others_cores=0.5, peak_mb=200.0))
    assert not is_doubtful(held(others_cores=0.5))
    assert not is_doubtful(held(during={"mb_s": 1.0, "p50_ms": 2.0}, others_cores=0.5))


def test_a_harness_that_failed_is_no_verdict_on_the_victim() -> None:
    assert verdict(held(failed="RuntimeError: no")) == "harness: RuntimeError: no"


def test_the_table_shows_each_and_counts_those_that_held() -> None:
    lines = render([held(), held(during={})]).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["attack", "some-kind", "some-kind"]
    assert "1 of 2 held" in "".join(lines)


def test_kinds_are_named_spread_and_cover_what_was_reported() -> None:
    for kind in KINDS.values():
        assert kind.name == kind.name.lower() and " " not in kind.name and kind.what
        assert kind.spreads and set(kind.spreads) <= set(LINES)
    reported = {"F1", "F2", "F3", "F4", "F5", "F6", "F9", "F9a", "F9b", "F10", "F11", "F12", "F14", "F16"}
    assert reported | {"H2", "M1", "C1"} == {kind.fault for kind in KINDS.values()} - {""}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux tells of its sockets")
def test_queues_count_for_who_has_the_socket() -> None:
    """Read or sent, unread or unacknowledged: it is in one of the two sockets."""
    size = 1 << 16
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as near:
        near.connect(listener.getsockname())
        with listener.accept()[0] as far:
            before = tcp_queued(os.getpid()).own
            far.sendall(bytes(size))
            assert tcp_queued(os.getpid()).own - before >= size / 1e6
            nobody = tcp_queued(0)
            assert nobody.own == 0 and nobody.others >= size / 1e6


@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize("spread", LINES)
def test_strangers_come_from_the_networks_they_are_said_to(spread: str, public: bool) -> None:
    found = {ipaddress.ip_address(at) for at in itertools.islice(strangers(spread, public=public), 600)}
    net = {True: ground.PUBLIC_STRANGERS, False: ground.STRANGERS}[public]
    network = ipaddress.ip_network(ground.STRANGERS6 if spread == "/48" else net)
    assert all(at in network for at in found)
    assert len(found) == {"/24": 254, "/48": 600}.get(spread, 1)


def test_what_is_run() -> None:
    assert len(plan(parse(["--quick"]))) == len(KINDS)
    assert [spread for _, spread in plan(parse(["--only", "pings"]))] == list(KINDS["pings"].spreads)
    chosen = plan(parse(["--quick", "--only", "pings", "--spread", "/48"]))
    assert [(kind.name, spread) for kind, spread in chosen] == [("pings", "/48")]
    with pytest.raises(SystemExit, match="no such kind: nothing"):
        plan(parse(["--only", "nothing"]))
