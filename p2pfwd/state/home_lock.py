"""Who holds a home: the lock file of its daemon, and what it says. Shared by the CLI and the daemon.

Rules: `daemon.lock` is flocked for the daemon's life and says who holds it (pid, then control socket, a line
each), so two daemons never share a home, a daemon killed outright leaves no trace that matters, and the
daemon is found wherever its socket is. `start.lock` is flocked from the first step until `ready`: a second
daemon started meanwhile waits for the outcome, and then finds either a daemon that answers or a free home.
Lock files are never unlinked. To look (`holder`) takes the lock for an instant; whoever takes it for good
therefore tries more than once.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import NamedTuple

from p2pfwd.errors import DaemonRunning
from p2pfwd.system.private_files import storage_failed

SYSTEM_HOME = Path("/var/lib/p2pfwd")
"""The home of the system's service."""

MAX_LOCK_BYTES = 8192
"""Most that is read of a lock file: two lines, of which a path (PATH_MAX is 4096) is one."""
_TRIES = 5
_TRY_AGAIN_S = 0.02


class Holder(NamedTuple):
    """Who holds a home, as its lock file says; None for what it does not say."""

    pid: int | None
    socket: Path | None


def holder(lock_file: Path) -> Holder | None:
    """Who holds the home at this moment; None when nobody does.

    Raises StorageFailed where this user cannot tell.
    """
    try:
        fd = os.open(lock_file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):  # no daemon was ever here
        return None
    except OSError as exc:
        raise storage_failed("lock file", lock_file, exc) from exc
    try:
        _flock(lock_file, fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(fd)
    finally:
        os.close(fd)
    return None


class HomeLock:
    """A home while this process holds it; `take` takes hold, `close` lets go."""

    def __init__(self) -> None:
        """Holds nothing yet; use `take`."""
        self._lock: int | None = None
        self._start_lock: int | None = None

    @classmethod
    def take(cls, lock_file: Path, start_lock_file: Path, socket: Path | None = None) -> HomeLock:
        """Hold the home, with the control socket `socket`; waits while a daemon is starting.

        Raises DaemonRunning, StorageFailed; then nothing is held.
        """
        self = cls()
        try:
            self._start_lock = _open(start_lock_file)
            _flock(start_lock_file, self._start_lock, fcntl.LOCK_EX)
            self._lock = _take(lock_file, f"{os.getpid()}\n{socket or ''}\n".encode())
        except BaseException:
            self.close()
            raise
        return self

    def ready(self) -> None:
        """This daemon answers: let another that was started meanwhile find that out."""
        if self._start_lock is not None:
            os.close(self._start_lock)
            self._start_lock = None

    def close(self) -> None:
        """Let go of the home. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self.ready()  # last: who waits for it tries the other at once


def running(held_by: Holder) -> DaemonRunning:
    """The error of a process that wants the home for itself."""
    known = held_by.pid is not None and held_by.socket is not None
    told = f" (process {held_by.pid}, control socket {held_by.socket})" if known else ""
    return DaemonRunning(
        f"a daemon is running already for this home{told}",
        hint="p2pfwd status shows it, p2pfwd shutdown stops it; another daemon needs another P2PFWD_HOME",
        pid=held_by.pid if known else None,
        socket=str(held_by.socket) if known else None,
    )


def _take(path: Path, content: bytes) -> int:
    fd = _open(path)
    try:
        for left in reversed(range(_TRIES)):
            try:
                _flock(path, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    raise running(_read(fd)) from None
                time.sleep(_TRY_AGAIN_S)
        _write(path, fd, content)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _read(fd: int) -> Holder:
    pid, _, rest = os.pread(fd, MAX_LOCK_BYTES, 0).decode("utf-8", "surrogateescape").partition("\n")
    socket = rest.partition("\n")[0]
    return Holder(int(pid) if pid.isascii() and pid.isdigit() else None, Path(socket) if socket else None)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise storage_failed("lock file", path, exc) from exc


def _flock(path: Path, fd: int, operation: int) -> None:
    try:
        fcntl.flock(fd, operation)
    except BlockingIOError:
        raise
    except OSError as exc:
        raise storage_failed("lock file", path, exc) from exc


def _write(path: Path, fd: int, data: bytes) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, data, 0)
    except OSError as exc:
        raise storage_failed("lock file", path, exc) from exc
