"""Limits of a listen between two real hosts: paced streams are whole, ends are ends, refusals are told."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from p2pfwd.core.terms import ListenTerms
from p2pfwd.forwarding.listen import RemoteListener
from tests.net.forwarding_rig import Pair, local


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair("uvloop") as pair:
        yield pair


class Echo:
    """A service that sends back what it gets, and its end."""

    def __enter__(self) -> Echo:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._main = threading.Thread(target=self._accept)
        self._main.start()
        return self

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,))
            thread.start()
            self._threads.append(thread)

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(65536):
                    sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._main.join()
        for thread in self._threads:
            thread.join()


def listen(pair: Pair, echo: Echo, terms: ListenTerms) -> RemoteListener:
    return pair.run(pair.far.service.listen("/x/test", local(echo.port), terms))


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send all, end, and read all that comes back."""
    sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
    sender.start()
    got = bytearray()
    while piece := sock.recv(65536):
        got += piece
    sender.join()
    return bytes(got)


def test_a_paced_exchange_is_whole_and_takes_its_time(pair: Pair) -> None:
    data = os.urandom(900_000)
    with Echo() as echo, pair.settled():
        listen(pair, echo, ListenTerms(rate=1_000_000))
        port = pair.forward()
        began = time.monotonic()
        with connect(port) as sock:
            got = exchange(sock, data)
        took = time.monotonic() - began
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    assert took >= 0.65, "700,000 bytes beyond the burst, at a megabyte a second"


def test_a_rate_that_comes_and_goes_under_a_live_stream_loses_nothing(pair: Pair) -> None:
    data = os.urandom(6_000_000)
    with Echo() as echo, pair.settled():
        listener = listen(pair, echo, ListenTerms())
        port = pair.forward()
        with connect(port) as sock:
            result: list[bytes] = []
            worker = threading.Thread(target=lambda: result.append(exchange(sock, data)))
            worker.start()
            for rate in (3_000_000, 0, 10_000, 5_000_000, 0, 2_000_000, 0):
                pair.do(listener.set_terms, replace(listener.terms, rate=rate))
                time.sleep(0.02)
            worker.join()
    assert result == [data]


def test_a_paced_stream_is_reset_at_once(pair: Pair) -> None:
    with Echo() as echo, pair.settled():
        listen(pair, echo, ListenTerms(rate=1000))
        port = pair.forward()
        with connect(port) as sock:
            sock.sendall(bytes(100_000))
            assert sock.recv(1)
            began = time.monotonic()
            pair.do(pair.far.service.close_all_streams)
            with pytest.raises(ConnectionResetError):
                while sock.recv(65536):
                    pass
            assert time.monotonic() - began < 5, "and not the 90 s that the rest would take"


def test_one_stream_too_many_is_told_in_words(pair: Pair) -> None:
    with Echo() as echo, pair.settled():
        listener = listen(pair, echo, ListenTerms(max_streams_per_peer=1))
        port = pair.forward()
        with connect(port) as one:
            one.sendall(b"x")
            assert one.recv(1) == b"x"
            with pytest.raises(ConnectionResetError), connect(port) as two:  # or in connect
                two.sendall(b"x")
                two.recv(1)
            while "limit of its own" not in (pair.state().reason or ""):
                time.sleep(0.01)
            counts = pair.do(lambda: dict(pair.far.host.swarm.refusals.counts))
            assert counts["tunnel-limit"] == 1
            one.sendall(b"y")
            assert one.recv(1) == b"y", "the stream that was there goes on"
            pair.do(listener.set_terms, replace(listener.terms, max_streams_per_peer=2))
            with connect(port) as three:
                three.sendall(b"z")
                assert three.recv(1) == b"z"


def test_a_stream_that_stands_idle_is_reset(pair: Pair) -> None:
    with Echo() as echo, pair.settled():
        listen(pair, echo, ListenTerms(idle_timeout_s=1))
        port = pair.forward()
        with connect(port) as sock:
            for _ in range(4):
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
                time.sleep(0.4)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


def test_the_peer_is_told_that_a_stream_stood_idle(pair: Pair) -> None:
    with Echo() as echo, pair.settled():
        listen(pair, echo, ListenTerms(idle_timeout_s=1))
        with connect(pair.forward()) as sock, pytest.raises(ConnectionResetError):
            sock.recv(1)
        while "nothing had passed for as long" not in (pair.state().reason or ""):
            time.sleep(0.01)
