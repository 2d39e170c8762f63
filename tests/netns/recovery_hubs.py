"""A tunnel between two people behind routers, in a network that two hubs make, and the faults that befall it.

Both joined by the lines that `p2pfwd hub` printed. Behind `cone` routers the tunnel is direct, punched;
behind `symmetric` ones it goes over a hub for as long as it stands.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.netns.lab import Segment
from tests.netns.nat import Router
from tests.netns.recovery_lab import NAME, PORT, Fault, Lab
from tests.netns.two_machines import Machine
from tests.support import sockets
from tests.support.daemon import Daemon, run_cli
from tests.support.sockets import TcpServer

ENV: Final = {"P2PFWD_NETWORK": "public"}
HUB_CONFIG: Final = """
[relay]
serve = "peers"
[dht]
mode = "server"
[discovery]
mdns = "off"
[bootstrap]
peers = {}
"""
"""As `p2pfwd hub` writes it: that would start a daemon which is not ours to kill."""

READY_S: Final = 20.0
SETTLED_S: Final = 45.0
"""The relayed connection is kept for a while after the direct one stands."""

LAN_S: Final = 10.0
POLL_S: Final = 1.0
"""A command line costs a tenth of a second of the processor, which other labs want, too."""


class HubNetwork(Lab):
    """Two hubs, or another number of them, on the internet, and whoever joins them. Raises Unavailable."""

    def __init__(self, home: Path, hubs: int = 2) -> None:
        super().__init__()
        self._home = home
        home.mkdir(parents=True, exist_ok=True)
        try:
            self.segment = self._stack.enter_context(Segment(hubs, "11.78"))
            self.hubs: list[Daemon] = []
            self._stack.callback(self._stop_hubs)
            self._lines = [self._new_hub(number) for number in range(hubs)]
        except BaseException:
            self._stack.close()
            raise

    def _new_hub(self, number: int) -> str:
        """One that knows those before; the line that others paste."""
        config = HUB_CONFIG.format(json.dumps([self._address(hub) for hub in self.hubs]))
        (self._home / f"hub{number}").mkdir()
        (self._home / f"hub{number}" / "config.toml").write_text(config, encoding="utf-8")
        self.hubs.append(self._hub(number))
        made = self.hubs[-1].cli("hub", "--json", env=ENV)
        assert made.returncode == 0, made.stderr
        return str(json.loads(made.stdout)["Line"])

    def _hub(self, number: int) -> Daemon:
        machine = self.segment.machines[number]
        swarm = (f"/ip4/{machine.address}/tcp/{PORT}",)
        return Daemon(self._home / f"hub{number}", swarm=swarm, env=ENV, within=machine.within)

    def _address(self, hub: Daemon) -> str:
        machine = self.segment.machines[self.hubs.index(hub)]
        return f"/ip4/{machine.address}/tcp/{PORT}/p2p/{hub.peer_id}"

    def _stop_hubs(self) -> None:
        for hub in self.hubs:
            if hub.process.poll() is None:
                hub.stop()

    def client(self, machine: Machine, name: str) -> Daemon:
        """One that has joined all hubs, and holds its places there."""
        home = self._home / name
        home.mkdir()
        for line in self._lines:
            done = run_cli(home, "network", "join", line, env=ENV)
            assert done.returncode == 0, done.stderr
        swarm = (f"/ip4/0.0.0.0/tcp/{PORT}",)
        daemon = self._stack.enter_context(Daemon(home, swarm=swarm, env=ENV, within=machine.within))
        until(lambda: len(held(daemon)) == len(self.hubs), READY_S, "places at the hubs")
        return daemon


class HubWorld(HubNetwork):
    """`near` forwards to `far`, each behind a router of its own; a context manager. Raises Unavailable."""

    def __init__(self, home: Path, kind: str, hubs: int = 2) -> None:
        super().__init__(home, hubs)
        try:
            self.routers = [Router(self.segment, kind) for _ in range(2)]
            self.other_router = Router(self.segment, kind)
            self.machines = [router.host() for router in self.routers]
            self._echo = self._stack.enter_context(self.machines[1].call(lambda: TcpServer(sockets.echo)))
            self.near, self.far = (
                self.client(machine, f"client{number}") for number, machine in enumerate(self.machines)
            )
            self.far.ok("listen", NAME, self._echo.address, "--allow", self.near.peer_id)
            self.near.ok("forward", "--no-check", NAME, "0", self.far.peer_id)
            self.near.ok("ping", self.far.peer_id)
            if kind == "cone":
                until(lambda: self.ways() == {"direct"}, SETTLED_S, "the tunnel is direct, and nothing else")
            else:
                until(lambda: self.ways() == {"relayed"}, READY_S, "the tunnel goes over a hub")
            self._probe(self.machines[0])
        except BaseException:
            self._stack.close()
            raise

    def ways(self) -> set[str]:
        """What the connections to `far` go over."""
        rows = self.near.json("swarm", "peers")["Peers"]
        return {row["Path"] for row in rows if row["Peer"] == self.far.peer_id}

    def way(self) -> dict[str, Any]:
        """The row of `swarm peers` that says how `near` reaches `far`; empty texts where it does not."""
        rows: list[dict[str, Any]] = self.near.json("swarm", "peers")["Peers"]
        found = [row for row in rows if row["Peer"] == self.far.peer_id]
        return found[0] if found else {"Path": "", "Addr": ""}

    @property
    def used(self) -> int:
        """Which hub the tunnel goes over."""
        address = self.way()["Addr"]
        return next(n for n, hub in enumerate(self.hubs) if f"/{hub.peer_id}/p2p-circuit" in address)

    # --- faults -----------------------------------------------------------------------------------

    def hub_goes(self) -> None:
        """The hub in use is killed: its connections are reset."""
        self.gone = self.used
        hub = self.hubs[self.gone]
        hub.process.kill()
        hub.wait()
        hub._stdout.close()

    def hub_comes(self) -> None:
        """It is there again."""
        self.hubs[self.gone] = self._hub(self.gone)

    def hub_silent(self) -> None:
        """Nothing passes to and from the hub in use, and nobody is told."""
        self.gone = self.used
        self.segment.port_state(self.segment.machines[self.gone], forwarding=False)

    def hub_heard(self) -> None:
        """Its line is whole again."""
        self.segment.port_state(self.segment.machines[self.gone], forwarding=True)

    def move(self, number: int, router: Router) -> None:
        """A machine is unplugged, and plugged in behind another router."""
        router.plug(self.machines[number])

    def suspend(self, on: bool, *daemons: Daemon) -> None:
        """They stand still, or go on."""
        for daemon in daemons:
            os.kill(daemon.process.pid, signal.SIGSTOP if on else signal.SIGCONT)

    def is_local(self) -> None:
        """The tunnel goes by addresses of the one network that both are in. AssertionError."""
        until(lambda: self.way()["Addr"].startswith("/ip4/10."), LAN_S, "the tunnel is local")


def held(daemon: Daemon) -> list[Any]:
    """The places that a node holds at relays."""
    return [relay for relay in daemon.json("status")["Relays"] if relay["State"] == "held"]


def until(known: Callable[[], bool], within_s: float, what: str) -> None:
    """Wait for it; no event tells a command line. AssertionError."""
    end = time.monotonic() + within_s
    while not known():
        assert time.monotonic() < end, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)


def _made(kind: str, hubs: int = 2) -> Callable[[Path, bool], HubWorld]:
    return lambda home, _keep: HubWorld(home, kind, hubs)


def _fault(
    name: str,
    begin: Callable[[HubWorld], None],
    end: Callable[[HubWorld], None] = lambda _world: None,
    *,
    lasts_s: float = 0.0,
    hubs: int = 2,
    kinds: tuple[str, ...] = ("cone", "symmetric"),
    check: Callable[[HubWorld], None] = lambda _world: None,
) -> list[Fault[HubWorld]]:
    words = {"cone": "direct", "symmetric": "relayed"}
    return [
        Fault(
            f"hubs: {name}, {words[kind]}",
            begin,
            _made(kind, hubs),
            end,
            check,
            lasts_s=lasts_s,
            kept=False,
        )
        for kind in kinds
    ]


def _suspended(
    who: str, lasts_s: float, pick: Callable[[HubWorld], tuple[Daemon, ...]]
) -> list[Fault[HubWorld]]:
    return _fault(
        f"{who} suspended {lasts_s:g} s",
        lambda world: world.suspend(True, *pick(world)),
        lambda world: world.suspend(False, *pick(world)),
        lasts_s=lasts_s,
    )


def _router(where: str, number: int) -> list[Fault[HubWorld]]:
    return [
        *_fault(
            f"router {where} rebooted",
            lambda world: world.routers[number].power(False),
            lambda world: world.routers[number].power(True),
            lasts_s=5.0,
        ),
        *_fault(f"router {where} forgets all", lambda world: world.routers[number].forget()),
    ]


_RELAYED: Final = ("symmetric",)

HUB_FAULTS: Final[list[Fault[HubWorld]]] = [
    *_fault("the only one restarted", HubWorld.hub_goes, HubWorld.hub_comes, hubs=1, kinds=_RELAYED),
    *_fault(
        "the only one gone 60 s",
        HubWorld.hub_goes,
        HubWorld.hub_comes,
        lasts_s=60.0,
        hubs=1,
        kinds=_RELAYED,
    ),
    *_fault(
        "the only one silent 60 s",
        HubWorld.hub_silent,
        HubWorld.hub_heard,
        lasts_s=60.0,
        hubs=1,
        kinds=_RELAYED,
    ),
    *_fault("one restarted", HubWorld.hub_goes, HubWorld.hub_comes, kinds=_RELAYED),
    *_fault("one killed", HubWorld.hub_goes, kinds=_RELAYED),
    *_fault("one silent", HubWorld.hub_silent, kinds=_RELAYED),
    *_router("here", 0),
    *_router("there", 1),
    *_fault("moved here", lambda world: world.move(0, world.other_router)),
    *_fault("moved there", lambda world: world.move(1, world.other_router)),
    *_suspended("here", 20.0, lambda world: (world.near,)),
    *_suspended("there", 20.0, lambda world: (world.far,)),
    *_suspended("both", 20.0, lambda world: (world.near, world.far)),
    *_suspended("both", 60.0, lambda world: (world.near, world.far)),
    *_fault(
        "both on one LAN in the end",
        lambda world: world.move(0, world.routers[1]),
        check=HubWorld.is_local,
    ),
]
