"""A TCP conduit: paused, it reads nothing and yet sees the peer's end; corked, it sends frames together.

`Tight` is a socket that takes as little as the test likes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest

from p2pfwd.net.conduit.tcp import TcpConduit, tune
from p2pfwd.system.buffers import CORKED_FRAMES, FRAME_BYTES, KEEP_BUFFERS
from p2pfwd.system.loop_io import LoopIo
from tests.support.loops import on_loop, until


class Told:
    """A receiver that takes everything."""

    def __init__(self) -> None:
        self.bytes = b""
        self.lost: list[Exception | None] = []
        self.drains = 0

    def data_received(self, view: memoryview) -> int:
        self.bytes += view
        return len(view)

    def eof_received(self) -> None:
        self.lost.append(None)

    def conduit_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    def drained(self) -> None:
        self.drains += 1


class Tight:
    """A socket whose sends are noted, and take no more than `takes` says, one after the other."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.takes: list[int | OSError] = []
        self.sends: list[list[bytes]] = []
        """The buffers of each."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def send(self, view: memoryview) -> int:
        return self.sendmsg([view])

    def sendmsg(self, views: Sequence[memoryview]) -> int:
        self.sends.append([bytes(view) for view in views])
        wire = b"".join(self.sends[-1])
        most = self.takes.pop(0) if self.takes else len(wire)
        if isinstance(most, OSError):
            raise most
        if not most:
            raise BlockingIOError
        return self.sock.send(wire[:most])


class Corked:
    """A conduit over a `Tight` socket, and the peer's end."""

    def __init__(self, tight: Tight, far: socket.socket, io: LoopIo) -> None:
        self.tight, self.far, self.pool, self.told = tight, far, io.pool, Told()
        self.conduit = TcpConduit(cast("socket.socket", tight), io)
        self.conduit.start(self.told)
        self.wire = b""

    def frame(self, number: int, *, size: int = 1000, more: bool = True) -> None:
        """Send one, built as the data path builds it."""
        data = bytes([number]) * size
        self.wire += data
        self.pool.frame[:size] = data
        self.conduit.send(self.pool.frame[:size], framed=True, more=more)

    def got(self) -> bytes:
        """What the peer has received."""
        self.far.setblocking(False)
        got = b""
        try:
            while data := self.far.recv(1 << 20):
                got += data
        except BlockingIOError:
            pass
        return got


@contextmanager
def corked() -> Iterator[Corked]:
    listener = socket.create_server(("127.0.0.1", 0))
    far = socket.create_connection(listener.getsockname())
    near, _ = listener.accept()
    listener.close()
    tune(near)
    io = LoopIo.of(asyncio.get_running_loop(), 0)
    rig = Corked(Tight(near), far, io)
    try:
        yield rig
    finally:
        rig.conduit.abort()
        assert io.pool.kept_bytes == rig.conduit.kept_bytes == 0
        far.close()
        io.close()


@on_loop
async def test_frames_that_wait_for_more_go_out_in_one_send_in_their_order() -> None:
    with corked() as rig:
        rig.frame(1)
        rig.frame(2, size=1)
        assert rig.tight.sends == [] and rig.pool.kept_bytes == rig.conduit.kept_bytes == 2 * FRAME_BYTES
        rig.conduit.uncork()
        assert rig.tight.sends == [[bytes([1]) * 1000, b"\x02"]] and rig.got() == rig.wire
        assert rig.pool.kept_bytes == 0 and not rig.conduit.congested
        rig.conduit.uncork()
        assert len(rig.tight.sends) == 1, "there was nothing more"


@on_loop
async def test_so_many_frames_wait_and_no_more_and_one_without_more_takes_them_along() -> None:
    with corked() as rig:
        for number in range(CORKED_FRAMES):
            assert rig.tight.sends == []
            rig.frame(number)
        assert [len(send) for send in rig.tight.sends] == [CORKED_FRAMES]
        rig.frame(7)
        rig.frame(8, more=False)
        rig.frame(9, more=False)
        assert [len(send) for send in rig.tight.sends] == [CORKED_FRAMES, 2, 1]
        rig.frame(10)
        rig.conduit.send(memoryview(b"control"))
        assert rig.tight.sends[-1] == [bytes([10]) * 1000, b"control"], "nothing overtakes"
        assert rig.got() == rig.wire + b"control"


