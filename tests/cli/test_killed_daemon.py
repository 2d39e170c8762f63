"""A daemon killed outright under live tunnels: no application may take that for an end of the data.

The system closes a killed daemon's sockets; that alone would be a FIN, which looks like a whole answer.
"""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.in_process import QuickDaemon
from tests.support.sockets import TcpServer, connect, read_exactly

WAIT_S = 20.0


class Service:
    """Greets each client, then tells how its connection ended."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.end = ""

    def __call__(self, conn: socket.socket) -> None:
        """Serve one client."""
        conn.sendall(b"hello")
        try:
            while conn.recv(100):
                pass
            self.end = "EOF"
        except ConnectionResetError:
            self.end = "RST"
        self.ended.set()


@pytest.fixture
def home() -> Iterator[Path]:
    """Homes with short paths."""
    with tempfile.TemporaryDirectory(prefix="p2pf-") as name:
        yield Path(name)


@pytest.mark.parametrize("victim", ["server", "client"])
def test_a_killed_daemon_is_a_reset_to_the_applications_at_both_ends(home: Path, victim: str) -> None:
    service = Service()
    with (
        TcpServer(service) as target,
        QuickDaemon(home / "server") as server,
        QuickDaemon(home / "client") as client,
    ):
        server.ok("listen", "/x/t", str(target.port))
        made = client.json("forward", "/x/t", "0", server.address)
        port = int(made["Listener"]["ListenAddress"].rpartition("/")[2])
        with connect(port) as conn:
            assert read_exactly(conn, 5) == b"hello"
            killed = {"server": server, "client": client}[victim].process
            killed.kill()
            with pytest.raises(ConnectionResetError):
                conn.recv(1)
            assert service.ended.wait(WAIT_S)
            assert service.end == "RST"


def test_a_connection_still_waiting_for_its_stream_is_reset_when_the_daemon_is_killed(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, QuickDaemon(home / "client") as client:
        peer = "12D3KooWNBSMhmHonfyQbXYczUq24ujJKQxhpNNgSaLxvupFZ5uu"
        address = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}/p2p/{peer}"
        made = client.json("forward", "/x/t", "0", address, "--no-check")
        with connect(int(made["Listener"]["ListenAddress"].rpartition("/")[2])) as conn:
            dialed, _ = silent.accept()  # the daemon dials for our connection: it has accepted it
            with dialed:
                client.process.kill()
                with pytest.raises(ConnectionResetError):
                    conn.recv(1)
