"""The floor's kernel half: a TCP relay in plain Python, one thread, raw sockets, epoll, one reused buffer.

Two of these in a row (`python -m tests.bench.relay LISTEN_PORT TARGET_PORT`) cost what two daemons must
cost at least: per byte and per side one `recv_into` and one `send`. No crypto, no frames, no event loop
library. Half-close is passed on; an error on either side ends both.
"""

from __future__ import annotations

import select
import socket
import sys
from collections import deque

BUFFER_BYTES = 256 * 1024
"""Cheapest per byte of 64, 128 and 256 KiB where this was measured."""
BACKLOG = 4096


class Leg:
    """One socket of a pair, and what has been read from its peer but not yet sent on it."""

    __slots__ = ("eof", "events", "finished", "other", "pending", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.other: Leg = self
        self.pending: deque[bytes] = deque()
        self.eof = False  # read from this socket
        self.finished = False  # shut down towards this socket
        self.events = 0


class Relay:
    """Accepts on one port, connects each connection to another."""

    def __init__(self, listen_port: int, target_port: int) -> None:
        self.target = ("127.0.0.1", target_port)
        self.listener = socket.create_server(("127.0.0.1", listen_port), backlog=BACKLOG)
        self.listener.setblocking(False)
        self.poll = select.epoll()
        self.poll.register(self.listener, select.EPOLLIN)
        self.legs: dict[int, Leg] = {}
        self.buffer = memoryview(bytearray(BUFFER_BYTES))

    def run(self) -> None:
        """Relay until killed."""
        while True:
            for fd, events in self.poll.poll():
                leg = self.legs.get(fd)
                if leg is None:
                    if fd == self.listener.fileno():
                        self.accept_all()
                    continue
                try:
                    if events & select.EPOLLOUT:
                        self.flush(leg)
                    if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                        self.pull(leg)
                except BlockingIOError:
                    continue
                except OSError:
                    self.drop(leg)

    def accept_all(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except BlockingIOError:
                return
            self.join(client)

    def join(self, client: socket.socket) -> None:
        """A connection of its own to the target for `client`."""
        pair = Leg(client), Leg(socket.create_connection(self.target))
        for leg, other in (pair, pair[::-1]):
            leg.other = other
            leg.sock.setblocking(False)
            leg.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            leg.events = select.EPOLLIN
            self.legs[leg.sock.fileno()] = leg
            self.poll.register(leg.sock, leg.events)

    def pull(self, leg: Leg) -> None:
        """Read once from `leg`, send to the other side; what does not fit pauses the reading."""
        count = leg.sock.recv_into(self.buffer)
        other = leg.other
        if not count:
            leg.eof = True
            self.finish(other)
            self.watch(leg)
            return
        try:
            sent = other.sock.send(self.buffer[:count])
        except BlockingIOError:
            sent = 0
        if sent < count:
            other.pending.append(bytes(self.buffer[sent:count]))
            self.watch(leg)
            self.watch(other)

    def flush(self, leg: Leg) -> None:
        while leg.pending:
            sent = leg.sock.send(leg.pending[0])
            if sent < len(leg.pending[0]):
                leg.pending[0] = leg.pending[0][sent:]
                return
            leg.pending.popleft()
        self.finish(leg)
        self.watch(leg)
        self.watch(leg.other)

    def finish(self, leg: Leg) -> None:
        if leg.other.eof and not leg.pending and not leg.finished:
            leg.finished = True
            leg.sock.shutdown(socket.SHUT_WR)
            if leg.eof:
                self.drop(leg)

    def watch(self, leg: Leg) -> None:
        """Set what is waited for: reading stops at EOF and while the other side is full."""
        fd = leg.sock.fileno()
        if fd < 0:
            return
        reads = 0 if leg.eof or leg.other.pending else select.EPOLLIN
        events = reads | (select.EPOLLOUT if leg.pending else 0)
        if events != leg.events:
            leg.events = events
            self.poll.modify(fd, events)

    def drop(self, leg: Leg) -> None:
        for side in (leg, leg.other):
            if side.sock.fileno() >= 0:
                self.legs.pop(side.sock.fileno(), None)
                self.poll.unregister(side.sock)
                side.sock.close()


if __name__ == "__main__":
    Relay(int(sys.argv[1]), int(sys.argv[2])).run()
