"""Loopback TCP for tests: free ports, ports that refuse, small threaded servers, transfers with checksums.

All blocking and in threads, so that it serves daemons under test, real peers and the CLI alike. A server
is a context manager: its end closes its connections and joins its threads.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

CHUNK = 1 << 18
TIMEOUT_S = 20.0

_ports = itertools.cycle(random.Random(os.getpid()).sample(range(10_000, 32_000), 4_000))


def free_port() -> int:
    """A port of 127.0.0.1 nobody listens on.

    Below the range the system hands out itself, in an order of this process's own: neither an outgoing
    connection nor another test process takes it before the caller does.
    """
    for port in itertools.islice(_ports, 4_000):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port that refuses connections for as long as the block lasts: bound, never listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


Handler = Callable[[socket.socket], None]


class TcpServer:
    """A loopback TCP server: `handler` runs in a thread per connection, which is closed after it.

    OSError ends a handler quietly (the other end may reset); any other error is raised when the server's
    block ends.
    """

    def __init__(self, handler: Handler, port: int = 0) -> None:
        self._handler = handler
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.address = f"/ip4/127.0.0.1/tcp/{self.port}"
        self.accepted = 0
        self._live: set[socket.socket] = set()
        self._errors: list[BaseException] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, name=f"server-{self.port}")]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError as exc:
                if exc.errno == errno.EMFILE:  # a test takes all descriptors; they come back
                    time.sleep(0.01)
                    continue
                return  # closed
            with self._lock:
                self.accepted += 1
                self._live.add(conn)
                thread = threading.Thread(target=self._serve, args=(conn,), name=f"conn-{self.port}")
                self._threads.append(thread)
            thread.start()

    def _serve(self, conn: socket.socket) -> None:
        try:
            self._handler(conn)
        except OSError:
            pass
        except BaseException as exc:
            self._errors.append(exc)
        finally:
            with self._lock:
                self._live.discard(conn)
            conn.close()

    def idle(self, timeout_s: float) -> bool:
        """Wait until every connection accepted so far has been served; False when it takes longer."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            threads = self._threads[1:]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def close(self) -> None:
        """Stop listening, shut every connection down, join the threads; raises a handler's own error."""
        # shutdown wakes a blocked accept(); close alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        with self._lock:
            live = list(self._live)
        for conn in live:
            _shutdown(conn)
        for thread in self._threads[1:]:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _shutdown(conn: socket.socket) -> None:
    try:
        conn.shutdown(socket.SHUT_RDWR)
    except OSError:  # gone already
        return


def echo(conn: socket.socket) -> None:
    """Handler: send everything back, FIN for FIN."""
    while data := conn.recv(CHUNK):
        conn.sendall(data)
    conn.shutdown(socket.SHUT_WR)


def reply_at_end(conn: socket.socket) -> None:
    """Handler: read to FIN, then answer with the SHA-256 of what came and close."""
    digest = hashlib.sha256()
    while data := conn.recv(CHUNK):
        digest.update(data)
    conn.sendall(digest.digest())


def reset(conn: socket.socket) -> None:
    """Close `conn` with RST instead of FIN."""
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


def connect(port: int, timeout_s: float = TIMEOUT_S) -> socket.socket:
    """A connection to 127.0.0.1:port with `timeout_s` on everything done with it."""
    return socket.create_connection(("127.0.0.1", port), timeout_s)


def read_to_end(conn: socket.socket) -> bytes:
    """Everything up to the peer's FIN; ConnectionResetError if it ends in RST instead."""
    return b"".join(iter(lambda: conn.recv(CHUNK), b""))


