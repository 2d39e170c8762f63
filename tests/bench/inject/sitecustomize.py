"""Put on PYTHONPATH by hot_path.py: lets a daemon be profiled without the daemon knowing.

Every Python imports `sitecustomize` at start. This one waits for two signals: SIGUSR1 begins, SIGUSR2 ends
and writes what was found to P2PFWD_PROFILE_OUT, then writes `OUT.done`. P2PFWD_PROFILE is `sample` (each
millisecond of CPU time the stack is noted: hardly any distortion, where the time goes by line) or `calls`
(cProfile: exact counts of calls, times distorted by the counting).
"""

from __future__ import annotations

import cProfile
import json
import os
import signal
from collections import Counter
from pathlib import Path
from types import FrameType

INTERVAL_S = 0.001

Place = tuple[str, str, int]
"""File, function, line."""


class Sampler:
    """Notes on SIGPROF where the main thread is."""

    def __init__(self) -> None:
        self.lines: Counter[Place] = Counter()
        self.functions: Counter[Place] = Counter()

    def begin(self) -> None:
        signal.signal(signal.SIGPROF, self.note)
        signal.siginterrupt(signal.SIGPROF, False)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def note(self, number: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        code = frame.f_code
        self.lines[code.co_filename, code.co_name, frame.f_lineno] += 1
        seen = set()
        at: FrameType | None = frame
        while at is not None:
            seen.add((at.f_code.co_filename, at.f_code.co_name, at.f_code.co_firstlineno))
            at = at.f_back
        self.functions.update(seen)

    def finish(self, out: Path) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        found = {"lines": list(self.lines.items()), "functions": list(self.functions.items())}
        out.write_text(json.dumps(found), encoding="utf-8")


class Calls:
    """cProfile of the main thread."""

    def __init__(self) -> None:
        self.profile = cProfile.Profile()

    def begin(self) -> None:
        self.profile.enable()

    def finish(self, out: Path) -> None:
        self.profile.disable()
        self.profile.dump_stats(out)


def install(out: Path, kind: str) -> None:
    """Wait for the two signals."""
    profiler = Sampler() if kind == "sample" else Calls()

    def finish(number: int, frame: FrameType | None) -> None:
        profiler.finish(out)
        out.with_suffix(".done").touch()

    signal.signal(signal.SIGUSR1, lambda number, frame: profiler.begin())
    signal.signal(signal.SIGUSR2, finish)


if "P2PFWD_PROFILE_OUT" in os.environ:
    install(Path(os.environ["P2PFWD_PROFILE_OUT"]), os.environ.get("P2PFWD_PROFILE", "sample"))
