"""A client and a server with a network between them, and the faults that befall it.

The client is on the server's segment, or behind a router on it that translates addresses: strictly, refusing
what it knows no connection for, or loosely, as Linux does by default.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, Literal, Self, TypeVar

from tests.netns.lab import Segment
from tests.netns.nat import forget_connections
from tests.netns.recovery_probe import Probe
from tests.netns.two_machines import Machine, new_machine
from tests.support import sockets
from tests.support.daemon import Daemon
from tests.support.sockets import TcpServer

L = TypeVar("L", bound="Lab")

PORT, OTHER_PORT = 4011, 4012
NOTICE_S: Final = 50.0
"""A dead peer is noticed within 45."""

NAME: Final = "/x/echo"
Router = Literal["none", "strict", "loose"]

_RULES: Final = """
table ip lab {{
  chain out {{ type nat hook postrouting priority 100; oifname "eth0" masquerade; }}
  chain through {{
    type filter hook forward priority 0; policy drop;
    {strict}
    ct state established,related accept
    iifname "lan" accept
  }}
}}
"""

def _run(machine: Machine, command: str) -> None:
    machine.run(*command.split())


class Lab:
    """What a fault needs: a daemon with a forward, and a probe on it; a context manager."""

    near: Daemon
    probe: Probe

    def __init__(self) -> None:
        self._stack = ExitStack()

    def _probe(self, machine: Machine) -> None:
        """Begin to use the forward of `near`, which is on this machine."""
        (listener,) = self.near.json("ls")["Listeners"]
        self.probe = Probe(machine, int(listener["ListenAddress"].rpartition("/")[2]))
        self.probe.start()
        self._stack.callback(self.probe.stop)
        if self.probe.wait_answered(0.0, 30.0) is None:
            raise RuntimeError("the tunnel does not work before any fault")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class World(Lab):
    """Daemons at both ends, a forward from one to the other, and a probe on it; a context manager.

    Raises Unavailable.
    """

    def __init__(self, home: Path, router: Router = "none", *, keep: bool = False) -> None:
        super().__init__()
        self._home = home
        home.mkdir(parents=True, exist_ok=True)
        try:
            self._segment = self._stack.enter_context(Segment(2))
            self.server, self.client = self._segment.machines
            self.router = self.client
            if router != "none":
                self.client = self._behind(self.router, strict=router == "strict")
            self._addresses = {id(self.server): self.server.address, id(self.client): self.client.address}
            self._echo = self._stack.enter_context(self.server.call(lambda: TcpServer(sockets.echo)))
            self._stack.callback(self._stop_far)
            self.far = self._serve(PORT)
            near = Daemon(home / "near", swarm=(f"/ip4/0.0.0.0/tcp/{PORT}",), within=self.client.within)
            self.near = self._stack.enter_context(near)
            where = f"/ip4/{self.server.address}/tcp/{PORT}/p2p/{self.far.peer_id}"
            if keep:
                self.near.ok("peer", "add", "far", where, "--keep")
            self.near.ok("forward", NAME, "0", where)
            self._probe(self.client)
        except BaseException:
            self._stack.close()
            raise

    def _behind(self, router: Machine, *, strict: bool) -> Machine:
        """A machine on the far side of `router`."""
        client = new_machine(self._stack, "10.1.0.2")
        _run(router, f"ip link add lan type veth peer name eth0 netns {client.pid}")
        _run(router, "ip address add 10.1.0.1/24 dev lan")
        _run(router, "ip link set lan up")
        for command in ("link set lo up", "address add 10.1.0.2/24 dev eth0", "link set eth0 up"):
            _run(client, f"ip {command}")
        _run(client, "ip route add default via 10.1.0.1")
        settings = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        if strict:
            settings += "; echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose"
        rules = _RULES.format(strict="ct state invalid drop" if strict else "")
        words = [*router.within, "nft", "-f", "-"]
        subprocess.run(words, input=rules.encode(), check=True, capture_output=True)
        router.run("sh", "-c", settings)
        return client

    def _serve(self, port: int) -> Daemon:
        swarm = (f"/ip4/0.0.0.0/tcp/{port}",)
        daemon = Daemon(self._home / "far", swarm=swarm, within=self.server.within)
        daemon.ok("listen", NAME, self._echo.address)
        return daemon

    def _stop_far(self) -> None:
        self.far.stop()

    # --- faults -----------------------------------------------------------------------------------

    def cut(self) -> None:
        """Nothing passes between server and client, and nobody is told."""
        self._segment.port_state(self.server, forwarding=False)

    def heal(self) -> None:
        """The line is whole again."""
        self._segment.port_state(self.server, forwarding=True)

    def readdress(self, machine: Machine) -> None:
        """It gets another address of its network, as DHCP does it."""
        address = self._addresses[id(machine)]
        first, last = address.rsplit(".", 1)
        new = f"{first}.{int(last) + 100}"
        bits = 24 if address.startswith("10.1.") else 16
        _run(machine, "ip -4 address flush dev eth0 scope global")
        _run(machine, f"ip address add {new}/{bits} dev eth0")
        _run(machine, "ip route replace 224.0.0.0/4 dev eth0")
        if bits == 24:
            _run(machine, "ip route replace default via 10.1.0.1")
        self._addresses[id(machine)] = new

    def router_reboots(self) -> None:
        """It forgets every connection."""
        forget_connections(self.router)

    def server_goes(self) -> None:
        """The server's daemon is killed."""
        self.far.process.kill()
        self.far.wait()
        self.far._stdout.close()

    def server_comes(self, port: int = PORT) -> None:
        """It is there again, and its service listens."""
        self.far = self._serve(port)

    def suspend(self, on: bool) -> None:
        """Both daemons stand still, or go on."""
        for daemon in (self.near, self.far):
            os.kill(daemon.process.pid, signal.SIGSTOP if on else signal.SIGCONT)

    def make_bad(self, delay_s: float, loss: float) -> None:
        """The server's line loses packets, and has a round trip of twice `delay_s`."""
        self._segment.delay(self._stack, self.server, delay_s, loss)


