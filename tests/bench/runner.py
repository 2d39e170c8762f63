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
from tests.bench.procs import Others, machine_busy_s
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

PHASES: Mapping[str, tuple[Phase, frozenset[str]]] = {
    "rtt": (phases.round_trip, frozenset(SETUPS)),
    "open": (phases.opening, frozenset(SETUPS)),
    "bulk": (phases.bulk, frozenset(SETUPS)),
    "burst": (phases.burst, frozenset(SETUPS)),
    "many": (phases.many, frozenset({"relay", "ssh", "kubo-noise", "p2pfwd-noise", "p2pfwd-tls"})),
    "circuits": (phases.circuits, frozenset({"p2pfwd-relayed"})),
    "paced": (phases.paced, frozenset({"p2pfwd-noise"})),
    "ls": (phases.commands, frozenset({"p2pfwd-noise"})),
}
"""Measurements in their order, and the tunnels they are taken on."""

ROUNDS: Mapping[str, int] = {"rtt": 5, "open": 5, "many": 2}
"""How often within a repeat some go round the tunnels: a machine's wake-up time changes from
second to second, by more than what is compared. Each round is a sample of its own."""

FRESH: Mapping[str, Phase] = {"idle": phases.idle, "streams": phases.streams}
"""Those that want daemons nothing has gone through yet."""

FRESH_TUNNELS = frozenset({"kubo-noise", "p2pfwd-noise", "p2pfwd-tls"})

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
            "repeats": plan.repeats,
        }

    def run(self) -> Results:
        for repeat in range(self.plan.repeats):
            self.results.add("aead", repeat, aead_s_per_gb(self.plan.sizes.aead_s))
            self._together(repeat, self.plan.tunnels)
            self._fresh(repeat, self.plan.tunnels)
        return self.results

    def _together(self, repeat: int, names: Sequence[str]) -> None:
        """All tunnels up, one measurement after the other through all of them."""
        wanted = [name for name in PHASES if name in self.plan.phases]
        if not wanted:
            return
        with ExitStack() as stack:
            self._say(repeat, "starting")
            server = self.client.serve(stack, self.log)
            up = {name: self._start(stack, name, server) for name in names}
            for phase in wanted:
                self._say(repeat, phase)
                rounds = ROUNDS.get(phase, 1)
                for sample in range(repeat * rounds, (repeat + 1) * rounds):
                    self._round(sample, names if sample % 2 == 0 else names[::-1], up, phase)

    def _round(
        self, sample: int, names: Sequence[str], up: dict[str, Tunnel | None], phase: str
    ) -> None:
        """One measurement of every tunnel that is up; one that fails is up no more."""
        measure, tunnels = PHASES[phase]
        for name in names:
            tunnel = up[name]
            if tunnel is None or name not in tunnels:
                continue
            if not self._measure(sample, name, tunnel, phase, measure):
                up[name] = None

    def _fresh(self, repeat: int, names: Sequence[str]) -> None:
        """One tunnel after the other, alone."""
        wanted = [name for name in FRESH if name in self.plan.phases]
        for name in names:
            if not wanted or name not in FRESH_TUNNELS:
                continue
            self._say(repeat, f"memory of {name}")
            with ExitStack() as stack:
                tunnel = self._start(stack, name, self.client.serve(stack, self.log))
                for phase in wanted:
                    if tunnel is not None:
                        self._measure(repeat, name, tunnel, phase, FRESH[phase])

    def _start(self, stack: ExitStack, name: str, server: int) -> Tunnel | None:
        if name in self.results.skipped:
            return None
        try:
            return SETUPS[name](Lab(stack, self.work, self.log), server)
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
