"""Transfers both ways at once through a forward, and what each end saw of them.

The client says the transfer's number and both sizes, and sends its bytes to their end. The server sends its
own, and, once it has all of the client's, their digest; then its end. Who sees an end has to have every byte
of it. One exception: the kernel ends the sockets of a daemon that is killed as if it had ended them itself,
so what a program saw of its own machine's daemon while that was killed is not judged.
"""

from __future__ import annotations

import errno
import hashlib
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.support import sockets
from tests.support.sockets import CHUNK, Payload

STUCK_S: Final = 150.0
"""Without a byte: three times what a dead peer takes to be noticed."""

SIZES: Final = (0, 1, 100, 4_000, 60_000, 300_000, 300_000, 2_000_000, 6_000_000)
_HEAD: Final = struct.Struct("!QII")

WasKilled = Callable[[float], bool]
"""Whether the daemon of this machine was killed since a time (monotonic)."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One of them: bytes up and bytes down, told by its number."""

    number: int
    up: Payload
    down: Payload

    @classmethod
    def of(cls, number: int, up: int, down: int) -> Transfer:
        """Its bytes follow from its number."""
        return cls(number, Payload(up, number), Payload(down, number + 1))


class Tally:
    """What came of all transfers, by end: shared by the threads of a soak."""

    def __init__(self) -> None:
        self.begun = 0
        self._began_at = time.monotonic()
        self.ends: Counter[str] = Counter()
        self.far_ends: Counter[str] = Counter()
        self.bytes = 0
        self.wrong: list[str] = []
        self.happened: deque[str] = deque(maxlen=8)
        """What was done last, the newest last: told with a fault."""
        self._lock = threading.Lock()

    def begin(self) -> int:
        """The number of a new transfer."""
        with self._lock:
            self.begun += 1
            return self.begun * 2

    def end(self, how: str, size: int = 0, *, far: bool = False) -> None:
        """One end of one transfer is over."""
        with self._lock:
            (self.far_ends if far else self.ends)[how] += 1
            self.bytes += 0 if far else size

    def fault(self, text: str) -> None:
        """Something that must not be."""
        with self._lock:
            self.wrong.append(f"{text}; before it: {', '.join(self.happened)}")
            print(f"WRONG: {self.wrong[-1]}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Something is done to the lab."""
        with self._lock:
            self.happened.append(f"{time.monotonic() - self._began_at:.1f} s {text}")


class _Sender(threading.Thread):
    """Sends one payload, and its end unless more is to come.

    The kernel tells of a reset once: where the sender was told, the reader sees an end.
    """

    def __init__(self, conn: socket.socket, payload: Payload, *, end: bool) -> None:
        super().__init__(name="sender")
        self._conn, self._payload, self._end = conn, payload, end
        self.failed = self.was_reset = False

    def run(self) -> None:
        try:
            for part in self._payload.chunks():
                self._conn.sendall(part)
            if self._end:
                self._conn.shutdown(socket.SHUT_WR)
        except OSError as exc:  # EPIPE: the other end had ended before
            self.failed, self.was_reset = True, exc.errno == errno.ECONNRESET


def _read(conn: socket.socket) -> tuple[int, bytes, bytes]:
    """Everything to the end: its size, the digest of all but the last 32 bytes, and those. Raises OSError."""
    digest, size, tail = hashlib.sha256(), 0, b""
    while data := conn.recv(CHUNK):
        size += len(data)
        data = tail + data
        cut = max(0, len(data) - 32)
        digest.update(memoryview(data)[:cut])
        tail = data[cut:]
    return size, digest.digest(), tail


def serve(where: str, tally: Tally, was_killed: WasKilled) -> sockets.Handler:
    """The handler of the server's end."""

    def handler(conn: socket.socket) -> None:
        began_at = time.monotonic()
        conn.settimeout(STUCK_S)
        try:
            head = sockets.read_exactly(conn, _HEAD.size)
        except (EOFError, OSError):
            return  # a look at whether this service is there, or a stream that was reset at once
        transfer = Transfer.of(*_HEAD.unpack(head))
        how = _serve(conn, transfer)
        if how in ("short", "wrong") and was_killed(began_at):
            how = "own daemon killed"
        if how in ("short", "wrong"):
            tally.fault(f"transfer {transfer.number} at {where}: the server saw an end and {how} data")
        tally.end(how, far=True)
        if how != "clean":
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return handler


def _serve(conn: socket.socket, transfer: Transfer) -> str:
    sender = _Sender(conn, transfer.down, end=False)
    sender.start()
    try:
        digest, size = hashlib.sha256(), 0
        while data := conn.recv(CHUNK):
            size += len(data)
            digest.update(data)
        if size < transfer.up.size:
            sender.join()
            return "reset" if sender.was_reset else "short"
        if digest.digest() != transfer.up.digest():
            return "wrong"
        sender.join()
        conn.sendall(digest.digest())
        conn.shutdown(socket.SHUT_WR)
        return "reset" if sender.failed else "clean"
    except TimeoutError:
        return "stuck"
    except OSError:
        return "reset"
    finally:
        sender.join()


def transfer(where: str, port: int, tally: Tally, was_killed: WasKilled, drawn: random.Random) -> str:
    """One transfer through the forward at a port of this machine's loopback; what came of it.

    `clean`, `reset`, `refused` (nobody listens: the daemon is down), `stuck`, `own daemon killed`, or, in the
    tally's faults as well, `short` and `wrong`.
    """
    began_at, up, down = time.monotonic(), drawn.choice(SIZES), drawn.choice(SIZES)
    it = Transfer.of(tally.begin(), up, down)
    try:
        conn = sockets.connect(port, STUCK_S)
    except OSError:
        tally.end("refused")
        return "refused"
    with conn:
        how, got = _ask(conn, it)
        if how != "clean":
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how in ("short", "wrong") and was_killed(began_at):
        how = "own daemon killed"
    if how in ("short", "wrong"):
        took_s = time.monotonic() - began_at
        sizes = f"{got} of {down} bytes down, {up} up, after {took_s:.1f} s"
        tally.fault(f"transfer {it.number} by {where}: the client saw an end and {how} data, {sizes}")
    tally.end(how, up + down if how == "clean" else 0)
    return how


def _ask(conn: socket.socket, it: Transfer) -> tuple[str, int]:
    """What came of it, and how many bytes came."""
    sender = _Sender(conn, it.up, end=True)
    try:
        conn.sendall(_HEAD.pack(it.number, it.up.size, it.down.size))
        sender.start()
        size, digest, tail = _read(conn)
    except TimeoutError:
        return "stuck", 0
    except OSError:
        return "reset", 0
    finally:
        if sender.ident is not None:
            sender.join()
    if size < it.down.size + 32:
        return ("reset" if sender.was_reset else "short"), size
    return ("clean" if (digest, tail) == (it.down.digest(), it.up.digest()) else "wrong"), size
