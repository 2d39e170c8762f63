"""Processes under measurement: starting and ending them, and what /proc says of their CPU and memory."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
START_S = 20.0
"""The slowest of the programs is ready in about a second; the rest is for a busy machine."""

POLL_S = 0.01


def spawn(
    stack: ExitStack, argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A process that ends with `stack`; what it says goes to the end of `log`."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(word) for word in argv], env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    stack.callback(end, process)
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and reap it; nothing where it has ended."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A loopback port nobody listens on, below the range outgoing connections take theirs from."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once `port` accepts; RuntimeError where `process` ends first or START_S pass."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(POLL_S)  # no event tells that another process listens
    raise RuntimeError(f"nothing accepts on port {port}: {process.args!r}")


def tree(pid: int) -> list[int]:
    """`pid` and its living descendants."""
    found = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            children = Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii")
            for child in children.split():
                found += tree(int(child))
    except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
        pass
    return found


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds in user mode and in the kernel."""

    user_s: float = 0.0
    system_s: float = 0.0

    @property
    def total_s(self) -> float:
        return self.user_s + self.system_s

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(self.user_s + other.user_s, self.system_s + other.system_s)

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user_s - other.user_s, self.system_s - other.system_s)

    @classmethod
    def of(cls, roots: Iterable[int]) -> Self:
        """Of whole process trees, children already reaped included."""
        user = system = 0
        for root in roots:
            for pid in tree(root):
                try:
                    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
                except (FileNotFoundError, ProcessLookupError):
                    continue
                fields = stat.rsplit(")", 1)[1].split()
                user += int(fields[11]) + int(fields[13])
                system += int(fields[12]) + int(fields[14])
        return cls(user * TICK_S, system * TICK_S)


def run_s(roots: Iterable[int]) -> float:
    """CPU seconds of living processes, exact where `Cpu` counts ticks; as that where the kernel does not say.

    What has ended is not in it.
    """
    if not Path("/proc/self/schedstat").exists():
        return Cpu.of(roots).total_s
    total_ns = 0
    for root in roots:
        for pid in tree(root):
            for task in _listed(f"/proc/{pid}/task"):
                try:
                    stat = Path(f"/proc/{pid}/task/{task}/schedstat").read_text(encoding="ascii")
                except (FileNotFoundError, ProcessLookupError):
                    continue
                total_ns += int(stat.split()[0])
    return total_ns * 1e-9


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:  # ended meanwhile
        return []


def aes_in_hardware() -> str:
    """ "yes", "no", or "unknown" where the kernel does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "unknown"
    told = [line.split(":", 1)[1].split() for line in lines if line.lower().startswith(("flags", "features"))]
    return ("yes" if "aes" in told[0] else "no") if told else "unknown"


def machine_busy_s() -> float:
    """CPU seconds all processors have spent on anything since boot."""
    with open("/proc/stat", encoding="ascii") as stat:
        fields = [int(word) for word in stat.readline().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) * TICK_S


class Others:
    """What processes that are not ours use from now on. Ours are this one and its descendants."""

    def __init__(self) -> None:
        self._start = self._now()

    def cores(self) -> float:
        """Processors, on average."""
        busy, own, clock = (b - a for a, b in zip(self._start, self._now(), strict=True))
        return max(0.0, busy - own) / max(clock, 1e-3)

    @staticmethod
    def _now() -> tuple[float, float, float]:
        return machine_busy_s(), Cpu.of([os.getpid()]).total_s, time.monotonic()


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process tree: resident, and proportional (shared pages divided among their users)."""

    rss: int = 0
    pss: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.rss + other.rss, self.pss + other.pss)

    @classmethod
    def of(cls, root: int) -> Self:
        rss = pss = 0
        for pid in tree(root):
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
            except (FileNotFoundError, ProcessLookupError):
                continue
            sizes = {line.split()[0]: line.split()[1] for line in lines[1:]}
            rss += int(sizes.get("Rss:", 0)) * 1024
            pss += int(sizes.get("Pss:", 0)) * 1024
        return cls(rss, pss)
