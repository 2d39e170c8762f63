"""Readiness of sockets on both event loops: above all, a socket that failed is told of until it is closed."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from p2pfwd.system.poller import LoopPoller, Poller
from tests.support.loops import on_both_loops, turns, until


@contextmanager
def poller() -> Iterator[Poller]:
    made = Poller(asyncio.get_running_loop())
    try:
        yield made
    finally:
        made.close()
        made.close()


@contextmanager
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends on loopback; the first does not block."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as far:
        far.connect(server.getsockname())
        near, _ = server.accept()
        with near:
            near.setblocking(False)
            yield near, far


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@on_both_loops
async def test_data_and_a_reset_in_one_breath_are_both_seen() -> None:
    # uvloop's own readers are told once, and then never again: the tunnel would hang.
    with poller() as made, connection() as (near, far):
        seen: list[bytes | type[OSError]] = []

        def readable() -> None:
            try:
                seen.append(near.recv(4))
            except OSError as exc:
                seen.append(type(exc))
                made.remove_reader(near.fileno())

        far.sendall(b"12345678")
        reset(far)
        made.add_reader(near.fileno(), readable)
        await until(lambda: ConnectionResetError in seen)
        assert b"".join(part for part in seen if isinstance(part, bytes)) in (b"", b"12345678")


@on_both_loops
async def test_a_writer_is_told_of_a_failed_socket_too() -> None:
    with poller() as made, connection() as (near, far):
        called: list[int] = []
        reset(far)
        made.add_writer(near.fileno(), lambda: called.append(1))
        await until(lambda: len(called) >= 3)
        made.remove_writer(near.fileno())


@on_both_loops
async def test_one_that_waits_for_failure_hears_of_nothing_else() -> None:
    with poller() as made, connection() as (near, far):
        fd, called = near.fileno(), list[str]()
        made.add_reader(fd, lambda: called.append("read"))
        made.watch_failure(fd, lambda: called.append("failed"))
        far.sendall(b"x")
        far.shutdown(socket.SHUT_WR)
        await turns()
        assert called == [], "data, and an end of data, are no failure"
        made.add_writer(fd, lambda: called.append("write"))
        await until(lambda: "write" in called)
        made.remove_writer(fd)
        assert set(called) == {"write"}
        called.clear()
        reset(far)
        await until(lambda: len(called) >= 2)
        assert set(called) == {"failed"}
        made.add_reader(fd, lambda: called.append("read"))
        await until(lambda: "read" in called)
        made.remove_reader(fd)
        called.clear()
        await turns()
        assert called == []


@on_both_loops
async def test_readers_and_writers_of_one_socket_come_and_go_by_themselves() -> None:
    with poller() as made, connection() as (near, far):
        fd, called = near.fileno(), list[str]()
        made.add_writer(fd, lambda: called.append("w"))
        made.add_reader(fd, lambda: called.append("r"))
        await until(lambda: "w" in called)
        assert "r" not in called
        made.remove_writer(fd)
        called.clear()
        far.sendall(b"x")
        await until(lambda: "r" in called)
        assert "w" not in called
        made.add_reader(fd, lambda: called.append("other"))
        await until(lambda: "other" in called)
        made.add_writer(fd, lambda: called.append("w"))
        made.remove_reader(fd)
        called.clear()
        await until(lambda: "w" in called)
        assert "r" not in called and "other" not in called
        made.remove_writer(fd)
        for _ in range(2):
            made.remove_reader(fd)
            made.remove_writer(fd)
        called.clear()
        await turns()
        assert called == []


@on_both_loops
async def test_room_that_many_needed_goes_back_and_who_is_watched_is_called_as_before() -> None:
    with poller() as made, connection() as (near, far):
        called = list[str]()
        made.add_reader(near.fileno(), lambda: called.append("r"))
        made._readers.update(dict.fromkeys(range(5000, 9000), lambda: None))
        for fd in range(5000, 9000):
            del made._readers[fd]
        before = sys.getsizeof(made._readers)
        made.shrink()
        assert sys.getsizeof(made._readers) < before / 100
        far.sendall(b"x")
        await until(lambda: "r" in called)
        made.remove_reader(near.fileno())


@on_both_loops
async def test_who_was_removed_a_moment_ago_is_not_called_though_its_event_is_there() -> None:
    with poller() as made, connection() as one, connection() as two:
        called: list[int] = []

        def first_come(mine: socket.socket, other: socket.socket) -> Callable[[], None]:
            def readable() -> None:
                called.append(mine.fileno())
                made.remove_reader(mine.fileno())
                made.remove_reader(other.fileno())

            return readable

        for near, far in (one, two):
            far.sendall(b"x")
            made.add_reader(near.fileno(), first_come(near, two[0] if near is one[0] else one[0]))
        await until(lambda: bool(called))
        await turns()
        assert len(called) == 1


@on_both_loops
async def test_a_callback_that_fails_is_logged_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with poller() as made, connection() as one, connection() as two:
        called: list[int] = []

        def fails() -> None:
            made.remove_reader(one[0].fileno())
            raise ValueError("a defect")

        for (_, far), callback in ((one, fails), (two, lambda: called.append(1))):
            far.sendall(b"x")
            made.add_reader((one if callback is fails else two)[0].fileno(), callback)
        await until(lambda: bool(called))
        await until(lambda: "a defect" in caplog.text)
        made.remove_reader(two[0].fileno())


@on_both_loops
async def test_without_epoll_the_loop_serves() -> None:
    made = LoopPoller(asyncio.get_running_loop())
    with connection() as (near, far):
        called: list[bytes] = []
        made.add_reader(near.fileno(), lambda: called.append(near.recv(1)))
        far.sendall(b"x")
        await until(lambda: called == [b"x"])
        made.watch_failure(near.fileno(), lambda: called.append(b"failed"))
        far.shutdown(socket.SHUT_WR)
        await turns()
        assert called == [b"x"], "without epoll a failure shows later"
    made.close()
