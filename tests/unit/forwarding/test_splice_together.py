"""Pins what a splice does together: frames read while reads fill them, and pieces that one read brought.

The stream is a fake that notes what is asked of it, in order; its frames have ten bytes. The local socket is
one end of a pair; `Tight` takes as little as the test likes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest

from p2pfwd.errors import ConnectionLost, StreamReset
from p2pfwd.forwarding.kubo import KuboSplice
from p2pfwd.forwarding.looks import Looks
from p2pfwd.forwarding.splice import GATHER_BYTES, Splice, State
from p2pfwd.net.conduit.contract import GatheringSink
from p2pfwd.system.buffers import CORKED_FRAMES
from tests.unit.forwarding.fakes import ALICE

FRAME = 10


class FakeStream:
    """Notes what is asked of it. `window`: bytes it lets be sent; `others`: whether other streams wait."""

    def __init__(self) -> None:
        self.direction, self.protocol, self.remote_peer = "inbound", "/x/a", ALICE
        self.is_stalled = False
        self.calls: list[Any] = []
        self.window = 1 << 20
        self.others = False
        self.gatherer: GatheringSink | None = None
        self.gathers = True
        self.sink: Any = None
        self.sent = b""
        self._frame = memoryview(bytearray(FRAME))

    def set_sink(self, sink: Any, *, tunnel: bool = False) -> None:
        self.sink = sink

    def begin_frame(self) -> memoryview | None:
        return self._frame[: min(FRAME, self.window)] if self.window else None

    def end_frame(self, n: int) -> None:
        self.calls.append(n)
        self.window -= n
        self.sent += self._frame[:n]

    def cork(self) -> bool:
        if not self.others:
            self.calls.append("cork")
        return not self.others

    def uncork(self) -> None:
        self.calls.append("uncork")

    def want_to_send(self) -> None:
        self.calls.append("wait")

    def consumed(self, n: int) -> None:
        self.calls.append(("consumed", n))

    def gather(self, sink: GatheringSink) -> bool:
        if self.gathers:
            self.gatherer = sink
        return self.gathers

    def let_go(self) -> None: ...

    def close_write(self) -> None:
        self.calls.append("fin")

    def reset(self, code: int = 0) -> None:
        self.calls.append("reset")
        self.sink.stream_lost(StreamReset("here", by="local"))


class FakePoller:
    def __init__(self) -> None:
        self.writer: Callable[[], None] | None = None

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None: ...

    def watch_failure(self, fd: int, callback: Callable[[], None]) -> None: ...

    def remove_reader(self, fd: int) -> None: ...

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        self.writer = callback

    def remove_writer(self, fd: int) -> None:
        self.writer = None


class FakeLoop:
    """A timer that never comes."""

    def time(self) -> float:
        return 0.0

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> FakeLoop:
        return self

    def cancel(self) -> None: ...


class Tight:
    """A socket whose sends are noted, and take what `takes` says, one after the other; then everything."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.takes: list[int | OSError] = []
        self.sends: list[int] = []
        """How many buffers each had."""
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def recv_into(self, frame: memoryview) -> int:
        try:
            return self.sock.recv_into(frame)
        except BlockingIOError:
            if self.error is not None:
                raise self.error from None
            raise

    def send(self, view: memoryview | bytearray) -> int:
        return self._send([bytes(view)])

    def sendmsg(self, views: Sequence[memoryview]) -> int:
        assert len(views) > 1, "one alone takes the cheaper call"
        return self._send([bytes(view) for view in views])

    def _send(self, views: list[bytes]) -> int:
        wire = b"".join(views)
        most = self.takes.pop(0) if self.takes else len(wire)
        if isinstance(most, OSError):
            raise most
        self.sends.append(len(views))
        return self.sock.send(wire[:most])


