"""A daemon that is only its control socket: it answers what a test tells it to, and notes what it was asked.

It speaks the real codec on a real Unix socket, in a thread, so that the command line under test is the
whole of it, entry point to exit status, and still says the same in every run.
"""

from __future__ import annotations

import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from p2pfwd.errors import MethodNotFound, P2PForwardError
from p2pfwd.rpc import codec
from p2pfwd.rpc.schema import RPC_MAJOR, Empty, Event, HelloResult, SubscribeResult
from p2pfwd.state.home_lock import HomeLock

PEER = "12D3KooWA1b2c3d4e5f6g7h8i9jkLmNoPqRsTuVwXyZabcdefLcL"
OTHER = "12D3KooWZyXwVuTsRqPoNmLkjihgfedcba987654321ZYXwvuTHr"

FAKE_PID = 4242
WAIT_S = 10.0

Answer = object | P2PForwardError | Callable[[Mapping[str, Any]], object] | None
"""A result, an error, a function of the parameters, or None: no answer at all."""


class FakeDaemon:
    """`answers` maps a method to its Answer; a method without one does not exist."""

    def __init__(self, path: Path, *, rpc: int = RPC_MAJOR) -> None:
        self.answers: dict[str, Answer] = {
            "daemon.hello": HelloResult(rpc=rpc, version="0.1.0", id=PEER, pid=FAKE_PID),
            "events.subscribe": SubscribeResult(subscription=7),
            "events.cancel": Empty(),
        }
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen()
        self._lock = HomeLock.take(path.with_name("daemon.lock"), path.with_name("start.lock"), path)
        path.with_name("daemon.lock").write_text(f"{FAKE_PID}\n{path}\n")
        self._lock.ready()
        self._orders, self._inbox = socket.socketpair()
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._decoders: dict[socket.socket, codec.LineDecoder] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="fake-daemon")
        self._thread.start()

    def called(self, method: str) -> list[Mapping[str, Any]]:
        """The parameters of every call of `method` so far."""
        return [params for name, params in self.calls if name == method]

    def wait_for_call(self, method: str) -> None:
        """Wait until somebody calls `method` (each call is waited for once)."""
        while self._asked.get(timeout=WAIT_S) != method:
            continue

    def emit(self, topic: str, data: Mapping[str, Any]) -> None:
        """Send an event to everybody connected."""
        line = codec.encode_event(Event(subscription=7, topic=topic, time=1_700_000_000.25, data=dict(data)))

        def send() -> None:
            for client in list(self._decoders):
                try:
                    client.sendall(line)
                except ConnectionError:  # it has heard enough and ended meanwhile
                    self._drop(client)

        self._order(send)

    def hang_up(self) -> None:
        """Close every connection and the socket, as a daemon that stops."""
        self._order(self._close_all)

    def close(self) -> None:
        """End the thread."""
        self._order(lambda: setattr(self, "_stopping", True))
        self._thread.join(WAIT_S)
        self._orders.close()
        self._inbox.close()
        self._lock.close()

    def __enter__(self) -> FakeDaemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _order(self, task: Callable[[], object]) -> None:
        done = threading.Event()

        def run() -> None:
            try:
                task()
            finally:
                done.set()

        self._tasks.put(run)
        self._orders.send(b"x")
        assert done.wait(WAIT_S)

    def _run(self) -> None:
        with selectors.DefaultSelector() as self._selector:
            for sock in (self._server, self._inbox):
                self._selector.register(sock, selectors.EVENT_READ)
            while not self._stopping:
                for key, _ in self._selector.select():
                    self._readable(key.fileobj)
            self._close_all()

    def _readable(self, sock: Any) -> None:
        if sock is self._inbox:
            sock.recv(1)
            self._tasks.get()()
        elif sock is self._server:
            client, _ = sock.accept()
            self._decoders[client] = codec.LineDecoder()
            self._selector.register(client, selectors.EVENT_READ)
        elif sock in self._decoders:
            try:
                self._serve(sock)
            except ConnectionError:  # a command that was interrupted, or whose reader went away
                self._drop(sock)

    def _serve(self, client: socket.socket) -> None:
        data = client.recv(1 << 16)
        if not data:
            self._drop(client)
            return
        for line in self._decoders[client].feed(data):
            assert line is not None
            client.sendall(self._reply(codec.decode_request(line)))

    def _reply(self, request: codec.Request) -> bytes:
        self.calls.append((request.method, request.params))
        answer = self.answers.get(request.method, MethodNotFound(f"no method {request.method}"))
        if callable(answer):
            answer = answer(request.params)
        self._asked.put(request.method)
        if answer is None:
            return b""
        if isinstance(answer, P2PForwardError):
            return codec.encode_error(request.id, answer)
        return codec.encode_result(request.id, answer)

    def _drop(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        del self._decoders[client]
        client.close()

    def _close_all(self) -> None:
        for client in list(self._decoders):
            self._drop(client)
        if self._server.fileno() >= 0:
            self._selector.unregister(self._server)
            self._server.close()


def until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> bool:
    """Poll `condition` until it holds; whether it did within the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
