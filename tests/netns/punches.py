"""How often and how soon a bare peer ID becomes a direct tunnel, as a table: `make punches` (root).

    python -m tests.netns.punches [--tries N] [--labs N] [--mb N] [--delay MS] [--only WORDS]

A forwards to B by the peer ID alone. Both are behind routers of their own and have joined a network by the
line that its one hub printed; the hub is the only machine outside. Each try has a lab of its own.

- cold: both daemons are fresh. Seconds are from the command `p2pfwd forward`, its start and check included.
- warm: B is known, and the connection gone. Seconds are from a program's connection to the forward.
- 100 MB: a download through the tunnel, and what the hub carried from before the forward until its end, by
  its own counter. A stream stays on the connection that it was opened on, so it matters when it begins:
  with the very first connection, which has the peer dialed (`forward --no-check`); right after another one's
  first answer (`--no-check` again); the moment a plain `forward` has returned; once a direct connection
  stands. For the last two the hub must have carried less than 1 MB.
- next port: a router that counts its ports up, with a cone. Seconds are from a program's connection.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple

from tests.netns.nat import Router
from tests.netns.punch_lab import World
from tests.netns.recovery_hubs import HubNetwork, until
from tests.netns.two_machines import Unavailable
from tests.support import lifeline
from tests.support.figures import percentile
from tests.support.sockets import CHUNK, Handler, Payload, TcpServer, echo, send_payload

ECHO: Final = "/x/echo"
FILE: Final = "/x/file"
DIRECT_S: Final = 25.0
GONE_S: Final = 10.0
CARRIED_MB: Final = 1.0
NINETEEN_OF_20: Final = 0.95
NINE_OF_10: Final = 0.9

Begins = Literal["as the first connection", "after the first answer", "after `forward`", "once direct"]
BEGINS: Final[tuple[Begins, ...]] = (
    "as the first connection",
    "after the first answer",
    "after `forward`",
    "once direct",
)


class Times(NamedTuple):
    """Of one try, in seconds; None: no direct connection came."""

    first_byte_s: float
    direct_s: float | None


@dataclass(frozen=True, slots=True)
class Download:
    """Of one try."""

    mb_per_s: float
    carried_mb: float
    """By the hub, both ways."""


class Room(HubNetwork):
    """A and B behind routers of these kinds, with a hub outside; a context manager. Raises Unavailable."""

    def __init__(
        self, home: Path, kinds: tuple[str, str] = ("cone", "cone"), *, size: int = 0, delay_s: float = 0.0
    ) -> None:
        super().__init__(home, 1)
        try:
            routers = [Router(self.segment, kind) for kind in kinds]
            self.at_a, self.at_b = (router.host() for router in routers)
            if delay_s:
                for router in routers:
                    self.segment.delay(self._stack, router.machine, delay_s, 0.0)
            self.payload = Payload(size)
            self.b = self.client(self.at_b, "b")
            for name, handler in ((ECHO, echo), (FILE, send_payload(self.payload))):
                self._serve(name, handler)
            self.a = self.client(self.at_a, "a")
        except BaseException:
            self._stack.close()
            raise

    def _serve(self, name: str, handler: Handler) -> None:
        server = self._stack.enter_context(self.at_b.call(lambda: TcpServer(handler)))
        self.b.ok("listen", name, server.address)

    def forward(self, name: str, *options: str) -> int:
        """As a person does it, with the check; the local port."""
        listener = self.a.json("forward", *options, name, "0", self.b.peer_id)["Listener"]
        return int(listener["ListenAddress"].rpartition("/")[2])

    def answered(self, port: int) -> None:
        """One byte there and back, on a connection of its own. AssertionError."""
        with self.at_a.connect(port, 40.0) as sock:
            sock.sendall(b"?")
            assert sock.recv(1) == b"?", "no answer"

    def direct_since(self, began: datetime) -> float | None:
        """Seconds from then to A's next direct connection to B, by its log; waits for it."""
        found: list[float] = []

        line = re.compile(rf"^(\S+) .*connected to {self.b.peer_id} at \S+/tcp/\d+ ", re.M)

        def known() -> bool:
            times = [datetime.fromisoformat(text) for text in line.findall(self.a.stderr)]
            after = [(time - began).total_seconds() for time in times]
            found.extend(one for one in after if one >= 0)
            return bool(found)

        try:
            until(known, DIRECT_S, "a direct connection")
        except AssertionError:
            return None
        return found[0]

    def timed(self, port: Callable[[], int]) -> Times:
        """The first byte and the direct connection, from now; `port` says where to connect."""
        begin, began = time.monotonic(), datetime.now()
        self.answered(port())
        return Times(time.monotonic() - begin, self.direct_since(began))

    def lose(self) -> None:
        """Every connection between the two."""
        self.a.ok("swarm", "disconnect", self.b.peer_id)
        until(self.b_is_gone, GONE_S, "B is gone")

    def b_is_gone(self) -> bool:
        """As A sees it."""
        return all(row["Peer"] != self.b.peer_id for row in self.a.json("swarm", "peers")["Peers"])

    def carried(self) -> int:
        """Bytes of the circuits, as the hub counts them."""
        return int(self.hubs[0].json("hub", "ls")["Bytes"])

    def download(self, begins: Begins) -> Download:
        """The file through the tunnel. AssertionError where a byte is wrong."""
        before, began = self.carried(), datetime.now()
        unchecked = () if begins == "after `forward`" else ("--no-check",)
        port, digest, left = self.forward(FILE, *unchecked), hashlib.sha256(), self.payload.size
        if begins in ("after the first answer", "once direct"):
            self.answered(self.forward(ECHO, *unchecked))
        if begins == "once direct":
            assert self.direct_since(began) is not None, "no direct connection"
        begin = time.monotonic()
        with self.at_a.connect(port, 40.0) as sock:
            while left and (part := sock.recv(CHUNK)):
                digest.update(part)
                left -= len(part)
        took_s = time.monotonic() - begin
        assert digest.digest() == self.payload.digest(), f"wrong bytes, {left} of them missing"
        return Download(self.payload.size / 1e6 / took_s, (self.carried() - before) / 1e6)