class Rig:
    def __init__(self, sock: socket.socket, program: socket.socket, *, to_kubo: bool) -> None:
        self.stream, self.poller, self.program = FakeStream(), FakePoller(), program
        self.tight, self.closed = Tight(sock), list[Splice]()
        made = (cast("Any", self.stream), cast("socket.socket", self.tight), self.poller)
        if to_kubo:
            loop = cast("Any", FakeLoop())
            self.splice: Splice = KuboSplice(
                *made, loop, self.closed.append, hold_s=None, looks=Looks(loop)
            )
        else:
            self.splice = Splice(*made, self.closed.append)
        self.splice.start()

    def read(self) -> list[Any]:
        """The poller says that the socket can be read; what the stream was asked then."""
        self.stream.calls.clear()
        self.splice._readable()
        return self.stream.calls

    def got(self) -> bytes:
        """What the program has received, to the end if there is one."""
        self.program.setblocking(False)
        got = b""
        try:
            while data := self.program.recv(1 << 20):
                got += data
        except (BlockingIOError, ConnectionResetError):
            pass
        return got


@contextmanager
def rig(*, to_kubo: bool = False) -> Iterator[Rig]:
    program, sock = socket.socketpair()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
    made = Rig(sock, program, to_kubo=to_kubo)
    try:
        yield made
    finally:
        program.close()
        sock.close()


# --- socket → stream ------------------------------------------------------------------------------


def test_less_than_a_frame_goes_out_at_once_and_nothing_else_is_asked() -> None:
    with rig() as r:
        r.program.send(b"k")
        assert r.read() == [1]


def test_reads_that_fill_their_frames_are_corked_together_and_a_short_one_ends_it() -> None:
    with rig() as r:
        r.program.send(bytes(2 * FRAME + 3))
        assert r.read() == ["cork", FRAME, FRAME, 3, "uncork"]
        r.program.send(bytes(2 * FRAME))  # exactly
        assert r.read() == ["cork", FRAME, FRAME, "uncork"]


def test_so_many_frames_are_read_at_once_and_no_more() -> None:
    with rig() as r:
        r.program.send(bytes(range(CORKED_FRAMES * FRAME + 3)))
        assert r.read() == ["cork", *[FRAME] * CORKED_FRAMES, "uncork"]
        assert r.read() == [3]
        assert r.stream.sent == bytes(range(CORKED_FRAMES * FRAME + 3))


def test_while_other_streams_wait_one_frame_is_a_turn() -> None:
    with rig() as r:
        r.stream.others = True
        r.program.send(bytes(2 * FRAME))
        assert r.read() == [FRAME]


def test_a_fin_behind_full_frames_is_asked_for_behind_them() -> None:
    with rig() as r:
        r.program.send(bytes(FRAME))
        r.program.shutdown(socket.SHUT_WR)
        assert r.read() == ["cork", FRAME, "fin", "uncork"]
        assert r.splice._from_socket is State.ENDED and not r.closed


def test_a_failure_behind_full_frames_resets_behind_them() -> None:
    with rig() as r:
        r.program.send(bytes(FRAME))
        r.tight.error = ConnectionResetError()
        assert r.read() == ["cork", FRAME, "reset", "uncork"]
        assert r.closed == [r.splice] and isinstance(r.splice.error, ConnectionResetError)


def test_where_credit_ends_between_two_frames_the_socket_is_left_unread() -> None:
    with rig() as r:
        r.stream.window = FRAME + 5
        r.program.send(bytes(3 * FRAME))
        assert r.read() == ["cork", FRAME, 5, "wait", "uncork"]
        assert r.splice._from_socket is State.PARKED


def test_a_defect_between_two_frames_leaves_nothing_corked() -> None:
    with rig() as r:
        r.program.send(bytes(2 * FRAME))
        r.tight.error = cast("Any", RuntimeError("a defect"))
        with pytest.raises(RuntimeError):
            r.read()
        assert r.stream.calls[-1] == "uncork"


# --- stream → socket ------------------------------------------------------------------------------


def piece(number: int, size: int = GATHER_BYTES) -> memoryview:
    return memoryview(bytes([number]) * size)


def gathered(r: Rig, *numbers: int) -> bytes:
    """Give pieces of one read; what they are together."""
    for number in numbers:
        r.splice.data_received(piece(number))
    assert r.tight.sends == [] and r.stream.calls == [], "they wait for the next"
    return b"".join(map(piece, numbers))


def test_pieces_of_one_read_go_on_in_one_send_and_are_acknowledged_together() -> None:
    with rig() as r:
        data = gathered(r, 1, 2, 3)
        assert r.stream.gatherer is r.splice
        r.splice.pass_gathered()
        assert r.tight.sends == [3] and r.got() == data
        assert r.stream.calls == [("consumed", len(data))] and r.splice.bytes_in == len(data)
        r.splice.pass_gathered()
        assert r.tight.sends == [3], "once"


