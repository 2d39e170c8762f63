"""The test servers and transfers: a tampered or truncated transfer is noticed, a whole one passes."""

from __future__ import annotations

import socket

import pytest

from tests.support import sockets
from tests.support.sockets import CHUNK, Payload, TcpServer


def test_payload_is_reproducible_and_of_its_size() -> None:
    """Two readings agree; another seed or size is another digest."""
    payload = Payload(3 * CHUNK + 17)
    assert sum(len(part) for part in payload.chunks()) == payload.size
    assert payload.digest() == Payload(payload.size).digest()
    assert payload.digest() != Payload(payload.size, seed=1).digest()
    assert payload.digest() != Payload(payload.size - 1).digest()


@pytest.mark.parametrize("half_close", [False, True])
def test_echo_passes(half_close: bool) -> None:
    """A faithful server passes, whether the FIN comes first or last."""
    with TcpServer(sockets.echo) as server:
        assert sockets.echoes(server.port, Payload(2_000_000), half_close=half_close)


def test_a_truncated_echo_fails() -> None:
    """A server that stops half-way does not pass as an echo, nor does one that flips a byte."""

    def half(conn: socket.socket) -> None:
        conn.sendall(conn.recv(10)[:5])

    def flipped(conn: socket.socket) -> None:
        data = bytearray(sockets.read_exactly(conn, 100))
        data[50] ^= 1
        conn.sendall(data)

    for handler in (half, flipped):
        with TcpServer(handler) as server:
            assert not sockets.echoes(server.port, Payload(100))


def test_reset_is_seen_as_reset() -> None:
    """`reset` reaches the other end as an error, not as the end of the data."""
    with (
        TcpServer(sockets.reset) as server,
        pytest.raises(ConnectionResetError),  # maybe before `connect` returns
        sockets.connect(server.port) as conn,
    ):
        sockets.read_to_end(conn)


def test_a_failing_handler_fails_the_test() -> None:
    """What goes wrong in a server's thread comes out where its block ends."""

    def wrong(conn: socket.socket) -> None:
        raise ValueError("wrong")

    with (
        pytest.raises(ValueError, match="wrong"),
        TcpServer(wrong) as server,
        sockets.connect(server.port) as conn,
    ):
        assert sockets.read_to_end(conn) == b""


def test_free_port_can_be_bound_and_refusing_port_refuses() -> None:
    """What the names say."""
    socket.create_server(("127.0.0.1", sockets.free_port())).close()
    with sockets.refusing_port() as port, pytest.raises(ConnectionRefusedError):
        sockets.connect(port)
