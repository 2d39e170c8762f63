"""Listening Unix sockets and their files. Imports no asyncio: the command line asks for MAX_PATH_BYTES.

Rules: a socket is 0600 before anybody can connect; it takes the place of a file that nobody answers on, and
of nothing else; its file is removed at the end only if it is still the one made here.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from contextlib import suppress
from typing import Final

MAX_PATH_BYTES: Final = 107 if sys.platform.startswith("linux") else 103
"""Longest path of a socket: `sockaddr_un.sun_path` (108 on Linux, 104 on BSD and macOS) less its NUL."""


class NotASocket(OSError):
    """A file of another kind has the path."""


class SomebodyListens(OSError):
    """Another program answers at the path."""


class UnixSocket:
    """A listening socket, its path, and which file there is its own."""

    def __init__(self, sock: socket.socket, path: str, identity: tuple[int, int, int]) -> None:
        self.sock = sock
        self.path = path
        self._identity = identity

    def is_in_place(self) -> bool:
        """Whether its file is still there, so that others can connect."""
        try:
            return _identity(os.lstat(self.path)) == self._identity
        except OSError:
            return False

    def remove_file(self) -> None:
        """Unlink its file, unless somebody has replaced it. Raises OSError; never for one that is gone."""
        if self.is_in_place():
            os.unlink(self.path)


def listen(path: str, backlog: int) -> UnixSocket:
    """Listen at `path`, which has at most MAX_PATH_BYTES.

    Raises NotASocket, SomebodyListens, or the system's OSError; nothing is left then.
    """
    sock, bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), False
    try:
        try:
            sock.bind(os.fsencode(path))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            sock.bind(os.fsencode(path))
        bound = True
        os.chmod(path, 0o600)  # nobody can connect before listen()
        sock.listen(backlog)
        return UnixSocket(sock, path, _identity(os.lstat(path)))
    except BaseException:
        sock.close()
        if bound:
            with suppress(OSError):
                os.unlink(path)
        raise


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    """Tells a file from its successor, which may get the same inode; unlike ctime, mtime outlives a chmod."""
    return (found.st_dev, found.st_ino, found.st_mtime_ns)


def _remove_stale(path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise NotASocket(errno.EEXIST, "a file of another kind is there", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog answers EAGAIN at once: somebody is there
        try:
            probe.connect(os.fsencode(path))
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise SomebodyListens(errno.EADDRINUSE, "another program listens there", path)
