"""Pins what a connection puts on the wire and when: control first, turns, shared messages, a full channel.

A fake channel takes the plaintext; no sockets.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any, cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ConnectionLost, ProtocolNotSupported, RemoteProtocolError, StreamReset
from p2pfwd.net.channel import Channel
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.outbox import (
    BULK_FRAME_BYTES,
    FAVOURS,
    FRAMES_PER_TURN,
    TURN_BYTES,
    WIDE_WINDOW_BYTES,
)
from p2pfwd.net.link.stream import LINGER_S, Stream
from p2pfwd.net.upgrader import describe
from p2pfwd.system.buffers import (
    CORKED_FRAMES,
    FRAME_BYTES,
    KEEP_BUFFERS,
    KEEP_LARGE,
    LARGE_BYTES,
    WIDE_PREFIX_BYTES,
    BufferPool,
)
from p2pfwd.wire.multistream import HEADER, encode_token
from p2pfwd.wire.noise.cipher import MAX_PLAINTEXT, MAX_WIDE_MESSAGE, TAG
from p2pfwd.wire.yamux import frame as f
from p2pfwd.wire.yamux.session import MAX_UNACKED_OPENS
from p2pfwd.wire.yamux.window import Kind
from p2pfwd.wire.yamux.work import CRUMB_BYTES
from tests.support.buffers import keep_frame
from tests.support.loops import on_loop, turns
from tests.support.virtual_time import in_virtual_time

PEER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(31) + b"\x01")
ADDR = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
Frame = tuple[int, int, int, bytes]


class FakeConduit:
    def __init__(self) -> None:
        self.local_addr = self.remote_addr = ADDR
        self.limit = self.segment_bytes = None
        self.congested = False
        self.progressed_at = 0.0
        self.ended: list[str] = []
        self.kept_bytes = 0
        self.paused = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def spare(self, spare: bool) -> None:
        pass

    def tell(self, moved: Callable[[], None] | None) -> None:
        pass

    def squeeze(self, room: int | None) -> None:
        pass

    def acknowledged_s(self) -> float | None:
        return None

    def retry_within(self, seconds: float | None) -> None:
        pass

    def finish(self) -> None:
        self.ended.append("finish")

    def abort(self) -> None:
        self.ended.append("abort")


class FakeChannel(Channel):
    """Keeps what is sent; `room` messages are taken, then it is congested."""

    security = "/fake"
    cipher = "fake"

    def __init__(self, room: int = 1 << 30) -> None:
        self.fake = FakeConduit()
        super().__init__(cast("Any", self.fake), BufferPool(), PEER)
        self.widest = 0
        self.messages: list[bytes] = []
        self.sends: list[int] = []
        """How many messages each send had."""
        self.wide: list[int] = []
        """How long each wide message was."""
        self.corked = 0
        self.sent: asyncio.Event | None = None
        self.room = room
        self.make_room(room)

    def rest(self) -> None:
        """It has nothing to let go of."""

    def _open(self, view: memoryview) -> int:
        raise AssertionError("nothing comes as ciphertext here")

    def make_room(self, room: int) -> None:
        self.room = room
        self.fake.congested = room <= 0

    def send_staged(self, n: int, more: bool = False) -> None:
        self.messages.append(bytes(self.pool.staging[:n]))
        self.corked += 1
        if not more or self.corked == CORKED_FRAMES:
            self.uncork()

    @property
    def max_wide(self) -> int:
        return self.widest

    def send_wide(self, n: int) -> None:
        self.wide.append(n)
        self.messages.append(bytes(self.pool.wide[WIDE_PREFIX_BYTES : WIDE_PREFIX_BYTES + n]))
        self.corked += 1
        self.uncork()

    def uncork(self) -> None:
        if not self.corked:
            return
        self.sends.append(self.corked)
        room, self.corked = self.room - self.corked, 0
        if self.sent is not None:
            self.sent.set()
        self.make_room(room)

    def frames(self) -> list[Frame]:
        """Takes all frames sent so far: (type, flags, stream id, body)."""
        wire, self.messages[:] = b"".join(self.messages), []
        found, at = [], 0
        while at < len(wire):
            frame_type, flags, stream_id, length = f.decode_header(wire, at)
            at += f.HEADER_BYTES
            body = wire[at : at + length] if frame_type == f.DATA else b""
            at += len(body)
            found.append((frame_type, flags, stream_id, body))
        return found


def made(channel: FakeChannel) -> Conn:
    conn = Conn(channel, direction="outbound", loop=asyncio.get_running_loop(), max_inbound_streams=10)
    conn.start(b"", lambda _peer, _name: True, lambda _stream: None)
    return conn


async def opened(conn: Conn, channel: FakeChannel, count: int = 1) -> list[Stream]:
    """Streams that are open; nothing is left to be sent."""
    streams = [await conn.open_stream(["/p"], known=True) for _ in range(count)]
    conn.plaintext_received(
        memoryview(
            b"".join(
                f.encode_header(f.DATA, f.ACK, stream.id, len(HEADER) + 4) + HEADER + encode_token("/p")
                for stream in streams
            )
        )
    )
    conn.turn_ended()
    await turns()
    channel.messages.clear()
    channel.sends.clear()
    return streams


class Pump:
    """A sink with a lot to send: one frame per turn, of at most `size` bytes."""

    def __init__(self, stream: Stream, count: int, size: int = 10) -> None:
        self.stream, self.left, self.size = stream, count, size
        self.after: Callable[[], None] | None = None
        """Called behind the last frame."""
        stream.set_sink(self)
        stream.want_to_send()

    def resume_sending(self) -> bool:
        if not self.left:
            return False
        frame = self.stream.begin_frame()
        if frame is None:
            self.stream.want_to_send()
            return False
        size = min(self.size, len(frame))
        frame[:size] = bytes([self.stream.id]) * size
        self.stream.end_frame(size)
        self.left -= 1
        if self.after is not None and not self.left:
            self.after()
        else:
            self.stream.want_to_send()
        return True

    def data_received(self, view: memoryview) -> None:
        self.stream.consumed(len(view))

    def eof_received(self) -> None: ...

    def stream_lost(self, exc: Exception) -> None: ...


@on_loop
async def test_an_idle_connection_holds_no_dictionary_of_its_own_no_deque_and_no_functions() -> None:
    """The largest of what a connected peer costs: 2 KB, 0.8 KB each, and 1.6 KB for bound functions."""
    conn = made(FakeChannel())
    parts = [conn, conn.outbox, conn._intake, conn.liveness, conn._session]
    assert not any(hasattr(part, "__dict__") for part in parts)
    held = [value for part in parts for value in gc.get_referents(part)]
    assert not any(isinstance(value, deque | MethodType | partial) for value in held)
    conn.abort()


@on_loop
async def test_the_first_message_is_a_ping_and_an_open_is_one_message_with_its_proposal() -> None:
    channel = FakeChannel()
    conn = made(channel)
    assert [frame[:2] for frame in channel.frames()] == [(f.PING, f.SYN)]
    await conn.open_stream(["/p"], known=True)
    await turns()
    assert len(channel.messages) == 1
    assert channel.frames() == [
        (f.WINDOW_UPDATE, f.SYN, 1, b""),
        (f.DATA, 0, 1, HEADER + encode_token("/p")),
    ]
    core = conn._session.streams[1]
    assert core.send_window == f.INITIAL_WINDOW_BYTES - len(HEADER + encode_token("/p"))
    conn.abort()


@on_loop
async def test_an_answer_that_differs_from_the_expected_is_negotiated() -> None:
    """In pieces, with data behind it, and a refusal: as with any number of proposals."""
    for pieces, selected, rest in (
        ((HEADER + encode_token("/p") + b"data",), "/p", b"data"),
        ((HEADER, encode_token("/p")[:2], encode_token("/p")[2:] + b"data"), "/p", b"data"),
        ((HEADER, encode_token("na")), None, b""),
        ((HEADER + encode_token("na") + encode_token("na"),), None, b""),
    ):
        channel = FakeChannel()
        conn = made(channel)
        stream = await conn.open_stream(["/p"], known=True)
        for piece in pieces:
            head = f.encode_header(f.DATA, 0, 1, len(piece))
            conn.plaintext_received(memoryview(head + piece))
            conn.turn_ended()
        assert stream.protocol == selected and not stream.negotiating
        assert isinstance(stream.error, ProtocolNotSupported) == (selected is None)
        if rest:
            assert await stream.read() == rest
        conn.abort()


PROPOSAL = HEADER + encode_token("/p")


def proposed(stream_id: int, data: bytes) -> memoryview:
    """A SYN, a proposal, and data behind it in a frame of its own."""
    wire = f.encode_header(f.WINDOW_UPDATE, f.SYN, stream_id, 0)
    wire += f.encode_header(f.DATA, 0, stream_id, len(PROPOSAL)) + PROPOSAL
    if data:
        wire += f.encode_header(f.DATA, 0, stream_id, len(data)) + data
    return memoryview(wire)


def serving(channel: FakeChannel, served: list[Stream]) -> Conn:
    """A connection on which the peer opens streams; they are put into `served`."""
    conn = Conn(channel, direction="inbound", loop=asyncio.get_running_loop(), max_inbound_streams=10)
    conn.start(b"", lambda _peer, _name: True, served.append)
    channel.messages.clear()
    return conn


def proposed_to(data: bytes) -> tuple[FakeChannel, list[Stream], Conn]:
    """The same, after a read with the first stream's proposal and `data` behind it."""
    channel, served = FakeChannel(), list[Stream]()
    conn = serving(channel, served)
    conn.plaintext_received(proposed(1, data))
    conn.turn_ended()
    return channel, served, conn


