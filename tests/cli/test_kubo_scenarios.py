"""Kubo's own acceptance scenarios, A01-A28 (sharness t0180-p2p.sh), B01-B10 (test/cli/p2p_test.go), as ours.

Through the command line, against two real daemons on loopback. Where Kubo's behaviour is a fault we mend, the
test says so: a failed tunnel is a reset and never a clean end (A08), counts name what they count, an unknown
stream ID is an error.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support.daemon import Daemon, Program, run_cli
from tests.support.fake_daemon import until
from tests.support.fake_dns import FakeDns
from tests.support.in_process import QuickDaemon
from tests.support.sockets import (
    TcpServer,
    connect,
    echo,
    free_port,
    read_exactly,
    read_to_end,
    reply_at_end,
)

ENDED_S = 5.0
"""Kubo's tests give a command 5 s to end after it was told to."""

HOST = "service.example.org"


@dataclass
class Net:
    """`server` and `client` are connected; `dns` is the client's only name server."""

    server: Daemon
    client: Daemon
    dns: FakeDns

    def listeners(self) -> list[str]:
        """`ls` of both daemons."""
        return self.server.ok("ls").splitlines() + self.client.ok("ls").splitlines()

    def forward(self, protocol: str, *options: str) -> int:
        """Forward a free port of the client to the server; the port."""
        made = self.client.json("forward", protocol, "0", f"/p2p/{self.server.peer_id}", *options)
        return int(made["Listener"]["ListenAddress"].rpartition("/")[2])


@pytest.fixture(scope="module")
def daemons() -> Iterator[Net]:
    """Two daemons for the whole module: starting them is most of the time."""
    base = Path(tempfile.mkdtemp(prefix="p2pf-"))
    try:
        with (
            FakeDns() as dns,
            QuickDaemon(base / "0") as server,
            QuickDaemon(base / "1", env={"P2PFWD_SWARM_DNS_SERVERS": dns.address}) as client,
        ):
            client.ok("swarm", "connect", server.address)
            yield Net(server, client, dns)
    finally:
        shutil.rmtree(base)


@pytest.fixture
def net(daemons: Net) -> Iterator[Net]:
    """The two daemons, with nothing in them before and after."""
    yield daemons
    for daemon in (daemons.server, daemons.client):
        daemon.ok("close", "-a")
        daemon.ok("stream", "close", "-a")
    assert daemons.listeners() == []


@pytest.fixture
def target() -> Iterator[TcpServer]:
    """An echo service."""
    with TcpServer(echo) as server:
        yield server


def echoed(port: int, data: bytes = b"over there and back") -> bytes:
    with connect(port) as conn:
        conn.sendall(data)
        return read_exactly(conn, len(data))


