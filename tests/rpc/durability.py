"""A daemon is killed outright at random instants under a stream of commands of every kind that is saved.

`make durable ARGS="--tries 500"` prints how many answers were given, by kind, and that none was lost. What is
changed, and what it may be after a kill, is in `durable_things`. The same home goes from try to try.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from p2pfwd.errors import ConnectionLost, DaemonNotRunning
from p2pfwd.rpc.client import Client
from tests.rpc.durable_things import Found, Thing, things
from tests.support import lifeline
from tests.support.daemon import Program
from tests.support.in_process import QuickDaemon

WRITERS = 4
LONGEST_S = 0.4
"""From the first command of a try to the kill, at most."""

LONGEST_START_S = 0.8
"""One try in five kills a daemon while it starts, too: this long after its begin, at most."""


@dataclass
class Result:
    """Of all tries."""

    answers: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    lost: list[str] = field(default_factory=list)


class Writer(threading.Thread):
    """Gives one command after the other until the daemon is gone."""

    def __init__(self, socket: Path, own: list[Thing], seed: int) -> None:
        super().__init__(name="writer")
        self._socket, self._own, self._random = socket, own, random.Random(seed)
        self.answers: Counter[str] = Counter()
        self.was_asking = False
        self.failure: BaseException | None = None

    def run(self) -> None:
        """The thread."""
        try:
            with Client.connect(self._socket) as client:
                while True:
                    thing, self.was_asking = self._random.choice(self._own), True
                    thing.change(client, self._random)
                    self.was_asking = False
                    self.answers[thing.kind] += 1
        except (ConnectionLost, DaemonNotRunning):
            return
        except BaseException as exc:
            self.failure = exc


def run(tries: int, seed: int, say: bool = False) -> Result:
    """Make and kill a daemon `tries` times; what was answered, and what of it was lost."""
    base = Path(tempfile.mkdtemp(prefix="p2pf-"))
    drawn, result = random.Random(seed), Result()
    owned = [things(writer, base) for writer in range(WRITERS)]
    try:
        for number in range(tries):
            _try(base, owned, drawn, result)
            if say and (number + 1) % 25 == 0:
                told = f"{number + 1} kills, {result.answers.total()} answers, {len(result.lost)} lost"
                print(told, file=sys.stderr, flush=True)
        with QuickDaemon(base / "home") as daemon:
            _compare(daemon, owned, result)
            result.lost += [f"{left.name} was left" for left in (base / "home").glob(".*.tmp")]
    finally:
        shutil.rmtree(base)
    return result


def _try(base: Path, owned: list[list[Thing]], drawn: random.Random, result: Result) -> None:
    if result.answers and drawn.random() < 0.2:
        with Program(base / "home", ["daemon", "--swarm", "/ip4/127.0.0.1/tcp/0"]) as starting:
            time.sleep(drawn.uniform(0.0, LONGEST_START_S))
            starting.process.kill()
    with QuickDaemon(base / "home") as daemon:
        _compare(daemon, owned, result)
        socket = base / "home" / "rpc.sock"
        writers = [Writer(socket, own, drawn.getrandbits(32)) for own in owned]
        for writer in writers:
            writer.start()
        time.sleep(drawn.uniform(0.0, LONGEST_S))  # the instant is what is tried
        daemon.process.kill()
        for writer in writers:
            writer.join()
            result.answers += writer.answers
            result.unanswered += writer.was_asking
            if writer.failure is not None:
                raise writer.failure


def _compare(daemon: QuickDaemon, owned: list[list[Thing]], result: Result) -> None:
    with Client.connect(daemon.home / "rpc.sock") as client:
        found = Found.by(client)
    lost = (thing.check(found) for own in owned for thing in own)
    result.lost += [text for text in lost if text is not None]


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=500, help="how often to kill (500)")
    parser.add_argument("--seed", type=int, default=None, help="of what is drawn")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    result = run(options.tries, seed, say=True)
    print(
        f"seed {seed}: {options.tries} kills, {result.answers.total()} answers, "
        f"{result.unanswered} commands without one, {len(result.lost)} answers lost"
    )
    print(", ".join(f"{count} {kind}" for kind, count in sorted(result.answers.items())))
    print("\n".join(result.lost), end="")
    return 1 if result.lost else 0


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main())
