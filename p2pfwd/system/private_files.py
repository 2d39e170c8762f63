"""Files and directories that are this user's alone. Shared by the CLI and the daemon; stdlib only.

Rules: what is made here is 0700 or 0600 from its first moment; a file appears whole or not at all (temporary
file, fsync, rename, fsync of the directory); a failure names the file and the cure, and leaves the old one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from p2pfwd.errors import InvalidKey, StorageFailed

_HINTS = {
    errno.ENOSPC: "free some space on that file system",
    errno.EDQUOT: "free some space: the quota is used up",
    errno.EROFS: "the file system is mounted read-only: choose another home with P2PFWD_HOME or --home",
    errno.EACCES: "make it yours, or choose another home with P2PFWD_HOME or --home",
    errno.EPERM: "make it yours, or choose another home with P2PFWD_HOME or --home",
    errno.ENOTDIR: "choose another home with P2PFWD_HOME or --home",
    errno.EEXIST: "choose another home with P2PFWD_HOME or --home",
}


def storage_failed(what: str, path: Path, exc: OSError) -> StorageFailed:
    """The error for a failed operation on `path`, with the cure where errno tells one."""
    reason = exc.strerror or type(exc).__name__
    hint = _HINTS.get(exc.errno or 0)
    return StorageFailed(f"{what} {path}: {reason}", hint=hint, path=str(path), errno=exc.errno)


def private_directory(path: Path, what: str) -> None:
    """Make `path` and its missing parents, 0700; one that exists must be ours and writable by nobody else.

    Raises StorageFailed; `what` names the directory in it.
    """
    try:
        _make(path)
        info = os.stat(path)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it is not writable")
    except OSError as exc:
        raise storage_failed(what, path, exc) from exc
    if info.st_uid != os.geteuid() and os.geteuid() != 0:
        raise StorageFailed(
            f"{what} {path}: it belongs to another user (uid {info.st_uid})",
            hint="choose another home with P2PFWD_HOME or --home",
            path=str(path),
        )
    if stat.S_IMODE(info.st_mode) & 0o022:
        raise StorageFailed(
            f"{what} {path}: other users can write to it", hint=f"chmod 700 {path}", path=str(path)
        )


def _make(path: Path) -> None:
    if path.is_dir():
        return
    if not path.parent.exists():
        _make(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(0o700)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def read_secret(path: Path, what: str, max_bytes: int, restore: str) -> bytes:
    """The content of a file that its owner alone can read, at most `max_bytes`.

    `what` names the file in errors, `restore` is the hint when it is no such file. Raises FileNotFoundError,
    InvalidKey when others can read it (then its secret may be known already), StorageFailed.
    """
    try:
        # O_NONBLOCK: a FIFO in the file's place must not hang the daemon.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise storage_failed(what, path, exc) from exc
    try:
        _check_secret(path, what, os.fstat(fd), restore)
        data = os.read(fd, max_bytes + 1)
    except OSError as exc:
        raise storage_failed(what, path, exc) from exc
    finally:
        os.close(fd)
    if len(data) > max_bytes:
        raise InvalidKey(f"{what} {path}: longer than any key", hint=restore)
    return data


def _check_secret(path: Path, what: str, info: os.stat_result, restore: str) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise InvalidKey(f"{what} {path}: it is not a file", hint=restore)
    if info.st_uid not in (os.geteuid(), 0):
        raise InvalidKey(
            f"{what} {path}: it belongs to another user (uid {info.st_uid})", hint=f"chown {path}"
        )
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise InvalidKey(
            f"{what} {path}: other users can read it (mode {stat.S_IMODE(info.st_mode):04o})",
            hint=f"chmod 600 {path}",
            path=str(path),
        )


def write_atomically(path: Path, data: bytes, what: str) -> None:
    """Put `data` at `path`, 0600, whole or not at all. Raises StorageFailed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            _write(temporary, data)
            os.replace(temporary, path)
            _sync_directory(path.parent)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as exc:
        raise storage_failed(what, path, exc) from exc


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
