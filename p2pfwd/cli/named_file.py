"""A file that the command line names: read, where `-` is standard input, or made anew.

An error says what the file is for, which one it is, and what to do.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Final

from p2pfwd.errors import StorageFailed, UsageError
from p2pfwd.system.descriptors import cure, reason
from p2pfwd.system.private_files import create_atomically

_NOT_READ: Final = {
    errno.ENOENT: "see that its path is right; - is standard input",
    errno.ENOTDIR: "see that its path is right; - is standard input",
    errno.EISDIR: "name a file; - is standard input",
    errno.EACCES: "have it made readable for you, or give what it holds on standard input, which is -",
    errno.EPERM: "have it made readable for you, or give what it holds on standard input, which is -",
}

_NOT_MADE: Final = {
    errno.ENOENT: "make its directory first, or name another one",
    errno.ENOTDIR: "name a file in a directory",
    errno.EACCES: "name a file in a directory of yours",
    errno.EPERM: "name a file in a directory of yours",
    errno.EROFS: "name a file on a file system that is not mounted read-only",
}


def shown(file: str) -> str:
    """What errors call it."""
    return "stdin" if file == "-" else file


def read(file: str, what: str, max_bytes: int) -> bytes:
    """What it holds, at most `max_bytes` and one more. `what` it is for is said in errors.

    Raises StorageFailed.
    """
    try:
        if file == "-":
            return sys.stdin.buffer.read(max_bytes + 1)
        with open(file, "rb") as opened:
            return opened.read(max_bytes + 1)
    except OSError as exc:
        code = exc.errno or 0
        raise StorageFailed(
            f"{what} {shown(file)}: {reason(code)}", hint=_NOT_READ.get(code, cure(code))
        ) from exc


def make(file: str, data: bytes, what: str) -> None:
    """Make it, for this user alone; one that is there is not touched. Raises UsageError, StorageFailed."""
    path = Path(file)
    try:
        if not path.name:  # a path of nothing, or of dots and slashes alone
            raise FileExistsError
        create_atomically(path, data, what)
    except FileExistsError:
        raise UsageError(f"{what} {path}: it exists already", hint="give the name of a new file") from None
    except StorageFailed as exc:
        exc.hint = _NOT_MADE.get(exc.details["errno"], exc.hint)  # it knows homes alone
        raise
