"""`p2pfwd events`: lines that a person reads, JSON a line each, and a follower that outlives a daemon."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.cli.event_words import digest_line, event_line
from p2pfwd.cli.since import parse_since
from p2pfwd.errors import UsageError
from p2pfwd.history.kinds import KINDS
from p2pfwd.rpc.codec import result_to_json
from p2pfwd.rpc.schema import EventsResult, HistoryDigest, HistoryEvent, LsResult, PeerDrops, Problem
from tests.cli.conftest import Run
from tests.cli.samples import FORWARD
from tests.support.daemon import Daemon, Program, run_cli
from tests.support.fake_daemon import OTHER, PEER, FakeDaemon

AT = 1_764_123_247.0  # 2025-11-26 02:14:07 in UTC


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def event(number: int, code: str, **more: Any) -> HistoryEvent:
    given: dict[str, Any] = {
        "id": number,
        "time": AT + number,
        "until": AT + number,
        "count": 1,
        "code": code,
        "topic": KINDS[code].topic if code in KINDS else "other",
        "peer": OTHER,
        "name": "laptop",
        "protocol": "/x/ssh",
        "stranger": False,
        "data": {},
    }
    return HistoryEvent(**{**given, **more})


LOST = event(1, "peer-lost", protocol=None, data={"reason": f"the line to {OTHER} was silent"})
ENDED = event(2, "stream-ended", data={"duration_s": 192.5, "bytes_in": 1234, "bytes_out": 9})
DENIED = event(3, "access-denied", name=None, count=41, until=AT + 3 + 60)
SUMMED = event(
    4,
    "streams-summed",
    count=4812,
    until=AT + 86_400,
    data={"failed": 2, "bytes_in": 3_200_000, "bytes_out": 9},
)
REST = event(5, "access-denied", peer=None, name=None, protocol=None, count=812, until=AT + 65)

LINES = """\
2025-11-26 02:14:08  the connection to laptop was lost: the line to 12D3…wvuTHr was silent
2025-11-26 02:14:09  /x/ssh: a stream with laptop ended after 3m12s, 1.2kB in, 9B out
2025-11-26 02:14:10  12D3…wvuTHr was denied /x/ssh (41 times until 02:15)
2025-11-26 02:14:11  /x/ssh: 4812 more streams with laptop, 2 of them broken off, 3.2MB in, 9B out \
(until 2025-11-27 02:14:07)
2025-11-26 02:14:12  an unknown peer was denied a listen (812 times until 02:15)
"""


def test_a_line_an_event(fake: FakeDaemon, run: Run) -> None:
    fake.answers["events.ls"] = EventsResult((LOST, ENDED, DENIED, SUMMED, REST), last_id=5)
    result = run("events", "--since", "2025-11-26")
    assert (result.status, result.out, result.err) == (0, LINES, "")
    asked = fake.called("events.ls")[0]
    assert asked == {
        "since": 1_764_115_200.0,
        "after": None,
        "peer": None,
        "protocol": None,
        "kinds": [],
        "limit": 10_000,
    }


def test_json_is_an_object_a_line_with_stable_codes(fake: FakeDaemon, run: Run) -> None:
    fake.answers["events.ls"] = EventsResult((LOST, ENDED), last_id=2)
    first, second = map(json.loads, run("events", "--json").out.splitlines())
    assert (first["Code"], first["Topic"], first["Peer"], first["Time"]) == (
        "peer-lost",
        "peer",
        OTHER,
        AT + 1,
    )
    assert second["Data"] == {"duration_s": 192.5, "bytes_in": 1234, "bytes_out": 9}


def test_the_filters_are_the_daemons(fake: FakeDaemon, run: Run) -> None:
    fake.answers["events.ls"] = EventsResult(())
    run("events", "--peer", "laptop", "-p", "/x/ssh", "--kind", "stream", "--kind", "peer-lost")
    asked = fake.called("events.ls")[0]
    assert (asked["peer"], asked["protocol"], asked["kinds"]) == ("laptop", "/x/ssh", ["stream", "peer-lost"])
    assert time.time() - asked["since"] == pytest.approx(86_400, abs=60)


def test_what_is_missing_is_said(fake: FakeDaemon, run: Run) -> None:
    fake.answers["events.ls"] = EventsResult(
        (), complete=False, failure="history x: it is full", hint="free it"
    )
    assert run("events").err == (
        "Warning: only the newest 10000 events are shown\n"
        "hint: ask for less: a later --since, --kind, --peer\n"
        "Warning: history x: it is full\nhint: free it\n"
    )


@pytest.mark.parametrize("code", KINDS)
def test_every_kind_is_a_line_even_where_its_fields_are_missing(code: str) -> None:
    line = event_line(event(1, code))
    assert "\n" not in line and "{" not in line and line.startswith("2025-11-26 02:14:08  ")


def test_a_kind_of_a_newer_daemon_and_what_a_peer_chose_are_printed_safely() -> None:
    newer = event(1, "peer-teleported", data={"to": "\x1b[31mMars\n"})
    assert event_line(newer) == (f"2025-11-26 02:14:08  peer-teleported {OTHER} /x/ssh to \\x1b[31mMars\\n")


# --- status and ls --------------------------------------------------------------------------------


def test_the_day_in_a_line() -> None:
    laptop = PeerDrops(OTHER, "laptop", 3, AT, "the line was silent")
    others = [PeerDrops(PEER, None, n, AT - 86_000, "reset") for n in (1, 2, 3)]
    assert digest_line(HistoryDigest((laptop,), streams=12, denied=3), AT + 60) == (
        "last 24 h: 3 drops of laptop, last 02:14: the line was silent; 12 streams, 3 denied"
    )
    nothing = "last 24 h: no drops; 0 streams, 0 denied"
    assert digest_line(HistoryDigest(), AT) == nothing
    sick = HistoryDigest(failure="history: the disk is full")
    assert digest_line(sick, AT) == f"{nothing}; in memory only: history: the disk is full"
    assert digest_line(HistoryDigest((laptop, *others), daemon_lost=1), AT) == (
        "last 24 h: 3 drops of laptop, last 02:14: the line was silent; "
        "1 drop of 12D3…defLcL, last 11-25 02:20: reset; 2 drops of 12D3…defLcL, last 11-25 02:20: reset; "
        "3 drops of 1 other peer; the daemon was killed or crashed once; 0 streams, 0 denied"
    )


def test_ls_tells_a_tunnels_last_problem(fake: FakeDaemon, on_terminal: Callable[..., str]) -> None:
    problem = Problem("tunnel-peer-away", time.time() - 3600, f"{OTHER} cannot be reached")
    fake.answers["p2p.ls"] = LsResult((replace(FORWARD, last_problem=problem),))
    assert on_terminal("ls").splitlines()[2:] == [
        "/x/ssh: last problem 1h00m ago: 12D3…wvuTHr cannot be reached"
    ]


# --- --since --------------------------------------------------------------------------------------

NOW = AT  # 2025-11-26 02:14:07 in UTC, a Wednesday


@pytest.mark.parametrize(
    ("text", "ago_s"),
    [
        ("2h", 7200),
        ("30m", 1800),
        ("1h30m", 5400),
        ("7d", 7 * 86_400),
        ("1W", 7 * 86_400),
        ("today", 2 * 3600 + 14 * 60 + 7),
        ("Yesterday", 26 * 3600 + 14 * 60 + 7),
        ("02:00", 14 * 60 + 7),
        ("2:00", 14 * 60 + 7),
        ("23:00", 3 * 3600 + 14 * 60 + 7),
        ("2025-11-26", 2 * 3600 + 14 * 60 + 7),
        ("2025-11-26 02:00", 14 * 60 + 7),
        ("2025-11-26T02:00:00Z", 14 * 60 + 7),
        ("2025-11-26T03:00+01:00", 14 * 60 + 7),
        ("20251126T020000", 14 * 60 + 7),
        (f"{AT - 5:.0f}", 5),
        (f"{AT - 5}", 5),
        ("36500d", NOW),
    ],
)
def test_a_time_in_the_past(text: str, ago_s: float) -> None:
    assert parse_since(text, NOW) == NOW - ago_s


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5x",
        "h",
        "-2h",
        "2h ago",
        "tomorrow",
        "25:00",
        "2025-13-01",
        "2025-11-26T",
        "x" * 5000,
        "1e9",
        "٢h",
    ],
)
def test_no_time(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--since .* is no time$") as caught:
        parse_since(text, NOW)
    assert caught.value.hint == "write 2h, 30m, yesterday, 02:00, 2026-11-26 02:00, or a unix time"


@pytest.mark.parametrize("text", ["2025-11-26 02:15", f"{AT + 1:.0f}", "9999-12-31"])
def test_a_time_to_come(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--since .* is a time to come$"):
        parse_since(text, NOW)


def test_bad_input_is_refused_before_anything_is_asked(fake: FakeDaemon, run: Run) -> None:
    result = run("events", "--since", "5x")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith('Error: --since "5x" is no time\nhint: ')
    assert fake.called("events.ls") == []


# --- --follow -------------------------------------------------------------------------------------


def test_a_follower_shows_the_past_then_what_fits_and_a_count_once(fake: FakeDaemon, home: Path) -> None:
    fake.answers["events.ls"] = EventsResult((DENIED,), peer=OTHER, last_id=3)
    program = Program(home, ["events", "--follow", "--peer", "laptop", "--kind", "access"], {"TZ": "UTC"})
    try:
        program.wait_for("41 times")
        for live in (
            DENIED,
            replace(DENIED, count=82),
            event(6, "peer-up", data={"path": "direct", "address": "-"}),
            event(7, "access-denied", peer=PEER),
            event(8, "access-denied"),
        ):
            fake.emit("events", result_to_json(live))
        program.wait_for("02:14:15  laptop was denied /x/ssh")
        assert [line[21:] for line in program.lines] == [
            "12D3…wvuTHr was denied /x/ssh (41 times until 02:15)",
            "12D3…wvuTHr was denied /x/ssh (82 times until 02:15)",
            "laptop was denied /x/ssh",
        ]
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(10) == 130
    finally:
        program.stop()
    assert program.stderr == ""


def test_a_follower_goes_on_after_a_restart_and_the_next_daemon_knows_of_a_kill(home: Path) -> None:
    with Daemon(home) as first:
        follower = Program(home, ["events", "-f", "--kind", "daemon"])
        try:
            follower.wait_for("the daemon started")
            files = (home / "events.db", home / "events.db-wal")
            while not any(b"daemon-started" in it.read_bytes() for it in files if it.exists()):
                time.sleep(0.02)  # what a killed daemon has not written is lost
            os.kill(first.process.pid, signal.SIGKILL)
            first.process.wait(10)
            with Daemon(home):
                follower.wait_for("the daemon was killed, or crashed; it was last heard at ")
                lines = follower.lines
                assert [line.split("  ")[1].split(":")[0].split(";")[0] for line in lines[:2]] == [
                    "the daemon started",
                    "the daemon was killed, or crashed",
                ]
                told = run_cli(home, "events", "--json", "--kind", "daemon").stdout
                codes = [json.loads(line)["Code"] for line in told.splitlines()]
                assert codes == ["daemon-started", "daemon-lost", "daemon-started"]
        finally:
            follower.stop()
        assert "The daemon stopped; this goes on when it is back.\nThe daemon is back.\n" in follower.stderr


# --- the README, as printed -----------------------------------------------------------------------

README = Path(__file__).parents[2] / "README.md"

NIGHT = 1_795_651_200.0  # 2026-11-26 00:00 in UTC
ASKER = "12D3KooWS8JciKc2RoVbTPHeDG2puS8DXRrK2gLAja91JmN3s51E"


def at(hour: int, minute: int, second: int) -> float:
    return NIGHT + 3600 * hour + 60 * minute + second


def night() -> tuple[HistoryEvent, ...]:
    """What happened, as the README tells it."""
    silent, lost = "no sign of life for 15 s", f"the connection to {OTHER} was lost"
    broken = {"duration_s": 11_520, "bytes_in": 1_234_567, "bytes_out": 310_000, "reason": lost}
    told: list[tuple[float, str, dict[str, Any]]] = [
        (at(2, 14, 7), "peer-lost", {"protocol": None, "data": {"reason": silent}}),
        (at(2, 14, 7), "stream-broken", {"data": broken}),
        (at(2, 14, 9), "tunnel-peer-away", {"data": {"reason": "/ip4/192.0.2.7/tcp/4011: timed out"}}),
        (
            at(2, 15, 30),
            "access-requested",
            {"peer": ASKER, "name": None, "protocol": "/x/web", "count": 41, "until": at(2, 19, 2)},
        ),
        (at(2, 31, 52), "peer-up", {"data": {"path": "direct", "address": "/ip4/192.0.2.7/tcp/4011"}}),
        (at(2, 31, 52), "tunnel-peer-back", {}),
        (at(6, 25, 3), "daemon-lost", {"data": {"last": at(6, 24, 58)}}),
        (at(6, 25, 3), "daemon-started", {"data": {"version": "0.1.0", "pid": 4242}}),
    ]
    return tuple(
        event(number, code, **{"time": when, "until": when, **more})
        for number, (when, code, more) in enumerate(told, 1)
    )


def test_the_readme_says_what_is_printed(fake: FakeDaemon, run: Run) -> None:
    text = README.read_text(encoding="utf-8").partition("## Why did it drop last night\n")[2]
    printed = text.partition("```console\n")[2].partition("```")[0]
    fake.answers["events.ls"] = EventsResult(night(), last_id=8)
    drop = PeerDrops(OTHER, "laptop", 1, at(2, 14, 7), "no sign of life for 15 s")
    line = digest_line(HistoryDigest((drop,), streams=12, denied=41), at(9, 0, 0))
    assert printed == (
        f"$ p2pfwd status | grep history\nhistory    {line}\n"
        f"$ p2pfwd events --since 02:00\n{run('events', '--since', '02:00').out}"
    )
