"""The command line without a process of its own: `main` in this one, forty times as quick.

For tests that give many commands to real daemons. What a process adds (the entry point, signals, pipes) is
tested with real ones.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
from collections.abc import Mapping
from pathlib import Path

from p2pfwd.cli.app import main
from tests.support.daemon import CLI_S, Completed, Daemon


def run_main(home: Path, *args: str) -> Completed:
    """`p2pfwd --home HOME ARGS`, to its end; stdout and stderr as text."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["--home", str(home), *args])
    return subprocess.CompletedProcess(args, status, out.getvalue(), err.getvalue())


class QuickDaemon(Daemon):
    """A real daemon whose commands are run in this process."""

    def cli(self, *args: str, timeout_s: float = CLI_S, env: Mapping[str, str] | None = None) -> Completed:
        """One command against this daemon, whatever its exit status."""
        return run_main(self.home, *args)
