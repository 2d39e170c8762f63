"""`python -m tests.bench.rate_soak`: is a transfer ever slow? Thousands of 64 MB, all bytes compared.

Transfers go through every variant in turn: noise, tls, noise without AES, over a relay, on a line of 60 ms;
up and down, alone, beside idle streams, two at once. Each is a new stream; the daemons are new every so many
rounds. What is slow for no reason of the machine's shows in the tail: the least rate of all, and how many are
below half of the rate that 99 of 100 reach. Exit status 1 where a byte was wrong or a transfer did not end; a
rate fails nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from tests.bench.__main__ import isolate, raise_file_limit, stop
from tests.bench.client import Client, find_client
from tests.bench.procs import TICK_S, machine_busy_s, run_s
from tests.bench.report import grid, number, spread
from tests.bench.results import Spread
from tests.bench.tunnels import SETUPS, Lab, Setup, Tunnel
from tests.support import lifeline
from tests.support.figures import percentile
from tests.support.sockets import TcpServer, connect, echo, read_exactly

BYTES = 64_000_000
BLOCK = 1 << 20
STUCK_S = 60.0
"""Without a byte: the transfer is over, and a fault."""

SHOWN = 40
"""Slow transfers that are listed, the slowest first."""

TAKEN, RIGHT, WRONG = b"t", b"r", b"w"
"""What the far end says of bytes that went up."""


@dataclass(frozen=True, slots=True)
class Variant:
    """How a transfer is made."""

    kind: str
    way: str
    idle: int
    """Streams that are open beside it, with nothing on them."""
    at_once: int = 1

    def __str__(self) -> str:
        beside = f", beside {self.idle} idle" if self.idle else ""
        return f"{self.kind} {self.way}{beside}{', two at once' if self.at_once > 1 else ''}"


KINDS: Mapping[str, Setup] = {
    "noise": SETUPS["p2pfwd-noise"],
    "tls": SETUPS["p2pfwd-tls"],
    "no-aes": SETUPS["p2pfwd-no-aes"],
    "relayed": SETUPS["p2pfwd-relayed"],
    "long": SETUPS["long-p2pfwd"],
}
WAYS, IDLE = ("up", "down"), (0, 1, 20)


def variants(kinds: Sequence[str] = tuple(KINDS)) -> Iterator[Variant]:
    """All, those with the same streams beside them in a row."""
    for kind, idle, way in product(kinds, IDLE, WAYS):
        yield Variant(kind, way, idle)
    for kind, way in product(kinds, WAYS):
        yield Variant(kind, way, 0, at_once=2)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One, as it went."""

    at_s: float
    """Since the soak began."""
    variant: str
    mbps: float
    load: float
    """Of the machine, over the last minute."""
    ours: float
    """Processors that its two daemons had meanwhile."""
    idle: float
    """Processors that nobody used: a slow transfer beside idle ones waited for something of its own."""
    per_cpu_s: float
    """MB for each CPU second of the two daemons: what a busy machine hardly changes."""
    nth: int
    """Of this pair of daemons, counted from 1."""


