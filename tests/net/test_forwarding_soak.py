"""Every way to end a connection, at both ends at once, in random pairs: none may hang or leave anything.

What must arrive is pinned in test_forwarding_truth; here, that every tunnel ends, whoever does what when.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.net.forwarding_rig import LOOPS, Pair
from tests.support.sockets import TcpServer, connect, reset

CONNECTIONS = 400
AT_ONCE = 8
SIZES = (1, 1000, 100_000)
"""Something, so that nobody waits for two programs that both wait, and less than a tunnel takes unread."""

DEADLINE_S = 20.0


@pytest.fixture(params=LOOPS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two hosts on either event loop."""
    with Pair(request.param) as made:
        yield made


def behave(sock: socket.socket, rng: random.Random) -> None:
    """Send some, read some or all, and end in one of the ways there are; a failing socket is among them."""
    sock.settimeout(DEADLINE_S)
    ending = rng.choice(("close", "reset", "half-close, then read", "read, then close", "read, then reset"))
    try:
        sock.sendall(bytes(rng.choice(SIZES)))
        if ending.startswith("half"):
            sock.shutdown(socket.SHUT_WR)
        if ending.startswith("read"):
            sock.recv(rng.choice((1, 65536)))
        if ending.startswith("half"):
            while sock.recv(65536):
                pass
    except TimeoutError:
        raise
    except OSError:
        pass  # the other end was quicker
    if ending.endswith("reset"):
        reset(sock)
    else:
        sock.close()


def test_every_tunnel_ends_whoever_does_what(pair: Pair) -> None:
    """Both ends of each connection behave at random; a side that waits for what never comes is a failure."""
    hung: list[str] = []
    seeds = iter(range(10**9))
    lock = threading.Lock()

    def next_seed() -> int:
        with lock:
            return next(seeds)

    def end(sock: socket.socket, seed: int, side: str) -> None:
        try:
            behave(sock, random.Random(seed))
        except TimeoutError:
            hung.append(f"{side}, seed {seed}")
            sock.close()

    def clients(port: int) -> None:
        for _ in range(CONNECTIONS // AT_ONCE):
            try:
                sock = connect(port)
            except ConnectionError:  # the RST overtook the return of connect()
                continue
            end(sock, next_seed(), "client")

    with TcpServer(lambda conn: end(conn, next_seed(), "service")) as server:
        port = pair.tunnel(server.address)
        threads = [threading.Thread(target=clients, args=(port,)) for _ in range(AT_ONCE)]
        with pair.settled():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert hung == []
