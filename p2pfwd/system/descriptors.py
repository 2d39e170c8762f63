"""Open files: how many this process may have, a spare one for the owner; and the system's errors in words.

Those that are this machine's own limits say so: no peer is to be blamed.

Usual shells and services allow 1,024 and far more where one asks (Go programs do): so does the daemon.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Final

CURE: Final = "raise the limit of open files: `ulimit -n`, or LimitNOFILE= of the service"

MOST: Final = 65_536
"""More than the limits of a node can use; some systems call their hard limit infinite."""

_NO_PORT: Final = (
    "this machine has no local port left, see net.ipv4.ip_local_port_range, or no address of that kind"
)

UNKNOWN: Final = 1024
"""Taken where the system has no such limit to ask for."""


def raise_limit() -> int:
    """Raise the soft limit to the hard one, at most `MOST`; what it is then."""
    try:
        import resource
    except ImportError:  # Windows
        return UNKNOWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft == resource.RLIM_INFINITY:
        return MOST
    if wanted > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # macOS: not beyond kern.maxfilesperproc
            return int(soft)
        return int(wanted)
    return int(soft)


def in_use() -> int:
    """How many this process has open; 0 where the system does not tell."""
    try:
        return len(os.listdir("/dev/fd")) - 1  # the directory itself is one
    except OSError:
        return 0


def shortage(code: int | None) -> str | None:
    """What ran out on this machine, for people; None where `code` says something else."""
    if code == errno.EMFILE:
        return f"this process has as many files open as this machine allows it{_limit()}"
    if code == errno.ENFILE:
        return "this machine has as many files open as it can (fs.file-max)"
    if code in (errno.ENOBUFS, errno.ENOMEM):
        return f"this machine is out of memory ({os.strerror(code)})"
    return None


def cure(code: int | None) -> str | None:
    """What to do about a shortage that this process meets by its own limit."""
    return CURE if code == errno.EMFILE else None


def reason(code: int | None) -> str:
    """One clause for the errno of a failed `connect`, `socket`, `accept` or `open`."""
    if code == errno.EADDRNOTAVAIL:
        return f"{os.strerror(code)} ({_NO_PORT})"
    return shortage(code) or os.strerror(code or 0)


def _limit() -> str:
    if "resource" not in sys.modules:
        return " (ulimit -n)"
    import resource

    return f" (ulimit -n: {resource.getrlimit(resource.RLIMIT_NOFILE)[0]})"


class Spare:
    """A descriptor kept open, to be had when there is no other: one more connection can then be accepted."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self.keep()

    def keep(self) -> None:
        """Take one, if there is none."""
        if self._fd is None:
            try:
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return

    def give(self) -> bool:
        """Free it for the next call that needs one; False where it is gone already."""
        if self._fd is None:
            return False
        os.close(self._fd)
        self._fd = None
        return True

    close = give
