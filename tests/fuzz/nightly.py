"""Every fuzz target in turn, for N minutes in all: `python -m tests.fuzz.nightly --minutes N`.

Each runs on mutations of its seeds, as fast as they go. Where atheris is (`pip install 'p2pfwd[fuzz]'`) every
fourth turn is libFuzzer's, which watches the coverage, in a process of its own. What that finds new stays
in `--corpus` (outside the checkout), and is a seed of the next turn. An input that breaks an invariant is
written there too, named in the table, and the exit status is 1: its case belongs into
tests/fuzz/corpus/<target>/, which every run, and `make fuzz`, begins with.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import random
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tests.fuzz import mutator
from tests.support import lifeline

FOLDER = Path(__file__).parent
KEPT = FOLDER / "corpus"
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in FOLDER.glob("fuzz_*.py"))

TURN_S = 20.0
COVERED_EVERY = 4
"""One turn in so many watches coverage, where it can."""
BATCH = 200
MAX_SEEDS = 400
"""Of the corpus, drawn anew each turn: with more, mutations of each would be few."""


@dataclass
class Tally:
    """What came of one target."""

    executions: int = 0
    seconds: float = 0.0
    covered_executions: int = 0
    coverage: int = 0
    findings: list[str] = field(default_factory=list)


def kept(target: str, corpus: Path | None = None) -> list[bytes]:
    """Inputs that are kept for a target: those that once broke it, and those of `corpus`."""
    folders = [KEPT / target, *([corpus / target] if corpus is not None else [])]
    return [path.read_bytes() for folder in folders for path in sorted(folder.glob("*")) if path.is_file()]


def load(target: str) -> tuple[Callable[[bytes], None], list[bytes]]:
    """A target's function and its seeds, the kept inputs among them."""
    module = runpy.run_path(str(FOLDER / f"fuzz_{target}.py"))
    return module["one"], [*module["SEEDS"], *kept(target)]


def mutate(target: str, seconds: float, corpus: Path, tally: Tally) -> None:
    """One turn of mutations."""
    one, seeds = load(target)
    rng = random.SystemRandom()
    grown = kept(target, corpus)[len(kept(target)) :]
    seeds += rng.sample(grown, min(MAX_SEEDS, len(grown)))
    started = time.monotonic()
    stream = mutator.inputs(seeds, rng.randrange(1 << 32))
    while (spent := time.monotonic() - started) < seconds:
        tally.executions += run_batch(one, stream, target, corpus, tally)
    tally.seconds += spent


def run_batch(
    one: Callable[[bytes], None], stream: Iterator[bytes], target: str, corpus: Path, tally: Tally
) -> int:
    """BATCH inputs; how many ran."""
    done = 0
    for data in islice(stream, BATCH):
        done += 1
        try:
            one(data)
        except Exception as exc:
            note(target, data, repr(exc), corpus, tally)
    return done


def note(target: str, data: bytes, what: str, corpus: Path, tally: Tally) -> None:
    """Keep an input that broke an invariant, once for each way in which it broke."""
    kind = re.sub(r"0x[0-9a-f]+|\d+|b?'[^']*'", "N", what)[:80]
    if len(tally.findings) >= 20 or any(kind in finding for finding in tally.findings):
        return
    folder = corpus / "findings" / target
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    tally.findings.append(f"{path}: {kind}")


def cover(target: str, seconds: float, corpus: Path, tally: Tally) -> None:
    """One turn of libFuzzer's, by atheris."""
    _, seeds = load(target)
    folder = corpus / target
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    crash = corpus / "findings" / target
    crash.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "tests.fuzz.covered", target, str(folder)]
    words += [f"-max_total_time={max(1, round(seconds))}", "-max_len=4096", "-rss_limit_mb=1024"]
    words += [f"-artifact_prefix={crash}/", "-print_final_stats=1", "-timeout=20"]
    started = time.monotonic()
    done = subprocess.run(
        words, cwd=FOLDER.parents[1], capture_output=True, text=True, errors="replace", check=False
    )
    tally.seconds += time.monotonic() - started
    ran = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
    executions = int(ran[1]) if ran else 0
    tally.executions += executions
    tally.covered_executions += executions
    tally.coverage = max([tally.coverage, *map(int, re.findall(r"\bcov: (\d+)", done.stderr))])
    if done.returncode != 0:
        said = re.findall(r"^\s*\w*(?:Error|Exception)\b.*|^==\d+== ERROR.*", done.stderr, re.MULTILINE)
        tally.findings.append(f"{crash}: {said[-1].strip() if said else done.stderr[-200:].strip()}"[:200])


def table(tallies: dict[str, Tally]) -> str:
    """What came of all of them, in Markdown."""
    lines = ["| target | executions | of them coverage-guided | a second | coverage | findings |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | --- |")
    for name, it in [*tallies.items(), ("all", total(tallies.values()))]:
        rate = it.executions / it.seconds if it.seconds else 0
        found = "; ".join(it.findings) if name != "all" else str(len(it.findings))
        guided = f"{it.covered_executions:,}" if it.covered_executions else "-"
        cells = (name, f"{it.executions:,}", guided, f"{rate:,.0f}", it.coverage or "-", found or "none")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def total(tallies: Any) -> Tally:
    """All of them as one; coverage is not to be added."""
    found = Tally()
    for it in tallies:
        found.executions += it.executions
        found.covered_executions += it.covered_executions
        found.seconds += it.seconds
        found.findings += it.findings
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """As the module says; the exit status."""
    parser = argparse.ArgumentParser(description="fuzz every parser that meets a stranger's bytes")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--only", action="append", choices=TARGETS, help="one target; may be repeated")
    parser.add_argument("--corpus", type=Path, default=Path.home() / ".cache" / "p2pfwd-fuzz")
    parser.add_argument("--mutate-only", action="store_true", help="as where atheris is not installed")
    parser.add_argument("--state", type=Path, help="write the counts here after each turn, as JSON")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(FOLDER))  # targets are scripts, too, that import each other by their names
    has_coverage = not options.mutate_only and importlib.util.find_spec("atheris") is not None
    tallies = {target: Tally() for target in options.only or TARGETS}
    deadline = time.monotonic() + options.minutes * 60
    turn = 0
    while (left := deadline - time.monotonic()) > 0.5:
        turn_s = min(TURN_S, max(0.5, options.minutes * 60 / len(tallies) / COVERED_EVERY))
        for target, tally in tallies.items():
            left = deadline - time.monotonic()
            if left <= 0.5:
                break
            covers = has_coverage and turn % COVERED_EVERY == 1
            (cover if covers else mutate)(target, min(turn_s, left), options.corpus, tally)
            if options.state is not None:
                options.state.write_text(json.dumps({name: vars(it) for name, it in tallies.items()}))
        turn += 1
    print(table(tallies))
    return 1 if any(it.findings for it in tallies.values()) else 0


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main())