class Ends:
    """Both ends of transfers: a server in this process, and its clients."""

    def __init__(self, seed: int) -> None:
        self.data = random.Random(seed).randbytes(BYTES)
        self._spare: list[bytearray] = []

    def serve(self, conn: socket.socket) -> None:
        """A handler: U takes all bytes and says whether they were right, D sends them, E keeps an echo."""
        mode = conn.recv(1)
        if mode == b"E":
            echo(conn)
            return
        conn.settimeout(STUCK_S)
        if mode == b"D":
            conn.sendall(self.data)
            conn.recv(1)
        elif mode == b"U":
            try:
                self._take(conn, answer=True)
            except EOFError:  # the client misses its answer
                return
            except ValueError:
                conn.sendall(WRONG)
            else:
                conn.sendall(RIGHT)

    def _take(self, conn: socket.socket, *, answer: bool = False) -> float:
        """When the last byte had come; `answer` says so before they are compared, which takes its time.

        EOFError where there are fewer, ValueError where they differ.
        """
        got = self._spare.pop() if self._spare else bytearray(BYTES)
        with memoryview(got) as view:
            at = 0
            while at < BYTES:
                count = conn.recv_into(view[at : at + BLOCK])
                if not count:
                    raise EOFError(f"the end came after {at} of {BYTES} bytes")
                at += count
        ended_at = time.perf_counter()
        if answer:
            conn.sendall(TAKEN)
        if got != self.data:
            raise ValueError("the bytes differ")
        self._spare.append(got)
        return ended_at

    def transfer(self, port: int, way: str) -> float:
        """MB/s of one. OSError, EOFError, or ValueError where bytes differ."""
        with connect(port, STUCK_S) as conn:
            start = time.perf_counter()
            if way == "up":
                conn.sendall(b"U")
                conn.sendall(self.data)
                read_exactly(conn, 1)
                ended_at = time.perf_counter()
                if read_exactly(conn, 1) != RIGHT:
                    raise ValueError("the bytes differ")
            else:
                conn.sendall(b"D")
                ended_at = self._take(conn)
        return BYTES / (ended_at - start) / 1e6


