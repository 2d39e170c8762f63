"""A TCP conduit: paused, it reads nothing and yet sees the peer's end; corked, it sends frames together.

`Tight` is a socket that takes as little as the test likes.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest

from p2pfwd.net.conduit.tcp import TcpConduit, tune
from p2pfwd.system.buffers import CORKED_FRAMES, FRAME_BYTES, KEEP_BUFFERS, LARGE_BYTES, READ_BYTES
from p2pfwd.system.loop_io import LoopIo
from tests.support.buffers import keep_frame
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
        kept = [keep_frame(rig.pool) for _ in range(KEEP_BUFFERS - 1)]
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


class Messages(Told):
    """A receiver of wide messages, each of which begins with its length, 4 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.missing = 0
        self.got: list[bytes] = []
        self.views: list[int] = []
        """How much was there each time."""

    def data_received(self, view: memoryview) -> int:
        self.views.append(len(view))
        self.missing = at = 0
        while len(view) - at >= 4:
            end = at + int.from_bytes(view[at : at + 4], "big")
            self.missing = max(0, end - len(view))
            if self.missing:
                break
            self.got.append(bytes(view[at:end]))
            at = end
        return at


class Reading:
    """A conduit whose reads bring what the test says, whatever there is room for."""

    def __init__(self, near: socket.socket, io: LoopIo) -> None:
        self.wire, self.rooms = b"", list[int]()
        self.sock = near
        self.io, self.told = io, Messages()
        self.conduit = TcpConduit(cast("socket.socket", self), io)
        self.conduit.start(self.told)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def recv_into(self, view: memoryview) -> int:
        self.rooms.append(len(view))
        n = min(len(view), len(self.wire))
        view[:n], self.wire = self.wire[:n], self.wire[n:]
        return n

    def bring(self, wire: bytes) -> None:
        """In one read, or as many as there must be."""
        self.wire += wire
        while self.wire:
            self.conduit._readable()


@contextmanager
def reading() -> Iterator[Reading]:
    near, far = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    with near, far, listener, socket.create_connection(listener.getsockname()) as sock:
        sock.setblocking(False)
        io = LoopIo.of(asyncio.get_running_loop(), 0)
        rig = Reading(sock, io)
        yield rig
        rig.conduit.abort()
        assert io.pool.kept_bytes == rig.conduit.kept_bytes == 0
        io.close()


def message(size: int, fill: int) -> bytes:
    return size.to_bytes(4, "big") + bytes([fill]) * (size - 4)


@on_loop
async def test_a_wide_message_that_comes_in_part_lies_where_it_is_and_is_read_to_its_end() -> None:
    with reading() as rig:
        pool, conduit = rig.io.pool, rig.conduit
        one, two = message(READ_BYTES, 1), message(READ_BYTES, 2)
        scratch = pool.scratch
        rig.bring(one[:100_000])
        assert pool.scratch is not scratch and pool.kept_bytes == conduit.kept_bytes == LARGE_BYTES
        rig.bring(one[100_000:200_000])
        assert pool.kept_bytes == LARGE_BYTES, "still one buffer"
        rig.bring(one[200_000:] + two)
        assert rig.told.got == [one, two]
        assert rig.rooms[1:3] == [READ_BYTES - 100_000, READ_BYTES - 200_000], "not beyond its end"
        assert rig.told.views[-1] == READ_BYTES, "so the next one is read whole"
        assert pool.kept_bytes == conduit.kept_bytes == 0


