"""The product against a real Kubo: daemons and commands as a person runs them, default settings.

Everything goes through `p2pfwd` processes: the forward and listen lines, what `ls` and `swarm peers` say
of a Kubo, `-r`, the failures' words, and 100 MB each way with checksums, with both key types.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pfwd.core.keys import KeyType, PrivateKey
from tests.interop.conftest import Start
from tests.interop.peers import process
from tests.interop.peers.process import Peer
from tests.support import sockets
from tests.support.daemon import Daemon, run_cli
from tests.support.sockets import Payload, Received, TcpServer

BULK = Payload(100_000_000)
KEY_TYPES = [KeyType.ED25519, KeyType.RSA]


@pytest.fixture(params=KEY_TYPES, ids=["ed25519", "rsa"])
def key_type(request: pytest.FixtureRequest) -> KeyType:
    """The key type of both ends."""
    key_type: KeyType = request.param
    return key_type


@pytest.fixture
def kubo(peer: Start, key_type: KeyType) -> Peer:
    """A real Kubo."""
    return peer("kubo", key_type)


@pytest.fixture
def daemon(kubo: Peer, key_type: KeyType, home: Path) -> Iterator[Daemon]:
    """A daemon, its identity imported in Kubo's form."""
    encoded = base64.b64encode(PrivateKey.generate(key_type).to_protobuf()).decode()
    imported = run_cli(home, "key", "import", "-", input=encoded)
    assert imported.returncode == 0, imported.stderr
    with Daemon(home) as running:
        yield running


def forward(daemon: Daemon, protocol: str, peer: Peer) -> int:
    """`p2pfwd forward` to a peer's address; the local port."""
    daemon.ok("forward", protocol, "127.0.0.1:0", peer.addrs[0])
    (listener,) = [each for each in daemon.json("ls")["Listeners"] if each["Protocol"] == protocol]
    return int(listener["ListenAddress"].rpartition("/")[2])


def test_forward_to_kubo(daemon: Daemon, kubo: Peer, key_type: KeyType) -> None:
    """`p2pfwd forward` reaches `ipfs p2p listen`; 100 MB each way; what the commands show of it."""
    names = {name: f"/x/product/{name}/{key_type.name}" for name in ("echo", "down", "up")}
    with (
        TcpServer(sockets.echo) as echo,
        TcpServer(sockets.send_payload(BULK, wait=True)) as down,
        TcpServer(sockets.receive_payload(BULK.size)) as up,
    ):
        for name, target in (("echo", echo), ("down", down), ("up", up)):
            kubo("listen", proto=names[name], target=target.address)
        said = daemon.ok("forward", names["echo"], "127.0.0.1:0", kubo.addrs[0])
        assert "The peer answers: direct" in said
        assert ("this try was a connection at its service" in said) == (echo.accepted == 1)
        (listener,) = daemon.json("ls")["Listeners"]
        assert (listener["TargetAddress"], listener["State"]) == (f"/p2p/{kubo.id}", "ready")
        assert sockets.echoes(int(listener["ListenAddress"].rpartition("/")[2]), Payload(300_000))

        received = sockets.download(forward(daemon, names["down"], kubo), BULK.size)
        assert received == Received(BULK.size, BULK.digest(), clean=True)
        assert sockets.upload(forward(daemon, names["up"], kubo), BULK) == BULK.digest()

    (connection,) = daemon.json("swarm", "peers")["Peers"]
    assert (connection["Peer"], connection["AgentVersion"]) == (str(kubo.id), "kubo/0.22.0/")
    assert f"{daemon.peer_id}" in str(kubo("peers"))
    assert "3 of 3 answered" in daemon.ok("ping", "-n", "3", str(kubo.id))
    assert daemon.ok("close", "--all") == "Closed 3 forwards.\n"


