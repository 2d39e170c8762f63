"""Two sockets moved into each other: all of it, in order; each end is passed on, and little waits."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from p2pfwd.net.conduit import pair as pair_module
from p2pfwd.net.conduit.pair import Pair
from p2pfwd.net.conduit.tcp import TcpConduit, tune
from p2pfwd.system.buffers import READ_BYTES
from p2pfwd.system.loop_io import LoopIo
from tests.support.loops import on_both_loops, until

BULK = random.Random(4).randbytes(6_000_000)
FIRST = b"first"


class Paired:
    """A program at each end, and what the pair says."""

    def __init__(self, io: LoopIo) -> None:
        self.io = io
        self.overs = 0
        self.apps: list[socket.socket] = []
        one, other = (TcpConduit(self._connected(), io) for _ in range(2))
        self.pair = Pair(one, other, asyncio.get_running_loop(), self._over)

    def _connected(self) -> socket.socket:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            app = socket.create_connection(listener.getsockname())
            near, _ = listener.accept()
        app.setblocking(False)
        tune(near)
        self.apps.append(app)
        return near

    def _over(self) -> None:
        self.overs += 1


@asynccontextmanager
async def paired() -> AsyncIterator[Paired]:
    io = LoopIo.of(asyncio.get_running_loop(), 0)
    made = Paired(io)
    made.pair.start(FIRST)
    for app in made.apps:
        assert await exactly(app, len(FIRST)) == FIRST
    try:
        yield made
    finally:
        made.pair.abort()
        assert made.overs == 1
        assert io.pool.kept_bytes == 0
        for app in made.apps:
            app.close()
        io.close()


async def exactly(app: socket.socket, n: int) -> bytes:
    got = bytearray()
    while len(got) < n and (data := await asyncio.get_running_loop().sock_recv(app, n - len(got))):
        got += data
    return bytes(got)


@on_both_loops
async def test_all_of_it_passes_both_ways_at_once_and_each_way_ends_by_itself() -> None:
    loop = asyncio.get_running_loop()
    async with paired() as it:
        one, other = it.apps
        sending = loop.sock_sendall(one, BULK), loop.sock_sendall(other, BULK[::-1])
        got = exactly(one, len(BULK)), exactly(other, len(BULK))
        _, _, back, there = await asyncio.gather(*sending, *got)
        assert there == BULK and back == BULK[::-1]
        assert it.pair.one.passed == it.pair.other.passed == len(BULK)
        one.shutdown(socket.SHUT_WR)
        assert await exactly(other, 1) == b""
        await loop.sock_sendall(other, BULK)
        assert await exactly(one, len(BULK)) == BULK, "the other way is still open"
        other.shutdown(socket.SHUT_WR)
        assert await exactly(one, 1) == b""
        await until(lambda: it.pair.is_over)


@on_both_loops
async def test_who_is_not_read_has_no_more_than_a_read_waiting_here_and_then_all_of_it() -> None:
    loop = asyncio.get_running_loop()
    async with paired() as it:
        one, other = it.apps
        sending = asyncio.ensure_future(loop.sock_sendall(one, BULK * 4))
        await until(lambda: it.pair.other.conduit.congested)
        seen = -1
        while seen != it.pair.one.passed:
            seen = it.pair.one.passed
            await asyncio.sleep(0.05)
        assert not sending.done() and 0 < it.io.pool.kept_bytes <= READ_BYTES
        assert await exactly(other, 4 * len(BULK)) == BULK * 4
        await sending


@on_both_loops
async def test_what_was_sent_before_the_end_arrives_though_its_receiver_reads_late() -> None:
    loop = asyncio.get_running_loop()
    async with paired() as it:
        one, other = it.apps
        sending = asyncio.ensure_future(loop.sock_sendall(one, BULK * 2))
        await until(lambda: it.pair.other.conduit.congested)
        other.shutdown(socket.SHUT_WR)
        assert await exactly(one, 1) == b""
        got = asyncio.ensure_future(exactly(other, 2 * len(BULK) + 1))
        await sending
        one.shutdown(socket.SHUT_WR)
        assert await got == BULK * 2
        await until(lambda: it.pair.is_over)


@pytest.mark.parametrize("which", [0, 1])
@on_both_loops
async def test_the_loss_of_one_is_the_loss_of_the_other(which: int) -> None:
    async with paired() as it:
        gone, left = it.apps[which], it.apps[1 - which]
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        with suppress(ConnectionError):
            assert await exactly(left, 1) == b""
        await until(lambda: it.pair.is_over)


@on_both_loops
async def test_two_on_which_nothing_passes_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_module, "IDLE_S", 0.3)
    async with paired() as it:
        for _ in range(8):
            await asyncio.get_running_loop().sock_sendall(it.apps[0], b"x")
            assert await exactly(it.apps[1], 1) == b"x"
            await asyncio.sleep(0.05)
        assert not it.pair.is_over
        await until(lambda: it.pair.is_over)


@on_both_loops
async def test_who_does_not_end_when_the_other_has_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_module, "LINGER_S", 0.05)
    async with paired() as it:
        it.apps[0].shutdown(socket.SHUT_WR)
        await until(lambda: it.pair.is_over)
