"""Where a daemon's time goes while bytes pass: `python -m tests.bench.hot_path [--side S] [--load L]`.

Two daemons on loopback, one bulk stream (or echoes, or opens) through them, one of the daemons profiled:

    --kind sample   by line and function, CPU time, 1 ms apart, hardly any distortion (the default)
    --kind calls    cProfile: how often each function is called; its times are distorted
    --kind perf     `perf record` by native symbol: copies, crypto, interpreter, kernel

An optimisation is believed when `python -m tests.bench` shows it; this says only where to look.
"""

from __future__ import annotations

import argparse
import io
import json
import linecache
import os
import pstats
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.__main__ import isolate, raise_file_limit
from tests.bench.client import Client, find_client
from tests.bench.procs import POLL_S, Cpu, free_port
from tests.bench.tunnels import PROTOCOL, Lab, p2pfwd_node, tcp
from tests.support import lifeline

INJECT = Path(__file__).with_name("inject")
ROOT = Path(__file__).parents[2]
WRITE_S = 20.0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hot_path", description=__doc__)
    parser.add_argument("--side", choices=("forward", "listen"), default="forward", help="the daemon watched")
    parser.add_argument("--load", choices=("up", "down", "rtt", "open", "many"), default="up")
    parser.add_argument("--kind", choices=("sample", "calls", "perf"), default="sample")
    parser.add_argument("--security", choices=("noise", "tls"), default="noise")
    parser.add_argument("--seconds", type=float, default=4.0, help="about how long")
    parser.add_argument("--top", type=int, default=30, help="rows shown")
    return parser.parse_args(argv)


def drive(client: Client, port: int, load: str, seconds: float) -> dict[str, float]:
    """Put `load` on the tunnel for about `seconds`; what the client measured."""
    if load in ("up", "down"):
        mib = max(32, int(client.run(load, port, 32)["MBps"] * seconds))
        return client.run(load, port, mib)
    if load == "many":
        return client.run("many", port, "down", 20, seconds)
    command = {"rtt": "rtt", "open": "ttfb"}[load]
    once: float = client.run(command, port, 50)["us"]["p50"]
    return client.run(command, port, max(50, int(seconds * 1e6 / once)))["us"]  # type: ignore[no-any-return]


def signalled(pid: int, out: Path) -> Iterator[None]:
    """Profile `pid` (which has inject/sitecustomize.py) while the generator is suspended."""
    os.kill(pid, signal.SIGUSR1)
    yield
    os.kill(pid, signal.SIGUSR2)
    deadline = time.monotonic() + WRITE_S
    while not out.with_suffix(".done").exists():
        if time.monotonic() > deadline:
            sys.exit("the daemon did not write its profile")
        time.sleep(POLL_S)


def by_perf(pid: int, out: Path) -> Iterator[None]:
    """`perf record` on `pid` while the generator is suspended."""
    words = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "1000", "-o", str(out), "-p", str(pid)]
    recorder = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    time.sleep(0.5)  # perf does not say when it is attached
    yield
    recorder.send_signal(signal.SIGINT)
    recorder.wait()


def place(file: str, function: str, line: int) -> str:
    """A place for people: paths of this tree and of packages made short."""
    for base in (str(ROOT), str(Path(sys.prefix) / "lib"), str(Path(os.__file__).parent)):
        file = file.removeprefix(base).lstrip("/")
    return f"{file.split('site-packages/')[-1]}:{line} {function}"


def show_samples(out: Path, top: int) -> None:
    found = json.loads(out.read_text(encoding="utf-8"))
    lines = sorted(found["lines"], key=lambda item: -item[1])
    total = sum(count for _, count in lines) or 1
    print(f"\n{total} samples. By line (a call into C counts for the line that makes it):\n")
    for (file, function, line), count in lines[:top]:
        source = linecache.getline(file, line).strip()
        print(f"{count / total:6.1%}  {place(file, function, line):<58.58}  {source[:60]}")
    print("\nBy function, callees included:\n")
    for (file, function, line), count in sorted(found["functions"], key=lambda item: -item[1])[:top]:
        print(f"{count / total:6.1%}  {place(file, function, line)}")


def show(kind: str, out: Path, top: int) -> None:
    if kind == "sample":
        show_samples(out, top)
    elif kind == "calls":
        text = io.StringIO()
        pstats.Stats(str(out), stream=text).sort_stats("tottime").print_stats(top)
        print(text.getvalue())
    else:
        words = ["perf", "report", "-i", str(out), "--stdio", "--sort", "dso,symbol"]
        subprocess.run([*words, "--percent-limit", "0.7"], stderr=subprocess.DEVNULL, check=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one profile and print it."""
    options = parse(argv)
    if options.kind == "perf" and shutil.which("perf") is None:
        sys.exit("perf is not installed")
    isolate()
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="p2pfwd-profile-") as name, ExitStack() as stack:
        work = Path(name)
        out = work / "profile"
        client = find_client(work)
        lab = Lab(stack, work, work / "log")
        server = client.serve(stack, lab.log)
        watched = {
            "PYTHONPATH": str(INJECT),
            "P2PFWD_PROFILE_OUT": str(out),
            "P2PFWD_PROFILE": "calls" if options.kind == "calls" else "sample",
        }
        far = p2pfwd_node(lab, options.security, watched if options.side == "listen" else None)
        near = p2pfwd_node(lab, options.security, watched if options.side == "forward" else None)
        far.ok("listen", PROTOCOL, tcp(server))
        port = free_port()
        near.ok("forward", PROTOCOL, tcp(port), far.address)
        pid = (near if options.side == "forward" else far).process.pid
        drive(client, port, options.load, 0.3)
        profiling = (by_perf if options.kind == "perf" else signalled)(pid, out)
        next(profiling)
        before = Cpu.of([pid])
        measured = drive(client, port, options.load, options.seconds)
        used = Cpu.of([pid]) - before
        next(profiling, None)
        numbers = {key: value for key, value in measured.items() if isinstance(value, int | float)}
        print(f"{options.load} through the {options.side} side, profiled: {json.dumps(numbers)}")
        print(f"CPU: {used.user_s:.2f} s in user mode, {used.system_s:.2f} s in the kernel")
        show(options.kind, out, options.top)
    return 0


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main())