def test_listen_for_kubo(daemon: Daemon, kubo: Peer, key_type: KeyType) -> None:
    """`ipfs p2p forward` reaches `p2pfwd listen`; 100 MB each way; a closed listen is refused."""
    kubo("connect", addr=daemon.address)
    ports = {}
    with (
        TcpServer(sockets.echo) as echo,
        TcpServer(sockets.send_payload(BULK)) as down,
        TcpServer(sockets.receive_payload(BULK.size)) as up,
    ):
        for name, target in (("echo", echo), ("down", down), ("up", up)):
            protocol, ports[name] = f"/x/offered/{name}/{key_type.name}", sockets.free_port()
            daemon.ok("listen", protocol, target.address)
            where = f"/ip4/127.0.0.1/tcp/{ports[name]}"
            kubo("forward", proto=protocol, listen=where, peer=daemon.peer_id)
        assert sockets.echoes(ports["echo"], Payload(300_000))
        assert sockets.download(ports["down"]) == Received(BULK.size, BULK.digest(), clean=True)
        assert sockets.upload(ports["up"], BULK) == BULK.digest()

        with sockets.connect(ports["echo"]) as conn:
            conn.sendall(b"?")
            assert sockets.read_exactly(conn, 1) == b"?"
            (stream,) = daemon.json("stream", "ls")["Streams"]
            assert (stream["OriginAddress"], stream["TargetAddress"]) == (f"/p2p/{kubo.id}", echo.address)
            daemon.ok("stream", "close", stream["HandlerID"])
            assert conn.recv(1) == b""  # Kubo makes a clean end of every reset

        assert daemon.ok("close", "--protocol", f"/x/offered/echo/{key_type.name}") == "Closed 1 listen.\n"
        with sockets.connect(ports["echo"]) as conn:
            assert conn.recv(1) == b""


def test_report_peer_id_to_the_target(daemon: Daemon, kubo: Peer, key_type: KeyType) -> None:
    """`p2pfwd listen -r`: the target reads Kubo's base58 peer ID and a newline, then the data."""
    expected = f"{kubo.id}\n".encode() + b"hello"
    kubo("connect", addr=daemon.address)
    with TcpServer(lambda conn: conn.sendall(sockets.read_exactly(conn, len(expected)))) as target:
        protocol, port = f"/x/report/product/{key_type.name}", sockets.free_port()
        daemon.ok("listen", "--report-peer-id", protocol, target.address)
        kubo("forward", proto=protocol, listen=f"/ip4/127.0.0.1/tcp/{port}", peer=daemon.peer_id)
        with sockets.connect(port) as conn:
            conn.sendall(b"hello")
            assert sockets.read_exactly(conn, len(expected)) == expected


def test_a_name_kubo_does_not_serve(daemon: Daemon, kubo: Peer) -> None:
    """`forward` says so at once, `ls` keeps saying it, and a local client is reset."""
    done = daemon.cli("forward", "/x/nobody", "127.0.0.1:0", kubo.addrs[0])
    assert "/x/nobody" in done.stderr + done.stdout
    (listener,) = daemon.json("ls")["Listeners"]
    assert listener["State"] == "protocol-not-supported"
    port = int(listener["ListenAddress"].rpartition("/")[2])
    with pytest.raises(ConnectionResetError), sockets.connect(port) as conn:
        conn.sendall(b"hello")
        conn.recv(1)


def test_a_kubo_that_goes_and_comes_back(peer: Start, home: Path, tmp_path: Path) -> None:
    """While it is gone a client is reset and `ls` says unreachable; when it is back the forward works."""
    peer("kubo", KeyType.RSA)  # skips where there is none
    address = sockets.free_port()
    with Daemon(home) as daemon, TcpServer(sockets.echo) as echo:
        with process.kubo(tmp_path, KeyType.RSA, address) as kubo:
            kubo("listen", proto="/x/back", target=echo.address)
            port = forward(daemon, "/x/back", kubo)
            assert sockets.echoes(port, Payload(1000))
        with pytest.raises(ConnectionResetError), sockets.connect(port) as conn:
            conn.sendall(b"hello")
            conn.recv(1)
        (listener,) = daemon.json("ls")["Listeners"]
        assert listener["State"] == "peer-unreachable"
        with process.kubo(tmp_path, KeyType.RSA, address) as kubo:
            kubo("listen", proto="/x/back", target=echo.address)
            assert eventually(lambda: sockets.echoes(port, Payload(1000)), within_s=5)


def eventually(succeeds: Callable[[], bool], within_s: float) -> bool:
    """Try again until it succeeds, or the time is over; a connection's reset is a failed try."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if succeeds():
                return True
        except ConnectionResetError:
            pass
        time.sleep(0.2)
    return False
