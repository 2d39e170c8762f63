"""Pins what a forward survives and leaves behind: restarts, closes, exhaustion, unix sockets, names.

Case numbers: A are Kubo's own tests, D what these leave out.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.terms import ForwardTerms, ListenTerms
from p2pfwd.forwarding.values import CloseMatch
from tests.net.forwarding_rig import ANY_PORT, LOOPS, FullBacklog, Pair, Rig, no_streams, port_of
from tests.support.sockets import (
    Payload,
    TcpServer,
    connect,
    echo,
    echoes,
    read_exactly,
    read_to_end,
)


@pytest.fixture(params=list(LOOPS))
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with Pair(request.param) as made:
        yield made


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a19_a20_closing_frees_the_address_and_leaves_live_streams(pair: Pair) -> None:
    with TcpServer(echo) as server:
        port = pair.tunnel(server.address)
        with connect(port) as conn:
            conn.sendall(b"one")
            assert read_exactly(conn, 3) == b"one"
            assert len(pair.do(pair.near.service.close, CloseMatch(all=True))) == 1
            assert len(pair.do(pair.far.service.close, CloseMatch(protocol="/x/test"))) == 1
            with pytest.raises(ConnectionRefusedError):
                connect(port)
            conn.sendall(b"two")
            assert read_exactly(conn, 3) == b"two"
            (stream,) = pair.do(pair.near.service.streams)
            assert (stream.bytes_in, stream.bytes_out) == (6, 6)
            pair.do(pair.near.service.close_all_streams)
            with pytest.raises(ConnectionResetError):
                read_to_end(conn)


def test_a17_both_sides_list_the_stream(pair: Pair) -> None:
    with TcpServer(echo) as server, connect(pair.tunnel(server.address)) as conn:
        conn.sendall(b"x")
        read_exactly(conn, 1)
        (near,), (far,) = pair.do(pair.near.service.streams), pair.do(pair.far.service.streams)
        assert near.origin_address == "/ip4/{}/tcp/{}".format(*conn.getsockname())
        assert near.target_address == f"/p2p/{pair.far.host.peer_id}"
        assert far.origin_address == f"/p2p/{pair.near.host.peer_id}"
        assert far.target_address == server.address
        assert near.path == "direct" and near.remote_address == str(pair.far.address)
        assert near.rtt_s is not None and 0 <= near.rtt_s < 5


def test_a25_report_peer_id(pair: Pair) -> None:
    received: list[bytes] = []

    def serve(conn: socket.socket) -> None:
        received.append(read_to_end(conn))

    with TcpServer(serve) as server:
        port = pair.tunnel(server.address, report_peer_id=True)
        with connect(port) as conn:
            conn.sendall(b"data")
            conn.shutdown(socket.SHUT_WR)
            assert read_to_end(conn) == b""
    assert received == [f"{pair.near.host.peer_id}\ndata".encode()]


def test_a27_custom_protocols(pair: Pair) -> None:
    with TcpServer(echo) as server:
        target = Multiaddr.parse(server.address)
        pair.run(pair.far.service.listen("/p2p-test", target, ListenTerms(custom_protocol=True)))
        forward = pair.near.service.forward(
            "/p2p-test",
            ANY_PORT,
            pair.far.host.peer_id,
            [pair.far.address],
            terms=ForwardTerms(custom_protocol=True),
        )
        port = port_of(pair.run(forward))
        assert echoes(port, Payload(1000))
        assert len(pair.do(pair.far.service.close, CloseMatch(protocol="/p2p-test"))) == 1
        with pytest.raises(ConnectionResetError), connect(port) as conn:
            read_to_end(conn)


def test_d06_a_peer_that_restarts_is_reached_again_within_five_seconds(pair: Pair) -> None:
    with TcpServer(echo) as server:
        key = PrivateKey.generate()
        pair.run(pair.close(pair.far))
        pair.far = pair.run(pair.start(key=key))
        address = pair.far.address
        port = pair.tunnel(server.address)
        assert echoes(port, Payload(10))
        pair.run(pair.close(pair.far))
        for _ in range(5):  # what comes meanwhile fails, and makes the back-off grow
            with pytest.raises(ConnectionResetError), connect(port) as conn:
                read_to_end(conn)
        pair.far = pair.run(pair.start(address, key))
        pair.listen(server.address)
        came_back = time.monotonic()
        while not _answers(port):
            assert time.monotonic() - came_back < 5


def _answers(port: int) -> bool:
    try:
        return echoes(port, Payload(10))
    except ConnectionResetError:
        return False


def test_d07_closing_during_a_dial_leaves_no_stream_task_or_descriptor(pair: Pair) -> None:
    # A peer that takes the connection and never speaks.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_at = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}")
        stranger = pair.run(pair.start())
        peer_id = stranger.host.peer_id
        pair.run(pair.close(stranger))
        before = descriptors()
        forward = pair.run(pair.near.service.forward("/x/test", ANY_PORT, peer_id, [silent_at]))
        clients = [connect(port_of(forward)) for _ in range(3)]
        met, _ = silent.accept()  # the dial is under way
        pair.do(pair.near.service.close, CloseMatch(all=True))
        for client in clients:
            with client, pytest.raises(ConnectionResetError):
                read_to_end(client)
        met.close()  # the shared dial itself is the swarm's, and ends with its connection
        pair.run(no_dials(pair))
        assert pair.do(pair.near.service.streams) == []
        assert descriptors() == before


async def no_dials(pair: Pair) -> None:
    """Wait for the swarm's dials to end."""
    dials = list(pair.near.host.swarm.dials.under_way())
    await asyncio.gather(*dials, return_exceptions=True)


