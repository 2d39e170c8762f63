"""Half an hour of churn between four daemons, as a table: `make soak` (root).

    python -m tests.soak [--minutes N] [--seed N]

The exit status is 1 where an end came without every byte, something is held that was not before, memory
grew, a saved tunnel is gone, or a daemon met an error of its own.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from tests.netns.two_machines import Unavailable
from tests.soak.churn import Faults, Owner
from tests.soak.lab import COUNTED, FORWARDS, LASTING, NAMES, Holdings, Lab
from tests.support import lifeline

SETTLE_S: Final = 15.0
QUIET_S: Final = 120.0
"""For connections and streams that are still ending, and for memory that is given back."""

GROWTH: Final = 1.25
"""Of memory from the middle to the end of those that were there all the time: allocators and histories."""

OWN_ERRORS: Final = ("internal", "rpc-protocol-error", "method-not-found", "timed-out")
ASKS_A_PEER: Final = "invite.join"
"""Where the line is cut meanwhile, "timed-out" is the peer's silence and no daemon's."""

Held = dict[str, Holdings | None]


def _once(lab: Lab, seed: int) -> None:
    """One transfer over each forward, so that all connections are there."""
    drawn = random.Random(seed)
    for name, ports in lab.ports.items():
        for port in ports.values():
            lab.machines[name].call(lambda name=name, port=port: lab.transfer(name, port, drawn))  # type: ignore[misc]


def _held(lab: Lab) -> Held:
    return {name: lab.holdings(name) for name in NAMES}


def _grown(before: Held, after: Held) -> list[str]:
    found = []
    for name in NAMES:
        early, late = before[name], after[name]
        if early is None or late is None:
            found.append(f"{name} does not answer")
            continue
        for kind in COUNTED:
            if getattr(late, kind) > getattr(early, kind):
                found.append(f"{name}: {getattr(early, kind)} {kind} before, {getattr(late, kind)} after")
    return found


def _settled(lab: Lab, before: Held) -> Held:
    """What is held at the end, once it is no more than before; else after `QUIET_S`."""
    deadline = time.monotonic() + QUIET_S
    while True:
        after = _held(lab)
        if not _grown(before, after) or time.monotonic() > deadline:
            return after
        time.sleep(5.0)


def _gone(lab: Lab) -> list[str]:
    """Saved tunnels that are not there any more."""
    missing = []
    for name, forwards in FORWARDS.items():
        answer = lab.ask(name, "p2p.ls")
        there = [it.protocol for it in answer.listeners] if answer is not None else []
        for protocol, _ in forwards:
            if protocol in there:
                there.remove(protocol)
            else:
                missing.append(f"{name} has lost its forward of {protocol}")
    return missing


def run(home: Path, minutes: float, seed: int) -> int:
    """Build the lab, let it suffer, print the table; the exit status. Raises Unavailable."""
    with Lab(home) as lab:
        _once(lab, seed)
        time.sleep(SETTLE_S)
        before = _held(lab)
        faults, owner = Faults(lab, seed), Owner(lab, seed + 1)
        lab.use(seed)
        lab.in_thread("near", owner.run)
        fault_thread = threading.Thread(target=faults.run, name="faults")
        fault_thread.start()
        middle = _watch(lab, minutes)
        lab.stopping.set()
        fault_thread.join()
        lab.rest()
        owner.tidy()
        _once(lab, seed + 2)
        after = _settled(lab, before)
        wrong = [*lab.tally.wrong, *_gone(lab), *_grown(before, after), *_swollen(middle, after)]
        wrong += [f"{method} answered {code}: {lab.commands.last_words[method, code]}"
                  for method, code in lab.commands.failed if _is_own(method, code)]  # fmt: skip
        wrong += _complaints(lab)
        _print(lab, faults, owner, (before, middle, after))
        print("\n".join(f"WRONG: {text}" for text in wrong) or "nothing is wrong")
        return 1 if wrong else 0


def _is_own(method: str, code: str) -> bool:
    """Whether it is the daemon itself that failed."""
    return code in OWN_ERRORS and (method, code) != (ASKS_A_PEER, "timed-out")


def _watch(lab: Lab, minutes: float) -> Held:
    """Wait; what is held in the middle of it."""
    began_at, middle = time.monotonic(), None
    while (passed := time.monotonic() - began_at) < minutes * 60:
        time.sleep(min(30.0, minutes * 60 - passed))
        if middle is None and time.monotonic() - began_at >= minutes * 30:
            middle = _held(lab)
        ends = ", ".join(f"{count} {how}" for how, count in sorted(lab.tally.ends.items()))
        print(f"{passed / 60:.1f} min: {lab.tally.begun} begun, {ends}; {len(lab.tally.wrong)} wrong",
              file=sys.stderr, flush=True)  # fmt: skip
    return middle if middle is not None else _held(lab)


def _swollen(middle: Held, after: Held) -> list[str]:
    found = []
    for name in LASTING:
        early, late = middle[name], after[name]
        if early is not None and late is not None and late.rss_bytes > GROWTH * early.rss_bytes:
            sizes = f"{early.rss_bytes / 1e6:.0f} MB in the middle, {late.rss_bytes / 1e6:.0f} at the end"
            found.append(f"{name}: {sizes}")
    return found


def _complaints(lab: Lab) -> list[str]:
    """Of the daemons' own: traces of exceptions that nobody expected."""
    found = []
    for name in NAMES:
        for log in (lab.daemons[name].home).glob("stderr-*.txt"):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            if traces := sum(line.startswith("Traceback") for line in lines):
                found.append(f"{name}: {traces} traces, the last one ends with {lines[-1]!r}")
    return found


def _print(lab: Lab, faults: Faults, owner: Owner, held: tuple[Held, Held, Held]) -> None:
    tally, commands = lab.tally, lab.commands
    print(f"transfers  {tally.begun} begun, {tally.bytes / 1e6:.0f} MB in those that ended cleanly")
    print(f"           client's end: {_counts(tally.ends)}")
    print(f"           server's end: {_counts(tally.far_ends)}")
    print(f"faults     {_counts(faults.happened)}")
    print(f"owner      {_counts(owner.happened)}")
    print(f"commands   {sum(commands.answered.values())} answered: {_counts(commands.answered)}")
    print(f"           {sum(commands.failed.values())} failed")
    for (method, code), count in sorted(commands.failed.items()):
        print(f"           {count:4} {method} {code}: {commands.last_words[method, code]}")
    print("daemon  starts  connections  streams  swarm streams  tasks  other descriptors  MB")
    for name in NAMES:
        early, halfway, late = (each[name] for each in held)
        if early is None or late is None:
            print(f"{name:6}  does not answer")
            continue
        counts = [f"{getattr(early, kind)}->{getattr(late, kind)}" for kind in ("connections", *COUNTED)]
        sizes = ("?" if it is None else f"{it.rss_bytes / 1e6:.1f}" for it in (early, halfway, late))
        widths = (11, 7, 13, 7, 17)
        cells = "  ".join(f"{text:>{width}}" for text, width in zip(counts, widths, strict=True))
        print(f"{name:6}  {lab.restarts[name] + 1:6}  {cells}  {'->'.join(sizes)}")


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counted.items())) or "none"


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="of churn (30)")
    parser.add_argument("--seed", type=int, default=None, help="of what is drawn")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="p2pfwd-soak-") as home:
        try:
            return run(Path(home), options.minutes, seed)
        except Unavailable as exc:
            print(f"no soak here: {exc}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main())
