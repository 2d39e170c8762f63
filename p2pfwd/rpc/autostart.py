"""Starting a daemon in the background and waiting until it answers. Blocking, no asyncio; stdlib only.

The child is `python -m p2pfwd.daemon` in a session of its own, its output going to the log file. It tells
over a pipe (its number in P2PFWD_READY_FD) either "ready" or why it cannot run. Of two started at once one
gets the home's lock; the other waits until that one answers, and reports `daemon-running`: success here, if
that daemon can be reached.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pfwd.errors import (
    DaemonNotRunning,
    DaemonRunning,
    P2PForwardError,
    ShuttingDown,
    StorageFailed,
    TimedOut,
)
from p2pfwd.rpc import codec
from p2pfwd.rpc.paths import Paths, check_socket_path
from p2pfwd.system.control_group import Service, own_service, way_out
from p2pfwd.system.private_files import private_directory, storage_failed

if TYPE_CHECKING:
    import subprocess

READY_VARIABLE = "P2PFWD_READY_FD"

MAX_REPORT_BYTES = 65536
"""Longest report read from the child."""
TAIL_BYTES = 2000
"""How much of the log is looked at for the last line of a daemon that said nothing."""
KILL_WAIT_S = 5.0
STOPPING_S = 5.0
"""How long a daemon that holds the home and does not answer may take to go, or to make its socket anew."""
_TRY_AGAIN_S = 0.2

_READY = b"ready"


def start(paths: Paths, env: Mapping[str, str], timeout_s: float) -> Service | None:
    """Start the daemon of `paths` in the background and wait until it answers on its socket.

    Returns also when another process has started it meanwhile. Started from within a systemd service the
    daemon gets a control group of its own; where that is not to be had, the service is returned with which
    it will end. Raises the daemon's own error, StorageFailed when it ended without a word, TimedOut when it
    is not ready after `timeout_s`; then none was left running. DaemonNotRunning: another process holds the
    home, and goes on doing so without an answer.
    """
    from p2pfwd.rpc.reach import reach  # not for the daemon, which imports this module too

    deadline = time.monotonic() + timeout_s
    patience = min(deadline, time.monotonic() + STOPPING_S)
    while True:
        try:
            return _start_once(paths, env, deadline, timeout_s)
        except DaemonRunning as running:
            if "pid" not in running.details:  # another home's daemon has our socket
                raise
            try:
                reach(paths, STOPPING_S).close()
                return None
            except (DaemonNotRunning, ShuttingDown):  # it is just going, or its socket is being made anew
                if time.monotonic() >= patience:
                    raise
        time.sleep(_TRY_AGAIN_S)


def _start_once(
    paths: Paths, env: Mapping[str, str], deadline: float, timeout_s: float
) -> Service | None:
    service = own_service(env)
    way = way_out(service, os.geteuid()) if service is not None else None
    if way is not None and _run(paths, env, way, deadline, timeout_s):
        return None
    _run(paths, env, (), deadline, timeout_s)
    return service


def _run(
    paths: Paths, env: Mapping[str, str], way: Sequence[str], deadline: float, timeout_s: float
) -> bool:
    """Run the daemon by `way`, words before its command; False when these words alone can have failed."""
    check_socket_path(paths.socket)
    private_directory(paths.home, "home directory")
    private_directory(paths.log_file.parent, "log directory")
    reader, writer = os.pipe()
    try:
        try:
            child = _spawn(paths, env, way, writer)
        finally:
            os.close(writer)
        try:
            report = _read_report(reader, deadline)
        except BaseException:
            _end(child)
            raise
    finally:
        os.close(reader)
    if report is None:
        _end(child)
        raise TimedOut(
            f"the daemon was not ready after {timeout_s:g} s",
            hint=f"its log may say why: {paths.log_file}",
            log=str(paths.log_file),
        )
    if report == _READY:
        child.returncode = 0  # it lives on without us: no warning that it was not waited for
        return True
    child.wait()
    if way and not report:
        return False
    raise _error(report, paths)


def command(
    paths: Paths, env: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> tuple[list[str], dict[str, str]]:
    """Program arguments and environment of the daemon's own process."""
    # -P: `-m` would put the working directory first on sys.path, and with it whatever lies there.
    # no_debug_ranges: 0.15 MB of where in its line each instruction is; tracebacks have no carets then.
    arguments = [sys.executable, "-X", "no_debug_ranges", "-P", "-m", "p2pfwd.daemon"]
    if overrides:
        arguments += ["--settings", json.dumps(dict(overrides))]
    child_env = {**allocator(env), **env, **paths.environment()}
    root = str(Path(__file__).resolve().parents[2])
    if Path(root).name not in ("site-packages", "dist-packages"):  # run from a source tree
        inherited = env.get("PYTHONPATH")
        child_env["PYTHONPATH"] = os.pathsep.join([root, inherited] if inherited else [root])
    return arguments, child_env