def closed(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


def full(address: int | str) -> str:
    return f"/ip4/127.0.0.1/tcp/{address}"


# --- A: sharness ----------------------------------------------------------------------------------


def test_a01_without_a_daemon_stream_ls_fails(home: Path) -> None:
    # Kubo's gate is a setting that is off by default; ours is that a daemon runs.
    result = run_cli(home, "stream", "ls")
    assert (result.returncode, result.stdout) == (3, "")


def test_a02_a14_listen_and_its_line_in_ls(net: Net, target: TcpServer) -> None:
    net.server.ok("listen", "/x/a14", target.address)
    assert net.server.ok("ls") == f"/x/a14 /p2p/{net.server.peer_id} {target.address}\n"


def test_a03_a15_a_protocol_is_listened_for_once(net: Net, target: TcpServer) -> None:
    net.server.ok("listen", "/x/a03", target.address)
    # Unlike Kubo, which takes the same again for a failure.
    assert net.server.ok("listen", "/x/a03", target.address).startswith("Sharing already: /x/a03 -> ")
    result = net.server.cli("listen", "/x/a03", full(free_port()))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: listener already registered")
    assert len(net.server.ok("ls").splitlines()) == 1


def test_a04_a_sending_server_is_heard_to_its_end(net: Net) -> None:
    def send(conn: socket.socket) -> None:
        conn.sendall(b"from the server")

    with TcpServer(send) as server:
        net.server.ok("listen", "/x/a04", server.address)
        with connect(net.forward("/x/a04")) as conn:
            assert read_to_end(conn) == b"from the server"
        assert server.idle(ENDED_S)


def test_a05_forward_to_a_dnsaddr_with_an_id(net: Net, target: TcpServer) -> None:
    net.server.ok("listen", "/x/a05", target.address)
    port = free_port()
    net.client.ok("forward", "/x/a05", full(port), f"/dnsaddr/nowhere.example.org/p2p/{net.server.peer_id}")
    assert echoed(port) == b"over there and back"


def test_a06_forward_to_a_dnsaddr_that_names_one_peer(net: Net, target: TcpServer) -> None:
    net.dns.texts[f"_dnsaddr.{HOST}."] = [f"dnsaddr={net.server.address}", "v=spf1 -all"]
    net.server.ok("listen", "/x/a06", target.address)
    port = free_port()
    net.client.ok("forward", "/x/a06", full(port), f"/dnsaddr/{HOST}")
    assert echoed(port) == b"over there and back"
    assert net.client.ok("ls") == f"/x/a06 {full(port)} /p2p/{net.server.peer_id}\n"


def test_a06_a_dnsaddr_of_two_peers_or_none_is_refused(net: Net) -> None:
    other = "12D3KooWGjMCzjmzGgxx2Lu4HUpfSxRHUAAN4hN9ckgjFnKoTtB7"
    net.dns.texts[f"_dnsaddr.{HOST}."] = [
        f"dnsaddr={net.server.address}",
        f"dnsaddr=/ip4/127.0.0.1/tcp/1/p2p/{other}",
    ]
    result = net.client.cli("forward", "/x/a06", "0", f"/dnsaddr/{HOST}")
    assert result.returncode == 2
    assert result.stderr.startswith(f"Error: ambiguous multiaddr /dnsaddr/{HOST} could refer to ")
    result = net.client.cli("forward", "/x/a06", "0", "/dnsaddr/nobody.example.org")
    assert result.returncode == 4 and result.stderr.startswith(
        "Error: DNS: the name _dnsaddr.nobody.example.org does not exist"
    )


def test_a07_ls_shows_every_forward(net: Net) -> None:
    ports = [net.forward("/x/a07", "--no-check") for _ in range(3)]
    lines = [line.split() for line in net.client.ok("ls").splitlines()]
    # The order is stable: that of their making.
    assert lines == [["/x/a07", full(port), f"/p2p/{net.server.peer_id}"] for port in ports]


def test_a08_a09_a_server_that_is_gone_and_back(net: Net) -> None:
    port = free_port()
    net.server.ok("listen", "/x/a08", full(port))
    local = net.forward("/x/a08", "--no-check")
    # Kubo's application sees an empty reply that ends well; ours sees the failure, as early as in connect().
    with pytest.raises(ConnectionResetError), connect(local) as conn:
        conn.recv(1)
    with socket.create_server(("127.0.0.1", port)) as server, connect(local) as conn:
        far, _ = server.accept()
        with far:
            conn.sendall(b"again")
            assert read_exactly(far, 5) == b"again"


def test_a10_a28_close_by_protocol_closes_every_port(net: Net, target: TcpServer) -> None:
    net.server.ok("listen", "/x/a10", target.address)
    ports = [net.forward("/x/a10", "--no-check") for _ in range(3)]
    assert [echoed(port) for port in ports] == [b"over there and back"] * 3
    assert net.client.ok("close", "-p", "/x/a10").startswith("Closed 3 forwards.")
    assert all(closed(port) for port in ports)
    assert net.client.ok("ls") == ""


def test_a11_a_receiving_server_gets_every_byte_and_its_end(net: Net) -> None:
    got: list[bytes] = []
    with TcpServer(lambda conn: got.append(read_to_end(conn))) as server:
        net.server.ok("listen", "/x/a11", server.address)
        with connect(net.forward("/x/a11")) as conn:
            conn.sendall(b"to the server")
        assert until(lambda: b"to the server" in got, ENDED_S)


def test_a12_listen_refuses_port_0(net: Net) -> None:
    for target in ("/ip4/127.0.0.1/tcp/0", "127.0.0.1:0", "0"):
        result = net.server.cli("listen", "/x/a12", target)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.splitlines()[0] == "Error: port can not be 0"
    assert net.listeners() == []


def test_a13_forward_on_port_0_shows_the_real_one(net: Net, target: TcpServer) -> None:
    net.server.ok("listen", "/x/a13", target.address)
    said = net.client.ok("forward", "/x/a13", "/ip4/127.0.0.1/tcp/0", f"/p2p/{net.server.peer_id}")
    port = int(net.client.ok("ls").split()[1].rpartition("/")[2])
    assert port > 0 and f"127.0.0.1:{port}" in said
    assert echoed(port) == b"over there and back"
    assert net.client.ok("close", "-p", "/x/a13").startswith("Closed 1 forward.")
    assert closed(port)


def test_a16_no_streams(net: Net) -> None:
    assert net.server.ok("stream", "ls") == ""
    assert net.server.json("stream", "ls") == {"Streams": []}


def idle_stream(net: Net, name: str, target: TcpServer) -> tuple[socket.socket, str]:
    """An open connection that has carried a byte each way, and the ID of its stream at the server."""
    net.server.ok("listen", name, target.address)
    conn = connect(net.forward(name, "--no-check"))
    conn.sendall(b"x")
    read_exactly(conn, 1)
    return conn, net.server.ok("stream", "ls").split()[0]


def test_a17_stream_ls_is_exactly_kubos_line_and_ids_count_up(net: Net, target: TcpServer) -> None:
    conn, first = idle_stream(net, "/x/a17", target)
    with conn:
        line = f"{first} /x/a17 /p2p/{net.client.peer_id} {target.address}\n"
        assert net.server.ok("stream", "ls") == line
        port = net.client.ok("ls").split()[1].rpartition("/")[2]
        with connect(int(port)) as second:
            second.sendall(b"x")
            read_exactly(second, 1)
            lines = net.server.ok("stream", "ls").splitlines()
    assert [int(line.split()[0]) for line in lines] == [int(first), int(first) + 1]


def test_a18_stream_close_ends_both_programs(net: Net, target: TcpServer) -> None:
    conn, stream = idle_stream(net, "/x/a18", target)
    with conn:
        assert net.server.ok("stream", "close", stream) == "Closed 1 stream.\n"
        with pytest.raises(ConnectionResetError):
            conn.recv(1)
        assert target.idle(ENDED_S)
    for daemon in (net.server, net.client):
        assert until(lambda daemon=daemon: daemon.ok("stream", "ls") == "")  # type: ignore[misc]
    # Unlike Kubo, which says nothing.
    again = net.server.cli("stream", "close", stream)
    assert again.returncode == 4 and again.stderr.startswith(f"Error: no live stream has id {stream}\n")


def test_a19_close_by_protocol_on_each_side(net: Net, target: TcpServer) -> None:
    net.server.ok("listen", "/x/a19", target.address)
    port = net.forward("/x/a19", "--no-check")
    assert net.server.ok("close", "-p", "/x/a19") == "Closed 1 listen.\n"
    assert net.client.ok("close", "-p", "/x/a19") == "Closed 1 forward.\n"
    assert net.listeners() == [] and closed(port)


def test_a20_a_stream_outlives_its_listeners(net: Net, target: TcpServer) -> None:
    conn, _ = idle_stream(net, "/x/a20", target)
    with conn:
        assert net.server.ok("close", "-a").startswith("Closed 1 listen. 1 stream still live")
        assert net.client.ok("close", "--all").startswith("Closed 1 forward. 1 stream still live")
        assert net.listeners() == []
        conn.sendall(b"still here")
        assert read_exactly(conn, 10) == b"still here"
        assert net.server.ok("stream", "close", "-a") == "Closed 1 stream.\n"
        with pytest.raises(ConnectionResetError):
            conn.recv(1)


def test_a21_numeric_names(net: Net, target: TcpServer) -> None:
    net.server.ok("listen", "/x/1234", target.address)
    assert net.server.ok("close", "-p", "/x/1234") == "Closed 1 listen.\n"
    assert net.listeners() == []


def test_a22_close_by_target(net: Net, target: TcpServer) -> None:
    net.server.ok("listen", "/x/a22", target.address)
    assert net.server.ok("close", "-t", target.address) == "Closed 1 listen.\n"
    assert net.listeners() == []


def test_a23_close_by_listen_address_spares_the_target(net: Net) -> None:
    port = free_port()
    net.client.ok("listen", "/x/a23", full(port))
    net.client.ok("forward", "/x/a23", full(port), f"/p2p/{net.server.peer_id}", "--no-check")
    assert net.client.ok("close", "-l", f"127.0.0.1:{port}") == "Closed 1 forward.\n"
    assert net.client.ok("ls") == f"/x/a23 /p2p/{net.client.peer_id} {full(port)}\n"


def test_a24_a_listen_is_closed_by_its_own_peer_id(net: Net, target: TcpServer) -> None:
    net.server.ok("listen", "/x/a24", target.address)
    assert net.server.ok("close", "-l", f"/p2p/{net.server.peer_id}") == "Closed 1 listen.\n"
    assert net.listeners() == []


def test_a25_report_peer_id_comes_first(net: Net) -> None:
    got: list[bytes] = []
    with TcpServer(lambda conn: got.append(read_to_end(conn))) as server:
        net.server.ok("listen", "-r", "/x/a25", server.address)
        with connect(net.forward("/x/a25", "--no-check")) as conn:
            conn.sendall(b"then the data")
        assert until(lambda: bool(got))
    assert got == [f"{net.client.peer_id}\nthen the data".encode()]


def test_a26_the_name_rule_in_kubos_words(net: Net) -> None:
    said = "Error: protocol name must be within '/x/' namespace"
    for arguments in (
        ("listen", "/its/not/a/x/path", "80"),
        ("forward", "/its/not/a/x/path", "0", f"/p2p/{net.server.peer_id}"),
    ):
        result = net.client.cli(*arguments)
        assert (result.returncode, result.stdout) == (2, "")
        first, *rest = result.stderr.splitlines()
        assert first == said and len(rest) == 1 and rest[0].startswith("hint: ")


def test_a27_custom_protocols(net: Net, target: TcpServer) -> None:
    net.server.ok("listen", "--allow-custom-protocol", "/p2p-test", target.address)
    port = net.forward("/p2p-test", "--allow-custom-protocol")
    assert echoed(port) == b"over there and back"
    assert net.client.ok("close", "-p", "/p2p-test").startswith("Closed 1 forward.")
    assert net.server.ok("close", "-p", "/p2p-test").startswith("Closed 1 listen.")
    assert net.listeners() == []


# --- B: foreground --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["listen", "forward"])
def test_b01_to_b04_foreground_lasts_until_a_signal(
    net: Net, target: TcpServer, kind: str, number: signal.Signals
) -> None:
    words = {
        "listen": ("listen", "-f", "/x/b01", target.address),
        "forward": ("forward", "-f", "/x/b01", "0", f"/p2p/{net.server.peer_id}", "--no-check"),
    }[kind]
    with Program(net.client.home, words) as program:
        program.wait_for("waiting for interrupt")
        assert len(net.client.ok("ls").splitlines()) == 1
        program.signal(number)
        assert program.wait(ENDED_S) == 0
    assert net.client.ok("ls") == ""


def test_b05_listen_in_the_background_returns_and_stays(net: Net, target: TcpServer) -> None:
    net.server.ok("listen", "/x/b05", target.address)
    assert "/x/b05" in net.server.ok("ls")


@pytest.mark.parametrize(
    ("words", "close", "noun"),
    [
        (("listen", "-f", "/x/b06", "80"), ("close", "-p", "/x/b06"), "listener"),
        (("forward", "-f", "/x/b06", "0", "PEER", "--no-check"), ("close", "-a"), "forwarder"),
    ],
)
def test_b06_b07_a_close_from_elsewhere_ends_it(
    net: Net, words: tuple[str, ...], close: tuple[str, ...], noun: str
) -> None:
    arguments = [word.replace("PEER", net.server.peer_id) for word in words]
    with Program(net.client.home, arguments) as program:
        program.wait_for("waiting for interrupt")
        net.client.ok(*close)
        assert program.wait(ENDED_S) == 0
        assert program.lines[-1] == f"Received interrupt, removing {noun} for /x/b06"


@pytest.mark.parametrize("side", ["listen", "forward"])
def test_b08_b09_http_through_a_foreground_end(net: Net, side: str) -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"

    def serve(conn: socket.socket) -> None:
        conn.recv(4096)
        conn.sendall(reply)

    port = free_port()
    listen = ("listen", "/x/b08")
    forward = ("forward", "/x/b08", full(port), f"/p2p/{net.server.peer_id}", "--no-check")
    with TcpServer(serve) as server:
        if side == "listen":
            owner, words = net.server, (*listen, server.address, "-f")
            net.client.ok(*forward)
        else:
            owner, words = net.client, (*forward, "-f")
            net.server.ok(*listen, server.address)
        with Program(owner.home, words) as program:
            program.wait_for("waiting for interrupt")
            with connect(port) as conn:
                conn.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert read_to_end(conn) == reply
            program.signal(signal.SIGTERM)
            assert program.wait(ENDED_S) == 0
    assert owner.ok("ls") == ""


def test_b10_a_foreground_listen_ends_with_its_daemon(home: Path) -> None:
    with Daemon(home / "d") as daemon, Program(daemon.home, ["listen", "-f", "/x/b10", "80"]) as program:
        program.wait_for("waiting for interrupt")
        daemon.signal(signal.SIGTERM)
        assert program.wait(ENDED_S) == 3
        assert program.stderr.endswith("Error: the daemon stopped, and the listener with it\n")


def test_a_foreground_listen_that_is_killed_outright_is_gone(net: Net) -> None:
    with Program(net.server.home, ["listen", "-f", "/x/killed", "80"]) as program:
        program.wait_for("waiting for interrupt")
        program.signal(signal.SIGKILL)
        program.wait(ENDED_S)
        assert until(lambda: net.server.ok("ls") == "", ENDED_S)


# --- what Kubo does not have ----------------------------------------------------------------------


def test_half_close_through_the_whole_of_it(net: Net) -> None:
    with TcpServer(reply_at_end) as server:
        net.server.ok("listen", "/x/half", server.address)
        with connect(net.forward("/x/half")) as conn:
            conn.sendall(b"a question")
            conn.shutdown(socket.SHUT_WR)
            assert len(read_to_end(conn)) == 32


def test_ls_streams_json_counts_what_went_through(net: Net, target: TcpServer) -> None:
    conn, _ = idle_stream(net, "/x/count", target)
    with conn:
        conn.sendall(b"y" * 999)
        read_exactly(conn, 999)
        document = net.client.json("ls", "--streams")
    (listener,), (stream,) = document["Listeners"], document["Streams"]
    assert (listener["Streams"], listener["State"]) == (1, "ready")
    assert (stream["BytesIn"], stream["BytesOut"]) == (1000, 1000)
    assert stream["OriginAddress"].startswith("/ip4/127.0.0.1/tcp/")
    assert stream["TargetAddress"] == f"/p2p/{net.server.peer_id}"
    assert stream["Path"] == "direct" and stream["Direction"] == "outbound"


def test_a_unix_socket_on_both_ends(net: Net, home: Path) -> None:
    far, near = home / "far.sock", home / "near.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(far))
        server.listen()
        net.server.ok("listen", "/x/unix", f"/unix{far}")
        net.client.ok("forward", "/x/unix", f"/unix{near}", net.server.peer_id, "--no-check")
        with socket.socket(socket.AF_UNIX) as conn:
            conn.connect(str(near))
            conn.sendall(b"hello")
            # The listen's own look at its target was the first connection.
            for _ in range(2):
                peer, _ = server.accept()
                with peer:
                    peer.settimeout(ENDED_S)
                    got = peer.recv(5)
                if got:
                    break
            assert got == b"hello"
    net.client.ok("close", "-a")
    assert not near.exists()


def test_autostart(home: Path, run: Run) -> None:
    made = run_cli(home, "listen", "/x/auto", "80", "--json", env={
        "P2PFWD_AUTOSTART": "1", "P2PFWD_SWARM_LISTEN": "/ip4/127.0.0.1/tcp/0",
    })  # fmt: skip
    try:
        assert made.returncode == 0
        assert json.loads(made.stdout)["Listener"]["Protocol"] == "/x/auto"
        assert made.stderr.startswith(f"Started the p2pfwd daemon (log: {home / 'daemon.log'}).\n")
        assert f"Made a new identity: {home / 'identity.key'}\n" in made.stderr
        assert run("ls").out.startswith("/x/auto /p2p/12D3KooW")
    finally:
        stopped = run("shutdown")
    assert (stopped.status, stopped.out) == (0, "The daemon has stopped.\n")
    assert run("ls").status == 3
