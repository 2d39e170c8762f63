"""Files and directories that are this user's alone. Shared by the CLI and the daemon; stdlib only.

Rules: what is made here is 0700 or 0600 from its first moment; a file appears whole or not at all (temporary
file, fsync, rename, fsync of the directory); a failure names the file and the cure, and leaves the old one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from p2pfwd.errors import InvalidKey, StorageFailed
from p2pfwd.system.descriptors import CURE

_HINTS = {
    errno.EMFILE: CURE,
    errno.ENFILE: "a limit of this machine: fs.file-max",
    errno.ENOSPC: "free some space on that file system",
    errno.EDQUOT: "free some space: the quota is used up",
    errno.EROFS: "the file system is mounted read-only: choose another home with P2PFWD_HOME or --home",
    errno.EACCES: "make it yours, or choose another home with P2PFWD_HOME or --home",
    errno.EPERM: "make it yours, or choose another home with P2PFWD_HOME or --home",
    errno.ENOTDIR: "choose another home with P2PFWD_HOME or --home",
    errno.EEXIST: "choose another home with P2PFWD_HOME or --home",
}


def storage_failed(what: str, path: Path, exc: OSError) -> StorageFailed:
    """The error for a failed operation on `path`, with the cure where errno or the owner tells one."""
    reason = exc.strerror or type(exc).__name__
    hint = _HINTS.get(exc.errno or 0)
    if exc.errno in (errno.EACCES, errno.EPERM):
        foreign = _foreign(path)
        if foreign is not None:
            reason, hint = f"{reason}; {_owned(*foreign)}", _give_back(foreign[0])
    return StorageFailed(f"{what} {path}: {reason}", hint=hint, path=str(path), errno=exc.errno)


def _foreign(path: Path) -> tuple[Path, int] | None:
    """What of `path` and its directories is another user's, inside a directory of ours; and whose it is.

    That is what a run with sudo leaves. Directories that never were ours are not to be given "back".
    """
    me = os.geteuid()
    for place in (path, *path.parents):
        try:
            uid = os.lstat(place).st_uid
            if uid == me:
                return None
            if os.lstat(place.parent).st_uid == me:
                return place, uid
        except OSError:  # it is behind a directory that is closed to us
            continue
    return None


def _owned(path: Path, uid: int) -> str:
    return f"{path} belongs to {user_name(uid)}"


def _give_back(path: Path) -> str:
    import shlex

    chown = shlex.join(["sudo", "chown", "-R", user_name(os.geteuid(), numeric=True), str(path)])
    return f"left by a run as another user, perhaps with sudo? stop that one's daemon, then {chown}"


def user_name(uid: int, *, numeric: bool = False) -> str:
    """What people call the user: name and uid, or with `numeric` one word that chown takes."""
    import pwd

    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid) if numeric else f"uid {uid}"
    return name if numeric else f"{name} (uid {uid})"


def private_directory(path: Path, what: str) -> None:
    """Make `path` and its missing parents, 0700; one that exists must be ours and writable by nobody else.

    Root, too, uses nobody else's: the owner could put another file into the place of each of ours, and what
    root makes in a user's directory, that user's own daemon cannot use (`sudo -E` is the way there).
    Raises StorageFailed; `what` names the directory in it.
    """
    try:
        if os.geteuid() == 0:
            _refuse_foreign(path, what)
        _make(path)
        _refuse_foreign(path, what)
        info = os.stat(path)
        if not os.access(path, os.W_OK | os.X_OK):
            if os.statvfs(path).f_flag & os.ST_RDONLY:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            raise PermissionError(errno.EACCES, "it is not writable")
    except OSError as exc:
        raise storage_failed(what, path, exc) from exc
    if stat.S_IMODE(info.st_mode) & 0o022:
        raise StorageFailed(
            f"{what} {path}: other users can write to it", hint=f"chmod 700 {path}", path=str(path)
        )


def _refuse_foreign(path: Path, what: str) -> None:
    """Raise StorageFailed when the directory, or the one it would be made in, is another user's."""
    place = path
    while not place.exists():
        place = place.parent
    uid = os.stat(place).st_uid
    if uid == os.geteuid():
        return
    hint = "choose another home with P2PFWD_HOME or --home"
    if os.geteuid() == 0:
        hint = f"run it as that user, without sudo; or {hint}"
    elif (foreign := _foreign(path)) is not None:
        hint = f"{_give_back(foreign[0])}; or {hint}"
    it = "it" if place == path else str(place)
    raise StorageFailed(f"{what} {path}: {it} belongs to {user_name(uid)}", hint=hint, path=str(path))


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
    """Put `data` at `path`, 0600, whole or not at all, in place of what is there. Raises StorageFailed.

    A link at `path` is replaced, not followed.
    """
    try:
        with _written(path, data) as temporary:
            os.replace(temporary, path)
            sync_directory(path.parent)
    except OSError as exc:
        raise storage_failed(what, path, exc) from exc


def create_atomically(path: Path, data: bytes, what: str) -> None:
    """As `write_atomically`, and never in place of anything.

    Raises FileExistsError, whatever is there and however late it came; StorageFailed.
    """
    try:
        with _written(path, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise
            except OSError as exc:
                if exc.errno not in _NO_LINKS:
                    raise
                _write_new(path, data)  # the best that file system can do: not whole if we are killed now
            sync_directory(path.parent)
    except FileExistsError:
        raise
    except OSError as exc:
        raise storage_failed(what, path, exc) from exc


_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links say (FAT, some network and container mounts)."""


def sweep(path: Path) -> None:
    """Remove what writers of `path` left that were killed; for who alone writes it. Raises OSError."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink(missing_ok=True)


@contextlib.contextmanager
def _written(path: Path, data: bytes) -> Iterator[Path]:
    """A file beside `path` that has `data`, gone afterwards. Its name cannot be foretold, nor be there."""
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    _write_new(temporary, data)
    try:
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _write_new(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException:
        os.unlink(path)
        raise


def sync_directory(path: Path) -> None:
    """Make what was created or renamed in it outlive a power cut. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
