"""What was answered is on the disk: a daemon killed outright, and one on a disk that is full."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rpc import durability, durable_things
from tests.support.daemon import daemons_of
from tests.support.fake_daemon import until
from tests.support.in_process import QuickDaemon

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(180)
def test_killed_at_random_instants_it_has_lost_no_answer(home: Path) -> None:
    """The short form of `make durable`."""
    result = durability.run(tries=15, seed=20_261_126)
    assert result.lost == []
    assert result.answers.total() > 100 and len(result.answers) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_a_run_that_is_killed_leaves_no_daemon_behind(home: Path) -> None:
    """As of every slow tier: see `tests.support.lifeline`."""
    words = [sys.executable, "-m", "tests.rpc.durability", "--tries", "1000"]
    env = {**os.environ, "TMPDIR": str(home)}
    with subprocess.Popen(words, cwd=ROOT, env=env, stderr=subprocess.DEVNULL) as run:
        found: list[int] = []

        def has_daemon() -> bool:
            with contextlib.suppress(ProcessLookupError):  # killed meanwhile: it does that
                found[:] = [os.pidfd_open(pid) for pid in daemons_of(run.pid)]
            return bool(found)

        assert until(has_daemon)
        run.kill()
    try:
        assert all(select.select([daemon], [], [], 20.0)[0] for daemon in found)
    finally:
        for daemon in found:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(daemon, signal.SIGKILL)
            os.close(daemon)


def test_a_full_disk_is_told_with_its_cure_and_changes_nothing(home: Path) -> None:
    """No file may grow: what the state file has to append does not fit."""
    with QuickDaemon(home / "d") as daemon:
        daemon.ok("listen", "/x/before", "9")
        before = daemon.json("ls")
        daemon.ok("listen", "/x/closed", "9")
        daemon.ok("close", "-p", "/x/closed")
        _, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (4096, hard))
        for command in (
            ("listen", "/x/more", "9"),
            ("forward", "/x/more", "0", durable_things.PEERS[0], "--no-check"),
            ("close", "-a"),
        ):
            failed = daemon.cli(*command)
            assert (failed.returncode, failed.stdout) == (1, "")
            error, hint = failed.stderr.splitlines()
            assert error.startswith(f"Error: state file {home}/d/state.db: ")
            assert hint.startswith("hint: see that the file system has room")
        assert daemon.json("ls") == before
        daemon.process.kill()
        daemon.wait()
    with QuickDaemon(home / "d") as daemon:
        assert [it["Protocol"] for it in daemon.json("ls")["Listeners"]] == ["/x/before"]
        daemon.ok("close", "-a")
    with QuickDaemon(home / "d") as daemon:
        assert daemon.json("ls") == {"Listeners": []}