# --- the tries ------------------------------------------------------------------------------------


class Options(NamedTuple):
    """From the command line."""

    mb: int
    delay_s: float


Try = Callable[[Path, Options], object]


def cold_and_warm(home: Path, options: Options) -> list[Times]:
    """[cold, warm] in one lab."""
    with Room(home, delay_s=options.delay_s) as room:
        ports: list[int] = []

        def first() -> int:
            ports.append(room.forward(ECHO))
            return ports[0]

        cold = room.timed(first)
        room.lose()
        return [cold, room.timed(lambda: ports[0])]


def downloaded(begins: Begins) -> Try:
    """A try of one row."""

    def run(home: Path, options: Options) -> Download:
        with Room(home, size=options.mb * 1_000_000, delay_s=options.delay_s) as room:
            return room.download(begins)

    return run


def next_port(a: str, b: str) -> Try:
    """A try with a relay that both know, in the matrix's room."""

    def run(home: Path, _options: Options) -> Times:
        home.mkdir()
        with World(home, a, b) as world:
            outcome = world.run()
            assert outcome.right, "wrong bytes"
            return Times(outcome.first_byte_s, outcome.direct_s)

    return run


def _attempt(run: Try, options: Options) -> object:
    """What came of it, or what went wrong as a text."""
    with tempfile.TemporaryDirectory(prefix="p2pfwd-punches-") as home:
        try:
            return run(Path(home) / "w", options)
        except Unavailable:
            raise
        except Exception as exc:  # one lab that fails is a line of the report, not its end
            return f"{type(exc).__name__}: {exc}"


# --- the table ------------------------------------------------------------------------------------


