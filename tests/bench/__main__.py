"""`python -m tests.bench` (`make bench`): p2pfwd against Kubo, ssh and the floor, in one run.

Exit status 0 whatever the figures; 1 only where nothing at all could be measured.
"""

from __future__ import annotations

import argparse
import compileall
import json
import resource
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tests.bench.client import find_client
from tests.bench.phases import QUICK, Sizes
from tests.bench.report import render, verdicts
from tests.bench.results import Results
from tests.bench.runner import PHASES, Plan, Runner
from tests.bench.tunnels import SETUPS
from tests.support import lifeline
from tests.support.netns import enter, is_loopback_only

QUICK_TUNNELS = (
    "direct", "relay", "ssh-gcm", "kubo-noise", "p2pfwd-noise",
    "long-direct", "long-ssh", "long-p2pfwd",
)  # fmt: skip
SLOW_PHASES = ("paced", "scale", "crowd")
"""What the quick run leaves out."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat, less of everything; 90 s")
    parser.add_argument("--only", action="append", choices=SETUPS, metavar="TUNNEL", help=", ".join(SETUPS))
    parser.add_argument("--phase", action="append", choices=PHASES, help="only these measurements")
    parser.add_argument("--repeats", type=int, help="how often everything is measured (3; quick: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with an earlier run's --json")
    parser.add_argument("--python-client", action="store_true", help="the client in Python, not in C")
    parser.add_argument(
        "--patience", type=float, metavar="SECONDS", help="time spent because others are busy (60; quick: 5)"
    )
    return parser.parse_args(argv)


def plan_for(options: argparse.Namespace) -> Plan:
    quick: bool = options.quick
    patience = options.patience if options.patience is not None else 5.0 if quick else 60.0
    return Plan(
        tunnels=options.only or (QUICK_TUNNELS if quick else tuple(SETUPS)),
        phases=options.phase or [name for name in PHASES if not quick or name not in SLOW_PHASES],
        repeats=options.repeats or (1 if quick else 3),
        sizes=QUICK if quick else Sizes(),
        patience_s=patience,
    )


def isolate() -> None:
    """Leave the network: loopback only, where the system permits it. Without, Kubo is left out."""
    if is_loopback_only():
        return
    try:
        enter()
    except (OSError, AttributeError) as exc:  # AttributeError: a libc without unshare
        print(f"no loopback-only network namespace here: {exc}", file=sys.stderr)


def raise_file_limit() -> None:
    """Room for 2,000 connections in every process started from here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def stop(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print the report; exit status."""
    options = parse(argv)
    earlier = None
    if options.against:
        earlier = Results.of_document(json.loads(options.against.read_text(encoding="utf-8")))
    compileall.compile_dir("p2pfwd", quiet=1)  # as where it is installed, whatever the environment forbids
    isolate()
    raise_file_limit()
    signal.signal(signal.SIGTERM, stop)  # so that what was measured is printed
    with tempfile.TemporaryDirectory(prefix="p2pfwd-bench-", ignore_cleanup_errors=True) as name:
        work = Path(name)
        client = find_client(work, python=options.python_client)
        runner = Runner(plan_for(options), client, work)
        try:
            runner.run()
        except (KeyboardInterrupt, SystemExit):
            print("interrupted: what follows is what was measured", file=sys.stderr)
    results = runner.results
    print(render(results, earlier))
    if options.json:
        document = results.document() | {"verdicts": verdicts(results, earlier)}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if any(results.has(tunnel) for tunnel in SETUPS) else 1


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main())
