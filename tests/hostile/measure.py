"""One kind of attack, measured: before, with a burning processor, during, and half a minute after.

The burner is the control: what the honest lose because some process on the same machine works is not the
attack's doing. It asks for a processor whole; an attacker that took less has that share of the loss allowed.
After the attack a spinner, which sends nothing, takes what the attacker took: the second control is measured,
not reckoned.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tests.bench.procs import Others
from tests.hostile import honest, victim
from tests.hostile.kinds import Kind
from tests.hostile.stage import NET48
from tests.hostile.victim import Helper, Queued, Rig, Usage

SETTLE_S: Final = 30.0
"""After an attack, until its victim's memory is looked at for the last time."""

NEWCOMERS: Final = 5
"""At most so many in one measurement, one after the other."""

QUIET_CORES: Final = 0.15


@dataclass(frozen=True, slots=True)
class Times:
    """How long each part takes, seconds."""

    warm_s: float = 1.0
    before_s: float = 3.0
    burned_s: float = 2.0
    ramp_s: float = 2.0
    """From the attack's start to the first look: its connections have to be made."""
    during_s: float = 8.0


QUICK: Final = Times(before_s=1.5, burned_s=1.2, ramp_s=1.5, during_s=4.0)


@dataclass(slots=True)
class Measured:
    """Figures of one kind in one spread. None: it failed, or was not looked at."""

    kind: str
    spread: str
    before: dict[str, Any] = field(default_factory=dict)
    burned: dict[str, Any] = field(default_factory=dict)
    during: dict[str, Any] = field(default_factory=dict)
    spun: dict[str, Any] = field(default_factory=dict)
    """Beside a process that takes as much of the processors as the attacker took, and sends nothing."""
    others_cores: float = 0.0
    """Processors taken meanwhile by what has nothing to do with this."""
    attacker_cores: float = 0.0
    spinner_cores: float = 0.0
    victim_cores: float = 0.0
    victim_before_cores: float = 0.0
    newcomers_s: list[float | None] = field(default_factory=list)
    newcomer_before_s: float | None = None
    owner_s: float | None = None
    start_mb: float = 0.0
    peak_mb: float = 0.0
    after_mb: float | None = None
    tcp_mb: float = 0.0
    """Growth of what lies in the TCP queues of the victim's own sockets."""
    tcp_others_mb: float = 0.0
    """The same of all others: the services', the attacker's."""
    log_lines: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """By the victim to strangers, by cause."""
    sent: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    """Of the attack."""
    died: bool = False
    failed: str | None = None

    @property
    def control_ratio(self) -> float:
        """Honest speed that a process of this appetite leaves without attacking, 1 at most."""
        loss = 1 - min(1.0, _ratio(self.burned, self.before))
        return 1 - loss * min(1.0, self.attacker_cores)

    @property
    def speed_ratio(self) -> float:
        """Honest speed during, against before."""
        return _ratio(self.during, self.before)

    @property
    def speed_of_control(self) -> float:
        """The same against the control's."""
        return self.speed_ratio / max(0.05, self.control_ratio)

    @property
    def speed_of_spinner(self) -> float | None:
        """Honest speed during, against that beside the spinner; None where it was not measured."""
        return _ratio(self.during, self.spun) if self.spun else None

    @property
    def strangers_share(self) -> float:
        """Of the victim's processor time during: what the honest stream, at its cost before, did not need."""
        honest_cores = self.victim_before_cores * self.speed_ratio
        return max(0.0, 1 - honest_cores / self.victim_cores) if self.victim_cores else 0.0

    def document(self) -> dict[str, Any]:
        """As JSON."""
        ratios = {
            "speed_ratio": self.speed_ratio,
            "control_ratio": self.control_ratio,
            "speed_of_spinner": self.speed_of_spinner,
            "strangers_share": self.strangers_share,
        }
        return asdict(self) | ratios


def _ratio(of: dict[str, Any], to: dict[str, Any]) -> float:
    return float(of.get("mb_s", 0.0)) / max(0.001, float(to.get("mb_s", 0.0)))


class _Peak:
    """The most that lay in TCP queues meanwhile, in a thread."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._start = self._most = victim.tcp_queued(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            now = victim.tcp_queued(self._pid)
            self._most = Queued(*map(max, self._most, now))

    def end(self) -> Queued:
        """Growth, MB."""
        self._over.set()
        self._thread.join()
        own, others = (most - start for most, start in zip(self._most, self._start, strict=True))
        return Queued(own, others)


_BURN: Final = """
import sys, time
share, start = float(sys.argv[1]), time.monotonic()
while True:
    if time.process_time() > share * (time.monotonic() - start):
        time.sleep(0.001)
