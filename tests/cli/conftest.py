"""What the tests of the command line share: a home, a fake daemon in it, and ways to run a command."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2pfwd.cli.app import main
from tests.support.daemon import PROGRAM, environment
from tests.support.fake_daemon import FakeDaemon


@dataclass(frozen=True)
class Outcome:
    """How a run of the command line ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def fake(home: Path) -> Iterator[FakeDaemon]:
    """A fake daemon that runs in `home`."""
    with FakeDaemon(home / "rpc.sock") as daemon:
        yield daemon


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run one command line in this process, off a terminal, with `home` for its home."""
    for name, value in environment(home).items():
        monkeypatch.setenv(name, value)

    def run_main(*arguments: str) -> Outcome:
        status = main(arguments)
        out, err = capfd.readouterr()
        return Outcome(status, out, err)

    return run_main


@pytest.fixture
def on_terminal(home: Path) -> Callable[..., str]:
    """Run one command line as a person does, on a terminal `columns` wide; what it shows."""

    def run_on_terminal(
        *arguments: str, columns: int = 80, colour: bool = False, env: Mapping[str, str] | None = None
    ) -> str:
        env = environment(home, {"COLUMNS": str(columns), "TERM": "xterm-256color", **(env or {})})
        if colour:
            del env["NO_COLOR"]
        master, slave = pty.openpty()
        with subprocess.Popen(
            [PROGRAM, *arguments], env=env, stdin=slave, stdout=slave, stderr=slave
        ) as process:
            os.close(slave)
            shown = b""
            while True:
                try:
                    data = os.read(master, 1 << 16)
                except OSError:  # Linux says EIO when the last writer has closed a pty
                    break
                if not data:
                    break
                shown += data
            process.wait()
        os.close(master)
        return shown.decode().replace("\r\n", "\n")

    return run_on_terminal