@pytest.mark.parametrize("taken", [0, 1, 999, 1000, 1001, 2000, 2500, 3000, 3999])
@on_loop
async def test_a_connection_may_be_congested_at_each_of_the_frames(taken: int) -> None:
    with corked() as rig:
        rig.tight.takes = [taken, 0, 700, 1]
        for number in range(CORKED_FRAMES):
            rig.frame(number)
        assert rig.conduit.congested
        left = CORKED_FRAMES - taken // 1000
        assert rig.pool.kept_bytes == rig.conduit.kept_bytes == left * FRAME_BYTES
        rig.conduit.uncork()
        assert len(rig.tight.sends) == 1, "who is congested waits for room"
        rig.conduit.send(memoryview(b"last words"))  # behind them
        await until(lambda: rig.told.drains == 1)
        assert rig.pool.kept_bytes == rig.conduit.kept_bytes == 0
        assert rig.got() == rig.wire + b"last words"


@on_loop
async def test_what_waits_for_more_is_sent_before_the_end_and_dropped_by_an_abort() -> None:
    with corked() as rig:
        rig.frame(1)
        rig.conduit.finish()
        assert rig.got() == rig.wire
    with corked() as rig:
        rig.frame(1)
        rig.conduit.abort()
        assert rig.pool.kept_bytes == 0 and rig.got() == b""
        rig.conduit.uncork()


@on_loop
async def test_a_failed_send_of_frames_that_waited_is_told_later_and_once() -> None:
    with corked() as rig:
        rig.tight.takes = [BrokenPipeError(), BrokenPipeError()]
        rig.frame(1)
        rig.frame(2)
        rig.conduit.uncork()
        assert rig.pool.kept_bytes == 0 and rig.told.lost == [], "not inside the sender's call"
        rig.frame(3, more=False)
        await until(lambda: bool(rig.told.lost))
        assert [type(exc) for exc in rig.told.lost] == [BrokenPipeError]


@on_loop
async def test_where_much_is_kept_no_frame_waits_for_more() -> None:
    with corked() as rig:
        kept = [rig.pool.keep_frame() for _ in range(KEEP_BUFFERS - 1)]
        rig.frame(1)
        assert rig.tight.sends == [[rig.wire]]
        rig.pool.release(kept.pop())
        rig.frame(2)
        assert len(rig.tight.sends) == 1
        rig.conduit.uncork()
        for buffer in kept:
            rig.pool.release(buffer)


@on_loop
async def test_a_peer_that_resets_while_it_is_not_read_gives_up_its_place() -> None:
    """A flooder is left unread; when it has gone its connection must not be held until it is read again."""
    listener = socket.create_server(("127.0.0.1", 0))
    far = socket.create_connection(listener.getsockname())
    near, _ = listener.accept()
    listener.close()
    tune(near)
    io, told = LoopIo.of(asyncio.get_running_loop(), 0), Told()
    conduit = TcpConduit(near, io)
    conduit.start(told)
    far.sendall(b"read")
    await until(lambda: told.bytes == b"read")
    conduit.pause()
    far.sendall(b"not read")
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    await until(lambda: bool(told.lost))
    assert told.bytes == b"read" and isinstance(told.lost[0], ConnectionResetError)
    assert near.fileno() == -1
    io.close()


@on_loop
async def test_what_cannot_be_sent_yet_is_counted_for_the_node_and_given_back() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    far = socket.create_connection(listener.getsockname())
    near, _ = listener.accept()
    listener.close()
    tune(near)
    io, told = LoopIo.of(asyncio.get_running_loop(), 0), Told()
    conduit = TcpConduit(near, io)
    conduit.start(told)
    while not conduit.congested:
        conduit.send(memoryview(bytes(1 << 20)))
    conduit.send(memoryview(b"more"))  # behind it
    assert 4 < conduit.kept_bytes <= (1 << 20) + 4
    assert io.pool.kept_bytes == conduit.kept_bytes - 4
    conduit.abort()
    assert conduit.kept_bytes == io.pool.kept_bytes == 0
    far.close()
    io.close()
