"""Where a command runs: home, terminal, colour, and its way to the daemon.

Everything a command reads from its surroundings is read here, once, so that tests can say what it is.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from p2pfwd.rpc.client import Client
    from p2pfwd.rpc.paths import Paths
    from p2pfwd.service.values import Definition, Program

CONNECT_TIMEOUT_S = 5.0
"""For a daemon to accept and greet: it answers in a millisecond unless the machine is overloaded."""

START_TIMEOUT_S = 20.0
"""For a daemon started by a command to become ready."""

CALL_TIMEOUT_S = 30.0
"""For an answer that needs no network."""

R = TypeVar("R")

_MIN_COLUMNS = 40
_OFF = {"0", "no", "false", "off"}


class Env:
    """The surroundings of one run of the CLI."""

    def __init__(self, home: str | None = None) -> None:
        self.home = home
        self.environ: Mapping[str, str] = os.environ
        self.terminal = sys.stdout.isatty()
        self.talkative = sys.stderr.isatty()

    @property
    def colour(self) -> bool:
        """Whether stdout may carry colour: a terminal, no NO_COLOR, not a dumb one."""
        return self.terminal and not self.environ.get("NO_COLOR") and self.environ.get("TERM") != "dumb"

    @property
    def columns(self) -> int:
        """Width of the terminal in cells: COLUMNS if set, else what the terminal says, else 80."""
        return max(_MIN_COLUMNS, shutil.get_terminal_size((80, 24)).columns)

    @property
    def autostart(self) -> bool:
        """Whether P2PFWD_AUTOSTART allows commands to start a daemon."""
        return self.environ.get("P2PFWD_AUTOSTART", "1").strip().lower() not in _OFF

    def paths(self) -> Paths:
        """The files of this home; --home goes before P2PFWD_HOME, and that before the XDG directories."""
        from p2pfwd.rpc.paths import Paths

        return Paths.resolve(self.home, self.environ)

    def connect(self, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Client:
        """A connection to the running daemon, wherever it listens; raises DaemonNotRunning."""
        from p2pfwd.rpc.reach import reach

        return reach(self.paths(), timeout_s)

    def connect_or_start(self, *, start: bool) -> Client:
        """A connection to the daemon; when none runs it is started, if `start` and the environment allow."""
        from p2pfwd.errors import DaemonNotRunning

        try:
            return self.connect()
        except DaemonNotRunning:
            if not (start and self.autostart):
                raise
        self._start()
        return self.connect()

    def _start(self) -> None:
        """Start the daemon: by its service where one is installed, else in the background."""
        from p2pfwd.cli.exits import warn
        from p2pfwd.cli.render import talk
        from p2pfwd.rpc import autostart
        from p2pfwd.service.places import start_installed

        paths = self.paths()
        _, installed = self.service(paths)
        if start_installed(installed, self.environ):
            talk(f"Started the service {installed.label} (log: p2pfwd service logs).")
            return
        first = not paths.key_file.exists()
        service = autostart.start(paths, self.environ, START_TIMEOUT_S)
        talk(f"Started the p2pfwd daemon (log: {paths.log_file}).")
        if service is not None:
            warn(
                f"the daemon is a part of {service.unit}, and ends with it, and all tunnels with the daemon",
                "make the daemon a service of its own, with p2pfwd service install, and set "
                "P2PFWD_AUTOSTART=0 in this one",
            )
        if first:
            talk(f"Made a new identity: {paths.key_file}")

    def service(self, paths: Paths) -> tuple[Program, Definition]:
        """The daemon of `paths` as a service of this machine, installed or not."""
        from p2pfwd.rpc.autostart import command
        from p2pfwd.service.places import definition
        from p2pfwd.service.values import Program

        arguments, variables = command(paths, {})
        if not paths.single:
            chosen = ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
            variables.update({name: self.environ[name] for name in chosen if self.environ.get(name)})
        program = Program(tuple(arguments), variables)
        found = definition(program, paths.home, paths.log_file, self.environ, is_default=not paths.single)
        return program, found

    def ask(self, method: str, params: Any, result: type[R], *, timeout_s: float = CALL_TIMEOUT_S) -> R:
        """One call to the running daemon."""
        with self.connect() as client:
            return answer(client, method, params, result, timeout_s=timeout_s)

    def save(
        self,
        method: str,
        params: Any,
        result: type[R],
        *,
        no_start: bool,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> R:
        """One call of `schema.SAVING`: where no daemon runs one is started, for all that is saved is its."""
        from p2pfwd.rpc.schema import TAKES_AWAY

        is_of_use = method not in TAKES_AWAY or self.paths().key_file.exists()
        with self.connect_or_start(start=is_of_use and not no_start) as client:
            return answer(client, method, params, result, timeout_s=timeout_s)


def answer(
    client: Client, method: str, params: Any, result: type[R], *, timeout_s: float = CALL_TIMEOUT_S
) -> R:
    """One call on an open connection; the daemon's errors are raised as their classes."""
    value = client.call(method, params, timeout_s=timeout_s)
    assert isinstance(value, result), f"{method} answered {type(value).__name__}"
    return value
