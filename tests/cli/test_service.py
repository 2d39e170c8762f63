"""`service …` word for word, and its refusals: systemd is scripts that do next to nothing.

What a real one does is in tests/netns/test_service.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2pfwd.rpc.paths import Paths
from p2pfwd.rpc.schema import StatusResult
from p2pfwd.service import install, launchd, systemd, systemd_unit, values
from p2pfwd.service.values import Program
from p2pfwd.state.home_lock import HomeLock
from tests.cli.conftest import Run
from tests.support.fake_daemon import FAKE_PID, PEER, FakeDaemon

SYSTEMCTL = """#!/bin/sh
echo "$(basename "$0")" "$@" >>"$STATE/calls"
if test -e "$STATE/broken"; then echo "Failed to connect to bus: No medium found" >&2; exit 1; fi
unit=$XDG_CONFIG_HOME/systemd/user/$(ls "$XDG_CONFIG_HOME/systemd/user" 2>/dev/null | head -n 1)
case "$*" in
*show*Version*) echo Version=252 ;;
*show*)
    test -f "$unit" && echo "FragmentPath=$unit"
    echo "ActiveState=$(cat "$STATE/active" 2>/dev/null || echo inactive)"
    echo "SubState=$(cat "$STATE/sub" 2>/dev/null || echo dead)"
    echo "UnitFileState=$(cat "$STATE/enabled" 2>/dev/null || echo disabled)"
    echo "MainPID=$(cat "$STATE/pid" 2>/dev/null || echo 0)"
    cat "$STATE/more" 2>/dev/null ;;
*enable*) echo enabled >"$STATE/enabled" ;;
*" start "*|*restart*)
    if test -e "$STATE/fails"; then echo "Job for p2pfwd failed." >&2; exit 1; fi
    echo active >"$STATE/active"; echo running >"$STATE/sub" ;;
