"""AutoNAT on a segment with public addresses: who is reachable finds out, announces it and serves the DHT.

A node that is not reachable is one that listens at a private address only and is seen at a public one; a
router that forwards its port is a relay at the public one.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from p2pfwd.core.keys import KeyType
from tests.interop.peers import process
from tests.interop.peers.fetch import PeerMissing
from tests.interop.peers.process import Peer
from tests.netns.lab import Segment
from tests.netns.two_machines import Machine, Unavailable
from tests.support.daemon import Daemon

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

KNOWN_S = 60.0
"""A p2pfwd asks at once; a Kubo a quarter of a minute after its start."""

PORT = 4011
WAN = "/ipfs/kad/1.0.0"

Place = Callable[[Machine, str], Daemon]


@pytest.fixture
def segment() -> Iterator[Segment]:
    """Three machines with public addresses, as libp2p sees it; each has a private one too."""
    try:
        with Segment(3, "11.78") as made:
            for number, machine in enumerate(made.machines, 1):
                machine.run("ip", "address", "add", f"10.79.0.{number}/24", "dev", "eth0")
            yield made
    except Unavailable as exc:
        pytest.skip(str(exc))


@pytest.fixture
def daemon(home: Path) -> Iterator[Place]:
    """`daemon(machine, address)`: one that listens there, in the network `public`, without mDNS."""
    with ExitStack() as stack:
        homes = iter(range(100))

        def start(machine: Machine, address: str) -> Daemon:
            env = {
                "P2PFWD_NETWORK": "public",
                "P2PFWD_DISCOVERY_MDNS": "off",
                "P2PFWD_BOOTSTRAP_PEERS": "",
            }
            place = home / str(next(homes))
            where = f"/ip4/{address}/tcp/{PORT}"
            return stack.enter_context(Daemon(place, swarm=(where,), env=env, within=machine.within))

        yield start


def dials(daemon: Daemon, other: str) -> None:
    daemon.ok("swarm", "connect", other)


def becomes(daemon: Daemon, reachability: str) -> None:
    """Wait until the daemon knows; no event tells a command line that it does."""
    deadline = time.monotonic() + KNOWN_S
    while (known := daemon.json("status")["Reachability"]) != reachability:
        assert time.monotonic() < deadline, known
        time.sleep(0.1)


def serves(daemon: Daemon) -> bool:
    return WAN in daemon.json("id")["Protocols"]


def addresses(daemon: Daemon) -> set[str]:
    return {address.partition("/p2p/")[0] for address in daemon.json("status")["Addresses"]}


def test_a_reachable_node_finds_out_and_says_so(segment: Segment, daemon: Place) -> None:
    """Two nodes with public addresses; each has the other's word."""
    left, right, _ = segment.machines
    a, b = daemon(left, left.address), daemon(right, right.address)
    assert a.json("status")["Reachability"] == "unknown"
    dials(b, a.address)
    for one in (a, b):
        becomes(one, "public")
        assert serves(one)
    assert "by everybody" in a.ok("status")


def test_a_node_nobody_can_dial_back_is_a_client_of_the_dht(segment: Segment, daemon: Place) -> None:
    """It is seen at a public address, where nothing listens."""
    left, right, _ = segment.machines
    a = daemon(left, left.address)
    b = daemon(right, "10.79.0.2")
    dials(b, a.address)
    becomes(b, "private")
    assert not serves(b)
    assert addresses(b) == {f"/ip4/10.79.0.2/tcp/{PORT}"}


def test_a_forwarded_port_is_found_out_announced_and_used(segment: Segment, daemon: Place) -> None:
    """Behind a router that forwards its port, a node is found by its ID alone, at the router's address."""
    left, right, third = segment.machines
    server = daemon(left, left.address)
    hidden = daemon(right, "10.79.0.2")
    seeker = daemon(third, third.address)
    with router(right, "10.79.0.2"):
        dials(hidden, server.address)
        becomes(hidden, "public")
        assert addresses(hidden) == {f"/ip4/10.79.0.2/tcp/{PORT}", f"/ip4/{right.address}/tcp/{PORT}"}
        assert serves(hidden)
        dials(seeker, server.address)
        found = seeker.cli("ping", "-n", "1", hidden.peer_id)
        assert found.returncode == 0, found.stderr
        assert f"/ip4/{right.address}/tcp/{PORT}" in found.stdout