def read_exactly(conn: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes; EOFError if the peer's FIN comes before."""
    data = bytearray()
    while len(data) < size:
        part = conn.recv(min(CHUNK, size - len(data)))
        if not part:
            raise EOFError(f"FIN after {len(data)} of {size} bytes")
        data += part
    return bytes(data)


@dataclass(frozen=True, slots=True)
class Payload:
    """`size` reproducible bytes that never repeat within a megabyte boundary, made as they are sent."""

    size: int
    seed: int = 0

    def chunks(self) -> Iterator[memoryview]:
        """The bytes in order, at most CHUNK at a time."""
        block = memoryview(random.Random(self.seed).randbytes(2 * CHUNK))
        left, turn = self.size, 0
        while left:
            start = turn * 4099 % CHUNK  # another alignment every time: a swapped chunk shows in the digest
            part = block[start : start + min(CHUNK, left)]
            left, turn = left - len(part), turn + 1
            yield part

    def digest(self) -> bytes:
        """SHA-256 of the bytes."""
        digest = hashlib.sha256()
        for part in self.chunks():
            digest.update(part)
        return digest.digest()


def send_payload(payload: Payload, *, wait: bool = False) -> Handler:
    """Handler: send `payload` and close at once, or only after the other end has (`wait`)."""

    def handler(conn: socket.socket) -> None:
        for part in payload.chunks():
            conn.sendall(part)
        if wait:
            conn.recv(1)

    return handler


def receive_payload(size: int) -> Handler:
    """Handler: read exactly `size` bytes, answer with their SHA-256, wait for the other end's FIN."""

    def handler(conn: socket.socket) -> None:
        digest, left = hashlib.sha256(), size
        while left:
            data = conn.recv(min(CHUNK, left))
            if not data:
                return
            digest.update(data)
            left -= len(data)
        conn.sendall(digest.digest())
        conn.recv(1)

    return handler


def echoes(port: int, payload: Payload, *, half_close: bool = False) -> bool:
    """Whether an echo server behind `port` returns `payload` byte for byte.

    With `half_close` the FIN goes out right after the last byte and the reply is read to its FIN; without,
    exactly `payload.size` bytes are read before anything is closed (what go peers need).
    """
    with connect(port) as conn:
        sender = threading.Thread(target=_send, args=(conn, payload, half_close))
        sender.start()
        digest, size = hashlib.sha256(), 0
        try:
            while half_close or size < payload.size:
                part = conn.recv(CHUNK)
                if not part:
                    break
                digest.update(part)
                size += len(part)
        except ConnectionResetError:
            return False
        finally:
            if size < payload.size:
                _shutdown(conn)  # else the sender may wait for ever
            sender.join()
    return size == payload.size and digest.digest() == payload.digest()


def _send(conn: socket.socket, payload: Payload, half_close: bool) -> None:
    try:
        for part in payload.chunks():
            conn.sendall(part)
        if half_close:
            conn.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the reader sees and reports it


@dataclass(frozen=True, slots=True)
class Received:
    """What came out of a connection up to its end."""

    size: int
    digest: bytes  # SHA-256
    clean: bool  # ended in FIN, not in RST


def receive_all(conn: socket.socket, at_most: int | None = None) -> Received:
    """Everything the other end sends, or the first `at_most` bytes of it."""
    digest, size = hashlib.sha256(), 0
    try:
        while size != at_most and (part := conn.recv(CHUNK)):
            digest.update(part)
            size += len(part)
    except ConnectionResetError:
        return Received(size, digest.digest(), clean=False)
    return Received(size, digest.digest(), clean=True)


def download(port: int, at_most: int | None = None) -> Received:
    """Everything a server behind `port` sends, or the first `at_most` bytes of it and then our FIN."""
    with connect(port) as conn:
        return receive_all(conn, at_most)


def upload(port: int, payload: Payload) -> bytes:
    """Send `payload` to a `receive_payload` server behind `port`; the SHA-256 it answers with."""
    with connect(port) as conn:
        for part in payload.chunks():
            conn.sendall(part)
        return read_exactly(conn, 32)


class FailingAccept:
    """A listening socket whose first `times` accepts fail with the error `code`."""

    def __init__(self, sock: socket.socket, times: int, code: int) -> None:
        self._sock = sock
        self._left = times
        self._code = code

    def accept(self) -> Any:
        """See socket.accept."""
        self._left -= 1
        if self._left >= 0:
            raise OSError(self._code, os.strerror(self._code))
        return self._sock.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
