"""mDNS on a real segment: p2pfwd, Kubo, js-libp2p find each other; storms, one port, a machine that moves."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.core.keys import KeyType
from p2pfwd.rpc.client import Client
from p2pfwd.system.interfaces import Interface, walk
from p2pfwd.system.multicast import usable
from p2pfwd.wire import dns_message, mdns
from tests.interop.peers import process
from tests.interop.peers.fetch import PeerMissing
from tests.interop.peers.process import Peer
from tests.netns.lab import Segment
from tests.netns.two_machines import Machine, Unavailable
from tests.support import sockets
from tests.support.daemon import Daemon
from tests.support.fake_daemon import until
from tests.support.sockets import TcpServer

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

FOUND_S = 20.0
"""Finding takes a second; the rest is for a machine busy with other tests."""

FLOOD_S = 5.0
ON = {"P2PFWD_NETWORK": "lan"}

Place = Callable[[Machine], Daemon]
StartPeer = Callable[[str, Machine], Peer]


@pytest.fixture
def segment() -> Iterator[Segment]:
    """Three machines on a switch."""
    try:
        with Segment(3) as made:
            yield made
    except Unavailable as exc:
        pytest.skip(str(exc))


@pytest.fixture
def daemon(home: Path) -> Iterator[Place]:
    """`daemon(machine)`: one on it, in the network `lan`, with default addresses."""
    with ExitStack() as stack:
        homes = iter(range(100))

        def start(machine: Machine, **env: str) -> Daemon:
            place = home / str(next(homes))
            made = Daemon(place, swarm=(), env={**ON, **env}, within=machine.within)
            return stack.enter_context(made)

        yield start


@pytest.fixture
def foreign(home: Path) -> Iterator[StartPeer]:
    """`foreign("kubo", machine)`: that node on it, with mDNS. Skips where it is not installed."""
    with ExitStack() as stack:

        def start(kind: str, machine: Machine) -> Peer:
            directory = home / kind
            directory.mkdir()
            make = {"kubo": process.kubo, "js": process.js}[kind]
            try:
                peer = make(directory, KeyType.ED25519, segment=machine.address, within=machine.within)
            except PeerMissing as exc:
                pytest.skip(str(exc))
            return stack.enter_context(peer)

        yield start


def near(daemon: Daemon) -> dict[str, Any]:
    """What `swarm discover` shows, by peer ID."""
    return {peer["Peer"]: peer for peer in daemon.json("swarm", "discover")["Peers"]}


def hosts(peer: dict[str, Any]) -> set[str]:
    """The IP addresses in its addresses."""
    return {address.split("/")[2] for address in peer["Addresses"]}


# --- finding


def test_two_daemons_find_each_other(segment: Segment, daemon: Place) -> None:
    """Each lists the other with all it wants to know; its private addresses of both kinds, not loopback's."""
    left, right, _ = segment.machines
    a, b = daemon(left), daemon(right)
    for one, other, where in ((a, b, right), (b, a, left)):
        (found,) = near(one).values()
        assert found["Peer"] == other.peer_id
        assert hosts(found) == {where.address, f"fd78::{segment.machines.index(where) + 1}"}
        assert found["AgentVersion"].startswith("p2pfwd/")
        assert (found["Tunnels"], found["Source"], found["Reason"]) == (True, "mdns", None)


def test_a_forward_by_bare_id_needs_nothing_else(segment: Segment, daemon: Place) -> None:
    """Found by asking the segment: nobody has told an address, and there is no DHT server between them."""
    left, right, _ = segment.machines
    with left.call(lambda: TcpServer(sockets.echo)) as echo:
        a, b = daemon(left), daemon(right)
        a.ok("listen", "/x/echo", echo.address)
        said = b.ok("forward", "/x/echo", "0", a.peer_id)
        assert "The peer answers: direct" in said
        (listener,) = b.json("ls")["Listeners"]
        with right.connect(int(listener["ListenAddress"].rpartition("/")[2])) as conn:
            conn.sendall(b"hello")
            assert sockets.read_exactly(conn, 5) == b"hello"


def test_two_daemons_of_one_machine_find_each_other(segment: Segment, daemon: Place) -> None:
    """Port 5353 is shared; the second one's swarm port is another."""
    machine = segment.machines[0]
    a, b = daemon(machine), daemon(machine)
    assert near(a).keys() == {b.peer_id} and near(b).keys() == {a.peer_id}


def test_a_node_that_knows_nobody_is_let_into_the_dht_by_who_is_near(segment: Segment, daemon: Place) -> None:
    """Two daemons with no bootstrap peers, and no command that connects them."""
    a, b = daemon(segment.machines[0]), daemon(segment.machines[1])
    assert until(lambda: all(node.json("status")["Bootstrap"]["State"] == "joined" for node in (a, b)), 20)


def test_who_leaves_is_forgotten_and_who_moves_is_found_again(segment: Segment, daemon: Place) -> None:
    """A daemon that ends says so from each of its addresses, and another is the source by now. A machine
    with another address tells it as soon as it notices."""
    left, right, third = segment.machines
    third.run("ip", "-6", "address", "flush", "dev", "eth0", "scope", "link")
    a, b, c = daemon(left), daemon(right), daemon(third)
    assert near(a).keys() == {b.peer_id, c.peer_id}
    third.run("ip", "address", "add", "fe80::33/64", "dev", "eth0", "nodad")
    c.signal(signal.SIGTERM)
    c.wait()
    assert near(a).keys() == {b.peer_id}
    right.run("ip", "address", "add", "10.78.9.9/16", "dev", "eth0")
    near(b)  # it looks at its interfaces
    assert "10.78.9.9" in hosts(near(a)[b.peer_id])