class Soak:
    """Transfers, for so many minutes or until there are so many, into `done` and `faults`."""

    def __init__(self, client: Client, work: Path, ends: Ends) -> None:
        self.client, self.work, self.ends = client, work, ends
        self.done: list[Transfer] = []
        self.faults: list[str] = []
        self._start = time.monotonic()

    def elapsed_s(self) -> float:
        return time.monotonic() - self._start

    def pair(self, kinds: Sequence[str], rounds: int, minutes: float, transfers: int) -> None:
        """A pair of daemons for each kind, `rounds` times through all variants; see Soak for the end."""
        with ExitStack() as stack:
            server = stack.enter_context(TcpServer(self.ends.serve))
            lab = Lab(stack, self.work, self.work / "log")
            tunnels = {name: KINDS[name](lab, server.port) for name in kinds}
            counts = dict.fromkeys(kinds, 0)
            for _ in range(rounds):
                for variant in variants(kinds):
                    if self.elapsed_s() > minutes * 60 or len(self.done) >= transfers:
                        return
                    counts[variant.kind] += variant.at_once
                    self._one(variant, tunnels[variant.kind], counts[variant.kind])

    def _one(self, variant: Variant, tunnel: Tunnel, nth: int) -> None:
        with ExitStack() as stack:
            if variant.idle:
                stack.enter_context(self.client.holding(tunnel.port, variant.idle))
            at_s, rates = self.elapsed_s(), list[float]()
            used_s, busy_s, since = run_s(tunnel.pids), machine_busy_s(), time.monotonic()

            def run() -> None:
                try:
                    rates.append(self.ends.transfer(tunnel.port, variant.way))
                except (OSError, EOFError, ValueError) as exc:
                    self.faults.append(f"{at_s:.0f} s, {variant}: {exc!r}")

            threads = [threading.Thread(target=run) for _ in range(variant.at_once)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took_s = time.monotonic() - since
            used_s, busy_s = run_s(tunnel.pids) - used_s, machine_busy_s() - busy_s
        if not rates:
            return
        about = {
            "load": os.getloadavg()[0],
            "ours": used_s / took_s,
            "idle": max(0.0, (os.cpu_count() or 1) - busy_s / took_s),
            "per_cpu_s": BYTES * len(rates) / max(used_s, TICK_S) / 1e6,
        }
        self.done += [Transfer(at_s, str(variant), rate, nth=nth, **about) for rate in rates]


@dataclass(frozen=True, slots=True)
class Tail:
    """What is asked of some rates (not none): MB/s, and how many are far below the others."""

    count: int
    p0: float
    p1: float
    p50: float
    slow: int

    @classmethod
    def of(cls, rates: Sequence[float]) -> Tail:
        p0, p1, p50 = (percentile(rates, each) for each in (0, 1, 50))
        return cls(len(rates), p0, p1, p50, sum(rate < p1 / 2 for rate in rates))


def render(done: Sequence[Transfer], faults: Sequence[str]) -> str:
    """The table: a row for each variant, and one for all; then the slow ones, and what was wrong."""
    by_variant: dict[str, list[Transfer]] = {}
    for transfer in done:
        by_variant.setdefault(transfer.variant, []).append(transfer)
    rows = [[
        "64 MB at a time, MB/s", "transfers", "least", "p1", "p50", "below half of p1",
        "MB a CPU-s, least", "p1", "p50",
    ]]  # fmt: skip
    for name, some in [*by_variant.items(), ("all", list(done))]:
        if some:
            tail, cost = (Tail.of([getattr(each, what) for each in some]) for what in ("mbps", "per_cpu_s"))
            rates, costs = ([number(rate) for rate in (each.p0, each.p1, each.p50)] for each in (tail, cost))
            rows.append([name, f"{tail.count:,}", *rates, str(tail.slow), *costs])
    lines = list(grid(rows)) if len(rows) > 1 else []
    slow = sorted(slow_ones(by_variant), key=lambda transfer: transfer.mbps)
    if slow:
        lines += ["", "Below half of their variant's p1, or a fifth of its p50:"]
    for each in slow[:SHOWN]:
        lines.append(
            f"  {each.at_s:6.0f} s  {number(each.mbps):>6} MB/s  {each.variant}; transfer {each.nth} of its "
            f"daemons, load {each.load:.1f}; processors: daemons {each.ours:.2f}, idle {each.idle:.2f}; "
            f"{number(each.per_cpu_s)} MB a CPU-s"
        )
    if len(slow) > SHOWN:
        lines.append(f"  and {len(slow) - SHOWN} more")
    if done:
        load, ours, idle = (
            spread(Spread.of(getattr(each, name) for each in done)) for name in ("load", "ours", "idle")
        )
        lines += ["", f"Load of the machine: {load}; processors of the two daemons: {ours}, idle: {idle}."]
    lines.append(f"Faults: {len(faults) or 'none'}.")
    return "\n".join([*lines, *(f"  {fault}" for fault in faults[:SHOWN])])


def slow_ones(by_variant: dict[str, list[Transfer]]) -> Iterator[Transfer]:
    """Those that want an explanation. A fifth of p50 is for a tail so long that p1 lies in it."""
    for some in by_variant.values():
        tail = Tail.of([transfer.mbps for transfer in some])
        yield from (each for each in some if each.mbps < max(tail.p1 / 2, tail.p50 / 5))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rate_soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="stop after so long (30)")
    parser.add_argument("--transfers", type=int, default=10_000, help="or after so many (10,000)")
    parser.add_argument("--only", action="append", choices=KINDS, help="transfers of this kind")
    parser.add_argument("--rounds", type=int, default=10, help="new daemons every so many rounds (10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every transfer there as well")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print the table; exit status."""
    options = parse(argv)
    isolate()
    raise_file_limit()
    signal.signal(signal.SIGTERM, stop)  # so that what was measured is printed
    with tempfile.TemporaryDirectory(prefix="p2pfwd-rate-", ignore_cleanup_errors=True) as name:
        soak = Soak(find_client(Path(name)), Path(name), Ends(seed=1))
        try:
            while soak.elapsed_s() < options.minutes * 60 and len(soak.done) < options.transfers:
                soak.pair(options.only or tuple(KINDS), options.rounds, options.minutes, options.transfers)
                print(f"{soak.elapsed_s():.0f} s: {len(soak.done)} transfers", file=sys.stderr, flush=True)
        except (KeyboardInterrupt, SystemExit):
            print("interrupted: what follows is what was done", file=sys.stderr)
    print(render(soak.done, soak.faults))
    if options.json:
        document = {"transfers": [asdict(each) for each in soak.done], "faults": soak.faults}
        options.json.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return 1 if soak.faults or not soak.done else 0


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main())
