"""A peer is found by its ID alone, through real daemons; `dht findpeer`, `query` and `stat` on the way."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.peer_id import PeerId
from tests.support.daemon import Daemon
from tests.support.fake_daemon import until
from tests.support.fake_dns import FakeDns
from tests.support.sockets import TcpServer, connect, read_exactly

Three = tuple[Daemon, Daemon, Daemon]


@pytest.fixture(scope="module")
def three() -> Iterator[Three]:
    """A node that the two others know, and they do not know each other."""
    with ExitStack() as stack:
        daemons = []
        for _ in range(3):
            home = Path(tempfile.mkdtemp(prefix="p2pf-"))
            stack.callback(shutil.rmtree, home)
            daemons.append(stack.enter_context(Daemon(home)))
        hub, near, far = daemons
        for daemon in (near, far):
            daemon.ok("swarm", "connect", hub.address)
        assert until(lambda: all(table_size(daemon) for daemon in daemons), 20)
        yield hub, near, far


def table_size(daemon: Daemon) -> int:
    (table,) = daemon.json("dht", "stat")["Tables"]
    return int(table["Peers"])


def echo(conn: object) -> None:
    while data := conn.recv(65536):  # type: ignore[attr-defined]
        conn.sendall(data)  # type: ignore[attr-defined]


def test_bootstrap_peers_by_a_name_that_is_resolved_later(home: Path) -> None:
    """A `/dnsaddr/host` without a peer ID: the daemon starts at once, says so once, and goes on trying."""
    with FakeDns() as dns, Daemon(home / "hub") as hub:
        env = {
            "P2PFWD_BOOTSTRAP_PEERS": "/dnsaddr/boot.example",
            "P2PFWD_SWARM_DNS_SERVERS": dns.address,
        }
        with Daemon(home / "near", env=env) as near:
            assert until(lambda: len(dns.asked) >= 2, 20)
            assert near.json("peer", "ls", "-a")["Peers"] == []
            dns.texts["_dnsaddr.boot.example."] = [f"dnsaddr={hub.address}"]
            assert until(lambda: hub.peer_id in near.ok("swarm", "peers"), 20)
            (kept,) = near.json("peer", "ls", "-a")["Peers"]
            assert (kept["Peer"], kept["Kept"]) == (hub.peer_id, "bootstrap")


def nobody() -> str:
    return str(PeerId.from_public_key(PrivateKey.generate().public_key))


def test_a_forward_by_id_alone_carries_data_and_says_how_the_peer_was_found(three: Three) -> None:
    _, near, far = three
    with TcpServer(echo) as server:
        far.ok("listen", "/x/echo", server.address)
        done = near.cli("forward", "/x/echo", "127.0.0.1:0", far.peer_id)
        assert done.returncode == 0
        known = far.peer_id in near.ok("swarm", "peers")
        assert known
        assert "The peer answers: direct" in done.stdout
        local = re.search(r"Forwarding 127\.0\.0\.1:(\d+)", done.stdout)
        assert local is not None
        with connect(int(local[1])) as conn:
            conn.sendall(b"found")
            assert read_exactly(conn, 5) == b"found"


def test_findpeer_query_and_stat(three: Three) -> None:
    hub, near, far = three
    found = near.json("dht", "findpeer", far.peer_id)
    assert found["Addresses"] == far.addresses
    assert found["Protocol"] == "/ipfs/lan/kad/1.0.0"
    assert near.ok("dht", "findpeer", far.peer_id).split() == far.addresses
    assert hub.peer_id in near.ok("dht", "query", far.peer_id).split()
    (table,) = near.json("dht", "stat")["Tables"]
    assert (table["Mode"], table["Scope"]) == ("server", "lan")
    assert hub.peer_id in [peer for bucket in table["Buckets"] for peer in bucket["Peers"]]


def test_who_is_not_there_is_not_found_and_says_how_many_were_asked(three: Three) -> None:
    _, near, _ = three
    missing = nobody()
    done = near.cli("dht", "findpeer", missing)
    assert (done.returncode, done.stdout) == (4, "")
    assert re.search(rf"Error: {missing} was not found: \d peers were asked", done.stderr)
    ping = near.cli("ping", missing)
    assert ping.returncode == 4
    assert "Looking up " in ping.stderr
    assert "asking the DHT of the LAN" in ping.stderr
    assert "was not found" in ping.stderr


def test_a_node_that_knows_nobody_says_so(home: Path) -> None:
    with Daemon(home / "alone") as alone:
        done = alone.cli("dht", "findpeer", nobody())
    assert done.returncode == 4
    assert "the DHT has nobody to ask yet" in done.stderr
    assert "hint:" in done.stderr
