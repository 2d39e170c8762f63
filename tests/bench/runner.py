"""One run of the bench: every tunnel set up, every measurement taken round robin, as often as asked.

Within a repeat all tunnels are up; each measurement goes through all of them before the next begins, so
what is compared lies seconds apart, and every other time goes backwards. Each repeat has fresh daemons.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench import phases
from tests.bench.client import Client, ClientError
from tests.bench.floor import aead_s_per_gb
from tests.bench.phases import Phase, Sizes
from tests.bench.procs import Others, aes_in_hardware, machine_busy_s
from tests.bench.results import Results
from tests.bench.tunnels import SETUPS, Lab, Missing, Tunnel
from tests.interop.peers.process import PeerFailed

SAID = 300
"""Characters of a failure that are shown: its end, where the cause of a dead daemon's trace is."""

QUIET_CORES = 0.25
QUIET_WINDOW_S = 0.25
WAIT_S = 2.0
"""Longest wait before one measurement."""

TRIES = 2
"""How often a measurement is taken while other processes are busy; the quieter one counts."""



@dataclass(frozen=True, slots=True)
class Stage:
    """Measurements in their order, each with the tunnels it is taken on."""

    phases: Mapping[str, tuple[Phase, frozenset[str]]]
    alone: bool = False
    """One tunnel after the other, each with fresh daemons; else all are up, and each measurement goes
    through all of them."""
    repeats: int | None = None
    """At most so often: the slow ones."""


LONG = frozenset({"long-direct", "long-ssh", "long-kubo", "long-p2pfwd"})
CROWD = frozenset({"p2pfwd-crowd"})
BULK_ONLY = frozenset({"p2pfwd-no-aes"})
NEAR = frozenset(SETUPS) - LONG - CROWD - BULK_ONLY

STAGES: Sequence[Stage] = [
    Stage({
        "rtt": (phases.round_trip, NEAR),
        "open": (phases.opening, NEAR),
        "bulk": (phases.bulk, NEAR | BULK_ONLY),
        "burst": (phases.burst, NEAR),
        "many": (phases.many, frozenset({"relay", "ssh", "kubo-noise", "p2pfwd-noise", "p2pfwd-tls"})),
        "circuits": (phases.circuits, frozenset({"p2pfwd-relayed"})),
        "paced": (phases.paced, frozenset({"p2pfwd-noise"})),
        "ls": (phases.commands, frozenset({"p2pfwd-noise"})),
    }),
    Stage({"long": (phases.long, LONG)}, repeats=2),
    Stage({
        name: (phase, frozenset({"kubo-noise", "p2pfwd-noise", "p2pfwd-tls"}))
        for name, phase in (("idle", phases.idle), ("streams", phases.streams))
    }, alone=True),
    Stage({
        "scale": (phases.scale, frozenset({"kubo-noise", "p2pfwd-noise"})),
    }, alone=True, repeats=2),
    Stage({"crowd": (phases.crowd, CROWD)}, alone=True, repeats=2),
]  # fmt: skip

PHASES: Sequence[str] = [name for stage in STAGES for name in stage.phases]

ROUNDS: Mapping[str, int] = {"rtt": 5, "open": 5, "many": 2}
"""How often within a repeat some go round the tunnels: a machine's wake-up time changes from
second to second, by more than what is compared. Each round is a sample of its own."""

