"""Installs, removes and describes the service of a home. Blocking; for the CLI alone.

Rules: what can be refused is refused before anything is written. Installing again changes only what differs.
Removing takes what installing wrote, by its mark, and leaves the home.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from p2pfwd.errors import DaemonRunning, NotFound, ServiceFailed, UsageError
from p2pfwd.service import launchd, systemd
from p2pfwd.service.systemd_unit import SYSTEM_USER, SYSUSERS, SYSUSERS_FILE
from p2pfwd.service.values import Definition, Program, content, is_ours, refuse_foreign
from p2pfwd.state.home_lock import holder
from p2pfwd.system.private_files import storage_failed, write_atomically

READY = {"active", "reloading"}
RUNS = {*READY, "activating"}


@dataclass(slots=True)
class Outcome:
    """What was done."""

    wrote: list[Path] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    at_boot: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """How a service fares; times in Unix seconds. `last_exit` is in words, None where there was none."""

    enabled: bool
    at_boot: bool
    active: bool
    state: str
    since: int | None
    pid: int | None
    restarts: int
    last_exit: str | None
    stale: bool = False


def install(definition: Definition, program: Program, lock_file: Path, environ: Mapping[str, str]) -> Outcome:
    """Write the service, have it started at boot, and start it.

    Raises ServiceFailed, UsageError, DaemonRunning, StorageFailed; but for a start that fails, nothing is
    written then.
    """
    refuse_at_once(definition, program)
    if launchd.is_here():
        return _install_agent(definition, lock_file)
    manager = systemd.Systemd(definition.is_system, environ)
    manager.refuse_if_unreachable()
    before = manager.show(definition.label)
    _refuse_a_daemon(lock_file, int(before.get("MainPID") or 0))
    wrote = []
    if definition.is_system and _write(SYSUSERS_FILE, SYSUSERS):
        wrote.append(SYSUSERS_FILE)
        manager.run(["systemd-sysusers", str(SYSUSERS_FILE)])
    if _write(definition.path, definition.text):
        wrote.append(definition.path)
    _start(manager, definition, before, is_new=definition.path in wrote)
    return Outcome(wrote=wrote, ran=manager.ran, at_boot=manager.lingers())


def refuse_at_once(definition: Definition, program: Program) -> None:
    """What of `install` is refused before a service manager is asked. Raises ServiceFailed, UsageError."""
    if not launchd.is_here():
        refuse_without_root(definition, "install")
        systemd.refuse_without_systemd()
    refuse_foreign(definition.path)
    if definition.is_system:
        refuse_unreadable(program)


def _start(
    manager: systemd.Systemd, definition: Definition, before: Mapping[str, str], *, is_new: bool
) -> None:
    if is_new or before.get("NeedDaemonReload") == "yes":
        manager.change("daemon-reload")
    found = manager.show(definition.label)
    if found.get("FragmentPath") != str(definition.path):
        raise ServiceFailed(
            f"systemd does not look for units in {definition.path.parent}",
            hint="is XDG_CONFIG_HOME set in this shell alone? another unit of that name: "
            + (found.get("FragmentPath") or "none"),
        )
    if found.get("UnitFileState") != "enabled":
        manager.change("enable", definition.label)
    runs = before.get("ActiveState") in RUNS
    if is_new or not runs:
        if before.get("ActiveState") == "failed":
            manager.change("reset-failed", definition.label)
        try:
            manager.change("restart" if runs else "start", definition.label)
        except ServiceFailed as error:
            raise systemd.start_failed(definition, error) from None


def uninstall(definition: Definition, environ: Mapping[str, str]) -> Outcome:
    """Stop the service and remove what `install` wrote. Raises NotFound, StorageFailed, ServiceFailed."""
    refuse_without_root(definition, "uninstall")
    if not is_ours(definition):
        refuse_foreign(definition.path)
        raise not_installed(definition)
    outcome = Outcome()
    if launchd.is_here():
        agents = launchd.Launchd()
        if agents.show(definition.label) is not None:
            agents.change("bootout", f"{agents.domain}/{definition.label}")
        _remove(definition.path, outcome)
        outcome.ran += agents.ran
        return outcome
    manager = systemd.Systemd(definition.is_system, environ)
    manager.refuse_if_unreachable()
    manager.change("disable", "--now", definition.label)
    _remove(definition.path, outcome)
    if definition.is_system and content(SYSUSERS_FILE) == SYSUSERS:
        _remove(SYSUSERS_FILE, outcome)
    manager.change("daemon-reload")
    if manager.show(definition.label).get("ActiveState") == "failed":
        manager.change("reset-failed", definition.label)
    outcome.ran += manager.ran
    return outcome


def state(definition: Definition, environ: Mapping[str, str]) -> State:
    """How the service fares. Raises NotFound, ServiceFailed."""
    if not is_ours(definition):
        refuse_foreign(definition.path)
        raise not_installed(definition)
    if launchd.is_here():
        return _agent_state(definition)
    manager = systemd.Systemd(definition.is_system, environ)
    manager.refuse_if_unreachable()
    found = manager.show(definition.label)
    active = found.get("ActiveState", "")
    entered = found.get(("Active" if active in RUNS else "Inactive") + "EnterTimestampMonotonic", "0")
    enabled = found.get("UnitFileState") == "enabled"
    return State(
        enabled=enabled,
        at_boot=enabled and manager.lingers(),
        active=active in READY,
        state=f"{active} ({found.get('SubState', '')})",
        since=_unix_time(int(entered)),
        pid=int(found.get("MainPID") or 0) or None,
        restarts=int(found.get("NRestarts") or 0),
        last_exit=_last_exit(found),
        stale=found.get("NeedDaemonReload") == "yes",
    )


_CODES = {"1": "exit status", "2": "killed by signal", "3": "killed by signal"}
"""CLD_EXITED, CLD_KILLED, CLD_DUMPED of waitid(2)."""


def _last_exit(found: Mapping[str, str]) -> str | None:
    code = _CODES.get(found.get("ExecMainCode", "0"))
    result = found.get("Result", "success")
    if code is None:
        return None if result == "success" else result
    said = f"{code} {found.get('ExecMainStatus', '?')}"
    return said if result in ("success", "exit-code", "signal") else f"{said} ({result})"


def _unix_time(monotonic_us: int) -> int | None:
    """Of a moment in microseconds since boot; 0 is none."""
    return round(time.time() - time.monotonic() + monotonic_us / 1e6) if monotonic_us else None


def not_installed(definition: Definition) -> NotFound:
    """The error where a service is wanted that is not there."""
    where = " --system" if definition.is_system else ""
    return NotFound(
        f"no service is installed for the home {definition.home} ({definition.path})",
        hint=f"p2pfwd service install{where}",
    )


def refuse_without_root(definition: Definition, verb: str) -> None:
    """Raise UsageError where the system's service is to be changed by somebody else than root."""
    if definition.is_system and os.geteuid() != 0:
        raise UsageError(
            f"a service of the system is root's to {verb}",
            hint=f"sudo p2pfwd service {verb} --system; without --system it is a service of yours alone",
        )


