"""`python -m tests.hostile` (`make hostile`): every kind of attack on a real daemon, as one table.

Exit status 0 whatever the figures; 1 only where the harness itself failed. Where there is no ground for it
(see ground.py) it says why, and that is no failure.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NoReturn

from tests.hostile import ground
from tests.hostile.kinds import KINDS, Kind
from tests.hostile.measure import QUICK, Measured, Measurement, Times
from tests.hostile.report import OK, is_doubtful, render, short_of, verdict
from tests.hostile.stage import LINES, NET48
from tests.hostile.victim import Rig
from tests.support import lifeline

RIGS = 5
"""Rigs that wait for their last look at the same time; each is three daemons."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--list", action="store_true", help="name every kind and end")
    parser.add_argument(
        "--only", action="append", default=[], metavar="KIND", help="only this; may be repeated"
    )
    parser.add_argument(
        "--spread", choices=list(LINES), action="append", help="only attacks spread like this"
    )
    parser.add_argument(
        "--quick", action="store_true", help="shorter, and each kind in its first spread only"
    )
    parser.add_argument(
        "--tries", type=int, default=3, metavar="N", help="measure again where other programs disturbed (3)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    return parser.parse_args(argv)


def plan(options: argparse.Namespace) -> list[tuple[Kind, str]]:
    """What to run. SystemExit where a kind is not known."""
    unknown = [name for name in options.only if name not in KINDS]
    if unknown:
        raise SystemExit(f"no such kind: {', '.join(unknown)} (--list names them)")
    chosen: list[tuple[Kind, str]] = []
    for kind in [KINDS[name] for name in options.only] or KINDS.values():
        spreads = kind.spreads[:1] if options.quick and not options.spread else kind.spreads
        chosen += [(kind, spread) for spread in spreads if not options.spread or spread in options.spread]
    return chosen


def show_list() -> None:
    """Every kind, its spreads and what it does."""
    width = max(map(len, KINDS))
    for kind in KINDS.values():
        print(f"{kind.name:{width}}  {kind.what} ({', '.join(kind.spreads)})")


@contextmanager
def _segment() -> Iterator[None]:
    ground.add_segment()
    try:
        yield
    finally:
        ground.remove_segment()


class Runner:
    """Runs a plan; victims are looked at for the last time while later ones are attacked."""

    def __init__(self, work: Path, times: Times, tries: int) -> None:
        self._work, self._times, self._tries = work, times, tries
        self._settling: list[Measurement] = []
        self.results: list[Measured] = []

    def run(self, chosen: Sequence[tuple[Kind, str]]) -> None:
        """All of it."""
        for number, (kind, spread) in enumerate(chosen):
            print(f"{number + 1}/{len(chosen)} {kind.name} from {spread}", file=sys.stderr, flush=True)
            if spread == NET48 and not ground.has_ipv6():
                print("  skipped: no IPv6 here", file=sys.stderr)
                continue
            try:
                self._one(kind, spread, self._work / str(number))
            except ground.Unavailable as exc:
                print(f"  skipped: {exc}", file=sys.stderr)
            except (AssertionError, OSError, RuntimeError) as exc:
                self.results.append(
                    Measured(kind.name, spread, failed=f"{type(exc).__name__}: {str(exc)[-300:]}")
                )

    def _one(self, kind: Kind, spread: str, work: Path) -> None:
        """Measure it; again where others disturbed, and the best try counts: noise only takes away."""
        tries = [self._try(kind, spread, work / "1")]
        while is_doubtful(tries[-1].result) and len(tries) < self._tries:
            tries.append(self._try(kind, spread, work / str(len(tries) + 1)))
        best = min(tries, key=lambda tried: len(set(short_of(tried.result)) - {"back"}))
        for tried in tries:
            if tried is not best:
                tried.close()
        self._settling.append(best)
        self.results.append(best.result)
        while len(self._settling) >= RIGS or (self._settling and self._settling[0].is_due):
            self._settling.pop(0).finish()

    def _try(self, kind: Kind, spread: str, work: Path) -> Measurement:
        with _segment() if kind.segment else nullcontext():
            rig = Rig(work, public=kind.public, segment=kind.segment, files=kind.files, disk=kind.disk)
            measurement = Measurement(kind, spread, rig, self._times)
            try:
                measurement.run()
                measurement.wait_quiet(20.0)
            except BaseException:
                measurement.close()
                raise
        seen = measurement.result.failed or ", ".join(
            name for name in short_of(measurement.result) if name != "back"
        )
        print(f"  {seen or OK} so far", file=sys.stderr, flush=True)
        return measurement

    def finish(self) -> None:
        """The last looks."""
        while self._settling:
            self._settling.pop(0).finish()


def stop(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print the report; exit status."""
    options = parse(argv)
    if options.list:
        show_list()
        return 0
    chosen = plan(options)
    try:
        ground.prepare()
    except ground.Unavailable as exc:
        print(f"hostile: skipped: {exc}")
        return 0
    signal.signal(signal.SIGTERM, stop)  # so that what was measured is printed
    with tempfile.TemporaryDirectory(prefix="p2pfwd-hostile-", ignore_cleanup_errors=True) as name:
        runner = Runner(Path(name), QUICK if options.quick else Times(), options.tries)
        try:
            runner.run(chosen)
        except (KeyboardInterrupt, SystemExit):
            print("interrupted: what follows is what was measured", file=sys.stderr)
        runner.finish()
    results = runner.results
    print(render(results))
    if options.json:
        about = {"python": platform.python_version(), "kernel": platform.release(), "quick": options.quick}
        rows = [m.document() | {"verdict": verdict(m), "ok": verdict(m) == OK} for m in results]
        options.json.write_text(
            json.dumps({"about": about, "attacks": rows}, indent=1) + "\n", encoding="utf-8"
        )
    return 1 if any(m.failed is not None for m in results) or (chosen and not results) else 0


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main())