"""


@contextmanager
def _burning(cores: float = 1.0) -> Iterator[int]:
    """Work beside us that takes as much of one processor, if it gets it; the pid."""
    process = subprocess.Popen([sys.executable, "-c", _BURN, str(cores)])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


class Measurement:
    """Measures one kind; the rig lives on after `run`, until `finish` has looked at it for the last time."""

    def __init__(self, kind: Kind, spread: str, rig: Rig, times: Times) -> None:
        self.result = Measured(kind.name, spread)
        self._kind, self._spread, self._rig, self._times = kind, spread, rig, times
        self._ended_at = 0.0
        self._newcomer = 0

    def run(self) -> None:
        """Before, burned, during. The attack is over when it returns."""
        result, rig, times = self.result, self._rig, self._times
        time.sleep(times.warm_s)
        others = Others()
        usage = rig.usage()
        result.before = self._window(times.before_s)
        result.victim_before_cores = rig.usage().cores_since(usage)
        with _burning():
            result.burned = self._window(times.burned_s)
        result.newcomer_before_s = self._arrive()
        try:
            self._attack()
        except (RuntimeError, OSError) as exc:
            result.failed = result.failed or f"{type(exc).__name__}: {exc}"
        result.died = rig.victim.process.poll() is not None
        if result.attacker_cores and not result.died:
            self._spin()
        result.others_cores = others.cores()
        rig.end_honest()
        self._ended_at = time.monotonic()

    def _spin(self) -> None:
        """The second control, when the attack is worked off."""
        self.wait_quiet(2.0, QUIET_CORES + self.result.victim_before_cores)
        with _burning(self.result.attacker_cores) as pid:
            at, before_s = time.monotonic(), victim.cpu_s(pid)
            self.result.spun = self._window(self._times.before_s)
            self.result.spinner_cores = (victim.cpu_s(pid) - before_s) / (time.monotonic() - at)

    def _window(self, seconds: float) -> dict[str, Any]:
        """What the honest programs had in the next so many seconds."""
        self._look()
        time.sleep(seconds)
        return self._look()

    def _look(self) -> dict[str, Any]:
        bulk, echo = self._rig.bulk.ask(), self._rig.echo.ask()
        return {**echo, "mb_s": bulk["mb_s"], "breaks": bulk["breaks"] + echo["breaks"]}

    def _attack(self) -> None:
        result, rig = self.result, self._rig
        attacker = Helper("tests.hostile.attacker", log=rig.work / "attacker.txt")
        try:
            addr = rig.addr6 if self._spread == NET48 else rig.addr
            orders = {
                "kind": self._kind.name,
                "spread": self._spread,
                "addr": str(addr),
                "public": self._kind.public,
                "control": str(rig.victim.home / "rpc.sock"),
            }
            attacker.tell(json.dumps(orders))
            attacker.read()
            rig.forget_peak()
            start = rig.usage()
            tcp = _Peak(rig.victim.process.pid)
            try:
                attacker.tell()
                time.sleep(self._times.ramp_s)
                self._during(attacker)
                result.owner_s = rig.owner_s()
                result.refused = rig.refused()
            finally:
                result.tcp_mb, result.tcp_others_mb = tcp.end()
            attacker.tell()
            said = attacker.read()
            result.sent, result.failed = said["counts"], said.get("failed")
            if not any(result.sent.values()):  # neither taken nor refused: it would prove nothing
                result.failed = result.failed or "nothing of the attack came to the victim"
            self._count(start, rig.usage())
        finally:
            attacker.end()

    def _during(self, attacker: Helper) -> None:
        """The honest programs' window, newcomers in it; both processes' CPU."""
        result, rig = self.result, self._rig
        newcomers = threading.Thread(target=self._newcomers, args=(time.monotonic() + self._times.during_s,))
        before, burned_s, at = rig.usage(), victim.cpu_s(attacker.pid), time.monotonic()
        newcomers.start()
        try:
            result.during = self._window(self._times.during_s)
            elapsed_s = time.monotonic() - at
            result.victim_cores = rig.usage().cores_since(before)
            result.attacker_cores = (victim.cpu_s(attacker.pid) - burned_s) / elapsed_s
        finally:
            newcomers.join()

    def _newcomers(self, until: float) -> None:
        """One after the other."""
        while len(self.result.newcomers_s) < NEWCOMERS and time.monotonic() < until:
            self.result.newcomers_s.append(self._arrive())
            time.sleep(self._times.during_s / NEWCOMERS)

    def _arrive(self) -> float | None:
        """A newcomer, from an address nobody has come from."""
        self._newcomer += 1
        return honest.newcomer_s(self._rig.addr, f"10.80.{self._newcomer}.1", victim.ECHO)

    def _count(self, start: Usage, end: Usage) -> None:
        result = self.result
        result.seconds = end.at - start.at
        result.start_mb, result.peak_mb = start.rss_mb, end.peak_mb
        result.log_lines = end.log_lines - start.log_lines

    def wait_quiet(self, limit_s: float, cores: float = QUIET_CORES) -> None:
        """Return when the victim, at less than `cores`, has worked off what was sent, or after `limit_s`."""
        end = time.monotonic() + limit_s
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                before = self._rig.usage()
                time.sleep(0.4)
                if self._rig.usage().cores_since(before) < cores:
                    return

    @property
    def is_due(self) -> bool:
        """Whether the time for `finish` has come."""
        return time.monotonic() >= self._ended_at + SETTLE_S

    def finish(self) -> Measured:
        """Look at the memory when it is time, and end everything."""
        time.sleep(max(0.0, self._ended_at + SETTLE_S - time.monotonic()))
        with contextlib.suppress(OSError):
            self.result.after_mb = self._rig.usage().rss_mb
        self.close()
        return self.result

    def close(self) -> None:
        """End everything."""
        with contextlib.suppress(subprocess.TimeoutExpired):  # it is killed then
            self._rig.close()