def refuse_unreadable(program: Program) -> None:
    """Raise UsageError where the user of the system's service could not run the program."""
    roots = [Path(program.arguments[0]), Path(__file__).resolve().parents[1]]
    for root in roots:
        closed = _closed(root)
        if closed is not None:
            raise UsageError(
                f"the user {SYSTEM_USER} of the system's service cannot run p2pfwd from {root}: {closed}",
                hint="install it for everybody: python3 -m venv /opt/p2pfwd, then "
                "/opt/p2pfwd/bin/pip install p2pfwd, then /opt/p2pfwd/bin/p2pfwd service install --system",
            )


_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
"""What ProtectHome hides."""


def _closed(path: Path) -> str | None:
    """Why another user cannot read `path`, or None."""
    for place in {path, path.resolve()}:
        hidden = next((home for home in _HOMES if place.is_relative_to(home)), None)
        if hidden is not None:
            return f"{hidden} is closed to it"
        for part in (place, *place.parents):
            mode = os.stat(part).st_mode
            if not mode & (stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH):
                return f"{part} is closed to others"
    return None


def _refuse_a_daemon(lock_file: Path, own_pid: int) -> None:
    held_by = holder(lock_file)
    if held_by is None or (own_pid and held_by.pid == own_pid):
        return
    who = "a daemon" if held_by.pid is None else f"a daemon (process {held_by.pid})"
    raise DaemonRunning(
        f"{who} runs already for this home, and not as the service",
        hint="p2pfwd shutdown, then p2pfwd service install again: its saved tunnels come back",
        pid=held_by.pid,
    )


def _write(path: Path, text: str) -> bool:
    """Put `text` at `path`, for all to read; False where it is there. Raises StorageFailed."""
    refuse_foreign(path)
    if content(path) == text:
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise storage_failed("directory", path.parent, exc) from exc
    write_atomically(path, text.encode(), "service file")
    path.chmod(0o644)
    return True


def _remove(path: Path, outcome: Outcome) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            outcome.removed.append(path)
    except OSError as exc:
        raise storage_failed("service file", path, exc) from exc


# --- launchd --------------------------------------------------------------------------------------


def _install_agent(definition: Definition, lock_file: Path) -> Outcome:
    agents = launchd.Launchd()
    loaded = agents.show(definition.label)
    _refuse_a_daemon(lock_file, int((loaded or {}).get("pid", "0")))
    outcome = Outcome(at_boot=False, ran=agents.ran)
    if _write(definition.path, definition.text):
        outcome.wrote.append(definition.path)
        if loaded is not None:
            agents.change("bootout", f"{agents.domain}/{definition.label}")
            loaded = None
    if loaded is None:
        agents.change("bootstrap", agents.domain, str(definition.path))
    elif "pid" not in loaded:
        agents.change("kickstart", f"{agents.domain}/{definition.label}")
    return outcome


def _agent_state(definition: Definition) -> State:
    found = launchd.Launchd().show(definition.label) or {}
    pid = found.get("pid", "")
    exited = found.get("last exit code", "")
    return State(
        enabled=bool(found),
        at_boot=False,
        active=pid.isdecimal(),
        state=found.get("state", "not loaded"),
        since=None,
        pid=int(pid) if pid.isdecimal() else None,
        restarts=max(0, int(found.get("runs", "0")) - 1),
        last_exit=None if exited in ("", "(never exited)") else f"exit status {exited}",
    )