def test_with_a_kubo_as_the_server(segment: Segment, daemon: Place, home: Path) -> None:
    """Kubo dials back, and its verdict counts; a node that is not reachable is told so."""
    left, right, third = segment.machines
    with kubo(home, left, "--public", "--autonat") as server:
        reachable, hidden = daemon(right, right.address), daemon(third, "10.79.0.3")
        for one in (reachable, hidden):
            dials(one, server.addrs[0])
        becomes(reachable, "public")
        becomes(hidden, "private")
        assert serves(reachable) and not serves(hidden)


def test_with_a_kubo_as_the_client(segment: Segment, daemon: Place, home: Path) -> None:
    """p2pfwd dials it back, so Kubo finds out that it is reachable, and turns DHT server: an entry here."""
    left, right, third = segment.machines
    asked, voucher = daemon(right, right.address), daemon(third, third.address)
    dials(voucher, asked.address)
    becomes(asked, "public")
    with kubo(home, left) as client:
        dials(asked, client.addrs[0])
        deadline = time.monotonic() + KNOWN_S
        while str(client.id) not in asked.ok("dht", "stat", "--json"):
            assert time.monotonic() < deadline, asked.ok("dht", "stat")
            time.sleep(0.2)


def test_with_a_js_libp2p_as_the_server_of_v2(segment: Segment, daemon: Place, home: Path) -> None:
    """It speaks no v1: what it says of an address is believed, and of one where nothing listens, too."""
    left, right, third = segment.machines
    with js(home, left) as server:
        reachable, hidden = daemon(right, right.address), daemon(third, "10.79.0.3")
        for one in (reachable, hidden):
            dials(one, server.addrs[0])
        becomes(reachable, "public")
        becomes(hidden, "private")
        (proved,) = [own for own in reachable.json("status")["Announced"] if own["Kind"] == "proved"]
        assert proved["By"] == [str(server.id)]


def test_with_a_js_libp2p_as_the_client_of_v2(segment: Segment, daemon: Place, home: Path) -> None:
    """p2pfwd dials its own address back, and it takes that for proved."""
    left, right, third = segment.machines
    asked, voucher = daemon(right, right.address), daemon(third, third.address)
    dials(voucher, asked.address)
    becomes(asked, "public")
    with js(home, left) as client:
        client("connect", addr=asked.address)
        deadline = time.monotonic() + KNOWN_S
        while not client("verified")["addrs"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def js(home: Path, machine: Machine) -> Peer:
    directory = home / "js"
    directory.mkdir()
    try:
        return process.js(
            directory,
            KeyType.ED25519,
            segment=machine.address,
            within=machine.within,
            options=("--autonat",),
        )
    except PeerMissing as exc:
        pytest.skip(str(exc))


def kubo(home: Path, machine: Machine, *options: str) -> Peer:
    directory = home / "kubo"
    directory.mkdir()
    try:
        return process.kubo(
            directory,
            KeyType.ED25519,
            segment=machine.address,
            within=machine.within,
            options=options,
        )
    except PeerMissing as exc:
        pytest.skip(str(exc))


class router:
    """What comes to `PORT` at a machine's public address goes to that of its private one."""

    def __init__(self, machine: Machine, inside: str) -> None:
        self._inside = inside
        self._machine = machine
        self._listener = machine.call(lambda: socket.create_server((machine.address, PORT)))
        self._socks: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> None:
        self._threads[0].start()

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for sock in self._socks:
            with closing(sock):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # it has ended
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                outer, _ = self._listener.accept()
            except OSError:
                return
            inner = self._machine.call(lambda: socket.create_connection((self._inside, PORT)))
            self._socks += [outer, inner]
            for source, sink in ((outer, inner), (inner, outer)):
                self._threads.append(threading.Thread(target=copy, args=(source, sink)))
                self._threads[-1].start()


def copy(source: socket.socket, sink: socket.socket) -> None:
    """Until the end of `source`."""
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return