def _nothing(_lab: Lab) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Fault(Generic[L]):
    """What happens, for how long, and how it is undone."""

    name: str
    begin: Callable[[L], None]
    make: Callable[[Path, bool], L]
    """A lab for it, and whether the peer is kept."""
    end: Callable[[L], None] = _nothing
    check: Callable[[L], None] = _nothing
    """What has to be true in the end. AssertionError."""
    lasts_s: float = 0.0
    quiet: bool = False  # whether it happens on an idle line
    kept: bool = True  # whether a kept peer makes a difference

    @property
    def is_noticed(self) -> bool:
        """Whether there is time to see when it is noticed."""
        return self.begin is World.cut and self.lasts_s >= NOTICE_S


def _made(router: Router) -> Callable[[Path, bool], World]:
    return lambda home, keep: World(home, router, keep=keep)


def _cut(lasts_s: float, *, quiet: bool) -> Fault[World]:
    name = f"cut {lasts_s:g} s, {'idle' if quiet else 'traffic'}"
    return Fault(name, World.cut, _made("none"), World.heal, lasts_s=lasts_s, quiet=quiet)


def _both(name: str, begin: Callable[[World], None], router: Router = "none") -> list[Fault[World]]:
    return [
        Fault(f"{name}, {'idle' if quiet else 'traffic'}", begin, _made(router), quiet=quiet)
        for quiet in (False, True)
    ]


FAULTS: Final[list[Fault[World]]] = [
    *(_cut(lasts_s, quiet=quiet) for quiet in (False, True) for lasts_s in (5, 10, 20, 30, 60)),
    *_both("own address changed", lambda world: world.readdress(world.client)),
    *_both("peer's address changed", lambda world: world.readdress(world.server)),
    *_both("strict NAT rebooted", World.router_reboots, "strict"),
    *_both("loose NAT rebooted", World.router_reboots, "loose"),
    Fault("peer restarted", World.server_goes, _made("none"), World.server_comes, lasts_s=3.0),
    Fault(
        "peer on another port",
        World.server_goes,
        _made("none"),
        lambda world: world.server_comes(OTHER_PORT),
        lasts_s=3.0,
    ),
    Fault(
        "both suspended 60 s",
        lambda world: world.suspend(True),
        _made("none"),
        lambda world: world.suspend(False),
        lasts_s=60.0,
    ),
]

BAD_S: Final = 90.0
SETTLE_S: Final = 3.0
IDLE_BEFORE_S: Final = 4.0
GIVE_UP_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one fault; seconds from its end, None for never."""

    answered_s: float | None
    refused: int  # new connections, from the fault's beginning until one was answered
    stalled_s: float  # the lasting connection
    lost_s: float | None  # from the fault's beginning until the lasting connection was lost
    was_clean: bool = False  # whether it was told that this is the end, instead of a loss
    noticed_s: float | None = None  # from the fault's beginning until `ls` said so; of long cuts


def suffer(world: L, fault: Fault[L]) -> Outcome:
    """Let it happen, and see when a new connection is answered."""
    time.sleep(SETTLE_S)
    if fault.quiet:
        world.probe.ask(False)
        time.sleep(IDLE_BEFORE_S)
    began_at = time.monotonic()
    fault.begin(world)
    noticed_s = _noticed_s(world, began_at) if fault.is_noticed else None
    time.sleep(max(0.0, began_at + fault.lasts_s - time.monotonic()))
    fault.end(world)
    ended_at = time.monotonic()
    world.probe.ask(True)
    answered_s = world.probe.wait_answered(ended_at, GIVE_UP_S)
    time.sleep(max(0.0, ended_at + 12.0 - time.monotonic()))  # for what was in flight
    now, lasting = time.monotonic(), world.probe.lasting
    until = ended_at + (answered_s if answered_s is not None else GIVE_UP_S)
    lost_s = None if lasting.lost_at is None else lasting.lost_at - began_at
    fault.check(world)
    refused, stalled_s = world.probe.refused(began_at, until), lasting.longest_stall_s(now)
    return Outcome(answered_s, refused, stalled_s, lost_s, lasting.was_clean, noticed_s)


def _noticed_s(world: Lab, began_at: float) -> float | None:
    """When the forward's state says that something is wrong."""
    while time.monotonic() < began_at + NOTICE_S:
        (listener,) = world.near.json("ls")["Listeners"]
        if listener["State"] != "ready":
            return time.monotonic() - began_at
        time.sleep(0.5)
    return None


def bad_line(world: World) -> Outcome:
    """A fifth of the packets lost and a round trip of 2 s, for a minute and a half: nothing is to be lost."""
    time.sleep(SETTLE_S)
    began_at = time.monotonic()
    world.make_bad(1.0, 0.2)
    time.sleep(BAD_S)
    now, lasting = time.monotonic(), world.probe.lasting
    lost_s = None if lasting.lost_at is None else lasting.lost_at - began_at
    refused = world.probe.refused(began_at, now)
    return Outcome(world.probe.first_answered_s(began_at), refused, lasting.longest_stall_s(now), lost_s)
