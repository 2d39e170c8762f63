"""Pins byte-pipe truth on real sockets: half-close, nothing lost, failures are RST.

Case numbers: A are Kubo's own tests, D what these leave out; the counts of D01 and D02
are split over the two loops and the small payloads, which is where a lost FIN or tail shows.
"""

from __future__ import annotations

import hashlib
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from p2pfwd.forwarding.values import CloseMatch
from tests.net.forwarding_rig import LOOPS, Pair
from tests.support.sockets import (
    Payload,
    TcpServer,
    connect,
    echo,
    echoes,
    read_exactly,
    read_to_end,
    refusing_port,
    reply_at_end,
    reset,
    send_payload,
)

SIZES = [(10, 100), (1 << 20, 8), (20 << 20, 1)]


@pytest.fixture(params=list(LOOPS))
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with Pair(request.param) as made:
        yield made


@pytest.mark.parametrize(("size", "times"), SIZES)
def test_d01_the_clients_half_close_arrives_and_the_reply_comes_whole(
    pair: Pair, size: int, times: int
) -> None:
    with TcpServer(reply_at_end) as server:
        port = pair.tunnel(server.address)
        for turn in range(times):
            payload = Payload(size, seed=turn)
            with connect(port) as conn:
                for part in payload.chunks():
                    conn.sendall(part)
                conn.shutdown(socket.SHUT_WR)
                assert read_to_end(conn) == payload.digest()
        with pair.settled():
            pass


@pytest.mark.parametrize(("size", "times"), SIZES)
def test_d01_the_services_half_close_arrives_and_it_still_reads(pair: Pair, size: int, times: int) -> None:
    uploads: list[bytes] = []

    def serve(conn: socket.socket) -> None:
        send_payload(Payload(size))(conn)
        conn.shutdown(socket.SHUT_WR)
        digest = hashlib.sha256()
        while data := conn.recv(1 << 18):
            digest.update(data)
        uploads.append(digest.digest())

    with TcpServer(serve) as server:
        port = pair.tunnel(server.address)
        for turn in range(times):
            with connect(port) as conn:
                digest = hashlib.sha256(read_to_end(conn)).digest()
                assert digest == Payload(size).digest()
                for part in Payload(size, seed=turn).chunks():
                    conn.sendall(part)
        with pair.settled():
            pass
        assert server.idle(30), "the service has read all that its socket holds"
    # One may end after its successor.
    assert sorted(uploads) == sorted(Payload(size, seed=turn).digest() for turn in range(times))


