"""A daemon is killed outright at random instants under a stream of listen, forward and close commands.

`make durable ARGS="--tries 500"` prints how many answers were given and that none was lost. Each writer has
names of its own, so what a name may be after the kill is known: what the last answer said, or what the one
command without an answer asked for. The same home goes from try to try.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from p2pfwd.errors import ConnectionLost, DaemonNotRunning, ListenerExists
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.client import Client
from tests.support.daemon import Program
from tests.support.in_process import QuickDaemon

PEERS = (
    "12D3KooWNBSMhmHonfyQbXYczUq24ujJKQxhpNNgSaLxvupFZ5uu",
    "12D3KooWGcQcL3RfR1bmquTwxEF25cPLg3c1EdrSUicVJm1WijhL",
)
WRITERS = 4
LONGEST_S = 0.4
"""From the first command of a try to the kill, at most."""

LONGEST_START_S = 0.8
"""One try in five kills a daemon while it starts, too: this long after its begin, at most."""

Tunnel = tuple[str, str, str]
"""Direction; of a listen the protocol and the target, of a forward the address and the peer."""


@dataclass
class Name:
    """A name under which a tunnel may be, and what is known of it."""

    direction: str
    text: str
    stands: Tunnel | None = None
    asked: Tunnel | None = None  # differs from `stands` while a command has no answer


@dataclass
class Result:
    """Of all tries."""

    answers: int = 0
    unanswered: int = 0
    lost: list[str] = field(default_factory=list)


class Writer(threading.Thread):
    """Gives one command after the other until the daemon is gone."""

    def __init__(self, socket: Path, names: list[Name], seed: int) -> None:
        super().__init__(name="writer")
        self._socket, self._names, self._random = socket, names, random.Random(seed)
        self.answers = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        """The thread."""
        try:
            with Client.connect(self._socket) as client:
                while True:
                    self._command(client, self._random.choice(self._names))
                    self.answers += 1
        except (ConnectionLost, DaemonNotRunning):
            return
        except BaseException as exc:
            self.failure = exc

    def _command(self, client: Client, name: Name) -> None:
        if name.stands is not None and self._random.random() < 0.6:
            name.asked = None
            closed = client.call("p2p.close", _close(name)).closed
            assert len(closed) == 1, closed
            name.stands = None
            return
        wanted = self._any(name)
        name.asked = wanted if name.stands is None else name.stands
        try:
            answer = client.call(*_make(wanted))
        except ListenerExists:
            assert name.stands not in (None, wanted)
            return
        assert answer.stood == (name.stands is not None)
        name.stands = wanted

    def _any(self, name: Name) -> Tunnel:
        if name.direction == "forward":
            return "forward", name.text, self._random.choice(PEERS)
        return "listen", name.text, f"/ip4/127.0.0.1/tcp/{self._random.randint(1, 3)}"


def _make(tunnel: Tunnel) -> tuple[str, object]:
    direction, text, where = tunnel
    if direction == "listen":
        return "p2p.listen", s.ListenParams(text, where)
    return "p2p.forward", s.ForwardParams("/x/f", text, (where,))


def _close(name: Name) -> s.CloseParams:
    if name.direction == "listen":
        return s.CloseParams(protocol=name.text)
    return s.CloseParams(listen_address=name.text)


def _tunnel(listener: s.Listener) -> Tunnel:
    if listener.direction == "listen":
        return "listen", listener.protocol, listener.target_address
    return "forward", listener.listen_address, listener.target_address.removeprefix("/p2p/")


def run(tries: int, seed: int, say: bool = False) -> Result:
    """Make and kill a daemon `tries` times; what was answered, and what of it was lost."""
    base = Path(tempfile.mkdtemp(prefix="p2pf-"))
    drawn, result = random.Random(seed), Result()
    names = [
        [
            *(Name("listen", f"/x/{writer}/{n}") for n in range(3)),
            *(Name("forward", f"/unix{base}/{writer}-{n}") for n in range(2)),
        ]
        for writer in range(WRITERS)
    ]
    try:
        for number in range(tries):
            _try(base, names, drawn, result)
            if say and (number + 1) % 25 == 0:
                told = f"{number + 1} kills, {result.answers} answers, {len(result.lost)} lost"
                print(told, file=sys.stderr, flush=True)
        with QuickDaemon(base / "home") as daemon:
            _compare(daemon, names, result)
    finally:
        shutil.rmtree(base)
    return result


def _try(base: Path, names: list[list[Name]], drawn: random.Random, result: Result) -> None:
    if result.answers and drawn.random() < 0.2:
        with Program(base / "home", ["daemon", "--swarm", "/ip4/127.0.0.1/tcp/0"]) as starting:
            time.sleep(drawn.uniform(0.0, LONGEST_START_S))
            starting.process.kill()
    with QuickDaemon(base / "home") as daemon:
        _compare(daemon, names, result)
        socket = base / "home" / "rpc.sock"
        writers = [Writer(socket, own, drawn.getrandbits(32)) for own in names]
        for writer in writers:
            writer.start()
        time.sleep(drawn.uniform(0.0, LONGEST_S))  # the instant is what is tried
        daemon.process.kill()
        for writer in writers:
            writer.join()
            result.answers += writer.answers
            if writer.failure is not None:
                raise writer.failure
    result.unanswered += sum(name.asked != name.stands for own in names for name in own)


def _compare(daemon: QuickDaemon, names: list[list[Name]], result: Result) -> None:
    with Client.connect(daemon.home / "rpc.sock") as client:
        listeners = client.call("p2p.ls").listeners
    found = {tunnel[:2]: tunnel for tunnel in map(_tunnel, listeners)}
    assert len(found) == len(listeners)
    for name in (name for own in names for name in own):
        there = found.pop((name.direction, name.text), None)
        if there not in (name.stands, name.asked):
            result.lost.append(f"{name} is {there}")
        name.stands = name.asked = there
    assert not found, found


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=500, help="how often to kill (500)")
    parser.add_argument("--seed", type=int, default=None, help="of what is drawn")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    result = run(options.tries, seed, say=True)
    print(
        f"seed {seed}: {options.tries} kills, {result.answers} answers, "
        f"{result.unanswered} commands without one, {len(result.lost)} answers lost"
    )
    print("\n".join(result.lost), end="")
    return 1 if result.lost else 0


if __name__ == "__main__":
    sys.exit(main())
