"""Pins what a forward does under load: many cycles (D08), a slow reader (D12), no descriptors (D14).

Case numbers: A are Kubo's own tests, D what these leave out; the bench has the large figures.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.forwarding_rig import LOOPS, Pair, no_streams
from tests.support.sockets import (
    Payload,
    TcpServer,
    connect,
    echo,
    echoes,
    read_exactly,
    read_to_end,
    reply_at_end,
)


@pytest.fixture(params=list(LOOPS))
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with Pair(request.param) as made:
        yield made


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_d08_many_cycles_leave_descriptors_and_memory_flat(pair: Pair) -> None:
    with TcpServer(reply_at_end) as server:
        port = pair.tunnel(server.address)

        def cycles(count: int) -> None:
            for _ in range(count):
                with connect(port) as conn:
                    conn.sendall(b"0123456789")
                    conn.shutdown(socket.SHUT_WR)
                    assert len(read_to_end(conn)) == 32
            for node in (pair.near, pair.far):
                pair.run(no_streams(node.service))

        cycles(200)  # what is warm is warm
        fds, rss = descriptors(), rss_bytes()
        cycles(300)
        assert descriptors() <= fds + 1  # the last server thread may still be closing
        assert rss_bytes() - rss < 4 << 20
        assert pair.do(pair.near.service.streams) == []


def test_d12_a_slow_reader_does_not_slow_the_others(pair: Pair) -> None:
    # 100 streams here; the bench has the large figures.
    size = 256 << 10
    with TcpServer(echo) as server:
        port = pair.tunnel(server.address)
        slow = connect(port)
        slow.setblocking(False)
        sent = 0
        stuck = time.monotonic() + 0.5
        while time.monotonic() < stuck:  # until its credit and every buffer on the way are used up
            try:
                sent += slow.send(bytes(1 << 16))
                stuck = time.monotonic() + 0.5
            except BlockingIOError:
                pass
        conns = [connect(port) for _ in range(100)]
        senders = [threading.Thread(target=conn.sendall, args=(bytes(size),)) for conn in conns]
        for sender in senders:
            sender.start()
        for conn in conns:
            assert len(read_exactly(conn, size)) == size
        for sender in senders:
            sender.join()
        for conn in conns:
            conn.close()
        slow.settimeout(20)
        assert len(read_exactly(slow, sent)) == sent, "and the slow one has lost nothing"
        slow.close()


def test_d14_accepting_survives_running_out_of_descriptors(pair: Pair) -> None:
    with TcpServer(echo) as server:
        port = pair.tunnel(server.address)
        assert echoes(port, Payload(10))
        pair.run(no_streams(pair.near.service))
        pair.run(no_streams(pair.far.service))
        assert server.idle(20)  # a descriptor that it frees later would let one connection half in
        clients = [socket.socket() for _ in range(4)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        blockers = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        try:
            while True:  # fill the gaps below the limit
                try:
                    blockers.append(os.dup(0))
                except OSError:
                    break
            for client in clients:
                client.settimeout(20)
                client.connect(("127.0.0.1", port))  # the kernel's backlog takes it
            pair.run(_until_state(pair, "resource-limit"))
            before = time.thread_time()
            idle = pair.run(_cpu_of_loop(0.5))
            assert idle < 0.1, "backing off, not spinning"
            assert time.thread_time() - before < 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in blockers:
                os.close(fd)
        answered = [_answers(client) for client in clients]
        # A descriptor freed while the limit was low lets one in, whose target then has none.
        assert answered.count(True) >= len(clients) - 1
        assert echoes(port, Payload(10)), "a new connection works"
        assert pair.state().state == "ready"


def _answers(client: socket.socket) -> bool:
    """Whether an echo comes back; a reset is an answer too, silence is not."""
    with client:
        try:
            client.sendall(b"back")
            return read_exactly(client, 4) == b"back"
        except ConnectionResetError:
            return False


async def _until_state(pair: Pair, state: str) -> None:
    reached = asyncio.Event()
    service = pair.near.service
    cancel = service.on_event(lambda e: reached.set() if e.listener and e.listener.state == state else None)
    try:
        async with asyncio.timeout(10):
            if service.listeners()[0].state != state:
                await reached.wait()
    finally:
        cancel()


async def _cpu_of_loop(wall_s: float) -> float:
    """CPU seconds that the loop's thread uses in `wall_s` seconds."""
    before = time.thread_time()
    await asyncio.sleep(wall_s)
    return time.thread_time() - before
