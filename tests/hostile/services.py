"""The services behind the victim's listens, as one process: `python -m tests.hostile.services`.

Prints a JSON object of their ports. `bulk` sends without end, `echo` sends back, `sink` takes a connection
and never reads it, `dead` never accepts: its queue is full, so that a connect to it hangs. Ends with stdin.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Callable

BLOCK = bytes(256 * 1024)


def endless(sock: socket.socket) -> None:
    """Send for as long as somebody takes it."""
    while True:
        sock.sendall(BLOCK)


def echo(sock: socket.socket) -> None:
    """Send back whatever comes."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := sock.recv(65536):
        sock.sendall(data)


def sink(sock: socket.socket) -> None:
    """Hold the connection unread, until the process ends."""
    threading.Event().wait()


def _serve(listener: socket.socket, handler: Callable[[socket.socket], None]) -> None:
    def run(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            handler(sock)

    while True:
        with contextlib.suppress(OSError):  # out of descriptors, or a client that has gone already
            sock, _ = listener.accept()
            threading.Thread(target=run, args=(sock,), daemon=True).start()


def main() -> None:
    """Serve until stdin ends."""
    threading.stack_size(256 * 1024)  # an attack may open thousands
    ports: dict[str, int] = {}
    held: list[socket.socket] = []
    for name, handler in {"bulk": endless, "echo": echo, "sink": sink}.items():
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        ports[name] = listener.getsockname()[1]
        threading.Thread(target=_serve, args=(listener, handler), daemon=True).start()
    dead = socket.create_server(("127.0.0.1", 0), backlog=0)
    ports["dead"] = dead.getsockname()[1]
    for _ in range(4):  # fill its queue: the kernel drops what comes then
        sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(dead.getsockname())
        held.append(sock)
    print(json.dumps(ports), flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