@pytest.mark.parametrize("kind", ["kubo", "js"])
def test_a_foreign_node_is_found_and_finds_us(
    kind: str, segment: Segment, daemon: Place, foreign: StartPeer
) -> None:
    """Kubo connects to whom it finds, and takes tunnels; js-libp2p tells that it found us."""
    left, right, _ = segment.machines
    ours = daemon(left)
    with Client.connect(ours.home / "rpc.sock") as client:
        connections = client.subscribe(["peers"])
        peer = foreign(kind, right)
        if kind == "kubo":
            event = client.next_event(connections.id, FOUND_S)
            assert (event.data["action"], event.data["peer"]) == ("connected", str(peer.id))
            # Either may have dialed: a node that knows nobody of the DHT tries who is near.
            assert until(lambda: any(ours.peer_id in address for address in peer("peers")["peers"]))
        else:
            peer("discovered", peer=ours.peer_id)
            known = {entry["addr"] for entry in peer("protocols", peer=ours.peer_id)["addresses"]}
            assert f"/ip4/{left.address}/tcp/4011" in known
    found = near(ours)[str(peer.id)]
    assert hosts(found) == {right.address}
    assert found["AgentVersion"].startswith({"kubo": "kubo/0.22", "js": "js-libp2p/3."}[kind])
    assert found["Tunnels"] is (kind == "kubo")


def test_who_is_off_or_nowhere_says_so(segment: Segment, daemon: Place) -> None:
    """Switched off: not found, and not findable. On loopback alone: there is no network to look around in."""
    left, right, third = segment.machines
    on, off = daemon(left), daemon(right, P2PFWD_DISCOVERY_MDNS="off")
    alone = daemon(third, P2PFWD_SWARM_LISTEN="/ip4/127.0.0.1/tcp/0")
    for silent, reason in ((off, "is off"), (alone, "on no local network")):
        done = silent.cli("swarm", "discover")
        assert done.returncode == 4 and reason in done.stderr
    assert near(on) == {}


# --- what strangers can do


class Flood:
    """Questions without end on a machine's segment, and the answers that come of it."""

    def __init__(self, machine: Machine, group: str) -> None:
        self._sock, self._where = machine.call(lambda: self._open(machine, group))
        self.sent = 0
        self.answers: dict[str, int] = {}

    @staticmethod
    def _open(machine: Machine, group: str) -> tuple[socket.socket, tuple[Any, ...]]:
        index = socket.if_nametoindex("eth0")
        if ":" in group:
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            where: tuple[Any, ...] = (group, mdns.PORT, 0, index)
            join = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
            level, option = socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP
        else:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            where = (group, mdns.PORT)
            join = socket.inet_aton(group) + socket.inet_aton(machine.address)
            level, option = socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(where)
        sock.setsockopt(level, option, join)
        sock.setblocking(False)
        return sock, where

    def run(self, seconds: float) -> None:
        """Ask as fast as this thread can, for so long; then hear what is still under way."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                for _ in range(50):
                    self.sent += self._ask()
                self._hear()
            while selector.select(timeout=1.5):
                self._hear()

    def _ask(self) -> int:
        try:
            self._sock.sendto(mdns.query(self.sent % 65535 + 1), self._where)
        except BlockingIOError:
            return 0
        return 1

    def _hear(self) -> None:
        while True:
            try:
                data, sender = self._sock.recvfrom(mdns.MAX_RECEIVED_BYTES)
            except BlockingIOError:
                return
            message = dns_message.decode(data)
            if message is not None and message.is_response:
                self.answers[sender[0]] = self.answers.get(sender[0], 0) + 1

    def close(self) -> None:
        self._sock.close()


def cpu_s(pid: int) -> float:
    """CPU time of a process so far."""
    words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("group", [mdns.GROUP_IP4, mdns.GROUP_IP6])
def test_a_storm_of_questions_brings_an_answer_a_second(segment: Segment, daemon: Place, group: str) -> None:
    """Two responders, thousands of questions a second: one answer a second from each at the most; little of
    the CPU; the daemons are as they were, and are found when it is over."""
    left, right, third = segment.machines
    pair = daemon(left), daemon(right)
    assert near(pair[0]).keys() == {pair[1].peer_id}
    before = [(cpu_s(one.process.pid), one.rss_bytes()) for one in pair]
    flood = Flood(third, group)
    try:
        flood.run(FLOOD_S)
    finally:
        flood.close()
    assert flood.sent > 2000
    assert len(flood.answers) == 2, "both answer"
    assert max(flood.answers.values()) <= FLOOD_S + 3
    for one, (cpu, rss) in zip(pair, before, strict=True):
        assert cpu_s(one.process.pid) - cpu < FLOOD_S * 0.4
        assert one.rss_bytes() - rss < 2_000_000
    assert near(pair[0]).keys() == {pair[1].peer_id}


def test_which_interfaces_are_used(segment: Segment) -> None:
    """One that is up and takes multicast; not loopback, not one that is down or takes none."""
    machine = segment.machines[0]
    kinds = (("mute0", "multicast off up"), ("dead0", "down"), ("good0", "up"))
    for number, (name, settings) in enumerate(kinds):
        machine.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"end{number}")
        machine.run("ip", "address", "add", f"10.9.{number}.1/24", "dev", name)
        machine.run("ip", "link", "set", name, *settings.split())
    found = {interface.name: interface for interface in machine.call(lambda: usable(walk()))}
    assert sorted(found) == ["eth0", "good0"]
    assert {machine.address, "fd78::1"} < found["eth0"].hosts
    assert found["good0"].has(4) and not Interface("x", 1, frozenset({"10.0.0.1"})).has(6)