@pytest.mark.parametrize(("size", "times"), SIZES)
def test_d01_an_echo_in_both_directions_at_once_ends_whole(pair: Pair, size: int, times: int) -> None:
    with TcpServer(echo) as server:
        port = pair.tunnel(server.address)
        for turn in range(times // 4 or 1):
            assert echoes(port, Payload(size, seed=turn), half_close=True)
        with pair.settled():
            pass


@pytest.mark.parametrize(("size", "times"), SIZES)
def test_d02_a_service_that_closes_right_after_writing_loses_nothing(
    pair: Pair, size: int, times: int
) -> None:
    with TcpServer(send_payload(Payload(size))) as server:
        port = pair.tunnel(server.address)
        for _ in range(times):
            with connect(port) as conn:
                assert hashlib.sha256(read_to_end(conn)).digest() == Payload(size).digest()


@pytest.mark.parametrize(("size", "times"), SIZES)
def test_d02_a_client_that_closes_right_after_writing_loses_nothing(
    pair: Pair, size: int, times: int
) -> None:
    received: list[bytes] = []
    done = threading.Semaphore(0)

    def serve(conn: socket.socket) -> None:
        received.append(hashlib.sha256(read_to_end(conn)).digest())
        done.release()

    with TcpServer(serve) as server:
        port = pair.tunnel(server.address)
        for turn in range(times):
            with connect(port) as conn:
                for part in Payload(size, seed=turn).chunks():
                    conn.sendall(part)
            assert done.acquire(timeout=20)
        assert received == [Payload(size, seed=turn).digest() for turn in range(times)]
        with pair.settled():
            pass


def ends_in_rst(port: int, first: bytes = b"hello") -> None:
    # The RST may overtake the return of connect().
    with pytest.raises(ConnectionResetError), connect(port) as conn:
        conn.sendall(first)
        read_to_end(conn)


def test_a_client_that_aborts_after_its_half_close_is_a_reset_at_the_service(pair: Pair) -> None:
    ended: list[type[BaseException]] = []

    def serve(conn: socket.socket) -> None:
        assert read_to_end(conn) == b"question"
        asked.release()
        poll = select.poll()
        poll.register(conn, 0)  # the service is busy, and does not send: it is told all the same
        (event,) = poll.poll(20_000)
        assert event[1] & select.POLLHUP
        with pytest.raises(ConnectionError) as failure:
            conn.sendall(b"answer")
        ended.append(failure.type)

    asked = threading.Semaphore(0)
    with TcpServer(serve) as server:
        conn = connect(pair.tunnel(server.address))
        conn.sendall(b"question")
        conn.shutdown(socket.SHUT_WR)
        assert asked.acquire(timeout=20)
        reset(conn)
        with pair.settled():
            pass
        assert server.idle(20)
    assert len(ended) == 1


def test_a_service_that_aborts_after_its_half_close_is_a_reset_at_the_client(pair: Pair) -> None:
    def serve(conn: socket.socket) -> None:
        conn.sendall(b"banner")
        conn.shutdown(socket.SHUT_WR)
        read = threading.Event()
        seen.append(read)
        told.release()
        read.wait(20)
        reset(conn)

    seen: list[threading.Event] = []
    told = threading.Semaphore(0)
    with TcpServer(serve) as server, connect(pair.tunnel(server.address)) as conn:
        assert read_to_end(conn) == b"banner"
        assert told.acquire(timeout=20)
        poll = select.poll()
        poll.register(conn, 0)
        assert poll.poll(0) == []
        seen[0].set()
        ((_, event),) = poll.poll(20_000)
        assert event & select.POLLERR
        with pair.settled():
            pass


def test_d03_a_refused_target_is_rst_and_both_sides_say_why(pair: Pair) -> None:
    with refusing_port() as closed:
        port = pair.tunnel(f"/ip4/127.0.0.1/tcp/{closed}")
        for _ in range(3):
            ends_in_rst(port)
        with pair.settled():
            pass
        # The second as soon as the peer, asked, has said why: test_forwarding_check.
        assert pair.state().state in ("stream-reset", "target-refused")
        far = pair.do(pair.far.service.listeners)[0]
        assert far.state == "target-refused"
        assert far.reason == f"the target /ip4/127.0.0.1/tcp/{closed} refused the connection"


def test_d03_a_protocol_nobody_serves_is_rst_with_its_own_reason(pair: Pair) -> None:
    port = pair.forward("/x/nobody")
    ends_in_rst(port)
    assert pair.state().state == "protocol-not-supported"


def test_d03_a_protocol_that_is_served_no_more_is_rst(pair: Pair) -> None:
    # The peer is known to serve it, so the stream is handed out before the refusal comes.
    with TcpServer(echo) as server:
        port = pair.tunnel(server.address)
        assert echoes(port, Payload(10))
        pair.do(pair.far.service.close, CloseMatch(all=True))
        ends_in_rst(port)
        assert pair.state().state == "protocol-not-supported"


def test_d03_a_peer_that_is_not_there_is_rst(pair: Pair) -> None:
    port = pair.forward()
    pair.run(pair.close(pair.far))
    ends_in_rst(port)
    info = pair.state()
    assert info.state == "peer-unreachable" and info.reason is not None
    assert "/tcp/" in info.reason, "it says which addresses were tried"


def test_d03_the_services_reset_is_the_clients_reset(pair: Pair) -> None:
    def serve(conn: socket.socket) -> None:
        read_exactly(conn, 5)
        conn.sendall(b"half an answer")
        read_exactly(conn, 1)
        reset(conn)

    with TcpServer(serve) as server, connect(pair.tunnel(server.address)) as conn:
        conn.sendall(b"hello")
        assert read_exactly(conn, 14) == b"half an answer"
        conn.sendall(b"!")
        with pytest.raises(ConnectionResetError):
            read_to_end(conn)


def test_d03_a_service_that_answers_and_goes_in_one_breath_ends_the_tunnel(pair: Pair) -> None:
    # What both sides send is under way at once: the service closes before the client's bytes come, or
    # resets with them unread. Nothing may hang.
    with TcpServer(lambda conn: conn.sendall(b"no such thing here\r\n" * 60)) as server:
        port = pair.tunnel(server.address)
        for _ in range(30):
            with pair.settled(), connect(port) as conn, pytest.raises((ConnectionError, EOFError)):
                while True:
                    conn.sendall(b"hello")
                    read_exactly(conn, 1)


def test_d03_the_clients_reset_is_the_services_reset(pair: Pair) -> None:
    seen: list[BaseException | None] = []
    began, over = threading.Event(), threading.Event()

    def serve(conn: socket.socket) -> None:
        try:
            read_exactly(conn, 5)
            began.set()
            seen.append(None if read_to_end(conn) == b"" else AssertionError())
        except OSError as exc:
            seen.append(exc)
        finally:
            over.set()

    with TcpServer(serve) as server:
        conn = connect(pair.tunnel(server.address))
        conn.sendall(b"hello")
        assert began.wait(20)
        reset(conn)
        assert over.wait(20)
    assert isinstance(seen[0], ConnectionResetError)


def test_a_client_gone_before_its_stream_leaves_nothing(pair: Pair) -> None:
    # The first stream to a peer takes a dial; the client resets meanwhile.
    with TcpServer(echo) as server:
        port = pair.tunnel(server.address)
        with pair.settled():
            reset(connect(port))
        assert echoes(port, Payload(10))
    with pair.settled():
        pass


@pytest.mark.parametrize("side", ["near", "far"])
def test_d03_a_lost_connection_is_rst_at_both_ends(pair: Pair, side: str) -> None:
    seen: list[BaseException] = []
    over = threading.Event()

    def serve(conn: socket.socket) -> None:
        conn.sendall(b"hello")
        try:
            read_to_end(conn)
        except OSError as exc:
            seen.append(exc)
        finally:
            over.set()

    with TcpServer(serve) as server, connect(pair.tunnel(server.address)) as conn:
        assert read_exactly(conn, 5) == b"hello"
        node = pair.near if side == "near" else pair.far
        pair.do(node.host.swarm.conns()[0].abort)
        with pytest.raises(ConnectionResetError):
            read_to_end(conn)
        assert over.wait(20)
    assert isinstance(seen[0], ConnectionResetError)


@pytest.mark.parametrize("side", ["near", "far"])
def test_stream_close_is_rst_at_both_ends(pair: Pair, side: str) -> None:
    # A18, without Kubo's clean EOF.
    seen: list[BaseException] = []
    over = threading.Event()

    def serve(conn: socket.socket) -> None:
        conn.sendall(b"hello")
        try:
            read_to_end(conn)
        except OSError as exc:
            seen.append(exc)
        finally:
            over.set()

    with TcpServer(serve) as server, connect(pair.tunnel(server.address)) as conn:
        assert read_exactly(conn, 5) == b"hello"
        service = (pair.near if side == "near" else pair.far).service
        (stream,) = pair.do(service.streams)
        pair.do(service.close_stream, stream.id)
        with pytest.raises(ConnectionResetError):
            read_to_end(conn)
        assert over.wait(20)
        with pair.settled():
            pass
    assert isinstance(seen[0], ConnectionResetError)
