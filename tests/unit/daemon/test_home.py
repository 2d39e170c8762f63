"""daemon.home: one daemon a home, whatever ended the last one."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from p2pfwd.daemon.home import Repo
from p2pfwd.errors import BindFailed, DaemonRunning, InvalidKey, StorageFailed
from p2pfwd.rpc.paths import Paths


@pytest.fixture
def paths(home: Path) -> Paths:
    return Paths.resolve(str(home / "deep" / "er"), {})


def open_and_close(paths: Paths) -> Repo:
    repo = Repo.open(paths)
    repo.close()
    return repo


def test_the_home_is_made_with_an_identity_once(paths: Paths) -> None:
    first = open_and_close(paths)
    assert first.identity_is_new
    assert stat.S_IMODE(paths.home.stat().st_mode) == 0o700
    again = open_and_close(paths)
    assert not again.identity_is_new
    assert again.identity.to_protobuf() == first.identity.to_protobuf()


def test_a_second_daemon_is_told_who_is_there(paths: Paths) -> None:
    repo = Repo.open(paths)
    repo.ready()
    with pytest.raises(DaemonRunning) as caught:
        Repo.open(paths)
    assert f"process {os.getpid()}, control socket {paths.socket}" in caught.value.message
    assert caught.value.details == {"pid": os.getpid(), "socket": str(paths.socket)}
    repo.close()
    repo.close()
    open_and_close(paths)


def test_a_second_daemon_waits_while_the_first_is_starting(paths: Paths) -> None:
    first = Repo.open(paths)
    outcome: list[str] = []

    def second() -> None:
        try:
            open_and_close(paths)
        except DaemonRunning:
            outcome.append("running")

    thread = threading.Thread(target=second)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    first.ready()
    thread.join(10)
    assert outcome == ["running"]
    first.close()


def test_a_second_daemon_takes_over_when_the_first_fails_to_start(paths: Paths) -> None:
    first = Repo.open(paths)
    outcome: list[Repo] = []
    thread = threading.Thread(target=lambda: outcome.append(open_and_close(paths)))
    thread.start()
    first.close()
    thread.join(10)
    assert len(outcome) == 1


def test_a_lock_file_left_behind_does_not_matter(paths: Paths) -> None:
    open_and_close(paths)
    paths.lock_file.write_text("999999\n/old\n")
    repo = Repo.open(paths)
    assert paths.lock_file.read_text() == f"{os.getpid()}\n{paths.socket}\n"
    repo.close()


def test_a_lock_file_that_says_nothing_is_enough(paths: Paths) -> None:
    open_and_close(paths)
    paths.lock_file.write_bytes(b"\xff")
    fd = os.open(paths.lock_file, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(DaemonRunning, match=r"running already for this home$"):
        Repo.open(paths)
    os.close(fd)


def test_a_bad_key_leaves_the_home_free(paths: Paths) -> None:
    open_and_close(paths)
    paths.key_file.chmod(0o644)
    for _ in range(2):
        with pytest.raises(InvalidKey, match="other users can read it"):
            Repo.open(paths)
    paths.key_file.chmod(0o600)
    open_and_close(paths)


def test_a_home_that_is_a_file_is_one_clear_error(home: Path) -> None:
    (home / "file").write_text("")
    with pytest.raises(StorageFailed, match=r"home directory .*: Not a directory"):
        Repo.open(Paths.resolve(str(home / "file"), {}))


def test_a_lock_that_cannot_be_made_is_one_clear_error(paths: Paths) -> None:
    paths.home.mkdir(parents=True)
    paths.start_lock_file.mkdir()
    with pytest.raises(StorageFailed, match=r"lock file .*: Is a directory"):
        Repo.open(paths)


def test_a_home_too_deep_for_a_socket_changes_nothing(home: Path) -> None:
    deep = Paths.resolve(str(home / ("a" * 120)), {})
    with pytest.raises(BindFailed, match="control socket"):
        Repo.open(deep)
    assert list(home.iterdir()) == []
