"""Speaks to systemd by its own commands. Blocking; for the CLI alone.

Rules: what is run is told (`Systemd.ran`), and a failure shows the command and its last words. A user's own
manager is found where no login has set XDG_RUNTIME_DIR too, as in cron and behind su.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2pfwd.errors import ServiceFailed
from p2pfwd.service.values import Definition

BOOTED = Path("/run/systemd/system")
"""There while systemd is the system's manager: sd_booted(3)."""

LINGER = Path("/var/lib/systemd/linger")
"""Has a file for each user whose manager runs without a login."""

TIMEOUT_S = 150.0
"""For one command: longer than systemd gives a unit to start, and then to stop."""

PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "MainPID",
    "NRestarts",
    "Result",
    "ActiveEnterTimestampMonotonic",
    "InactiveEnterTimestampMonotonic",
    "ExecMainCode",
    "ExecMainStatus",
    "FragmentPath",
    "NeedDaemonReload",
)


def is_booted() -> bool:
    """Whether systemd manages this machine."""
    return BOOTED.is_dir()


def refuse_without_systemd() -> None:
    """Raise ServiceFailed, with the cure, where systemd does not manage this machine."""
    if not is_booted():
        raise ServiceFailed(
            "no systemd manages this machine",
            hint="p2pfwd daemon, in the foreground, is what another service manager is to run",
        )


@dataclass(slots=True)
class Systemd:
    """The system's manager, or a user's own; `ran` has the commands that changed something."""

    is_system: bool
    environ: Mapping[str, str]
    ran: list[str] = field(default_factory=list)

    def change(self, *words: str) -> None:
        """Run `systemctl WORDS`, and note it. Raises ServiceFailed."""
        self.run(["systemctl", *self._manager(), *words])

    def run(self, words: Sequence[str]) -> None:
        """Run a command of systemd's, and note it. Raises ServiceFailed."""
        shown = shlex.join(words)
        done = self.called(words)
        if done.returncode != 0:
            raise ServiceFailed(f"{shown} failed: {_last_words(done)}", command=shown)
        self.ran.append(shown)

    def show(self, label: str) -> dict[str, str]:
        """The unit's properties of `PROPERTIES`; times are microseconds since boot. Raises ServiceFailed."""
        found = self._show("--property=" + ",".join(PROPERTIES), "--", label)
        return dict(line.partition("=")[::2] for line in found.splitlines() if "=" in line)

    def refuse_if_unreachable(self) -> None:
        """Raise ServiceFailed, with the cure, where no manager answers."""
        refuse_without_systemd()
        try:
            self._show("--property=Version")
        except ServiceFailed as error:
            if self.is_system:
                raise
            raise ServiceFailed(
                f"no manager of user services answers for {user_name()}: {error.message}",
                hint=f"sudo loginctl enable-linger {shlex.quote(user_name())}, and try again; as root, "
                "p2pfwd service install --system is for the whole machine",
            ) from None

    def lingers(self) -> bool:
        """Whether the services of this user start at boot, without a login."""
        return self.is_system or (LINGER / user_name()).exists()

    def _show(self, *words: str) -> str:
        words = ("systemctl", *self._manager(), "show", "--no-pager", *words)
        done = self.called(words)
        if done.returncode != 0:
            raise ServiceFailed(_last_words(done), command=shlex.join(words))
        return done.stdout

    def _manager(self) -> tuple[str, ...]:
        return () if self.is_system else ("--user",)

    def called(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command, and note nothing. Raises ServiceFailed where it cannot be run."""
        try:
            return subprocess.run(
                words,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError:
            raise ServiceFailed(f"{words[0]} is not on the PATH", hint="systemd has it") from None
        except OSError as exc:
            raise ServiceFailed(f"{shlex.join(words)} cannot be run: {exc.strerror}") from exc
        except subprocess.TimeoutExpired:
            raise ServiceFailed(f"{shlex.join(words)} did not end within {TIMEOUT_S:g} s") from None

    def environment(self) -> dict[str, str]:
        """Of the commands: with the directory of the user's manager, which `su` and cron leave out."""
        environ = dict(self.environ)
        runtime = f"/run/user/{os.geteuid()}"
        if not self.is_system and not environ.get("XDG_RUNTIME_DIR") and os.path.isdir(runtime):
            environ["XDG_RUNTIME_DIR"] = runtime
        return environ


def start(definition: Definition, environ: Mapping[str, str]) -> None:
    """Start an installed service, and wait until it is ready. Raises ServiceFailed with the cure."""
    systemd = Systemd(definition.is_system, environ)
    if definition.is_system and os.geteuid() != 0:
        raise ServiceFailed(
            f"the home {definition.home} is the system's service's, {definition.label}, which does not run",
            hint=f"sudo systemctl start {definition.label}",
        )
    systemd.refuse_if_unreachable()
    try:
        if systemd.show(definition.label).get("ActiveState") == "failed":
            systemd.change("reset-failed", definition.label)  # its owner's wish has no limit of starts
        systemd.change("start", definition.label)
    except ServiceFailed as error:
        raise start_failed(definition, error) from None


def start_failed(definition: Definition, error: ServiceFailed) -> ServiceFailed:
    """The error of a start, with where its cause is written."""
    where = " --system" if definition.is_system else ""
    return ServiceFailed(
        f"{definition.label} does not start: {error.message}",
        hint=f"why: p2pfwd service logs{where}; and p2pfwd service status{where}",
        **error.details,
    )


def journal(definition: Definition) -> list[str]:
    """The command that shows a service's log, without how much of it.

    Not --user: where the journal is not kept on disk, users have none of their own.
    """
    unit = "--unit" if definition.is_system else "--user-unit"
    return ["journalctl", "--quiet", f"{unit}={definition.label}"]


def refuse_unreadable_journal(definition: Definition, environ: Mapping[str, str]) -> None:
    """Raise ServiceFailed, with the cure, where this user may not read the service's log."""
    done = Systemd(definition.is_system, environ).called([*journal(definition), "--lines=1"])
    if done.returncode != 0:
        raise ServiceFailed(
            f"the journal cannot be read: {_last_words(done)}",
            hint="p2pfwd log tail follows the daemon itself; a journal on disk shows users their own: "
            "sudo mkdir -p /var/log/journal, then sudo systemctl restart systemd-journald",
        )


def user_name() -> str:
    """Of this process's user, or the uid where the system has no name for it."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else f"exit status {done.returncode}"
