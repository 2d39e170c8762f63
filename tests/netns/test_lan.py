"""Two daemons on two machines of a LAN, with default settings but for nothing: what loopback cannot show.

The pasted line has addresses that the other machine reaches; a peer that vanishes without a word is found
out, its tunnels fail as failures, and the forward works again when it is back.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.netns.two_machines import TwoMachines, Unavailable
from tests.support import sockets
from tests.support.daemon import Daemon
from tests.support.sockets import TcpServer

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

BACK_S = 5.0
FOUND_OUT_S = 45.0
"""How long a dead peer may go unnoticed, on a connection with nothing to say."""


@dataclass(frozen=True, slots=True)
class Lan:
    """The wire, a daemon at each end, and a local port on the right that leads to an echo on the left."""

    wire: TwoMachines
    left: Daemon
    right: Daemon
    port: int

    def echoes(self, data: bytes) -> bool:
        """Whether a new connection through the tunnel answers."""
        try:
            with self.wire.right.connect(self.port) as conn:
                conn.sendall(data)
                return sockets.read_exactly(conn, len(data)) == data
        except (ConnectionError, EOFError):
            return False


@pytest.fixture
def lan(home: Path) -> Iterator[Lan]:
    """Two machines, tunnelled by the line that `listen` prints: nothing else tells one of the other."""
    env = {"P2PFWD_DISCOVERY_MDNS": "off"}
    try:
        wire = TwoMachines()
    except Unavailable as exc:
        pytest.skip(str(exc))
    with (
        wire,
        wire.left.call(lambda: TcpServer(sockets.echo)) as echo,
        Daemon(home / "left", swarm=(), env=env, within=wire.left.within) as left,
        Daemon(home / "right", swarm=(), env=env, within=wire.right.within) as right,
    ):
        said = left.ok("listen", "/x/echo", echo.address)
        (line,) = [line for line in said.splitlines() if line.strip().startswith("p2pfwd forward")]
        program, *words = shlex.split(line)
        assert program == "p2pfwd"
        assert "The peer answers: direct" in right.ok(*words)
        (listener,) = right.json("ls")["Listeners"]
        yield Lan(wire, left, right, int(listener["ListenAddress"].rpartition("/")[2]))


def test_the_printed_line_works_on_the_other_machine(lan: Lan) -> None:
    """Pasted as printed, it reaches across, at the machine's own address and not at loopback's."""
    assert lan.echoes(b"hello")
    (peer,) = lan.right.json("swarm", "peers")["Peers"]
    assert peer["Addr"].startswith(f"/ip4/{lan.wire.left.address}/tcp/4011")


def test_a_peer_that_vanishes_is_found_out_and_comes_back(lan: Lan) -> None:
    """Idle or not, a live connection is reset within 45 s; `ls` says why; what is begun then waits."""
    with lan.wire.right.connect(lan.port, timeout_s=FOUND_OUT_S) as conn:
        conn.sendall(b"?")
        assert sockets.read_exactly(conn, 1) == b"?"
        lan.wire.cut()
        started = time.monotonic()
        with pytest.raises(ConnectionResetError):
            conn.recv(1)
        assert time.monotonic() - started < FOUND_OUT_S
    (listener,) = lan.right.json("ls")["Listeners"]
    assert listener["State"] == "peer-unreachable"
    assert listener["Reason"]

    with lan.wire.right.connect(lan.port) as conn:
        conn.sendall(b"back")
        time.sleep(2)
        lan.wire.heal()
        healed = time.monotonic()
        assert sockets.read_exactly(conn, 4) == b"back"
        assert time.monotonic() - healed < BACK_S
    (listener,) = lan.right.json("ls")["Listeners"]
    assert listener["State"] == "ready"


def test_a_short_cut_ends_nothing(lan: Lan) -> None:
    """A few seconds without a wire: the connection goes on, and loses no byte."""
    with lan.wire.right.connect(lan.port) as conn:
        conn.sendall(b"before")
        assert sockets.read_exactly(conn, 6) == b"before"
        lan.wire.cut()
        conn.sendall(b"during")
        time.sleep(3)
        lan.wire.heal()
        assert sockets.read_exactly(conn, 6) == b"during"