def times_row(name: str, outcomes: Sequence[object], least: float) -> tuple[str, bool]:
    """(a line, whether enough became direct)."""
    times = [one for one in outcomes if isinstance(one, Times)]
    first = [one.first_byte_s for one in times]
    direct = [one.direct_s for one in times if one.direct_s is not None]
    good = len(direct) >= least * len(outcomes)
    cells = [f"{percentile(values, percent):>7.2f}" for values in (first, direct) for percent in (50, 99)]
    count = f"{len(direct)} of {len(outcomes)}"
    return f"{name:<26}{count:<10}{''.join(cells)}{'' if good else '  FAILED'}", good


def downloads_row(name: str, outcomes: Sequence[object], most_mb: float) -> tuple[str, bool]:
    """(a line, whether the hub carried little enough)."""
    done = [one for one in outcomes if isinstance(one, Download)]
    carried = [one.carried_mb for one in done]
    good = len(done) == len(outcomes) and max(carried) < most_mb
    least, worst = (min(carried), max(carried)) if carried else (float("nan"), float("nan"))
    speed = percentile([one.mb_per_s for one in done], 50)
    cells = f"{len(done)} of {len(outcomes):<5}{least:>8.2f} ... {worst:.2f}{speed:>8.0f}"
    return f"{name:<26}{cells}{'' if good else '  FAILED'}", good


def main() -> int:
    """Exit status 1 where the issue's goals are not met."""
    parser = argparse.ArgumentParser(prog="punches")
    parser.add_argument("--tries", type=int, default=20, help="next port: half as many; 100 MB: a quarter")
    parser.add_argument("--labs", type=int, default=2, help="at a time")
    parser.add_argument("--mb", type=int, default=100)
    parser.add_argument("--delay", type=float, default=0.0, help="ms one way, on each router's line")
    parser.add_argument("--only", default="", help="rows with these words: cold, 100 MB, next port")
    args = parser.parse_args()
    options = Options(args.mb, args.delay / 1e3)
    jobs: list[tuple[str, Try, int]] = [
        ("cold and warm", cold_and_warm, args.tries),
        *((f"100 MB {begins}", downloaded(begins), max(1, args.tries // 4)) for begins in BEGINS),
        ("next port: sequential:cone", next_port("sequential", "cone"), max(1, args.tries // 2)),
        ("next port: cone:sequential", next_port("cone", "sequential"), max(1, args.tries // 2)),
    ]
    found: dict[str, list[object]] = {}
    try:
        with ThreadPoolExecutor(args.labs) as pool:
            for name, run, tries in jobs:
                if args.only in name:
                    found[name] = list(pool.map(_attempt, [run] * tries, [options] * tries))
                    for outcome in found[name]:
                        sys.stderr.write(f"{name}: {outcome}\n")
    except Unavailable as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    return report(found)


def report(found: dict[str, list[object]]) -> int:
    """Print the table; exit status."""
    rows: list[tuple[str, bool]] = []
    downloads: list[tuple[str, bool]] = []
    for name, outcomes in found.items():
        if name == "cold and warm":
            for number, row in enumerate(("cold", "warm")):
                rows.append(times_row(row, [_part(one, number) for one in outcomes], NINETEEN_OF_20))
        elif name.startswith("100 MB"):
            most = CARRIED_MB if name.endswith(BEGINS[2:]) else float("inf")
            downloads.append(downloads_row(name.removeprefix("100 MB "), outcomes, most))
        else:
            rows.append(times_row(name.removeprefix("next port: "), outcomes, NINE_OF_10))
    if rows:
        print(f"{'':<26}{'direct':<10}{'first byte (s)':>14}{'direct (s)':>14}")
        print(f"{'':<36}{''.join(f'{word:>7}' for word in ('p50', 'p99') * 2)}")
        print("\n".join(line for line, _ in rows))
    if downloads:
        print(f"\n{'a download that begins':<26}{'right':<10}{'hub carried (MB)':>18}{'MB/s':>6}")
        print("\n".join(line for line, _ in downloads))
    return int(not all(good for _, good in (*rows, *downloads)))


def _part(outcome: object, number: int) -> object:
    return outcome[number] if isinstance(outcome, list) else outcome


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main())
