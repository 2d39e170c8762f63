"""What was answered is on the disk: a daemon killed outright, and one on a disk that is full."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tests.rpc import durability, durable_things
from tests.support.in_process import QuickDaemon


@pytest.mark.timeout(180)
def test_killed_at_random_instants_it_has_lost_no_answer(home: Path) -> None:
    """The short form of `make durable`."""
    result = durability.run(tries=15, seed=20_261_126)
    assert result.lost == []
    assert result.answers.total() > 100 and len(result.answers) == 8


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