def test_d07_closing_a_listen_during_its_target_dial(pair: Pair) -> None:
    with FullBacklog() as black_hole:
        before = descriptors()
        port = pair.tunnel(black_hole)
        with connect(port) as conn:
            conn.sendall(b"x")
            while not (streams := pair.do(pair.far.service.streams)):
                pass
            assert streams[0].dialing_target
            pair.do(pair.far.service.close, CloseMatch(all=True))
            with pytest.raises(ConnectionResetError):
                read_to_end(conn)
            assert pair.do(pair.far.service.streams) == []
        pair.run(no_streams(pair.near.service))
        pair.do(pair.near.service.close, CloseMatch(all=True))
        # The two ends of the hosts' connection stay.
        assert descriptors() == before + 2


def test_d11_unix_sockets_at_both_ends(pair: Pair, home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(home / "target"))
        server.listen()
        served = threading.Thread(target=_serve_one, args=(server,))
        served.start()
        pair.listen(f"/unix{home}/target")
        pair.forward(listen=Multiaddr.parse(f"/unix{home}/entry"))
        assert stat.S_IMODE((home / "entry").stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as conn:
            conn.settimeout(20)
            conn.connect(str(home / "entry"))
            conn.sendall(b"over unix")
            conn.shutdown(socket.SHUT_WR)
            assert read_to_end(conn) == b"XINU REVO"
        served.join()
        info = pair.state()
        assert str(info.listen_address) == f"/unix{home}/entry"
        pair.do(pair.near.service.close, CloseMatch(all=True))
        assert not (home / "entry").exists()


def _serve_one(server: socket.socket) -> None:
    conn, _ = server.accept()
    with conn:
        conn.sendall(read_to_end(conn)[::-1].upper())


def test_targets_by_name_are_resolved_per_connection(pair: Pair) -> None:
    with TcpServer(echo) as server:
        port = pair.tunnel(f"/dns/localhost/tcp/{server.port}")
        assert echoes(port, Payload(100_000), half_close=True)
        assert echoes(port, Payload(10))


def test_a_name_that_cannot_be_resolved_is_a_reason(pair: Pair) -> None:
    port = pair.tunnel(f"/dns4/{'a' * 64}.invalid/tcp/80")  # too long a label: no server is asked
    with pytest.raises(ConnectionResetError), connect(port) as conn:
        conn.sendall(b"x")
        read_to_end(conn)
    info = pair.do(pair.far.service.listeners)[0]
    assert info.state == "target-refused" and info.reason is not None
    assert "cannot be resolved" in info.reason


def test_d04_a_silent_target_is_rst_in_time_and_visible_meanwhile() -> None:
    with Pair("asyncio") as pair, FullBacklog() as black_hole:
        impatient = pair.run(pair.start(target_timeout_s=0.3))
        pair.far = impatient
        port = pair.tunnel(black_hole)
        with connect(port) as conn:
            conn.sendall(b"x")
            began = time.monotonic()
            with pytest.raises(ConnectionResetError):
                read_to_end(conn)
            assert time.monotonic() - began < 5
        info = pair.do(pair.far.service.listeners)[0]
        assert info.state == "target-timeout"
        assert info.reason == f"the target {black_hole} did not answer within 0.3 s"


def test_a_forward_ends_with_its_node_and_nothing_is_left() -> None:
    with Rig("asyncio") as rig:
        node = rig.run(rig.start())
        other = rig.run(rig.start())
        forward = rig.run(node.service.forward("/x/test", ANY_PORT, other.host.peer_id, [other.address]))
        rig.run(rig.close(node))
        assert forward.closed.done()
        with pytest.raises(ConnectionRefusedError):
            connect(port_of(forward))
