"""Two peers behind routers of their own, a relay outside, some of them foreign: do they get direct?

B has a place at the relay, A dials it there. Four go-libp2p daemons outside tell everybody where it is seen:
a Kubo punches no hole before four do. No machine has a route that leads out of the lab.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self

from p2pfwd.core.keys import KeyType
from p2pfwd.errors import P2PForwardError
from p2pfwd.rpc.client import Client
from p2pfwd.rpc.schema import ConnectParams
from tests.interop.peers import process
from tests.interop.peers.process import Peer, PeerFailed
from tests.netns.lab import Segment
from tests.netns.nat import Router
from tests.netns.two_machines import Machine
from tests.support.daemon import Daemon
from tests.support.sockets import Payload, TcpServer, echo, echoes, free_port

PORT: Final = 4011
OBSERVERS: Final = 4
RELAYS: Final = ("p2pd", "kubo", "js", "p2pfwd")
READY_S: Final = 20.0
DIRECT_S: Final = 20.0
POLL_S: Final = 0.005
"""A Kubo is asked over a pipe, which costs little; and milliseconds are compared."""

GO_LOG: Final = "GOLOG_LOG_LEVEL=error,p2p-holepunch=debug"
"""Says on stderr when a Kubo has begun to punch holes; nothing else does."""

_SERVES: Final = {"kubo": ("--relay", "--public"), "js": ("--relay",), "p2pd": ("--relay",)}


class Outcome(NamedTuple):
    """Of one dial, in seconds from its beginning.

    A Kubo's `connect` returns once identify has run, too, so that what follows it cannot be compared.
    """

    relayed_s: float
    direct_s: float | None
    """None: no direct connection came."""


class Side(Protocol):
    """One of the two."""

    @property
    def machine(self) -> Machine:
        """Where it runs."""

    @property
    def id(self) -> str:
        """Its peer ID."""

    def is_ready(self) -> bool:
        """Whether it knows where it is seen."""

    def dial(self, addr: str) -> None:
        """Connect. Raises PeerFailed."""

    def outcome(self, other: str, began: datetime) -> Outcome:
        """What came of a dial of the other that has just succeeded."""

    def listen(self, name: str, target: str) -> None:
        """Serve a protocol."""

    def forward(self, name: str, other: str) -> int:
        """A port of its machine's loopback that leads to the other's."""


class Own:
    """A p2pfwd daemon."""

    def __init__(self, daemon: Daemon, machine: Machine) -> None:
        self.machine = machine
        self.id = daemon.peer_id
        self.daemon = daemon
        self.client = Client.connect(Path(daemon.json("status")["Socket"]))

    def is_ready(self) -> bool:
        """See `Side`."""
        return any(row["State"] == "held" for row in self.daemon.json("status")["Relays"])

    def dial(self, addr: str) -> None:
        """See `Side`. By the control socket: a command would take longer to start than the dial."""
        try:
            self.client.call("swarm.connect", ConnectParams(addresses=(addr,)), timeout_s=READY_S)
        except P2PForwardError as exc:
            raise PeerFailed(exc.message) from exc

    def outcome(self, other: str, began: datetime) -> Outcome:
        """By its log: to ask it takes longer than to punch a hole."""
        line = re.compile(rf"^(\S+) .*connected to {other} at (\S+) ", re.M)

        def since(*, relayed: bool) -> list[float]:
            found = [(datetime.fromisoformat(at), addr) for at, addr in line.findall(self.daemon.stderr)]
            fit = [at for at, addr in found if ("/p2p-circuit" in addr) is relayed]
            return [(at - began).total_seconds() for at in fit if at >= began]

        relayed_s = since(relayed=True)[0]
        came = within(DIRECT_S, lambda: bool(since(relayed=False)))
        return Outcome(relayed_s, since(relayed=False)[0] if came else None)

    def listen(self, name: str, target: str) -> None:
        """See `Side`."""
        self.daemon.ok("listen", name, target)

    def forward(self, name: str, other: str) -> int:
        """See `Side`."""
        made = self.daemon.json("forward", "--no-check", name, "0", other)
        return int(made["Listener"]["ListenAddress"].rpartition("/")[2])


class Foreign:
    """A Kubo."""

    def __init__(self, peer: Peer, machine: Machine) -> None:
        self.machine = machine
        self.id = str(peer.id)
        self.peer = peer

    def is_ready(self) -> bool:
        """See `Side`."""
        return "Host now has a public address" in self.peer.log

    def dial(self, addr: str) -> None:
        """See `Side`."""
        self.peer("connect", addr=addr)

    def outcome(self, other: str, began: datetime) -> Outcome:
        """See `Side`."""
        relayed_s = (datetime.now() - began).total_seconds()

        def is_direct() -> bool:
            rows = self.connections()
            return any(row["id"] == other and "/p2p-circuit" not in row["addr"] for row in rows)

        came = within(DIRECT_S, is_direct)
        return Outcome(relayed_s, (datetime.now() - began).total_seconds() if came else None)

    def connections(self) -> list[dict[str, str]]:
        """Its live ones, each with `id` and `addr`."""
        return list(self.peer("peers")["conns"])

    def listen(self, name: str, target: str) -> None:
        """See `Side`."""
        self.peer("listen", proto=name, target=target)

    def forward(self, name: str, other: str) -> int:
        """See `Side`."""
        port = self.machine.call(free_port)
        self.peer("forward", proto=name, listen=f"/ip4/127.0.0.1/tcp/{port}", peer=other)
        return port


class Js(Foreign):
    """A js-libp2p. It dials from ephemeral ports, which only an address-restricted router lets in."""

    def is_ready(self) -> bool:
        """It was told where it is seen, and has a place."""
        return True

    def connections(self) -> list[dict[str, str]]:
        """See `Foreign`."""
        return list(self.peer("peers")["peers"])

    def listen(self, name: str, target: str) -> None:
        """See `Side`."""
        self.peer("handle", proto=name, target=target)


class Rig:
    """A relay of one kind and the observers; a context manager. Raises Unavailable, PeerMissing."""

    def __init__(self, directory: Path, relay: str, delay_s: float = 0.0) -> None:
        """`delay_s`: one way, on the line of each router."""
        self._directory = directory
        self._delay_s = delay_s
        self._stack = ExitStack()
        self._observers: list[str] = []
        try:
            self._segment = self._stack.enter_context(Segment(1 + OBSERVERS, "11.78"))
            relay_machine, *others = self._segment.machines
            for machine in others:
                self._observers.append(self._outside("p2pd", machine))
            self._relay = self._outside(relay, relay_machine, serves=True)
        except BaseException:
            self._stack.close()
            raise

    def _home(self) -> Path:
        home = self._directory / str(len(list(self._directory.iterdir())))
        home.mkdir()
        return home

    def _peer(self, kind: str, machine: Machine, *options: str) -> Peer:
        words = ("--segment", machine.address, "--port", str(PORT), *options)
        within = [*machine.within, *(("env", GO_LOG) if kind == "kubo" else ())]
        made = process.START[kind](self._home(), KeyType.ED25519, within=within, options=words)
        return self._stack.enter_context(made)

    def _outside(self, kind: str, machine: Machine, *, serves: bool = False) -> str:
        """The full address of a node there; `serves`: as a relay."""
        if kind == "p2pfwd":
            node = self._daemon(machine, {"P2PFWD_DHT_MODE": "server", "P2PFWD_RELAY_SERVE": "anyone"})
            peer_id = node.peer_id
        else:
            peer_id = str(self._peer(kind, machine, *(_SERVES[kind] if serves else ())).id)
        return f"/ip4/{machine.address}/tcp/{PORT}/p2p/{peer_id}"

    def _daemon(self, machine: Machine, more: dict[str, str]) -> Daemon:
        env = {"P2PFWD_NETWORK": "public", "P2PFWD_DISCOVERY_MDNS": "off", **more}
        env["P2PFWD_BOOTSTRAP_PEERS"] = ",".join(self._observers)
        swarm = (f"/ip4/0.0.0.0/tcp/{PORT}",)
        return self._stack.enter_context(Daemon(self._home(), swarm=swarm, env=env, within=machine.within))

    def behind(self, nat: str, kind: str) -> Side:
        """A peer behind a router of its own, that has or wants a place at the relay."""
        router = Router(self._segment, nat)
        machine = router.host()
        if self._delay_s:
            self._segment.delay(self._stack, router.machine, self._delay_s, 0.0)
        machine.run("ip", "route", "add", "11.0.0.0/8", "via", router.gateway, "dev", "eth0", "onlink")
        machine.run("ip", "route", "delete", "default")
        if kind == "p2pfwd":
            own = Own(self._daemon(machine, {"P2PFWD_REACH_RELAYS": self._relay}), machine)
            self._stack.callback(own.client.close)
            return own
        if kind == "js":
            outside = f"/ip4/{router.machine.address}/tcp/{PORT}"
            peer = self._peer(kind, machine, "--via", "--dcutr", "--announce", outside)
            peer("connect", addr=self._relay)
            peer("reserve", relay=self._relay)
            return Js(peer, machine)
        peer = self._peer(kind, machine, "--via", self._relay)
        for addr in (*self._observers, self._relay):
            peer("connect", addr=addr)
        return Foreign(peer, machine)

    def punch(self, a: Side, b: Side) -> Outcome:
        """A dials B over the relay. AssertionError where B is not there."""
        for side in (a, b):
            assert within(READY_S, side.is_ready), "it does not learn where it is seen"
        began, why = [datetime.now()], [""]

        def reached() -> bool:
            began[0] = datetime.now()
            try:
                a.dial(f"{self._relay}/p2p-circuit/p2p/{b.id}")
            except PeerFailed as exc:
                why[0] = str(exc)
                time.sleep(0.2)  # B has no place yet, and nobody but A finds out
                return False
            return True

        assert within(READY_S, reached), why[0]
        return a.outcome(b.id, began[0])

    def carries(self, a: Side, b: Side, size: int = 300_000) -> bool:
        """Whether `size` bytes come back right from A through B's service."""
        name = f"/x/from-{a.id[-6:]}"
        with b.machine.call(lambda: TcpServer(echo)) as server:
            b.listen(name, server.address)
            port = a.forward(name, b.id)
            return a.machine.call(lambda: echoes(port, Payload(size)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def within(limit_s: float, known: Callable[[], bool]) -> bool:
    """Whether it becomes true in time; no event tells a command line."""
    end = time.monotonic() + limit_s
    while not known():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True
