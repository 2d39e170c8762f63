"""The command line without a process of its own: `main` in this one, forty times as quick.

For tests that give many commands to real daemons. What a process adds (the entry point, signals, pipes) is
tested with real ones.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
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


Pair = tuple[Daemon, Daemon]


@contextlib.contextmanager
def two_daemons() -> Iterator[Pair]:
    """Two that do not know each other, in directories of their own: for the tests of a whole module."""
    base = Path(tempfile.mkdtemp(prefix="p2pf-"))  # short: see `home` in tests/conftest.py
    try:
        with QuickDaemon(base / "0") as one, QuickDaemon(base / "1") as other:
            yield one, other
    finally:
        shutil.rmtree(base)