def test_the_last_piece_of_a_read_takes_the_others_along_however_small() -> None:
    with rig() as r:
        data = gathered(r, 1)
        r.stream.gathers = False
        r.splice.data_received(piece(2, 1))
        assert r.tight.sends == [2] and r.got() == data + b"\x02"


def test_a_small_piece_does_not_wait_though_more_may_come() -> None:
    with rig() as r:
        r.splice.data_received(piece(1, GATHER_BYTES - 1))
        assert r.tight.sends == [1]
        gather, r.tight.sends = piece(2), []
        r.splice.data_received(gather)
        r.splice.data_received(piece(3, 1))
        assert r.tight.sends == [2] and r.got() == bytes([1]) * (GATHER_BYTES - 1) + bytes(gather) + b"\x03"


@pytest.mark.parametrize("to_kubo", [False, True])
def test_what_is_gathered_goes_before_the_fin(*, to_kubo: bool) -> None:
    with rig(to_kubo=to_kubo) as r:
        data = gathered(r, 1, 2)
        r.splice.eof_received()
        assert r.got() == data and r.splice._to_socket is State.ENDED
        assert r.stream.calls == [("consumed", len(data))]


@pytest.mark.parametrize("error", [StreamReset("x", by="remote"), ConnectionLost("x")])
@pytest.mark.parametrize("to_kubo", [False, True])
def test_what_is_gathered_goes_before_a_reset_and_a_loss(*, error: Exception, to_kubo: bool) -> None:
    with rig(to_kubo=to_kubo) as r:
        data = gathered(r, 1, 2)
        r.splice.stream_lost(error)
        if not r.closed:  # with a Kubo, until the program has it
            assert to_kubo and r.splice._flushing is error  # type: ignore[attr-defined]
            assert r.got() == data
            cast("KuboSplice", r.splice)._flush()
        assert r.tight.sends == [2] and r.got() in (b"", data)
        assert r.closed == [r.splice] and r.splice.error is error


def test_a_kubos_reset_waits_for_what_was_gathered_just_before() -> None:
    with rig(to_kubo=True) as r:
        data = gathered(r, 1, 2)
        r.tight.takes = [100]
        r.splice.stream_lost(StreamReset("x", by="remote"))
        assert not r.closed and r.splice._pending is not None
        assert r.poller.writer is not None
        r.poller.writer()
        assert r.got() == data
        cast("KuboSplice", r.splice)._flush()
        assert r.closed == [r.splice]


@pytest.mark.parametrize(
    "taken", [0, 1, GATHER_BYTES - 1, GATHER_BYTES, GATHER_BYTES + 1, 3 * GATHER_BYTES - 1]
)
@pytest.mark.parametrize("ended", [False, True])
def test_a_socket_that_is_full_in_the_middle_takes_the_rest_in_order_later(
    taken: int, *, ended: bool
) -> None:
    with rig() as r:
        data = gathered(r, 1, 2, 3)
        r.tight.takes = [taken or cast("Any", BlockingIOError())]
        if ended:
            r.splice.eof_received()
        r.splice.pass_gathered()
        assert r.splice._to_socket is (State.LAST if ended else State.HOLDING)
        assert r.stream.calls == ([("consumed", taken)] if taken else []), "only what was taken"
        if not ended:
            r.splice.data_received(piece(4))  # behind it, and held at once
            data += piece(4)
        r.tight.takes = [taken + 1]
        while (writer := r.poller.writer) is not None:
            writer()
        assert r.got() == data and r.splice.bytes_in == len(data)
        assert sum(n for _, n in r.stream.calls) == len(data) and r.splice._pending is None
        assert r.splice._to_socket is (State.ENDED if ended else State.PASSING)


def test_a_socket_that_fails_at_what_was_gathered_resets_the_stream_once() -> None:
    with rig() as r:
        gathered(r, 1, 2)
        r.tight.takes = [BrokenPipeError()]
        r.splice.eof_received()
        r.splice.pass_gathered()
        assert r.stream.calls == ["reset"] and r.closed == [r.splice]
        assert isinstance(r.splice.error, BrokenPipeError)