@on_loop
async def test_a_proposal_alone_is_answered_at_once_in_one_message() -> None:
    channel, served, conn = proposed_to(b"")
    assert len(channel.messages) == 1
    assert channel.frames() == [(f.WINDOW_UPDATE, f.ACK, 1, b""), (f.DATA, 0, 1, PROPOSAL)]
    assert served and conn.outbox._patience is None
    conn.abort()


@on_loop
async def test_an_answer_nobody_waits_for_shares_a_message_with_the_services_answer() -> None:
    channel, served, conn = proposed_to(b"question")
    assert channel.messages == []
    await served[0].write(b"answer")
    assert len(channel.messages) == 1
    assert [frame[3] for frame in channel.frames()] == [b"", PROPOSAL, b"answer"]
    assert conn.outbox._patience is None, "nobody is woken for nothing, and the next has all of its time"
    conn.abort()


@on_loop
async def test_a_fin_waits_with_an_answer_that_waits_and_not_for_itself() -> None:
    """The end of one stream falls into the opening of the next: both go with the service's answer."""
    channel, served, conn = proposed_to(b"")
    channel.frames()
    served[0].close_write()
    await turns()
    assert [frame[:2] for frame in channel.frames()] == [(f.WINDOW_UPDATE, f.FIN)]

    for stream_id in (3, 5):
        conn.plaintext_received(proposed(stream_id, b"question" if stream_id == 5 else b""))
        conn.turn_ended()
    channel.frames()
    served[1].close_write()
    await turns()
    assert channel.messages == []
    await served[2].write(b"answer")
    assert len(channel.messages) == 1
    assert [frame[:3] for frame in channel.frames()][-2:] == [(f.WINDOW_UPDATE, f.FIN, 3), (f.DATA, 0, 5)]
    assert conn.outbox._patience is None
    conn.abort()


