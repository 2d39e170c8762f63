"""Local connections while the peer is away, on real sockets: they go through when it is back."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import Life
from tests.net.forwarding_rig import ANY_PORT, LOOPS, Node, Rig, local, port_of
from tests.support.fake_daemon import until
from tests.support.sockets import TcpServer, connect, echo, free_port, read_exactly

KEY = PrivateKey.generate()
PEER = PeerId.from_public_key(KEY.public_key)


class Away(Rig):
    """`near` has a forward to a peer that is away; `far` is that peer, once it comes."""

    near: Node
    port: int

    def begin(self, *, saved: bool = False, **limits: float) -> None:
        self.place = local(free_port())
        self.near = self.run(self.start(**limits))
        life = Life("saved" if saved else "ephemeral")
        forward = self.near.service.forward("/x/test", ANY_PORT, PEER, [self.place], life=life)
        self.port = port_of(self.run(forward))

    def come(self, target: Multiaddr) -> Node:
        """The peer is there, and its listen a moment later: by then it refuses streams."""
        far = self.run(self.start(self.place, KEY))
        self.run(far.service.listen("/x/test", target))
        return far

    def waiting(self) -> int:
        return self.do(self.near.service.listeners)[0].waiting


@pytest.fixture(params=list(LOOPS))
def rig(request: pytest.FixtureRequest) -> Iterator[Away]:
    with Away(request.param) as made:
        yield made


def test_they_go_through_when_it_comes(rig: Away) -> None:
    rig.begin(wait_s=20.0)
    with TcpServer(echo) as server:
        conns = [connect(rig.port) for _ in range(5)]
        for number, conn in enumerate(conns):
            conn.sendall(b"%d" % number)
        assert until(lambda: rig.waiting() == 5)
        rig.come(Multiaddr.parse(server.address))
        for number, conn in enumerate(conns):
            assert read_exactly(conn, 1) == b"%d" % number
            conn.close()


def test_in_the_end_they_are_reset(rig: Away) -> None:
    rig.begin(wait_s=0.3)
    with connect(rig.port) as conn, pytest.raises(ConnectionResetError):
        conn.recv(1)
    info = rig.do(rig.near.service.listeners)[0]
    assert info.state == "peer-unreachable" and "refused" in (info.reason or "") and not info.waiting


def test_programs_that_give_up_free_their_places(rig: Away) -> None:
    rig.begin(wait_s=600.0, max_pending_opens=2)
    for _ in range(2):
        conn = connect(rig.port)
        conn.sendall(b"GET / HTTP/1.1")
        assert until(lambda: rig.waiting() == 1)
        half = connect(rig.port)
        half.shutdown(socket.SHUT_WR)  # it still waits for an answer
        assert until(lambda: rig.waiting() == 2)
        conn.close()
        assert until(lambda: rig.waiting() == 1)
        half.close()
        assert until(lambda: rig.waiting() == 0)


def test_a_saved_forward_is_connected_to_its_peer_before_it_is_used(rig: Away) -> None:
    rig.begin(saved=True)
    rig.run(rig.start(rig.place, KEY))
    rig.do(rig.near.service.keep_warm)
    assert until(lambda: bool(rig.do(rig.near.host.swarm.conns, PEER)))
    assert rig.do(rig.near.host.swarm.connmgr.is_protected, PEER)
    assert rig.do(rig.near.service.listeners)[0].warm
