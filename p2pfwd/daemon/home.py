"""One daemon's hold on its home: directories, locks, identity.

Rules: `daemon.lock` is flocked for the daemon's life and says who holds it (pid, then socket, a line each),
so two daemons never share a home, and a daemon killed outright leaves no trace that matters. `start.lock` is
flocked from the first step until `ready`: a second daemon started meanwhile waits for the outcome, and then
finds either a daemon that answers or a free home. Lock files are never unlinked.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from p2pfwd.core.keys import PrivateKey
from p2pfwd.errors import DaemonRunning
from p2pfwd.rpc.paths import Paths, check_socket_path
from p2pfwd.state import identity_file
from p2pfwd.system.private_files import private_directory, storage_failed

MAX_LOCK_BYTES = 512


class Repo:
    """The home while this process holds it; `open` takes hold, `close` lets go."""

    identity: PrivateKey
    identity_is_new: bool

    def __init__(self, paths: Paths) -> None:
        """Holds nothing yet; use `open`."""
        self.paths = paths
        self._lock: int | None = None
        self._start_lock: int | None = None

    @classmethod
    def open(cls, paths: Paths) -> Repo:
        """Make the directories, take the locks, read or make the identity.

        Waits while another daemon is starting. Raises DaemonRunning, StorageFailed, BindFailed (socket path
        too long), InvalidKey; then nothing is held.
        """
        check_socket_path(paths.socket)
        private_directory(paths.home, "home directory")
        private_directory(paths.socket.parent, "control socket's directory")
        self = cls(paths)
        try:
            self._start_lock = _open(paths.start_lock_file)
            _flock(paths.start_lock_file, self._start_lock, fcntl.LOCK_EX)
            self._lock = self._take_lock()
            self.identity, self.identity_is_new = identity_file.load_or_create(paths.key_file)
        except BaseException:
            self.close()
            raise
        return self

    def _take_lock(self) -> int:
        path = self.paths.lock_file
        fd = _open(path)
        try:
            _flock(path, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(path, fd, f"{os.getpid()}\n{self.paths.socket}\n".encode())
        except BlockingIOError:
            error = _running(os.pread(fd, MAX_LOCK_BYTES, 0))
            os.close(fd)
            raise error from None
        except BaseException:
            os.close(fd)
            raise
        return fd

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


def _running(content: bytes) -> DaemonRunning:
    pid, _, rest = content.decode("utf-8", "replace").partition("\n")
    socket = rest.partition("\n")[0]
    known = pid.isdigit() and bool(socket)
    told = f" (process {pid}, control socket {socket})" if known else ""
    return DaemonRunning(
        f"a daemon is running already for this home{told}",
        hint="p2pfwd status shows it, p2pfwd shutdown stops it; another daemon needs another P2PFWD_HOME",
        pid=int(pid) if known else None,
        socket=socket or None,
    )
