"""Real daemons and the real command line, as a person runs them.

`Daemon` is a `p2pfwd daemon` process with its own home, on loopback, waited for until it says "Daemon is
ready". `run_cli` is one command to its end. Both use the console script beside the running Python, so the
entry point itself is under test. Environment variables of the person running the tests do not come in.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tests.support import lifeline

PROGRAM = str(Path(sys.executable).with_name("p2pfwd"))
READY = "Daemon is ready"
START_S = 20.0
"""A daemon starts in well under a second; the rest is for a machine busy with other tests."""

STOP_S = 15.0
CLI_S = 40.0

Completed = subprocess.CompletedProcess[str]


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The whole environment of a daemon or command at `home`: nothing of the user's own p2pfwd.

    Daemons are in the network `lan`: no test, demo or bench looks for peers anywhere else.
    """
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "SYSTEMROOT") if name in os.environ}
    fixed = {"P2PFWD_HOME": str(home), "P2PFWD_AUTOSTART": "0", "HOME": str(home), "LC_ALL": "C.UTF-8"}
    quiet = {"P2PFWD_NETWORK": "lan", "PYTHONWARNINGS": "error", "NO_COLOR": "1"}
    return {**kept, **fixed, **quiet, **lifeline.mark(), **(extra or {})}


def run_cli(
    home: Path,
    *args: str,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    timeout_s: float = CLI_S,
) -> Completed:
    """`p2pfwd ARGS` against the daemon of `home`, to its end; stdout and stderr as text."""
    return subprocess.run(
        [PROGRAM, *args],
        env=environment(home, env),
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def daemons_of(pid: int) -> list[int]:
    """The processes of daemons that the main thread of this one has started; one may have ended meanwhile."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
        with suppress(FileNotFoundError, ProcessLookupError):
            if b"p2pfwd.daemon" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


class Program:
    """A p2pfwd process that stays: its output can be waited for, line by line."""

    def __init__(
        self,
        home: Path,
        args: Sequence[str],
        env: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        """Start `p2pfwd ARGS`; `within` are words in front of it, such as `nsenter -t PID -n`.

        No router is asked for anything, unless `env` says otherwise.
        """
        self.home = home
        self.lines: list[str] = []
        self._stderr_path = home / f"stderr-{time.monotonic_ns()}.txt"
        with self._stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*within, PROGRAM, *args],
                env=environment(home, {"P2PFWD_REACH_PORT_MAPPING": "off", **(env or {})}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,  # a Ctrl-C in the terminal is for us; `stop` is for it
            )
        assert self.process.stdout is not None
        self._stdout: IO[bytes] = self.process.stdout
        self._partial = b""

    @property
    def stderr(self) -> str:
        """What it has written to stderr so far."""
        return self._stderr_path.read_text(encoding="utf-8", errors="replace")

    @property
    def stdout(self) -> str:
        """The lines of stdout read so far."""
        return "\n".join(self.lines)

    def wait_for(self, text: str, timeout_s: float = START_S) -> str:
        """The first line of stdout, read or yet to come, that has `text` in it.

        AssertionError with all output if the process ends or the time is over before.
        """
        deadline = time.monotonic() + timeout_s
        seen = 0
        while True:
            for line in self.lines[seen:]:
                if text in line:
                    return line
            seen = len(self.lines)
            if not self._read(deadline - time.monotonic()):
                status = self.process.poll()
                raise AssertionError(
                    f"no {text!r} (status {status}); stdout: {self.stdout!r}; stderr: {self.stderr!r}"
                )

    def _read(self, timeout_s: float) -> bool:
        """Read what stdout has; False at its end or when `timeout_s` passed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            if timeout_s <= 0 or not selector.select(timeout_s):
                return False
        data = os.read(self._stdout.fileno(), 1 << 16)
        *lines, self._partial = (self._partial + data).split(b"\n")
        self.lines += [line.decode() for line in lines]
        return bool(data)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait for the process's own end; its exit status. All of stdout is in `lines` then."""
        deadline = time.monotonic() + timeout_s
        while self._read(deadline - time.monotonic()):
            continue
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """End it with SIGTERM (SIGKILL when that takes too long: an error); its exit status."""
        try:
            if self.process.poll() is None:
                self.process.terminate()
            return self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Daemon(Program):
    """A `p2pfwd daemon` on loopback, ready when the constructor returns.

    `swarm` are its listen addresses (default: 127.0.0.1, a free port); `args` follow `daemon` on the
    command line.
    """

    def __init__(
        self,
        home: Path,
        *args: str,
        swarm: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
        env: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        home.mkdir(exist_ok=True)
        listen = [word for address in swarm for word in ("--swarm", address)]
        super().__init__(home, ["daemon", *listen, *args], env, within)
        try:
            self.wait_for(READY)
        except BaseException:
            self.process.kill()
            self.process.wait()
            self._stdout.close()
            raise
        known = self.json("id")
        self.peer_id: str = known["ID"]
        self.addresses: list[str] = known["Addresses"]

    @property
    def address(self) -> str:
        """Its first full address, for `--peer` and the like: `/ip4/127.0.0.1/tcp/N/p2p/ID`."""
        return self.addresses[0]

    def cli(self, *args: str, timeout_s: float = CLI_S, env: Mapping[str, str] | None = None) -> Completed:
        """One command against this daemon, whatever its exit status."""
        return run_cli(self.home, *args, env=env, timeout_s=timeout_s)

    def ok(self, *args: str, timeout_s: float = CLI_S) -> str:
        """stdout of a command that must succeed."""
        done = self.cli(*args, timeout_s=timeout_s)
        assert done.returncode == 0, f"p2pfwd {args}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *args: str) -> Any:
        """The document `p2pfwd ARGS --json` prints."""
        return json.loads(self.ok(*args, "--json"))

    def rss_bytes(self) -> int:
        """Its resident memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024
