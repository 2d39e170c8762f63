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
class Taken:
    """A measurement, the tunnels it is taken on, and the repeats it is left at, where it is a slow one."""

    measure: Phase
    tunnels: frozenset[str]
    repeats: int | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """Measurements in their order: all tunnels are up, and each measurement goes through all of them; or,
    `alone`, one tunnel after the other, whose daemons are fresh and so measured once only."""

    phases: Mapping[str, Taken]
    alone: bool = False


LONG = frozenset({"long-direct", "long-ssh", "long-kubo", "long-p2pfwd"})
CROWD = frozenset({"p2pfwd-crowd"})
BULK_ONLY = frozenset({"p2pfwd-no-aes"})
NEAR = frozenset(SETUPS) - LONG - CROWD - BULK_ONLY
OURS = frozenset({"p2pfwd-noise"})
NOISE = frozenset({"kubo-noise", "p2pfwd-noise"})

STAGES: Sequence[Stage] = [
    Stage({
        "rtt": Taken(phases.round_trip, NEAR),
        "open": Taken(phases.opening, NEAR),
        "bulk": Taken(phases.bulk, NEAR | BULK_ONLY),
        "burst": Taken(phases.burst, NEAR),
        "many": Taken(phases.many, NOISE | {"ssh"}),
        "circuits": Taken(phases.circuits, frozenset({"p2pfwd-relayed"})),
        "paced": Taken(phases.paced, OURS, repeats=2),
        "ls": Taken(phases.commands, OURS),
    }),
    Stage({"long": Taken(phases.long, LONG, repeats=2)}),
    Stage({
        "idle": Taken(phases.idle, NOISE | {"p2pfwd-tls"}),
        "streams": Taken(phases.streams, NOISE | {"p2pfwd-tls"}),
    }, alone=True),
    Stage({"scale": Taken(phases.scale, NOISE, repeats=1)}, alone=True),
    Stage({"crowd": Taken(phases.crowd, CROWD, repeats=1)}, alone=True),
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
                self._stage(repeat, stage)
        return self.results

    def _stage(self, repeat: int, stage: Stage) -> None:
        """Take those of its measurements that are wanted, on those of its tunnels that are."""
        wanted = {
            name: taken
            for name, taken in stage.phases.items()
            if name in self.plan.phases and (taken.repeats is None or repeat < taken.repeats)
        }
        needed = frozenset[str]().union(*(taken.tunnels for taken in wanted.values()))
        names = [name for name in self.plan.tunnels if name in needed]
        for group in ([name] for name in names) if stage.alone else [names]:
            if not group:
                continue
            self._say(repeat, f"starting {group[0] if stage.alone else 'tunnels'}")
            with ExitStack() as stack:
                server = self.client.serve(stack, self.log)
                up = {name: self._start(stack, name, server) for name in group}
                for name, taken in wanted.items():
                    self._say(repeat, name)
                    rounds = ROUNDS.get(name, 1)
                    for sample in range(repeat * rounds, (repeat + 1) * rounds):
                        self._round(sample, up, name, taken, 1 if stage.alone else TRIES)

    def _round(
        self, sample: int, up: dict[str, Tunnel | None], phase: str, taken: Taken, tries: int
    ) -> None:
        """One measurement of every tunnel that is up; one that fails is up no more."""
        names = [name for name in up if name in taken.tunnels]
        for name in names if sample % 2 == 0 else names[::-1]:
            tunnel = up[name]
            if tunnel is not None and not self._measure(sample, name, tunnel, phase, taken.measure, tries):
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

    def _measure(
        self, sample: int, name: str, tunnel: Tunnel, phase: str, measure: Phase, tries: int
    ) -> bool:
        """Whether the measurement came to its end; the figures of the quietest try are in the results."""
        quietest = float("inf")
        for attempt in range(tries):
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
            took_s = time.monotonic() - start
            if attempt:
                self._patience_s -= took_s
            if cores < QUIET_CORES or self._patience_s < took_s:  # another try would not fit
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