@on_loop
async def test_an_answer_nobody_waits_for_goes_soon_when_the_service_is_slow() -> None:
    channel, _served, conn = proposed_to(b"question")
    conn.plaintext_received(proposed(3, b"question"))
    conn.turn_ended()
    sent = channel.sent = asyncio.Event()
    async with asyncio.timeout(10):
        await sent.wait()
    assert [frame[2] for frame in channel.frames()] == [1, 1, 3, 3]
    assert conn.outbox._patience is None
    conn.abort()


@on_loop
async def test_patience_is_over_when_something_urgent_is_to_be_sent() -> None:
    channel, _served, conn = proposed_to(b"question")
    conn.plaintext_received(memoryview(f.encode_header(f.PING, f.SYN, 0, 7)))
    conn.turn_ended()
    assert [frame[:2] for frame in channel.frames()] == [
        (f.WINDOW_UPDATE, f.ACK),
        (f.DATA, 0),
        (f.PING, f.ACK),
    ]
    conn.abort()


@on_loop
async def test_a_refusal_is_sent_at_once_though_data_came_along() -> None:
    channel = FakeChannel()
    conn = Conn(channel, direction="inbound", loop=asyncio.get_running_loop(), max_inbound_streams=10)
    conn.start(b"", lambda _peer, _name: False, lambda _stream: None)
    channel.messages.clear()
    conn.plaintext_received(proposed(1, b"question"))
    conn.turn_ended()
    bodies = b"".join(frame[3] for frame in channel.frames())
    assert bodies.startswith(HEADER + encode_token("na"))
    conn.abort()


@on_loop
async def test_control_frames_ride_in_front_of_data() -> None:
    channel = FakeChannel()
    conn = made(channel)
    one, two = await opened(conn, channel, 2)
    two.close_write()
    await one.write(b"payload")
    assert channel.frames() == [(f.WINDOW_UPDATE, f.FIN, two.id, b""), (f.DATA, 0, one.id, b"payload")]
    conn.abort()


@on_loop
async def test_answers_to_one_read_share_one_message() -> None:
    channel = FakeChannel()
    conn = made(channel)
    channel.messages.clear()
    for value in (1, 2, 3):
        conn.plaintext_received(memoryview(f.encode_header(f.PING, f.SYN, 0, value)))
    assert channel.messages == []
    conn.turn_ended()
    assert len(channel.messages) == 1 and len(channel.frames()) == 3
    conn.abort()


@on_loop
async def test_waiting_streams_take_turns_frame_by_frame_and_the_loop_has_its_own() -> None:
    channel = FakeChannel()
    conn = made(channel)
    streams = await opened(conn, channel, 3)
    for stream in streams:
        Pump(stream, 20)
    assert channel.messages == [], "nothing is sent from inside want_to_send"
    await asyncio.sleep(0)
    first = [frame[2] for frame in channel.frames()]
    assert first == ([1, 3, 5] * 6)[:FRAMES_PER_TURN]
    await turns()
    rest = [frame[2] for frame in channel.frames()]
    assert sorted(first + rest) == sorted([1, 3, 5] * 20)
    conn.abort()


@on_loop
async def test_streams_share_sends_in_their_turns_and_nothing_stays_corked() -> None:
    channel = FakeChannel()
    conn = made(channel)
    one, two, three = await opened(conn, channel, 3)
    Pump(one, 5)
    Pump(two, 3)
    Pump(three, 2)
    await turns()
    assert [frame[2] for frame in channel.frames()] == [1, 3, 5, 1, 3, 5, 1, 3, 1, 1]
    assert channel.sends == [CORKED_FRAMES, CORKED_FRAMES, 2]
    await one.write(b"x")
    assert channel.sends[3:] == [1], "outside of a turn a frame goes at once"
    conn.abort()