FAILURES = (ClientError, PeerFailed, AssertionError, OSError, RuntimeError)
"""How a tunnel or a measurement fails; a failed one is reported, the run goes on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    tunnels: Sequence[str]
    phases: Sequence[str]
    repeats: int
    sizes: Sizes
    patience_s: float
    """Time the whole run may spend because other processes are busy: waiting for them, measuring again."""


class Runner:
    """Runs a plan into `results`."""

    def __init__(self, plan: Plan, client: Client, work: Path) -> None:
        self.plan, self.client, self.work = plan, client, work
        self.log = work / "log"
        self._patience_s = plan.patience_s
        self.results = Results()
        self.results.about = {
            "client": client.kind,
            "python": platform.python_version(),
            "kernel": platform.release(),
            "processors": os.cpu_count(),
            "aes": aes_in_hardware(),
            "repeats": plan.repeats,
        }

    def run(self) -> Results:
        for repeat in range(self.plan.repeats):
            self.results.add("aead", repeat, aead_s_per_gb(self.plan.sizes.aead_s))
            for stage in STAGES:
                if stage.repeats is None or repeat < stage.repeats:
                    self._stage(repeat, stage)
        return self.results

    def _stage(self, repeat: int, stage: Stage) -> None:
        """Take those of its measurements that are wanted, on those of its tunnels that are."""
        wanted = {name: phase for name, phase in stage.phases.items() if name in self.plan.phases}
        needed = frozenset[str]().union(*(tunnels for _, tunnels in wanted.values()))
        names = [name for name in self.plan.tunnels if name in needed]
        for group in ([name] for name in names) if stage.alone else [names]:
            if not group:
                continue
            self._say(repeat, f"starting {group[0] if stage.alone else 'tunnels'}")
            with ExitStack() as stack:
                server = self.client.serve(stack, self.log)
                up = {name: self._start(stack, name, server) for name in group}
                for name, (measure, tunnels) in wanted.items():
                    self._say(repeat, name)
                    rounds = ROUNDS.get(name, 1)
                    taken_on = [each for each in group if each in tunnels]
                    for sample in range(repeat * rounds, (repeat + 1) * rounds):
                        order = taken_on if sample % 2 == 0 else taken_on[::-1]
                        self._round(sample, order, up, name, measure)

    def _round(
        self, sample: int, names: Sequence[str], up: dict[str, Tunnel | None], phase: str, measure: Phase
    ) -> None:
        """One measurement of every tunnel that is up; one that fails is up no more."""
        for name in names:
            tunnel = up[name]
            if tunnel is not None and not self._measure(sample, name, tunnel, phase, measure):
                up[name] = None

    def _start(self, stack: ExitStack, name: str, server: int) -> Tunnel | None:
        if name in self.results.skipped:
            return None
        try:
            tunnel = SETUPS[name](Lab(stack, self.work, self.log), server)
            if tunnel.cipher is not None:
                self.results.ciphers[name] = tunnel.cipher
            return tunnel
        except Missing as exc:
            self.results.skipped[name] = str(exc)
        except FAILURES as exc:
            self._failed(name, "start", exc)
        return None

    def _measure(self, sample: int, name: str, tunnel: Tunnel, phase: str, measure: Phase) -> bool:
        """Whether the measurement came to its end; the figures of the quietest try are in the results."""
        quietest = float("inf")
        for attempt in range(TRIES):
            start = time.monotonic()
            wait_quiet(min(WAIT_S, self._patience_s))
            if not attempt:
                self._patience_s -= time.monotonic() - start
            others = Others()
            try:
                figures = measure(self.client, tunnel, self.plan.sizes)
            except FAILURES as exc:
                self._failed(name, phase, exc)
                return False
            cores = others.cores()
            if cores < quietest:
                quietest = cores
                self.results.add(name, sample, figures)
            if attempt:
                self._patience_s -= time.monotonic() - start
            if cores < QUIET_CORES or self._patience_s <= 0:
                break
        self.results.others_cores.append(quietest)
        return True

    def _failed(self, name: str, phase: str, exc: Exception) -> None:
        said = str(exc)
        line = f"{name}: {phase}: {type(exc).__name__}: {said if len(said) <= SAID else '… ' + said[-SAID:]}"
        self.results.failures.append(line)
        print(line, file=sys.stderr)

    def _say(self, repeat: int, what: str) -> None:
        print(f"repeat {repeat + 1} of {self.plan.repeats}: {what}", file=sys.stderr, flush=True)


def wait_quiet(limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
    """Return when the machine was nearly idle for a moment, or after `limit_s`."""
    end = clock() + limit_s
    while clock() < end:
        busy, start = machine_busy_s(), clock()
        time.sleep(QUIET_WINDOW_S)
        if (machine_busy_s() - busy) / (clock() - start) < QUIET_CORES:
            return
