"""Four machines on one switch, each with a daemon: two that share and two that forward.

    near ─┐        ┌─ far        never killed: what they hold is compared over the whole time
          switch ──┤
    guest ┘        └─ spare      killed and started again

Both clients have forwards to both servers. Commands go over the control sockets.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from p2pfwd.errors import P2PForwardError
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.client import Client
from tests.netns.lab import Segment
from tests.netns.two_machines import Machine
from tests.soak.transfers import Tally, serve, transfer
from tests.support.daemon import Daemon
from tests.support.sockets import TcpServer

NAMES: Final = ("far", "spare", "near", "guest")
LASTING: Final = ("far", "near")
PORT: Final = 4011
DATA, GUARDED, LIMITED, INVITED = "/x/data", "/x/guarded", "/x/limited", "/x/invited"
FORWARDS: Final = {
    "near": ((DATA, "far"), (GUARDED, "far"), (LIMITED, "far"), (DATA, "spare")),
    "guest": ((DATA, "far"), (GUARDED, "far"), (DATA, "spare")),
}
PAUSE_S: Final = (0.3, 1.5)
ANSWER_S: Final = 60.0
SOCK_DIAG: Final = "4"
"""NETLINK_SOCK_DIAG, as /proc/net/netlink has it."""
CONFIG: Final = "[daemon]\ndrain_timeout_s = 1.0\n"


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a daemon holds at one moment."""

    connections: int
    streams: int
    swarm_streams: int
    tasks: int
    descriptors: int
    rss_bytes: int

    @property
    def other_descriptors(self) -> int:
        """Beside those of connections, of which a peer may have two."""
        return self.descriptors - self.connections


def _diagnosis_sockets(pid: int) -> int:
    """Sockets of the kernel's socket diagnosis: made when one is first needed, and kept."""
    rows = (line.split() for line in Path(f"/proc/{pid}/net/netlink").read_text("ascii").splitlines()[1:])
    of_diagnosis = {f"socket:[{row[-1]}]" for row in rows if row[1] == SOCK_DIAG}
    found = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += os.readlink(fd) in of_diagnosis
    return found


COUNTED: Final = ("streams", "swarm_streams", "tasks", "other_descriptors")
"""What may not be more at the end."""