esac
exit 0
"""


@pytest.fixture
def state(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that the scripts keep their state in; a systemd of the user's is there."""
    state = home / "systemd"
    (state / "bin").mkdir(parents=True)
    for name in ("systemctl", "journalctl"):
        (state / "bin" / name).write_text(SYSTEMCTL)
        (state / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{state}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("STATE", str(state))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(state / "config"))
    for name in [name for name in os.environ if name.startswith("P2PFWD_") and name != "P2PFWD_HOME"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(systemd, "BOOTED", state)
    monkeypatch.setattr(systemd, "LINGER", state)
    monkeypatch.setattr(systemd, "user_name", lambda: "alice")
    return state


def unit(state: Path) -> Path:
    (found,) = (state / "config" / "systemd" / "user").iterdir()
    return found


def calls(state: Path) -> list[str]:
    return [line for line in (state / "calls").read_text().splitlines() if " show " not in line]


def test_install_says_what_it_wrote_and_ran_and_again_changes_nothing(state: Path, run: Run) -> None:
    result = run("service", "install")
    name = unit(state).name
    assert (result.status, result.out.splitlines()) == (
        0,
        [
            f"Wrote: {unit(state)}",
            "Ran: systemctl --user daemon-reload",
            f"Ran: systemctl --user enable {name}",
            f"Ran: systemctl --user start {name}",
            f"{name} runs, and starts at your login.",
        ],
    )
    assert result.err == (
        "To have it started at boot, before you log in: sudo loginctl enable-linger alice\n"
    )
    (state / "alice").touch()
    result = run("service", "install")
    assert result.out == f"Nothing to change.\n{name} runs, and starts at boot.\n"
    assert json.loads(run("service", "install", "--json").out)["Changed"] is False
    assert len(calls(state)) == 3
    assert unit(state).stat().st_mode & 0o777 == 0o644


def test_what_differs_is_written_again_and_the_daemon_restarted(state: Path, run: Run) -> None:
    run("service", "install")
    path = unit(state)
    path.write_text(path.read_text().replace("RestartSec=5", "RestartSec=50"))
    assert f"Ran: systemctl --user restart {path.name}" in run("service", "install").out
    assert "RestartSec=5\n" in path.read_text()


def test_a_dry_run_prints_the_unit_and_touches_nothing(state: Path, run: Run) -> None:
    result = run("service", "install", "--dry-run")
    assert result.out.startswith("# Written by p2pfwd service install;") and "Type=notify" in result.out
    assert not (state / "config").exists() and not (state / "calls").exists()
    document = json.loads(run("service", "install", "--dry-run", "--json").out)
    assert document["Text"] == result.out and document["System"] is False


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_variables_that_the_service_will_not_have_are_named(
    state: Path, run: Run, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.setenv("P2PFWD_LOG_LEVEL", "debug")
    assert "does not have this shell's P2PFWD_LOG_LEVEL" in run("service", "install", *more).err


def test_a_dry_run_says_what_would_be_refused(
    state: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = "Warning: without --dry-run this would be refused: "
    assert refused not in run("service", "install", "--dry-run").err
    unit = json.loads(run("service", "install", "--dry-run", "--json").out)["File"]
    Path(unit).parent.mkdir(parents=True)
    Path(unit).write_text("[Service]\n")
    result = run("service", "install", "--dry-run")
    assert f"{refused}" in result.err and unit in result.err and "Type=notify" in result.out
    monkeypatch.setattr(systemd, "BOOTED", state / "nowhere")
    result = run("service", "install", "--dry-run")
    assert (result.status, f"{refused}no systemd manages this machine\n" in result.err) == (0, True)


def test_uninstall_takes_what_install_wrote_and_leaves_the_home(state: Path, home: Path, run: Run) -> None:
    run("service", "install")
    path = unit(state)
    result = run("service", "uninstall")
    assert result.out.splitlines() == [
        f"Ran: systemctl --user disable --now {path.name}",
        "Ran: systemctl --user daemon-reload",
        f"Removed: {path}",
        f"{path.name} is no service any more; its home stays: {home}",
    ]
    assert not path.exists()
    result = run("service", "uninstall")
    assert (result.status, "hint: p2pfwd service install" in result.err) == (4, True)


@pytest.mark.parametrize("verb", ["install", "uninstall", "status"])
def test_somebody_elses_unit_is_left_alone(state: Path, run: Run, verb: str) -> None:
    run("service", "install")
    path = unit(state)
    path.write_text("[Service]\nExecStart=/bin/true\n")
    result = run("service", verb)
    assert result.status == 1 and "it was not written by p2pfwd service install" in result.err
    assert path.read_text() == "[Service]\nExecStart=/bin/true\n"


def test_no_systemd_and_no_manager_of_the_user_are_said_with_the_cure(
    state: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state / "broken").touch()
    result = run("service", "install")
    assert result.status == 1
    assert "no manager of user services answers for alice: Failed to connect to bus" in result.err
    assert "hint: sudo loginctl enable-linger alice" in result.err
    monkeypatch.setattr(systemd, "BOOTED", state / "none")
    result = run("service", "install")
    assert "no systemd manages this machine\nhint: p2pfwd daemon, in the foreground" in result.err
    assert not (state / "config").exists()


def test_a_daemon_that_runs_by_itself_is_not_fought_with(state: Path, home: Path, run: Run) -> None:
    paths = Paths.resolve(str(home), {})
    lock = HomeLock.take(paths.lock_file, paths.start_lock_file, paths.socket)
    try:
        result = run("service", "install")
        assert result.status == 1 and f"(process {os.getpid()}) runs already for this home" in result.err
        assert "hint: p2pfwd shutdown, then p2pfwd service install again" in result.err
        (state / "pid").write_text(str(os.getpid()))
        assert run("service", "install").status == 0, "it is the service's own"
    finally:
        lock.close()


def test_a_start_that_fails_says_where_to_look(state: Path, run: Run) -> None:
    (state / "fails").touch()
    result = run("service", "install")
    assert result.status == 1 and "does not start: systemctl --user start" in result.err
    assert "hint: why: p2pfwd service logs; and p2pfwd service status" in result.err


def test_the_systems_service_is_roots_and_has_its_own_home(
    state: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("service", "install", "--system")
    assert result.status == 2 and "has its home in /var/lib/p2pfwd, not in" in result.err
    monkeypatch.delenv("P2PFWD_HOME")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(values, "content", lambda path: None)
    monkeypatch.setattr(systemd_unit, "SYSTEM_UNITS", state / "none")
    result = run("service", "install", "--system")
    assert result.status == 2 and "hint: sudo p2pfwd service install --system" in result.err


def test_a_program_that_the_systems_user_cannot_read_is_refused(tmp_path: Path) -> None:
    from p2pfwd.errors import UsageError

    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed" / "python").write_text("")
    with pytest.raises(UsageError, match="cannot run p2pfwd from") as caught:
        install.refuse_unreadable(Program((str(tmp_path / "closed" / "python"),), {}))
    assert "python3 -m venv /opt/p2pfwd" in str(caught.value.hint)


def test_status_says_how_the_service_and_its_daemon_fare(
    state: Path, home: Path, run: Run, fake: FakeDaemon
) -> None:
    (state / "pid").write_text(str(FAKE_PID))
    run("service", "install")
    (state / "more").write_text("NRestarts=2\nResult=watchdog\nExecMainCode=2\nExecMainStatus=6\n")
    fake.answers["daemon.status"] = StatusResult("0.1.0", 42, PEER, 3725.0, listeners=3, streams=1)
    result = run("service", "status")
    assert (result.status, result.out.splitlines()) == (
        0,
        [
            f"service    {unit(state).name}, yours",
            f"file       {unit(state)}",
            "starts     at login",
            f"state      active (running), process {FAKE_PID}, restarted 2 times",
            "last exit  killed by signal 6 (watchdog)",
            "daemon     p2pfwd 0.1.0, up for 1h02m, 3 listeners, 1 live stream, 0 peers",
            f"home       {home}",
        ],
    )
    document = json.loads(run("service", "status", "--json").out)
    assert (document["Restarts"], document["AtBoot"], document["Enabled"]) == (2, False, True)
    (state / "active").write_text("failed")
    assert run("service", "status").status == 3


def test_logs_is_the_journal_of_this_unit(state: Path, run: Run) -> None:
    assert run("service", "logs").status == 4
    run("service", "install")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-m", "p2pfwd", "service", "logs", "-f", "--since", "-2h"]
    subprocess.run(words, env=env, check=True)
    assert calls(state)[-1] == (
        f"journalctl --quiet --user-unit={unit(state).name} --output=short-iso --since=-2h --follow"
    )


def test_a_journal_that_is_closed_to_this_user_is_told_with_the_cure(state: Path, run: Run) -> None:
    run("service", "install")
    (state / "broken").touch()
    result = run("service", "logs")
    assert result.status == 1 and "the journal cannot be read: Failed to connect" in result.err
    assert "sudo mkdir -p /var/log/journal" in result.err


def test_listen_starts_the_service_where_there_is_one(state: Path, home: Path, run: Run) -> None:
    run("service", "install")
    (state / "fails").touch()
    result = run("listen", "/x/web", "1")
    assert result.status == 1 and f"{unit(state).name} does not start" in result.err
    assert not (home / "daemon.log").exists(), "there is no second way"


def test_a_service_that_failed_too_often_is_started_all_the_same(state: Path, run: Run) -> None:
    run("service", "install")
    (state / "active").write_text("failed")
    (state / "fails").touch()
    run("listen", "/x/web", "1")
    assert calls(state)[-2:] == [
        f"systemctl --user reset-failed {unit(state).name}",
        f"systemctl --user start {unit(state).name}",
    ]


def test_launchd_is_asked_in_its_own_words(
    state: Path, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = state / "bin" / "launchctl"
    script.write_text('#!/bin/sh\necho "$@" >>"$STATE/calls"\ncase "$1" in print) exit 113 ;; esac\n')
    script.chmod(0o755)
    monkeypatch.setattr(launchd, "is_here", lambda: True)
    monkeypatch.setenv("HOME", str(state))
    result = run("service", "install")
    (path,) = (state / "Library" / "LaunchAgents").iterdir()
    assert result.out.splitlines()[:2] == [
        f"Wrote: {path}",
        f"Ran: launchctl bootstrap gui/{os.geteuid()} {path}",
    ]
    assert run("service", "status").status == 3
    assert run("service", "install", "--system").status == 2
    assert run("service", "uninstall").status == 0 and not path.exists()
