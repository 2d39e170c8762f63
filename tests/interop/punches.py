"""How often and how soon a Kubo and a p2pfwd behind cones get direct, as a table: `make foreign` (root).

    python -m tests.interop.punches [--tries N] [--delay MS] [--only RELAY] [--labs N]

Milliseconds from A's dial over the relay to the direct connection, as A sees it; beside them what two Kubos
need in the same lab. `--delay` is one way, on each router's line: without it processors are compared, not
protocols. Then 300 kB go through `ipfs p2p` there and back, both ways round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from tests.interop.peers.fetch import PeerMissing
from tests.interop.punch_rig import RELAYS, Rig
from tests.netns.two_machines import Unavailable
from tests.support import lifeline

PAIRS: Final = (("kubo", "kubo"), ("kubo", "p2pfwd"), ("p2pfwd", "kubo"))


class Job(NamedTuple):
    """One try. A dials B."""

    relay: str
    a: str
    b: str
    delay_s: float


def attempt(job: Job) -> float | str:
    """Seconds; a text says what went wrong."""
    with tempfile.TemporaryDirectory(prefix="p2pfwd-foreign-") as home:
        try:
            with Rig(Path(home), job.relay, job.delay_s) as rig:
                b, a = rig.behind("cone", job.b), rig.behind("cone", job.a)
                direct_s = rig.punch(a, b).direct_s
                if direct_s is None:
                    return "it stays on the relay"
                if not (rig.carries(a, b) and rig.carries(b, a)):
                    return "wrong bytes"
                return direct_s
        except (Unavailable, PeerMissing):
            raise
        except Exception as exc:  # one lab that fails is a line of the report, not its end
            return f"{type(exc).__name__}: {exc}"


def row(job: Job, outcomes: list[float | str]) -> tuple[str, bool]:
    """(one line of the table, whether all went well)."""
    times = [one * 1000 for one in outcomes if isinstance(one, float)]
    failures = [one for one in outcomes if isinstance(one, str)]
    spread = f"{statistics.median(times):>6.0f}   {min(times):.0f} ... {max(times):.0f}" if times else ""
    line = f"{job.relay:<9}{job.a:<9}{job.b:<11}{len(times)} of {len(outcomes):<7}{spread}"
    return "\n".join((line, *(f"    {text[:100]}" for text in failures))), not failures


def main() -> int:
    """Exit status 1 where a hole is not punched, or a byte is wrong."""
    parser = argparse.ArgumentParser(prog="punches")
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--delay", type=float, default=25.0, help="ms one way, on each router's line")
    parser.add_argument("--only", choices=RELAYS, help="over this relay")
    parser.add_argument("--labs", type=int, default=1, help="at a time")
    args = parser.parse_args()
    relays = [args.only] if args.only else RELAYS
    jobs = [Job(relay, a, b, args.delay / 1e3) for relay in relays for a, b in PAIRS]
    print(f"{'relay':<9}{'A':<9}{'B':<11}{'direct':<12}p50 ms  all")
    bad = 0
    try:
        with ThreadPoolExecutor(args.labs) as pool:
            for job in jobs:
                line, good = row(job, list(pool.map(attempt, [job] * args.tries)))
                bad += not good
                print(line, flush=True)
    except (Unavailable, PeerMissing) as exc:
        print(exc)
        return 2
    return int(bad > 0)


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main())
