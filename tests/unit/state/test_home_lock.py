"""state.home_lock: who holds a home is told by its lock, to whoever may know."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from p2pfwd.errors import DaemonRunning, StorageFailed
from p2pfwd.state import home_lock
from p2pfwd.state.home_lock import Holder, HomeLock, holder


def take(home: Path, socket: Path | None = None) -> HomeLock:
    return HomeLock.take(home / "daemon.lock", home / "start.lock", socket)


def test_a_holder_is_told_as_long_as_it_holds(home: Path) -> None:
    assert holder(home / "daemon.lock") is None
    lock = take(home, Path("/run/é/rpc.sock"))
    assert holder(home / "daemon.lock") == Holder(os.getpid(), Path("/run/é/rpc.sock"))
    lock.close()
    assert holder(home / "daemon.lock") is None
    assert (home / "daemon.lock").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", Holder(None, None)),
        (b"12\n", Holder(12, None)),
        (b"\xff\n\n", Holder(None, None)),
        (b"-1\n/s\n", Holder(None, Path("/s"))),
    ],
)
def test_a_lock_file_that_says_nothing_is_no_reason_to_fail(
    home: Path, content: bytes, told: Holder
) -> None:
    lock = take(home)
    (home / "daemon.lock").write_bytes(content)
    assert holder(home / "daemon.lock") == told
    lock.close()


def test_a_path_that_is_not_utf8_is_told_as_it_is(home: Path) -> None:
    lock = take(home)
    (home / "daemon.lock").write_bytes(b"1\n/\xff/rpc.sock\n")
    found = holder(home / "daemon.lock")
    assert found is not None
    assert os.fsencode(str(found.socket)) == b"/\xff/rpc.sock"
    lock.close()


def test_who_looks_is_in_nobodys_way(home: Path) -> None:
    """Lookers hold the lock for instants; whoever wants it for good gets it all the same."""
    take(home).close()
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.001):  # without a pause the two hold it nearly all the time
            holder(home / "daemon.lock")

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            take(home).close()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_second_one_gives_up_soon(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []
    monkeypatch.setattr(home_lock.time, "sleep", tries.append)
    lock = take(home, Path("/s"))
    lock.ready()
    with pytest.raises(DaemonRunning, match=rf"process {os.getpid()}, control socket /s"):
        take(home)
    assert sum(tries) < 0.2
    lock.close()


def test_a_lock_file_that_cannot_be_read_is_one_clear_error(home: Path) -> None:
    (home / "daemon.lock").symlink_to(home / "elsewhere")
    with pytest.raises(StorageFailed, match=r"lock file .*daemon\.lock"):
        holder(home / "daemon.lock")
