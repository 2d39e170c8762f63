"""The bench client: tb.c where a C compiler is at hand, else tb_client.py; and one call per measurement."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.procs import free_port, spawn, wait_listening

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
TIMEOUT_S = 60.0


class ClientError(Exception):
    """A measurement that did not come to its end; the message says how."""


@dataclass(frozen=True, slots=True)
class Client:
    """How to run the client: `argv` before the command, `kind` for the report."""

    argv: tuple[str, ...]
    kind: str

    def run(self, command: str, port: int, *args: float | str) -> dict[str, Any]:
        """One command to its end; what it printed. ClientError where it fails or takes too long."""
        words = [*self.argv, command, str(port), *map(str, args)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise ClientError(f"{command}: not done after {TIMEOUT_S:.0f} s") from None
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise ClientError(f"{command}: {lines[-1]}")
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    @contextmanager
    def holding(self, port: int, count: int) -> Iterator[None]:
        """`count` open connections, each echoed once and idle since, for the time of the block."""
        words = [*self.argv, "hold", str(port), str(count)]
        pipe = subprocess.PIPE
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe) as p:
            assert p.stdin is not None and p.stdout is not None and p.stderr is not None
            try:
                if not p.stdout.readline():
                    said = p.stderr.read().decode().strip()
                    raise ClientError(f"could not hold {count} connections: {said or p.wait()}")
                yield
            finally:
                p.stdin.close()
                p.terminate()

    def serve(self, stack: ExitStack, log: Path) -> int:
        """A server that ends with `stack`; its port."""
        port = free_port()
        wait_listening(port, spawn(stack, [*self.argv, "serve", str(port)], log))
        return port


def find_client(work: Path, *, python: bool = False) -> Client:
    """The C client, compiled into `work`; the Python one where that fails or `python` asks for it."""
    fallback = Client((sys.executable, str(HERE / "tb_client.py")), "Python (tb_client.py)")
    compiler = next((c for c in compilers() if shutil.which(c)), None)
    if python or compiler is None:
        return fallback
    source = HERE / "tb.c"
    program = work / f"tb-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    built = subprocess.run(
        [compiler, "-O2", "-pthread", "-o", str(program), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if built.returncode:
        print(f"{compiler} cannot build tb.c, so the client is Python:\n{built.stderr}", file=sys.stderr)
        return fallback
    return Client((str(program),), f"C (tb.c, {compiler} -O2)")


def compilers() -> Sequence[str]:
    """Names under which a C compiler may be found, the environment's first."""
    return [name for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name]
