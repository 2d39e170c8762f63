"""`--foreground`: Kubo's words, and every way it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from p2pfwd.cli.foreground import terminable, watch
from p2pfwd.rpc.client import Client
from p2pfwd.rpc.schema import CloseResult, LsResult, StatusResult
from tests.cli.conftest import Run
from tests.cli.samples import FORWARDED, LISTENED, REACHED
from tests.support.daemon import Program
from tests.support.fake_daemon import OTHER, PEER, FakeDaemon

CASES = [
    (
        ("listen", "-f", "/x/web", "8000"),
        "Listening on /x/web, forwarding to /ip4/127.0.0.1/tcp/8000, waiting for interrupt...",
        "Received interrupt, removing listener for /x/web",
    ),
    (
        ("forward", "-f", "/x/ssh", "2222", OTHER),
        "Forwarding /x/ssh to /ip4/127.0.0.1/tcp/2222, waiting for interrupt...",
        "Received interrupt, removing forwarder for /x/ssh",
    ),
]


@pytest.fixture
def holding(fake: FakeDaemon) -> FakeDaemon:
    """A fake daemon that holds one foreground listen and one forward."""
    listened = replace(LISTENED, listener=replace(LISTENED.listener, foreground=True))
    fake.answers |= {
        "p2p.listen": listened,
        "p2p.forward": FORWARDED,
        "p2p.check": REACHED,
        "p2p.ls": LsResult((listened.listener, FORWARDED.listener)),
        "p2p.close": CloseResult(()),
        "daemon.status": StatusResult("0.1.0", 1, PEER, 1.0),
    }
    return fake


@pytest.mark.parametrize(("arguments", "opening", "closing"), CASES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_listener_is_gone(
    holding: FakeDaemon, home: Path, arguments: tuple[str, ...], opening: str, closing: str, number: int
) -> None:
    with Program(home, arguments) as program:
        program.wait_for(opening)
        program.process.send_signal(number)
        assert program.wait() == 0
        assert program.lines[-1] == closing
        assert program.stderr == ""
    closed = holding.called("p2p.close")
    assert len(closed) == 1 and closed[0]["protocol"] in closing and closed[0]["listen_address"]


def test_an_interrupt_whose_exception_got_lost_ends_the_next_wait(
    holding: FakeDaemon, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: lost.append(dropped.exc_type))

    class Destroyed:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(3):
                pass  # a handler runs between two steps of Python

    with terminable() as interrupted, Client.connect(home / "rpc.sock") as client:
        subscription = watch(client, interrupted)
        Destroyed()
        assert lost == [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt):
            subscription.next(timeout_s=5.0)


@pytest.mark.parametrize(("arguments", "opening", "closing"), CASES)
def test_a_close_from_elsewhere_ends_it(
    holding: FakeDaemon, home: Path, arguments: tuple[str, ...], opening: str, closing: str
) -> None:
    with Program(home, arguments) as program:
        program.wait_for(opening)
        holding.emit("listeners", {"action": "opened"})  # somebody else's: it stays
        holding.answers["p2p.ls"] = LsResult(())
        holding.emit("listeners", {"action": "closed"})
        assert program.wait() == 0
        assert program.lines[-1] == closing
    assert not holding.called("p2p.close")


def test_a_listener_closed_before_the_first_look_is_not_waited_for(holding: FakeDaemon, run: Run) -> None:
    holding.answers["p2p.ls"] = LsResult(())
    result = run("listen", "-f", "/x/web", "8000")
    assert result.status == 0
    assert result.out.endswith("Received interrupt, removing listener for /x/web\n")


def test_one_that_ended_by_itself_is_said_to_have(holding: FakeDaemon, run: Run) -> None:
    made = holding.answers["p2p.listen"]
    holding.answers["p2p.listen"] = replace(made, listener=replace(made.listener, ends_at=time.time()))
    holding.answers["p2p.ls"] = LsResult(())
    result = run("listen", "-f", "/x/web", "8000", "--expires", "1s")
    said = "The time of the listen /x/web is over: it has ended"
    assert (result.status, result.out.splitlines()[-1]) == (0, said)


def test_a_daemon_that_stops_ends_it(holding: FakeDaemon, home: Path) -> None:
    with Program(home, CASES[0][0]) as program:
        program.wait_for("waiting for interrupt")
        holding.hang_up()
        assert program.wait() == 3
        assert program.stderr == "Error: the daemon stopped, and the listener with it\n"


def test_a_daemon_that_drains_ends_it(holding: FakeDaemon, run: Run) -> None:
    holding.answers |= {
        "p2p.ls": LsResult(()),
        "daemon.status": StatusResult("0.1.0", 1, PEER, 1.0, draining=True),
    }
    result = run("listen", "-f", "/x/web", "8000")
    assert (result.status, result.err) == (3, "Error: the daemon stopped, and the listener with it\n")


def test_json_is_kubos_two_lines(holding: FakeDaemon, home: Path) -> None:
    with Program(home, (*CASES[0][0], "--json")) as program:
        program.wait_for("active")
        program.process.send_signal(signal.SIGTERM)
        assert program.wait() == 0
        first, last = map(json.loads, program.lines)
    assert {name: first[name] for name in ("Status", "Protocol", "Address")} == {
        "Status": "active",
        "Protocol": "/x/web",
        "Address": "/ip4/127.0.0.1/tcp/8000",
    }
    assert first["Command"].startswith("p2pfwd forward ")
    assert last == {
        "Status": "closing",
        "Protocol": "/x/web",
        "Address": "/ip4/127.0.0.1/tcp/8000",
        "Reason": "interrupt",
    }


def test_ctrl_c_during_the_check_takes_the_forward_back(holding: FakeDaemon, home: Path) -> None:
    holding.answers["p2p.check"] = None
    with Program(home, ("forward", "/x/ssh", "2222", OTHER)) as program:
        holding.wait_for_call("p2p.check")
        program.process.send_signal(signal.SIGINT)
        assert program.wait() == 130
        assert program.stderr == "Interrupted: the forward of /x/ssh was removed.\n"
    assert len(holding.called("p2p.close")) == 1


def test_several_in_the_foreground_end_together_and_one_by_one(holding: FakeDaemon, home: Path) -> None:
    both = [replace(FORWARDED.listener, id=number, protocol=f"/x/{number}") for number in (21, 22)]
    made = iter(both)
    holding.answers |= {
        "p2p.forward": lambda params: replace(FORWARDED, listener=next(made)),
        "p2p.ls": LsResult(tuple(both)),
    }
    with Program(home, ("forward", "-f", "/x/21", "2221", "/x/22", "2222", OTHER, "--json")) as program:
        program.wait_for('"Protocol": "/x/22"')
        holding.answers["p2p.ls"] = LsResult((both[1],))
        holding.emit("listeners", {"action": "closed"})
        program.wait_for("closed")
        program.process.send_signal(signal.SIGTERM)
        assert program.wait() == 0
        lines = list(map(json.loads, program.lines))
    told = [(it["Status"], it["Protocol"], it.get("Reason")) for it in lines]
    assert told == [
        ("active", "/x/21", None),
        ("active", "/x/22", None),
        ("closing", "/x/21", "closed"),
        ("closing", "/x/22", "interrupt"),
    ]
    assert [call["protocol"] for call in holding.called("p2p.close")] == ["/x/22"]
