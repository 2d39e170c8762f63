"""Two people behind routers of their own, and a relay outside: what their tunnel goes over, and how soon.

The relay is a p2pfwd too; a second public node makes two observers. B listens, with a place at the relay; A
forwards to it. The relay has either named both, so that it sets no limits, or knows neither.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.netns.lab import Segment
from tests.netns.nat import Router
from tests.netns.two_machines import Machine
from tests.support.daemon import Daemon
from tests.support.sockets import TcpServer, echo

PORT: Final = 4011
KINDS: Final = (
    "public",
    "full-cone",
    "address-restricted",
    "cone",
    "symmetric",
    "firewall",
    "nat-behind-nat",
)
NAME: Final = "/x/echo"
READY_S: Final = 30.0
"""A relay that has refused a place, as it did not know its peer yet, tells it when it does."""

DIRECT_S: Final = 25.0
PAYLOAD_BYTES: Final = 300_000


def works_directly(a: str, b: str) -> bool:
    """Whether plain sockets manage it in this lab: all pairs but symmetric with what lets no stranger in."""
    closed = {"cone", "symmetric", "firewall", "nat-behind-nat"}
    return not (("symmetric" in (a, b)) and {a, b} <= closed)


@dataclass
class Outcome:
    """Of one pair. Seconds are from the first connection to the forward."""

    first_byte_s: float
    first_path: str
    direct_s: float | None
    """Until a new connection went directly; None: never."""
    code: str
    reason: str
    right: bool
    """Whether every byte came back."""


class World:
    """One lab; a context manager. Raises Unavailable."""

    def __init__(self, home: Path, a: str, b: str, *, limited: bool = False, udp: bool = True) -> None:
        self._home = home
        self._udp = udp
        self._stack = ExitStack()
        self._count = 0
        self.observers: list[str] = []
        try:
            self.segment = self._stack.enter_context(Segment(2, "11.78"))
            public = {"P2PFWD_DHT_MODE": "server", "P2PFWD_RELAY_SERVE": "anyone" if limited else "peers"}
            self.relay = self.daemon(self.segment.machines[0], public)
            self.observers.append(self.full_address(self.relay, self.segment.machines[0]))
            other = self.daemon(self.segment.machines[1], {**public, "P2PFWD_RELAY_SERVE": "off"})
            self.observers.append(self.full_address(other, self.segment.machines[1]))
            self.at_a, self.at_b = self._machine(a), self._machine(b)
            relays = {"P2PFWD_REACH_RELAYS": self.observers[0], "P2PFWD_LOG_LEVEL": "debug"}
            self.a, self.b = self.daemon(self.at_a, relays), self.daemon(self.at_b, relays)
            if not limited:
                for name, node in (("a", self.a), ("b", self.b)):
                    self.relay.ok("peer", "add", name, node.peer_id)
            self._serve()
        except BaseException:
            self._stack.close()
            raise

    def _machine(self, kind: str) -> Machine:
        if kind == "public":
            return self.segment.add()
        if kind == "nat-behind-nat":
            return Router(Router(self.segment, "cone"), "cone", udp=self._udp).host()
        return Router(self.segment, kind, udp=self._udp).host()

    def daemon(self, machine: Machine, more: dict[str, str]) -> Daemon:
        """One on this machine; it knows of the observers so far."""
        env = {
            "P2PFWD_NETWORK": "public",
            "P2PFWD_DISCOVERY_MDNS": "off",
            "P2PFWD_BOOTSTRAP_PEERS": ",".join(self.observers),
            **more,
        }
        self._count += 1
        home = self._home / str(self._count)
        made = Daemon(home, swarm=(f"/ip4/0.0.0.0/tcp/{PORT}",), env=env, within=machine.within)
        return self._stack.enter_context(made)

    @staticmethod
    def full_address(node: Daemon, machine: Machine) -> str:
        """Where a public machine's node is."""
        return f"/ip4/{machine.address}/tcp/{PORT}/p2p/{node.peer_id}"

    def _serve(self) -> None:
        server = self.at_b.call(lambda: TcpServer(echo).__enter__())
        self._stack.callback(server.__exit__, None, None, None)
        self.b.ok("listen", NAME, str(server.port))

    # --- what is asked ----------------------------------------------------------------------------

    def until(self, known: Callable[[], Any], within_s: float, what: str) -> float:
        """Seconds until `known` is true; no event tells a command line."""
        begin = time.monotonic()
        while not known():
            if time.monotonic() - begin > within_s:
                raise AssertionError(f"{what}: not within {within_s:g} s")
            time.sleep(0.05)
        return time.monotonic() - begin

    def place(self) -> str | None:
        """Where others reach B, once it knows: over the relay, or at its public address."""
        told = self.b.json("id")["Addresses"]
        proved = self.b.json("status")["Reachability"] == "public"
        found = [text for text in told if "/p2p-circuit" in text or (proved and text.startswith("/ip4/11."))]
        return found[-1] if found else None

    def forward(self, peers: Sequence[str], *options: str) -> int:
        """Open a forward at A; its port."""
        words = ("forward", *options, "--no-check", NAME, "0", *peers, "--json")
        made = json.loads(self.a.ok(*words))
        return int(made["Listener"]["ListenAddress"].rsplit("/", 1)[1])

    def echoed(self, sock: socket.socket, size: int) -> bool:
        """Whether `size` random bytes come back as they were sent. Raises what either way raises."""
        data, got = os.urandom(size), bytearray()
        sock.settimeout(40.0)
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(sock.sendall, data)
            while len(got) < size and (part := sock.recv(1 << 16)):
                got += part
            sending.result()  # a reset is told once: to the sender, where it comes first
        return hashlib.sha256(got).digest() == hashlib.sha256(data).digest()

    def path(self) -> tuple[str, str, str]:
        """(path, code, reason) of A's way to B now."""
        rows = [row for row in self.a.json("swarm", "peers")["Peers"] if row["Peer"] == self.b.peer_id]
        if not rows:
            return "", "", "not connected"
        return rows[0]["Path"], rows[0]["PathCode"], rows[0]["PathReason"]

    def direct_at(self) -> datetime | None:
        """When A had its first direct connection to B, by its log."""
        found = re.search(rf"^(\S+) .*connected to {self.b.peer_id} at \S+/tcp/\d+ ", self.a.stderr, re.M)
        return None if found is None else datetime.fromisoformat(found[1])

    def run(self, *options: str) -> Outcome:
        """A tunnel, a moment of patience, and another tunnel."""
        found: list[str] = []
        self.until(lambda: found.append(self.place() or "") or found[-1], READY_S, "B's address")
        port = self.forward(found[-1:], *options)
        begin, began = time.monotonic(), datetime.now()
        first = self.at_a.connect(port, 40.0)
        right = self.echoed(first, 100)
        first_byte_s = time.monotonic() - begin
        rows = self.a.json("ls", "--streams")["Streams"]
        first_path = rows[0]["Path"] if rows else ""
        while (came := self.direct_at()) is None and time.monotonic() - begin < DIRECT_S:
            code = self.path()[1]
            if code.startswith("relayed-symmetric"):
                break
            time.sleep(0.05)
        direct_s = None if came is None else max(0.0, (came - began).total_seconds())
        second = self.at_a.connect(port, 40.0)
        right = self.echoed(second, PAYLOAD_BYTES) and right
        right = self.echoed(first, PAYLOAD_BYTES) and right
        _, code, reason = self.path()
        for sock in (first, second):
            sock.close()
        return Outcome(first_byte_s, first_path, direct_s, code, reason, right)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
