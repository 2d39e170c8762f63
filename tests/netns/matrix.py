"""What a tunnel between two people goes over, for every pair of routers, as a table: `make matrix` (root).

    python -m tests.netns.matrix [--only A:B ...] [--limited] [--no-udp] [--jobs N]

A forwards to B, who has a place at a p2pfwd relay. "first" is the time to the first answer and what it went
over, "direct" the time until new connections went without the relay. A pair fails where a byte is wrong, or
where it stays on the relay though plain sockets get through.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.netns.punch_lab import KINDS, Outcome, World, works_directly
from tests.netns.two_machines import Unavailable
from tests.support import lifeline


def attempt(a: str, b: str, limited: bool, udp: bool) -> Outcome | str:
    """One pair in a lab of its own. A text says what went wrong."""
    with tempfile.TemporaryDirectory(prefix="p2pfwd-matrix-") as home:
        try:
            with World(Path(home), a, b, limited=limited, udp=udp) as world:
                return world.run()
        except Unavailable:
            raise
        except Exception as exc:  # one lab that fails is a line of the report, not its end
            return f"{type(exc).__name__}: {exc}"


def row(a: str, b: str, outcome: Outcome | str) -> tuple[str, bool]:
    """(one line of the table, whether all is as it can be)."""
    if isinstance(outcome, str):
        return f"{a:<19}{b:<19}{outcome}", False
    direct = "-" if outcome.direct_s is None else f"{outcome.direct_s:.2f} s"
    good = outcome.right and (outcome.direct_s is not None or not works_directly(a, b))
    mark = "" if good else "  FAILED" if outcome.right else "  WRONG BYTES"
    first = f"{outcome.first_byte_s:.2f} s {outcome.first_path}"
    return f"{a:<19}{b:<19}{first:<17}{direct:<9}{outcome.reason}{mark}", good


def main() -> int:
    """Exit status 1 where a pair is not as it can be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", metavar="A:B", help="these pairs")
    parser.add_argument("--limited", action="store_true", help="the relay knows neither: 128 KiB, 2 minutes")
    parser.add_argument("--no-udp", dest="udp", action="store_false", help="the routers drop all datagrams")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    pairs = [(a, b) for a in KINDS for b in KINDS]
    if options.only:
        pairs = [(a, b) for text in options.only for a, _, b in [text.partition(":")]]
    print(f"{'A (forwards)':<19}{'B (listens)':<19}{'first':<17}{'direct':<9}path, and why")
    bad = 0
    try:
        with ThreadPoolExecutor(options.jobs) as pool:
            outcomes = pool.map(lambda pair: attempt(*pair, options.limited, options.udp), pairs)
            for (a, b), outcome in zip(pairs, outcomes, strict=True):
                line, good = row(a, b, outcome)
                bad += not good
                print(line, flush=True)
    except Unavailable as exc:
        print(exc)
        return 1
    print(f"{len(pairs) - bad} of {len(pairs)} as they can be")
    return 1 if bad else 0


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main())