@on_loop
async def test_control_frames_of_a_turn_ride_in_front_of_the_next_frame_corked_or_not() -> None:
    """A FIN and a RST that come between frames of one send stand behind the frames before them."""
    channel = FakeChannel()
    conn = made(channel)
    one, two, three = await opened(conn, channel, 3)
    Pump(one, 2)
    last, gone = Pump(two, 1), Pump(three, 1)
    last.after, gone.after = two.close_write, three.reset
    await turns()
    assert [frame[:3] for frame in channel.frames()] == [
        (f.DATA, 0, one.id),
        (f.DATA, 0, two.id),
        (f.WINDOW_UPDATE, f.FIN, two.id),
        (f.DATA, 0, three.id),
        (f.WINDOW_UPDATE, f.RST, three.id),
        (f.DATA, 0, one.id),
    ]
    assert channel.sends == [CORKED_FRAMES]
    conn.abort()


@pytest.mark.parametrize("room", range(1, 2 * CORKED_FRAMES + 1))
@on_loop
async def test_a_channel_that_is_full_after_so_many_messages_is_sent_no_more_than_one_send_beyond(
    room: int,
) -> None:
    channel = FakeChannel()
    conn = made(channel)
    one, two = await opened(conn, channel, 2)
    channel.make_room(room)
    Pump(one, 20)
    await turns()
    sends = -(-room // CORKED_FRAMES)
    assert channel.sends == [CORKED_FRAMES] * sends
    two.close_write()
    await turns()
    assert len(channel.frames()) == sends * CORKED_FRAMES, "control waits as well"
    channel.make_room(1 << 20)
    channel.drained()
    await turns()
    kinds = [frame[0] for frame in channel.frames()]
    assert kinds == [f.WINDOW_UPDATE] + [f.DATA] * (20 - sends * CORKED_FRAMES)
    conn.abort()


@on_loop
async def test_a_splice_corks_only_while_no_other_has_bulk_to_send() -> None:
    channel = FakeChannel()
    conn = made(channel)
    one, two = await opened(conn, channel, 2)
    assert not one.cork(), "the first time"
    assert not two.cork(), "another was the last to ask"
    assert not one.cork()
    assert one.cork()
    for _ in range(2):
        assert one.begin_frame() is not None
        one.end_frame(1)
    assert channel.sends == []
    one.uncork()
    assert channel.sends == [2]
    Pump(two, 1)
    assert not one.cork(), "another waits"
    assert one.begin_frame() is not None
    one.end_frame(1)
    assert channel.sends == [2, 1]
    await turns()
    conn.abort()


MAX_WIDE = MAX_WIDE_MESSAGE - TAG
MAX_FRAME = FakeChannel.max_plaintext - f.HEADER_BYTES


async def wide_pair(credit: int = 1 << 24) -> tuple[FakeChannel, Conn, Stream, Stream]:
    """Two streams with so much credit on a connection that has wide messages."""
    channel = FakeChannel()
    channel.widest = MAX_WIDE
    conn = made(channel)
    one, two = await opened(conn, channel, 2)
    for stream in (one, two):
        stream.core.send_window = credit
    return channel, conn, one, two


def room(stream: Stream) -> int:
    frame = stream.begin_frame()
    assert frame is not None
    return len(frame)


@on_loop
async def test_the_only_stream_with_bulk_has_wide_frames_each_sent_at_once() -> None:
    channel, conn, one, two = await wide_pair()
    assert room(one) == MAX_FRAME, "it has not said yet that its reads fill their frames"
    assert not one.cork(), "the first time"
    frame = one.begin_frame()
    assert frame is not None and len(frame) == MAX_WIDE - f.HEADER_BYTES
    frame[:] = bytes([7]) * len(frame)
    one.end_frame(len(frame))
    assert channel.frames() == [(f.DATA, 0, one.id, bytes([7]) * len(frame))]
    assert (channel.wide, channel.sends) == ([MAX_WIDE], [1])
    kept = [getattr(conn.outbox, name) for name in type(conn.outbox).__slots__]
    assert not any(isinstance(it, memoryview) for it in kept), "a connection keeps no buffer of the pool's"
    assert not one.cork(), "four of them do not wait for each other"
    assert room(two) == MAX_FRAME, "an echo beside it has what it always had"
    two.end_frame(1)
    assert room(one) == MAX_WIDE - f.HEADER_BYTES and channel.wide == [MAX_WIDE]
    assert not two.cork(), "another was the last to ask"
    two.core.last_frame = BULK_FRAME_BYTES - 1
    one.core.last_frame = BULK_FRAME_BYTES - 1
    assert room(one) == MAX_FRAME, "nor was its last frame so long that it has bulk"
    conn.abort()


@on_loop
async def test_no_frame_is_wide_while_buffers_are_scarce_or_credit_is_small_or_for_a_circuit() -> None:
    channel, conn, one, _ = await wide_pair()
    one.cork()
    assert room(one) > MAX_FRAME
    for _ in range(KEEP_BUFFERS):
        keep_frame(channel.pool)
    assert room(one) == MAX_FRAME, "so much is kept"
    channel.pool.kept_bytes = channel.pool.unsent_bytes = 0
    one.core.send_window = WIDE_WINDOW_BYTES - 1
    assert room(one) == MAX_FRAME, "it may be all that the peer's window has"
    one.core.send_window = WIDE_WINDOW_BYTES
    assert room(one) > MAX_FRAME
    one.core.receive_window.kind = Kind.CIRCUIT
    assert room(one) == MAX_FRAME, "what comes for a circuit comes in pieces, which go out together"
    assert one.cork()
    one.uncork()
    one.core.receive_window.kind = Kind.PLAIN
    channel.widest = 0
    assert room(one) == MAX_FRAME, "not agreed on"
    conn.abort()


@on_loop
async def test_a_circuits_long_piece_has_a_wide_frame() -> None:
    channel, conn, one, two = await wide_pair()
    one.core.receive_window.kind = Kind.CIRCUIT
    size = one.wide_bytes
    assert size == MAX_WIDE - f.HEADER_BYTES
    for piece, most in ((size, size), (MAX_PLAINTEXT + 1, size), (MAX_PLAINTEXT, MAX_FRAME)):
        frame = one.begin_frame(piece)
        assert frame is not None and len(frame) == most
    assert one.begin_frame(size) is not None
    one.end_frame(size)
    assert channel.wide == [MAX_WIDE]
    two.reset()
    assert one.wide_bytes == size - f.HEADER_BYTES, "control frames go first"
    one.core.send_window = WIDE_WINDOW_BYTES - 1
    assert one.wide_bytes == 0
    conn.abort()


@on_loop
async def test_a_wide_frame_carries_control_frames_in_front_and_its_credit_is_taken() -> None:
    channel, conn, one, two = await wide_pair(WIDE_WINDOW_BYTES)
    one.cork()
    two.reset()
    frame = one.begin_frame()
    assert frame is not None
    one.end_frame(len(frame))
    reset, data = channel.frames()
    assert reset[:3] == (f.WINDOW_UPDATE, f.RST, two.id) and data[2] == one.id
    assert channel.wide == [MAX_WIDE], "no longer for what rides along"
    assert one.core.send_window == WIDE_WINDOW_BYTES - (MAX_WIDE - 2 * f.HEADER_BYTES)
    conn.abort()


@on_loop
async def test_wide_frames_give_the_loop_its_turn_after_as_many_bytes() -> None:
    channel, conn, one, _ = await wide_pair()
    one.cork()
    Pump(one, FRAMES_PER_TURN)
    await asyncio.sleep(0)
    assert len(channel.wide) == FRAMES_PER_TURN // CORKED_FRAMES
    await turns()
    assert len(channel.wide) == FRAMES_PER_TURN
    conn.abort()


async def served(channel: FakeChannel) -> list[tuple[int, int]]:
    """Which streams have had frames since it was asked last, and of how many bytes."""
    await turns()
    return [(frame[2], len(frame[3])) for frame in channel.frames()]


@on_loop
async def test_streams_with_bulk_have_wide_frames_beside_each_other_by_turns_of_the_same_worth() -> None:
    """One finds half as much as the other at each of its turns: it has two turns for each of the other's."""
    channel, conn, one, two = await wide_pair()
    for stream in (one, two):
        stream.core.last_frame = BULK_FRAME_BYTES
    Pump(one, 6, MAX_WIDE)
    Pump(two, 6, TURN_BYTES)
    wide, half = (one.id, MAX_WIDE - f.HEADER_BYTES), (two.id, TURN_BYTES)
    assert (await served(channel))[:9] == [wide, half, half] * 3
    assert len(channel.wide) == 12
    conn.abort()


@on_loop
async def test_beside_others_a_wide_frame_needs_credit_for_more_than_a_narrow_one() -> None:
    channel, conn, one, two = await wide_pair()
    one.core.last_frame = two.core.last_frame = BULK_FRAME_BYTES
    one.core.send_window = f.INITIAL_WINDOW_BYTES
    assert room(one) == MAX_WIDE - f.HEADER_BYTES, "its credit may be on its way while others send"
    one.core.send_window = FakeChannel.max_plaintext - 1
    assert room(one) == MAX_FRAME
    channel.widest = 0
    one.core.send_window = f.INITIAL_WINDOW_BYTES
    assert room(one) == MAX_FRAME, "not agreed on"
    conn.abort()


@on_loop
async def test_with_wide_messages_bulk_sends_no_crumbs_and_goes_on_when_credit_comes() -> None:
    channel, conn, one, two = await wide_pair(f.INITIAL_WINDOW_BYTES)
    one.core.last_frame = BULK_FRAME_BYTES
    pump = Pump(one, 2, MAX_WIDE)
    assert await served(channel) == [(one.id, MAX_WIDE - f.HEADER_BYTES)]
    left = f.INITIAL_WINDOW_BYTES - (MAX_WIDE - f.HEADER_BYTES)
    assert 0 < one.core.send_window == left < CRUMB_BYTES and pump.left == 1 and one.is_stalled
    conn.plaintext_received(memoryview(f.encode_header(f.WINDOW_UPDATE, 0, one.id, TURN_BYTES)))
    conn.turn_ended()
    assert await served(channel) == [(one.id, TURN_BYTES + left)] and pump.left == 0
    two.core.send_window = 6
    await two.write(b"two")
    await two.write(b"two")
    assert await served(channel) == [(two.id, 3)] * 2, "who sends little has all of its credit"
    conn.abort()


@on_loop
async def test_without_wide_messages_all_credit_is_used() -> None:
    channel = FakeChannel()
    conn = made(channel)
    (one,) = await opened(conn, channel)
    one.core.send_window = MAX_FRAME + 1
    Pump(one, 2, MAX_FRAME)
    assert await served(channel) == [(one.id, MAX_FRAME), (one.id, 1)]
    conn.abort()


@on_loop
async def test_who_asks_anew_and_sends_little_goes_before_bulk_and_bulk_has_a_turn_in_four() -> None:
    channel = FakeChannel()
    conn = made(channel)
    bulk, *small = await opened(conn, channel, 2 + 2 * FAVOURS)
    channel.make_room(0)
    other = small.pop()
    for stream in (bulk, other):
        stream.core.last_frame = BULK_FRAME_BYTES
    pumps = [Pump(stream, 2, 40_000) for stream in (bulk, other)] + [Pump(stream, 1) for stream in small]
    over = small.pop(0)
    conn.outbox.stop_waiting(over)
    channel.make_room(1 << 20)
    channel.drained()
    order = [stream for stream, _ in await served(channel)]
    first, then = small[:FAVOURS], small[FAVOURS:]
    assert order[: FAVOURS + 1] == [*(stream.id for stream in first), bulk.id]
    assert order[FAVOURS + 1 :] == [*(stream.id for stream in then), other.id, bulk.id, other.id]
    assert [pump.left for pump in pumps] == [0, 0, 1, *[0] * len(small)]
    conn.abort()


@on_loop
async def test_who_asks_again_in_its_turn_waits_for_the_round() -> None:
    channel, conn, one, two = await wide_pair()
    one.core.last_frame = BULK_FRAME_BYTES
    Pump(one, 2, BULK_FRAME_BYTES)
    Pump(two, 3)
    assert [stream for stream, _ in await served(channel)] == [two.id, one.id, two.id, one.id, two.id]
    conn.abort()


class Gatherer:
    """A sink that gathers where it may; what it is told, in order."""

    def __init__(self, stream: Stream, told: list[tuple[int, object]]) -> None:
        self.stream, self.told, self.gathered = stream, told, 0
        stream.set_sink(self)

    def data_received(self, view: memoryview) -> None:
        if self.stream.gather(self):
            self.gathered += len(view)
        else:
            self.told.append((self.stream.id, len(view)))

    def pass_gathered(self) -> None:
        self.told.append((self.stream.id, self.gathered))
        self.stream.consumed(self.gathered)
        self.gathered = 0

    def eof_received(self) -> None:
        self.told.append((self.stream.id, "fin"))

    def stream_lost(self, exc: Exception) -> None:
        self.told.append((self.stream.id, type(exc)))

    def resume_sending(self) -> bool:
        return False


def came(conn: Conn, view: memoryview) -> None:
    """A piece that may not be the last of its read."""
    conn.more_follows()
    conn.plaintext_received(view)


def data(stream: Stream, n: int, flags: int = 0) -> memoryview:
    return memoryview(f.encode_header(f.DATA, flags, stream.id, n) + bytes(n))


@on_loop
async def test_a_stream_gathers_while_more_may_come_in_a_read_and_others_do_not_wait_for_it() -> None:
    channel = FakeChannel()
    conn = made(channel)
    one, two = await opened(conn, channel, 2)
    told: list[tuple[int, object]] = []
    for stream in (one, two):
        Gatherer(stream, told)
    for _ in range(3):
        came(conn, data(one, 100))
    assert told == []
    came(conn, data(two, 7))
    assert told == [(one.id, 300)], "another's turn has come"
    conn.turn_ended()
    assert told[1:] == [(two.id, 7)]
    conn.turn_ended()
    assert len(told) == 2 and conn._gathering is None
    conn.plaintext_received(data(one, 50))
    assert told[2:] == [(one.id, 50)], "nothing more comes: it goes at once"
    conn.turn_ended()
    assert not one.gather(cast("Any", None)), "outside of a read"
    conn.abort()


@on_loop
async def test_what_was_gathered_is_acknowledged_in_the_turns_one_message() -> None:
    channel = FakeChannel()
    conn = made(channel)
    (one,) = await opened(conn, channel)
    Gatherer(one, [])
    half = f.INITIAL_WINDOW_BYTES // 2
    came(conn, data(one, half))
    came(conn, memoryview(f.encode_header(f.PING, f.SYN, 0, 7)))
    assert channel.messages == []
    conn.turn_ended()
    assert channel.sends == [1]
    assert sorted(frame[0] for frame in channel.frames()) == [f.WINDOW_UPDATE, f.PING]
    assert conn._session.buffered_bytes == conn._session.ledger.used == 0
    conn.abort()


@on_loop
async def test_what_was_gathered_goes_on_before_the_connection_ends_within_a_read() -> None:
    channel = FakeChannel()
    conn = made(channel)
    (one,) = await opened(conn, channel)
    told: list[tuple[int, object]] = []
    Gatherer(one, told)
    came(conn, data(one, 100))
    conn.channel_lost(ConnectionResetError())
    assert told == [(one.id, 100), (one.id, ConnectionLost)] and conn._gathering is None
    assert not one.gather(cast("Any", None))
    assert conn._session.ledger.used == 0


@on_loop
async def test_a_full_channel_stops_everybody_and_control_goes_first_when_there_is_room() -> None:
    channel = FakeChannel()
    conn = made(channel)
    one, two = await opened(conn, channel, 2)
    channel.make_room(0)
    assert one.begin_frame() is None
    Pump(one, CORKED_FRAMES + 2)
    two.close_write()
    await turns()
    assert channel.messages == []
    channel.make_room(2)
    channel.drained()
    assert channel.sends == [1, CORKED_FRAMES], "control alone, then what goes in one send"
    frame = (f.DATA, 0, one.id, b"\x01" * 10)
    assert channel.frames() == [(f.WINDOW_UPDATE, f.FIN, two.id, b""), *[frame] * CORKED_FRAMES]
    channel.make_room(100)
    channel.drained()
    await turns()
    assert len(channel.frames()) == 2
    conn.abort()


@on_loop
async def test_control_frames_that_fill_a_message_leave_no_empty_frame_to_read_into() -> None:
    # An empty view given to recv_into would return 0, which means EOF.
    channel = FakeChannel()
    conn = made(channel)
    (stream,) = await opened(conn, channel)
    channel.make_room(1)
    for value in range(3 * 65519 // f.HEADER_BYTES):
        conn._session._queue(f.PING, f.ACK, 0, value)
    frame = stream.begin_frame()
    assert frame is None
    assert channel.fake.congested and len(channel.messages) == 1
    conn.abort()


@on_loop
async def test_a_frame_is_never_larger_than_the_credit_or_the_message() -> None:
    channel = FakeChannel()
    conn = made(channel)
    (stream,) = await opened(conn, channel)
    sent = 0
    while (frame := stream.begin_frame()) is not None:
        assert 0 < len(frame) <= channel.max_plaintext - f.HEADER_BYTES
        stream.end_frame(len(frame))
        sent += len(frame)
    assert sent == f.INITIAL_WINDOW_BYTES - len(HEADER + encode_token("/p"))
    assert all(len(message) <= channel.max_plaintext for message in channel.messages)
    conn.abort()


@on_loop
async def test_credit_wakes_a_stream_that_waited_for_it() -> None:
    channel = FakeChannel()
    conn = made(channel)
    (stream,) = await opened(conn, channel)
    writing = asyncio.get_running_loop().create_task(stream.write(bytes(f.INITIAL_WINDOW_BYTES + 100)))
    await turns()
    assert not writing.done()
    channel.messages.clear()
    conn.plaintext_received(memoryview(f.encode_header(f.WINDOW_UPDATE, 0, 1, 1000)))
    conn.turn_ended()
    await writing
    assert sum(len(frame[3]) for frame in channel.frames()) == 100 + len(HEADER + encode_token("/p"))
    conn.abort()


@on_loop
async def test_a_violation_is_answered_and_ends_everything_once() -> None:
    channel = FakeChannel()
    conn = made(channel)
    (stream,) = await opened(conn, channel)
    conn.plaintext_received(memoryview(b"\x09" + bytes(11)))
    assert channel.frames() == [(f.GO_AWAY, 0, 0, b"")]
    assert channel.fake.ended == ["finish", "abort"]
    assert isinstance(stream.error, ConnectionLost) and conn.closed.done() and conn.streams == {}
    channel.conduit_lost(None)
    await turns()
    assert channel.messages == []


@on_loop
async def test_a_reset_in_the_same_read_as_the_end_of_data_is_told_too() -> None:
    # A service that answers and resets in one breath: without it the tunnel would wait for ever.
    channel = FakeChannel()
    conn = made(channel)
    (stream,) = await opened(conn, channel)
    seen: list[object] = []

    class Sink:
        def data_received(self, view: memoryview) -> None:
            seen.append(bytes(view))

        def eof_received(self) -> None:
            seen.append("eof")

        def stream_lost(self, exc: Exception) -> None:
            seen.append(exc)

        def resume_sending(self) -> bool:
            return False

    stream.set_sink(Sink())
    wire = f.encode_header(f.DATA, f.FIN, stream.id, 6) + b"answer"
    wire += f.encode_header(f.WINDOW_UPDATE, f.RST, stream.id, 0)
    conn.plaintext_received(memoryview(wire))
    conn.turn_ended()
    assert seen[:2] == [b"answer", "eof"] and isinstance(seen[2], StreamReset)
    assert conn.streams == {}
    conn.abort()


@on_loop
async def test_an_owner_that_comes_after_the_loss_is_told_of_it() -> None:
    channel = FakeChannel()
    channel.conduit_lost(ConnectionResetError("before anybody listened"))
    conn = made(channel)
    assert isinstance(conn.closed.result(), ConnectionResetError)
    with pytest.raises(ConnectionLost):
        await conn.open_stream(["/p"])


@on_loop
@pytest.mark.parametrize("by", ["channel", "abort", "late"])
@pytest.mark.parametrize(
    "cause",
    [
        lambda: RemoteProtocolError("too long", hint="none", size=5),
        lambda: ConnectionResetError(104, "reset"),
        TimeoutError,
        lambda: ZeroDivisionError("a defect"),
    ],
)
async def test_what_ended_a_connection_holds_no_frames(by: str, cause: Callable[[], Exception]) -> None:
    """They would stay as long as anybody remembers the connection, and all that was in them."""

    class Large:
        """What a frame has."""

    def raised() -> tuple[Exception, weakref.ref[Large]]:
        large = Large()
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise cause() from None
        except Exception as exc:
            return exc, weakref.ref(large)

    channel = FakeChannel()
    conn = None if by == "late" else made(channel)
    exc, large = raised()
    if conn is not None and by == "abort":
        conn.abort(exc)
    else:
        channel.conduit_lost(exc)
    conn = conn or made(channel)
    found = conn.closed.result()
    assert found is not None
    assert type(found) is type(exc) and found.args == exc.args and describe(found) == describe(exc)
    assert found.__dict__ == exc.__dict__
    del exc
    gc.collect()
    assert large() is None


@on_loop
async def test_a_sink_that_aborts_the_connection_from_inside_ends_it_cleanly() -> None:
    channel = FakeChannel()
    conn = made(channel)
    one, two = await opened(conn, channel, 2)
    got: list[bytes] = []
    one.core.sink = lambda _view: conn.abort(ValueError("enough"))
    two.core.sink = lambda view: got.append(bytes(view))
    wire = b"".join(f.encode_header(f.DATA, f.FIN, stream.id, 1) + b"x" for stream in (one, two))
    conn.plaintext_received(memoryview(wire))
    assert isinstance(conn.closed.result(), ValueError)
    assert isinstance(two.error, ConnectionLost) and conn.streams == {}


def test_a_kept_frame_buffer_is_nobody_elses_until_it_is_released() -> None:
    pool = BufferPool()
    pool.staging[:3] = b"one"
    kept = keep_frame(pool)
    pool.staging[:3] = b"two"
    assert bytes(kept[2:5]) == b"one" and bytes(pool.frame[2:5]) == b"two"
    pool.release(kept)
    second = keep_frame(pool)
    assert pool.frame.obj is kept and second is not kept
    for _ in range(2 * KEEP_BUFFERS):
        pool.release(bytearray(FRAME_BYTES))
    assert len(pool._idle) == KEEP_BUFFERS
    kept = keep_frame(pool)
    pool.forget_idle()
    pool.release(kept)
    assert pool._idle == [kept], "what is in use comes back"


def test_large_buffers_are_counted_kept_and_reused_like_frames_and_made_when_needed() -> None:
    pool = BufferPool()
    assert pool._wide is None, "most nodes never send a wide message"
    wide, scratch = pool.wide, pool.scratch
    assert pool.wide is wide
    pool.keep(pool.wide)
    pool.keep_scratch()
    assert pool.kept_bytes == 2 * LARGE_BYTES
    buffers = {id(wide.obj): wide.obj, id(scratch.obj): scratch.obj}
    assert id(pool.wide.obj) not in buffers and id(pool.scratch.obj) not in buffers
    assert isinstance(wide.obj, bytearray) and isinstance(scratch.obj, bytearray)
    pool.release(wide.obj)
    pool.release_scratch(scratch.obj)
    assert pool.kept_bytes == pool.unsent_bytes == 0 and pool._idle == []
    pool.keep(pool.wide)
    assert pool.wide.obj is scratch.obj, "the one kept last"
    for _ in range(2 * KEEP_LARGE):
        pool.release(bytearray(LARGE_BYTES))
    assert len(pool._idle_large) == KEEP_LARGE
    pool.forget_idle()
    assert pool._idle_large == [] and pool._wide is None


def test_what_is_read_and_not_taken_makes_no_frame_go_alone() -> None:
    """A hundred peers in debt have a read each waiting here; the others' bulk is sent as ever."""
    pool = BufferPool()
    for _ in range(KEEP_BUFFERS):
        pool.keep_scratch()
    pool.kept_bytes += KEEP_BUFFERS * FRAME_BYTES
    assert not pool.is_scarce
    for _ in range(KEEP_BUFFERS):
        keep_frame(pool)
    assert pool.is_scarce


@on_loop
async def test_who_waits_to_open_a_stream_is_told_at_once_that_the_connection_closes() -> None:
    channel = FakeChannel()
    conn = made(channel)
    openings = [asyncio.ensure_future(conn.open_stream(["/p"], 10)) for _ in range(MAX_UNACKED_OPENS + 1)]
    await turns(5)
    assert len(conn.streams) == MAX_UNACKED_OPENS and not openings[-1].done()
    closing = asyncio.ensure_future(conn.close())
    await turns(5)
    assert isinstance(openings[-1].exception(), ConnectionLost) and not closing.done()
    conn.abort()
    await asyncio.gather(closing, *openings, return_exceptions=True)


@in_virtual_time
async def test_a_closed_stream_is_reset_if_its_peer_does_not_end_it_in_time() -> None:
    """What the peer sends meanwhile is dropped and puts nothing off; one that ends in time is not reset."""
    channel = FakeChannel()
    conn = made(channel)
    endless, polite = await opened(conn, channel, 2)
    for stream in (endless, polite):
        await stream.close()
    conn.plaintext_received(memoryview(f.encode_header(f.DATA, f.FIN, polite.id, 0)))
    conn.turn_ended()

    def resets() -> list[int]:
        return [stream_id for _, flags, stream_id, _ in channel.frames() if flags & f.RST]

    await asyncio.sleep(LINGER_S - 1)
    conn.plaintext_received(memoryview(f.encode_header(f.DATA, 0, endless.id, 3) + b"abc"))
    conn.turn_ended()
    await turns()
    assert resets() == [] and list(conn.streams) == [endless.id]
    await asyncio.sleep(2)
    assert resets() == [endless.id] and not conn.streams
    conn.abort()