class Commands:
    """Gives commands, and keeps count of the answers; of any thread."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.failed: Counter[tuple[str, str]] = Counter()
        self.last_words: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def ask(self, daemon: Daemon, method: str, params: object = None) -> Any:
        """The answer, or None where there is an error, which is counted by its code."""
        try:
            with Client.connect(daemon.home / "rpc.sock") as client:
                result = client.call(method, params, timeout_s=ANSWER_S)
        except P2PForwardError as exc:
            with self._lock:
                self.failed[method, exc.code] += 1
                self.last_words[method, exc.code] = exc.message
            return None
        with self._lock:
            self.answered[method] += 1
        return result


class Lab:
    """The machines, their daemons, and the transfers between them; a context manager. Raises Unavailable."""

    def __init__(self, home: Path) -> None:
        self.tally, self.commands = Tally(), Commands()
        self.stopping = threading.Event()
        self.daemons: dict[str, Daemon] = {}
        self.restarts: Counter[str] = Counter()
        self.denied: dict[str, float] = {}
        """Who is denied GUARDED by an answer, since when."""
        self._home = home
        self._killed: dict[str, list[float]] = {name: [] for name in NAMES}
        self._threads: list[threading.Thread] = []
        self._stack = ExitStack()
        try:
            self.segment = self._stack.enter_context(Segment(len(NAMES)))
            self.machines: dict[str, Machine] = dict(zip(NAMES, self.segment.machines, strict=True))
            self._stack.callback(self._stop_daemons)
            for name in NAMES:
                (home / name).mkdir()
                (home / name / "config.toml").write_text(CONFIG, encoding="utf-8")
                self.start(name)
            self.service = {name: self._service(name) for name in ("far", "spare")}
            self._share()
            self.ports = {name: self._forward(name) for name in FORWARDS}
        except BaseException:
            self._stack.close()
            raise

    def start(self, name: str) -> None:
        """Start a daemon."""
        machine = self.machines[name]
        swarm = (f"/ip4/0.0.0.0/tcp/{PORT}",)
        self.daemons[name] = Daemon(self._home / name, swarm=swarm, within=machine.within)

    def kill(self, name: str) -> None:
        """Kill a daemon outright."""
        self._killed[name].append(time.monotonic())
        self.daemons[name].process.kill()
        self.end(name)

    def end(self, name: str) -> None:
        """Wait until a daemon has ended."""
        self.daemons[name].wait()
        self.daemons[name]._stdout.close()
        self.restarts[name] += 1

    def was_killed(self, name: str) -> Callable[[float], bool]:
        """Whether this daemon was killed since a time."""
        return lambda since: any(at >= since for at in self._killed[name])

    def _stop_daemons(self) -> None:
        for daemon in self.daemons.values():
            daemon.signal(signal.SIGCONT)
            daemon.stop()

    def _service(self, name: str) -> TcpServer:
        handler = serve(name, self.tally, self.was_killed(name))
        return self._stack.enter_context(self.machines[name].call(lambda: TcpServer(handler)))

    def _share(self) -> None:
        for protocol in (DATA, GUARDED, LIMITED, INVITED):
            self.ask("far", "p2p.listen", s.ListenParams(protocol, self.service["far"].address))
        self.ask("spare", "p2p.listen", s.ListenParams(DATA, self.service["spare"].address))
        self.ask("far", "access.deny", s.AccessChangeParams(INVITED, ("any",)))

    def _forward(self, name: str) -> dict[tuple[str, str], int]:
        return {
            (protocol, server): self.forward(name, protocol, server) or 0
            for protocol, server in FORWARDS[name]
        }

    def where(self, server: str) -> str:
        """The address of a server's daemon, as it was at first."""
        return f"/ip4/{self.machines[server].address}/tcp/{PORT}/p2p/{self.daemons[server].peer_id}"

    def forward(self, name: str, protocol: str, server: str, *, ephemeral: bool = False) -> int | None:
        """A new forward's port; None where the command fails."""
        params = s.ForwardParams(protocol, "127.0.0.1:0", (self.where(server),), ephemeral=ephemeral)
        result = self.ask(name, "p2p.forward", params)
        return None if result is None else port_of(result.listener)

    def ask(self, name: str, method: str, params: object = None) -> Any:
        """See Commands.ask."""
        return self.commands.ask(self.daemons[name], method, params)

    def transfer(self, name: str, port: int, drawn: random.Random) -> str:
        """One transfer by a program on this machine; to be called in a thread that is on it."""
        return transfer(f"{name}:{port}", port, self.tally, self.was_killed(name), drawn)

    # --- the programs that use it -----------------------------------------------------------------

    def use(self, seed: int) -> None:
        """Begin to transfer over each forward."""
        drawn = random.Random(seed)
        for name, ports in self.ports.items():
            for (protocol, _), port in ports.items():
                loop = self._user(name, protocol, port, random.Random(drawn.getrandbits(32)))
                self.in_thread(name, loop)

    def in_thread(self, name: str, function: Callable[[], None]) -> None:
        """Run it on this machine until `stopping` is set."""
        machine = self.machines[name]
        thread = threading.Thread(target=lambda: machine.call(function), name=f"soak-{name}")
        self._threads.append(thread)
        thread.start()

    def _user(self, name: str, protocol: str, port: int, drawn: random.Random) -> Callable[[], None]:
        def loop() -> None:
            while not self.stopping.is_set():
                since = self.denied.get(name)
                how = self.transfer(name, port, drawn)
                if protocol == GUARDED and how == "clean" and since and self.denied.get(name) == since:
                    self.tally.fault(f"{name} was let in to {GUARDED} while it was denied")
                self.stopping.wait(drawn.uniform(*PAUSE_S))

        return loop

    def rest(self) -> None:
        """Let the programs end their transfers."""
        self.stopping.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self.stopping.clear()

    def holdings(self, name: str) -> Holdings | None:
        """Of a daemon, now; None while it is away."""
        found = self.ask(name, "daemon.status")
        if found is None:
            return None
        descriptors = found.descriptors - _diagnosis_sockets(found.pid)
        held = (found.connections, found.streams, found.swarm_streams, found.tasks, descriptors)
        return Holdings(*held, found.rss_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join()
        self._stack.close()


def port_of(listener: s.Listener) -> int:
    """Of a forward's local address."""
    return int(listener.listen_address.rpartition("/")[2])