@on_loop
async def test_behind_others_it_stays_as_well_if_the_rest_fits_and_is_copied_if_not() -> None:
    with reading() as rig:
        pool = rig.io.pool
        first = message(100_000, 1)
        near_end, far_end = message(LARGE_BYTES - 100_000, 2), message(LARGE_BYTES - 99_999, 3)
        rig.bring(first + near_end[:80_000])
        assert pool.kept_bytes == LARGE_BYTES
        rig.bring(near_end[80_000:])
        assert pool.kept_bytes == 0 and rig.told.got == [first, near_end]
        rig.bring(first + far_end[:80_000])
        assert pool.kept_bytes == rig.conduit.kept_bytes == 80_000
        rig.bring(far_end[80_000:] + first)
        assert rig.told.got[2:] == [first, far_end, first] and pool.kept_bytes == 0
        assert rig.rooms[-2:] == [len(far_end) - 80_000, READ_BYTES], "read to its end then, too"


@on_loop
async def test_who_announces_much_and_sends_byte_by_byte_holds_what_has_come_and_then_one_buffer() -> None:
    with reading() as rig:
        wire = message(READ_BYTES, 1)
        rig.bring(wire[: FRAME_BYTES - 2])
        assert rig.io.pool.kept_bytes == FRAME_BYTES - 2
        for n in range(FRAME_BYTES - 2, FRAME_BYTES + 3):
            held = n if n <= FRAME_BYTES else LARGE_BYTES
            assert rig.io.pool.kept_bytes == rig.conduit.kept_bytes == held
            rig.bring(wire[n : n + 1])
        assert rig.told.got == []


@pytest.mark.parametrize("size", [FRAME_BYTES, 200_000])
@on_loop
async def test_a_pause_keeps_a_wide_message_that_has_come_in_part_and_small_reads_go_on_with_it(
    size: int,
) -> None:
    with reading() as rig:
        wire = message(READ_BYTES, 1)
        rig.bring(wire[:size])
        rig.conduit.pause()
        rig.conduit.spare(True)
        rig.conduit.resume()
        rig.bring(wire[size:])
        assert rig.told.got == [wire] and max(rig.rooms[1:]) <= 32 * 1024


@on_loop
async def test_whom_it_tells_of_what_it_moves_besides_the_loop() -> None:
    with reading() as rig:
        told, wire = [0], message(FRAME_BYTES, 1)

        def moved() -> None:
            told[0] += 1

        counts = []
        for tell, spare in itertools.product((None, moved), (False, True)):
            rig.conduit.tell(tell)
            rig.conduit.spare(spare)
            rig.conduit.tell(tell)
            before = rig.io.busy_poll.moves, told[0]
            rig.bring(wire[:100])
            counts.append((rig.io.busy_poll.moves - before[0], told[0] - before[1]))
        assert counts == [(1, 0), (0, 0), (1, 1), (0, 0)]


class Left(Told):
    """Leaves what comes, and pauses, until it is told to take it."""

    takes = False

    def __init__(self, conduit: TcpConduit) -> None:
        super().__init__()
        self.conduit = conduit

    def data_received(self, view: memoryview) -> int:
        if not self.takes:
            self.conduit.pause()
            return 0
        return super().data_received(view)


@on_loop
async def test_who_is_resumed_within_another_ones_read_leaves_that_read_alone() -> None:
    """As a circuit does whose last bytes come by its stream while others wait on its leg."""
    io = LoopIo.of(asyncio.get_running_loop(), 0)
    fars, nears = [], []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(2):
            fars.append(socket.create_connection(listener.getsockname()))
            nears.append(listener.accept()[0])
            tune(nears[-1])
    one, other = (TcpConduit(near, io) for near in nears)
    left = Left(other)
    other.start(left)
    fars[1].sendall(b"left" * 100)
    await until(lambda: other.kept_bytes)

    class Resuming(Told):
        def data_received(self, view: memoryview) -> int:
            left.takes = True
            other.resume()
            return super().data_received(view)

    told = Resuming()
    one.start(told)
    fars[0].sendall(b"read" * 50)
    await until(lambda: told.bytes)
    assert told.bytes == b"read" * 50 and left.bytes == b"left" * 100
    one.abort()
    other.abort()
    for far in fars:
        far.close()
    io.close()
