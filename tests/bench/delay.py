"""A long line: `python -m tests.bench.delay LISTEN_PORT TARGET_PORT SECONDS` puts half a round trip each way.

It stands in front of TCP, so what is seen are the windows and round trips of what goes through it, and not
TCP's own start or loss. A byte leaves `SECONDS / 2` after it came. What is on its way is bounded as by the
buffers of a line's routers; nothing is read while that much waits.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections import deque

CHUNK_BYTES = 256 * 1024
ON_THE_WAY_BYTES = 64 * 1024 * 1024
"""Of one direction of a connection: at 60 ms twice what a gigabyte a second needs."""

BACKLOG = 512


class Way:
    """One direction of a connection: read at `source`, sent at `sink` when it is due."""

    __slots__ = ("ended", "line", "sink", "source", "spare", "waiting_bytes")

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.line: deque[tuple[float, memoryview]] = deque()
        """When due, and what; an empty piece is the end."""
        self.spare: list[bytearray] = []
        self.waiting_bytes = 0
        self.ended = False

    def read(self, now: float, delay_s: float) -> None:
        """One piece onto the line. BlockingIOError where there is none."""
        buffer = self.spare.pop() if self.spare else bytearray(CHUNK_BYTES)
        count = 0
        try:
            count = self.source.recv_into(buffer)
        finally:
            if not count:
                self.spare.append(buffer)
        self.ended = not count
        self.waiting_bytes += count
        self.line.append((now + delay_s, memoryview(buffer)[:count]))

    def send(self, now: float) -> None:
        """What is due. BlockingIOError where the sink takes no more."""
        while self.line and self.line[0][0] <= now:
            due, piece = self.line[0]
            if not piece:
                self.line.clear()
                self.sink.shutdown(socket.SHUT_WR)
                return
            sent = self.sink.send(piece)
            self.waiting_bytes -= sent
            if sent < len(piece):
                self.line[0] = due, piece[sent:]
            else:
                self.line.popleft()
                buffer = piece.obj
                assert isinstance(buffer, bytearray)
                self.spare.append(buffer)

    @property
    def is_over(self) -> bool:
        return self.ended and not self.line


class Delay:
    """Accepts on one port, connects each connection to another over the line."""

    def __init__(self, listen_port: int, target_port: int, rtt_s: float) -> None:
        self.target, self.delay_s = ("127.0.0.1", target_port), rtt_s / 2
        self.listener = socket.create_server(("127.0.0.1", listen_port), backlog=BACKLOG)
        self.ways: list[tuple[Way, Way]] = []

    def run(self) -> None:
        """Until killed."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Wait for what is next, and do all that can be done."""
        now = time.monotonic()
        reads: list[socket.socket] = [self.listener]
        writes: list[socket.socket] = []
        next_s: float | None = None
        for way in (way for pair in self.ways for way in pair):
            if not way.ended and way.waiting_bytes < ON_THE_WAY_BYTES:
                reads.append(way.source)
            if way.line:
                left_s = way.line[0][0] - now
                if left_s <= 0:
                    writes.append(way.sink)
                else:
                    next_s = left_s if next_s is None else min(next_s, left_s)
        readable, writable, _ = select.select(reads, writes, [], next_s)
        if self.listener in readable:
            self.accept()
        now, can_read, can_write = time.monotonic(), set(readable), set(writable)
        for pair in list(self.ways):
            try:
                for way in pair:
                    if way.source in can_read:
                        way.read(now, self.delay_s)
                    if way.sink in can_write:
                        way.send(now)
            except BlockingIOError:
                continue
            except OSError:
                self.drop(pair)
                continue
            if all(way.is_over for way in pair):
                self.drop(pair)

    def accept(self) -> None:
        near, _ = self.listener.accept()
        far = socket.create_connection(self.target)
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ways.append((Way(near, far), Way(far, near)))

    def drop(self, pair: tuple[Way, Way]) -> None:
        self.ways.remove(pair)
        for way in pair:
            way.source.close()


if __name__ == "__main__":
    Delay(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])).run()