def allocator(env: Mapping[str, str]) -> dict[str, str]:
    """What is missing in the environment of a daemon's Python for it to use the C library's allocator.

    Python's own gives back a megabyte only when nothing in it lives, so a flood's few lasting objects kept
    half of what it had taken. Read by Python before any of its code: the process has to begin with it.
    """
    is_fit = _has_glibc() and "PYTHONMALLOC" not in env
    return {"PYTHONMALLOC": "malloc"} if is_fit else {}


def _has_glibc() -> bool:
    """It is glibc's allocator that was measured, and that `system.memory` has give back."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") is not None
    except (AttributeError, ValueError):  # Windows; another C library
        return False


# --- the child's side -----------------------------------------------------------------------------


def report_ready(env: Mapping[str, str]) -> None:
    """Tell the process that started this one that the daemon answers; nothing when there is none."""
    _report(_READY, env)


def report_failure(error: P2PForwardError, env: Mapping[str, str]) -> None:
    """Tell the process that started this one why the daemon cannot run; nothing when there is none."""
    _report(codec.encode_error(None, error).rstrip(b"\n"), env)


def _report(report: bytes, env: Mapping[str, str]) -> None:
    number = env.get(READY_VARIABLE, "")
    if number.isascii() and number.isdecimal():
        with contextlib.suppress(OSError):  # the command did not wait: it was interrupted
            os.write(int(number), report)
        with contextlib.suppress(OSError):
            os.close(int(number))


# --- the parent's side ----------------------------------------------------------------------------


def _spawn(paths: Paths, env: Mapping[str, str], way: Sequence[str], writer: int) -> subprocess.Popen[bytes]:
    import subprocess

    arguments, child_env = command(paths, env)
    child_env[READY_VARIABLE] = str(writer)
    child_env.pop("NOTIFY_SOCKET", None)  # the command's service manager does not wait for the daemon
    try:
        log = os.open(paths.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise storage_failed("log file", paths.log_file, exc) from exc
    try:
        return subprocess.Popen(
            [*way, *arguments],
            env=child_env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(writer,),
            start_new_session=True,
        )
    finally:
        os.close(log)


def _read_report(reader: int, deadline: float) -> bytes | None:
    """What the child says, b"" if it ended without a word; None when the time is over."""
    report = b""
    while len(report) < MAX_REPORT_BYTES:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            return None
        data = os.read(reader, MAX_REPORT_BYTES)
        if not data:
            break
        report += data
    return report


def _end(child: subprocess.Popen[bytes]) -> None:
    import subprocess

    child.terminate()
    try:
        child.wait(KILL_WAIT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _error(report: bytes, paths: Paths) -> P2PForwardError:
    if report:
        reply = codec.decode_reply(report)
        if isinstance(reply, codec.Response) and reply.error is not None:
            return reply.error
    last = _last_line(paths.log_file)
    return StorageFailed(
        "the daemon ended before it was ready" + (f": {last}" if last else ""),
        hint=f"its log has more: {paths.log_file}",
        log=str(paths.log_file),
    )


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
