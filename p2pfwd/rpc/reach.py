"""Finding the daemon of a home. Blocking, no asyncio.

Rule: the home's lock file says whether a daemon runs and where its control socket is. The path that this
command would choose for a socket is not asked: the daemon may have been started in another environment, and
at that path another home's daemon may answer.
"""

from __future__ import annotations

import os

from p2pfwd.errors import DaemonNotRunning, P2PForwardError, StorageFailed, TimedOut
from p2pfwd.rpc.client import Client
from p2pfwd.rpc.paths import Paths, check_socket_path
from p2pfwd.state.home_lock import SYSTEM_HOME, Holder, holder


def reach(paths: Paths, timeout_s: float | None = 10.0) -> Client:
    """A connection to the daemon of `paths`, greeted; `timeout_s` bounds both steps.

    Raises DaemonNotRunning, which says where was looked, and as `Client.connect`.
    """
    held_by = _holder(paths)
    if held_by is None:
        check_socket_path(paths.socket)
        raise DaemonNotRunning(
            f"no daemon is running (home {paths.home}, control socket {paths.socket})",
            hint="start it with: p2pfwd daemon (a command that saves something starts it by itself)",
            home=str(paths.home),
            socket=str(paths.socket),
        )
    if held_by.socket is None:
        raise _does_not_answer(paths, held_by)
    try:
        return Client.connect(held_by.socket, timeout_s)
    except DaemonNotRunning:
        raise _does_not_answer(paths, held_by) from None
    except TimedOut as exc:
        raise TimedOut(exc.message, hint=_why_silent(paths, held_by.pid)) from None


def _holder(paths: Paths) -> Holder | None:
    try:
        return holder(paths.lock_file)
    except StorageFailed as exc:
        if paths.home != SYSTEM_HOME or os.geteuid() == 0:
            raise
        raise StorageFailed(
            f"the home {paths.home} is the system's service's, and closed to others",
            hint=f"sudo p2pfwd --home {SYSTEM_HOME} ...",
            **exc.details,
        ) from None


def _does_not_answer(paths: Paths, held_by: Holder) -> P2PForwardError:
    who = f"process {held_by.pid}" if held_by.pid is not None else "a process"
    where = f" at its control socket {held_by.socket}" if held_by.socket is not None else ""
    return DaemonNotRunning(
        f"{who} holds the home {paths.home}, and no daemon answers{where}",
        hint="it is starting or stopping, or in another container or machine that shares this home: "
        "try again, or end it with kill",
        home=str(paths.home),
        socket=None if held_by.socket is None else str(held_by.socket),
        pid=held_by.pid,
    )


def _why_silent(paths: Paths, pid: int | None) -> str:
    used, limit = _descriptors(pid) if pid is not None else (0, 0)
    if limit and used >= limit - _NEARLY:
        return (
            f"it has {used} of at most {limit} files and connections open, a limit of this machine "
            "(ulimit -n, or LimitNOFILE= in its unit): close tunnels, or raise the limit and restart it"
        )
    return f"it is overloaded or stopped (process {pid}); its log may say why: {paths.log_file}"


_NEARLY = 3
"""Descriptors short of the limit that count as none left: one is a passing connection's."""


def _descriptors(pid: int) -> tuple[int, int]:
    """Descriptors the process has open, and may have; zeros where the system does not tell."""
    try:
        used = len(os.listdir(f"/proc/{pid}/fd"))
        with open(f"/proc/{pid}/limits", encoding="ascii") as limits:
            found = [line.split() for line in limits if line.startswith("Max open files")]
        return used, int(found[0][3])
    except (OSError, ValueError, IndexError):  # no /proc, another user's process, "unlimited"
        return 0, 0
