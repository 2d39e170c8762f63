"""How long a forward needs to be back after each fault, as a table: `make recovery` (root).

    python -m tests.netns.recovery [--tries N] [--labs N] [--only WORDS] [--keep yes|no|both]

Seconds are from the fault's end to the first answer on a connection begun after it, at five new connections
a second. "lost" counts the tries in which the connection that was there all the time was reset, with the
median of seconds from the fault's beginning; told as a clean end, which is a failure, they are counted there,
too. "noticed" is when `ls` said that the peer is not there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.netns.recovery_hubs import HUB_FAULTS, HubWorld
from tests.netns.recovery_lab import FAULTS, Fault, L, Outcome, World, bad_line, suffer
from tests.netns.two_machines import Unavailable
from tests.support import lifeline
from tests.support.figures import percentile

P50_S, P99_S = 2.0, 5.0
BAD_LINE: Final = "bad line: 20 % loss, 2 s"


AnyFault = Fault[World] | Fault[HubWorld]


def _suffer(fault: Fault[L], home: Path, keep: bool) -> Outcome:
    with fault.make(home, keep) as lab:
        return suffer(lab, fault)


def _try(fault: AnyFault | None, keep: bool) -> Outcome | str:
    """One fault in a lab of its own; None stands for the bad line. A text says what went wrong."""
    with tempfile.TemporaryDirectory(prefix="p2pfwd-recovery-") as home:
        try:
            if fault is not None:
                return _suffer(fault, Path(home) / "w", keep)  # type: ignore[misc]  # of one kind or the other
            with World(Path(home) / "w", keep=keep) as world:
                return bad_line(world)
        except Unavailable:
            raise
        except Exception as exc:  # one lab that fails is a line of the report, not its end
            return f"{type(exc).__name__}: {exc}"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f}"


def _percentile(times: list[float | None], percent: float) -> float | None:
    found = percentile([time if time is not None else float("inf") for time in times], percent)
    return None if found == float("inf") else found


def row(name: str, outcomes: list[Outcome]) -> str:
    """One line of the table."""
    times = [outcome.answered_s for outcome in outcomes]
    quantiles = [_seconds(_percentile(times, percent)) for percent in (50, 99, 100)]
    lost = [outcome.lost_s for outcome in outcomes if outcome.lost_s is not None]
    lost_text = f"{len(lost)}" + (f" after {statistics.median(lost):.1f}" if lost else "")
    if clean := sum(outcome.was_clean for outcome in outcomes):
        lost_text += f", {clean} as an END"
    stalled = max(outcome.stalled_s for outcome in outcomes)
    refused = statistics.median(outcome.refused for outcome in outcomes)
    noticed = [outcome.noticed_s for outcome in outcomes if outcome.noticed_s is not None]
    noticed_text = f"{max(noticed):.1f}" if noticed else ""
    cells = [f"{cell:>6}" for cell in quantiles]
    return f"{name:<34}{''.join(cells)}  {lost_text:<14}{stalled:>6.1f}{refused:>9.0f}  {noticed_text}"


def missed(outcomes: list[Outcome]) -> bool:
    """Whether the goals are not met."""
    times = [outcome.answered_s for outcome in outcomes]
    p50, p99 = _percentile(times, 50), _percentile(times, 99)
    if any(outcome.was_clean for outcome in outcomes):
        return True
    return p50 is None or p50 > P50_S or p99 is None or p99 > P99_S


def main(words: list[str]) -> int:
    """Run; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="recovery")
    parser.add_argument("--tries", type=int, default=2)
    parser.add_argument("--labs", type=int, default=4, help="labs at a time; they mostly wait")
    parser.add_argument("--only", default="", help="faults with these words in their name")
    parser.add_argument("--keep", choices=("yes", "no", "both"), default="both")
    args = parser.parse_args(words)
    keeps = {"yes": [True], "no": [False], "both": [False, True]}[args.keep]
    faults: list[AnyFault | None] = [fault for fault in (*FAULTS, *HUB_FAULTS) if args.only in fault.name]
    if args.only in BAD_LINE:
        faults.append(None)

    def is_tried(fault: AnyFault | None, keep: bool) -> bool:
        return fault is None or fault.kept or not keep

    tried = [(fault, keep) for fault in faults for keep in keeps if is_tried(fault, keep)]
    jobs = [job for _ in range(args.tries) for job in tried]
    found: dict[tuple[AnyFault | None, bool], list[Outcome]] = defaultdict(list)
    try:
        with ThreadPoolExecutor(args.labs) as pool:
            for job, outcome in zip(jobs, pool.map(lambda job: _try(*job), jobs), strict=True):
                name = job[0].name if job[0] else BAD_LINE
                told = outcome
                if isinstance(outcome, Outcome):
                    found[job].append(outcome)
                    told = f"{_seconds(outcome.answered_s)} s"
                sys.stderr.write(f"{name}: {told}\n")  # the table is long in coming
    except Unavailable as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    head = f"{'fault':<34}{'p50':>6}{'p99':>6}{'max':>6}  {'lost':<14}{'stall':>6}{'refused':>9}  noticed"
    lines, late = [head], False
    for (fault, keep), outcomes in found.items():
        name = (fault.name if fault is not None else BAD_LINE) + (", kept" if keep else "")
        lines.append(row(name, outcomes))
        late |= missed(outcomes) if fault is not None else any(o.lost_s is not None for o in outcomes)
    sys.stdout.write("\n".join(lines) + f"\ngoals: p50 {P50_S:g} s, p99 {P99_S:g} s; tries: {args.tries}\n")
    return int(late)


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main(sys.argv[1:]))
