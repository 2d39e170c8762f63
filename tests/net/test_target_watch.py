"""`--wait-target` and `--check` between two real hosts: what streams get, and what is told to whom."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.terms import ListenTerms
from p2pfwd.forwarding import watch
from p2pfwd.forwarding.values import CheckOutcome, CloseMatch, ForwardingEvent, ListenerInfo
from tests.net.forwarding_rig import LOOPS, Pair, local
from tests.support.fake_daemon import until
from tests.support.sockets import TcpServer, connect, echo, free_port, read_exactly, refusing_port


@pytest.fixture(params=list(LOOPS))
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with Pair(request.param) as made:
        yield made


def listen(pair: Pair, target: Multiaddr, terms: ListenTerms) -> int:
    """The far side's listen, and a forward to it; the local port."""
    pair.run(pair.far.service.listen("/x/test", target, terms))
    return pair.forward()


def info(pair: Pair) -> ListenerInfo:
    return pair.do(pair.far.service.listeners)[0]


class Http:
    """A service that answers what `answer` is; what it was asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.release = threading.Event()

    def serve(self, conn: socket.socket) -> None:
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            if not (piece := conn.recv(1000)):
                return
            data += piece
        self.asked.append(data)
        if self.answer:
            conn.sendall(self.answer)
        else:
            conn.recv(1)  # until the other end has had enough


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
DOWN = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def test_streams_wait_for_a_target_that_is_down(pair: Pair) -> None:
    port = free_port()
    near = listen(pair, local(port), ListenTerms(wait_target_s=20.0))
    conns = [connect(near) for _ in range(5)]
    for conn in conns:
        conn.sendall(b"?")
    assert until(lambda: info(pair).state == "target-refused")  # the owner sees it while they wait
    assert len(pair.do(pair.far.service.streams)) == 5
    with TcpServer(echo, port=port):
        for conn in conns:
            assert read_exactly(conn, 1) == b"?"
            conn.close()
        assert info(pair).state == "ready"


def test_a_stream_is_reset_when_the_time_is_over_or_its_client_goes(pair: Pair) -> None:
    with refusing_port() as port:
        near = listen(pair, local(port), ListenTerms(wait_target_s=0.3))
        with connect(near) as conn, pytest.raises(ConnectionResetError):
            conn.recv(1)
        assert info(pair).state == "target-refused"
        pair.do(pair.far.service.close, CloseMatch(all=True))
        listen(pair, local(port), ListenTerms(wait_target_s=600.0))
        conn = connect(near)
        assert until(lambda: len(pair.do(pair.far.service.streams)) == 1)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        conn.close()
        assert until(lambda: pair.do(pair.far.service.streams) == [])


def test_without_it_a_stream_to_a_target_that_is_down_is_reset_at_once(pair: Pair) -> None:
    with refusing_port() as port:
        near = listen(pair, local(port), ListenTerms())
        with connect(near) as conn, pytest.raises(ConnectionResetError):
            conn.recv(1)
        assert info(pair).state == "target-refused" and str(port) in (info(pair).reason or "")


def test_a_target_that_is_watched_is_known_to_be_down_before_anybody_tries(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "FIRST_S", 0.05)
    monkeypatch.setattr(watch, "MOST_S", 0.05)
    port = free_port()
    states: list[str] = []

    def changed(event: ForwardingEvent) -> None:
        if event.listener is not None and event.change == "changed":
            states.append(event.listener.state)

    with TcpServer(echo, port=port) as server:
        pair.do(pair.far.service.on_event, changed)
        listen(pair, local(port), ListenTerms(check="tcp"))
        assert until(lambda: states == ["ready"])
        assert server.accepted == 0  # it is seen to listen
    assert until(lambda: states == ["ready", "target-refused"])
    assert f"/tcp/{port} refused" in (info(pair).reason or "")
    outcome: CheckOutcome = pair.run(pair.near.service.check(pair.local.id, 10))
    assert (outcome.ok, outcome.state) == (False, "target-refused")
    with TcpServer(echo, port=port):
        assert until(lambda: states[-1] == "ready")


@pytest.mark.parametrize("greets", [False, True])
def test_http_is_asked_and_its_answer_is_the_state(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, greets: bool
) -> None:
    monkeypatch.setattr(watch, "FIRST_S", 0.05)
    monkeypatch.setattr(watch, "MOST_S", 0.05)
    service = Http(DOWN)
    with TcpServer(service.serve) as server:
        terms = ListenTerms(check="http:/health", report_peer_id=greets)
        near = listen(pair, Multiaddr.parse(server.address), terms)
        assert until(lambda: info(pair).state == "target-unhealthy")
        assert "answers a GET of /health with 503" in (info(pair).reason or "")
        greeting = f"{pair.far.host.peer_id}\n".encode() if greets else b""
        assert service.asked[0].startswith(greeting + b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:")
        with connect(near) as conn:  # it may still serve other things
            conn.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert read_exactly(conn, 12) == DOWN[:12]
        assert info(pair).state == "target-unhealthy"
        outcome: CheckOutcome = pair.run(pair.near.service.check(pair.local.id, 10))
        assert outcome.reason == "the peer serves the protocol, but its service answers that it is not well"
        service.answer = OK
        assert until(lambda: info(pair).state == "ready")


def test_http_over_a_unix_socket(pair: Pair, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    service = Http(OK)
    path = home / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            conn, _ = listener.accept()
            with conn:
                service.serve(conn)

        thread = threading.Thread(target=serve)
        thread.start()
        listen(pair, Multiaddr.parse(f"/unix{path}"), ListenTerms(check="http:/"))
        assert until(lambda: info(pair).state == "ready")
        thread.join()
    assert b"\r\nHost: localhost\r\n" in service.asked[0]


@pytest.mark.parametrize(
    ("answer", "state", "words"),
    [
        (b"SSH-2.0-x\r\n", "target-unhealthy", "not one of HTTP/1.1"),
        (b"HTTP/1.1 2", "target-unhealthy", "ends before a status"),
        (b"", "target-timeout", "did not answer a GET of /h within 0.2 s"),
    ],
)
def test_other_answers_than_http(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, answer: bytes, state: str, words: str
) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.2 if not answer else 5.0)
    with TcpServer(Http(answer).serve) as server:
        listen(pair, Multiaddr.parse(server.address), ListenTerms(check="http:/h"))
        assert until(lambda: info(pair).state == state)
        assert words in (info(pair).reason or "")


def test_the_watch_ends_with_its_listen(pair: Pair) -> None:
    with TcpServer(echo) as server:
        listen(pair, Multiaddr.parse(server.address), ListenTerms(check="tcp"))
        assert until(lambda: info(pair).state == "ready")

        async def close() -> int:
            before = len(asyncio.all_tasks())
            (listener,) = pair.far.service._listeners.all()
            pair.far.service.close(CloseMatch(all=True))
            await listener.closed
            return before - len(asyncio.all_tasks())

        assert pair.run(close()) == 1
