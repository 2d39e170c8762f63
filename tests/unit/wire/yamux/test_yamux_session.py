"""Pins what a session does with honest frames: opening, data, credit, half-close, reset, ping, GoAway."""

from __future__ import annotations

import pytest

from p2pfwd.errors import LocalProtocolError, ResourceLimitExceeded
from p2pfwd.wire.yamux import frame as f
from p2pfwd.wire.yamux.reset_codes import IDLE
from p2pfwd.wire.yamux.session import (
    MAX_UNACKED_OPENS,
    CreditGranted,
    Event,
    PingAcked,
    Session,
    StreamFinished,
    StreamOpened,
    StreamWasReset,
    WentAway,
)
from p2pfwd.wire.yamux.stream import State, StreamCore
from p2pfwd.wire.yamux.window import WindowBudget

WINDOW = f.INITIAL_WINDOW_BYTES
Frame = tuple[int, int, int, int]


def give(session: Session, *frames: Frame, body: bytes = b"") -> list[Event]:
    """Let the session receive these frames, `body` behind the last."""
    return session.receive(memoryview(b"".join(f.encode_header(*frame) for frame in frames) + body))


def queued(session: Session) -> list[Frame]:
    """Take the control frames that wait to be sent."""
    control = bytes(session.control)
    session.control.clear()
    assert len(control) % f.HEADER_BYTES == 0
    return [f.decode_header(control, at) for at in range(0, len(control), f.HEADER_BYTES)]


def listener() -> Session:
    return Session(client=False)


def opened(session: Session, stream_id: int = 1) -> StreamCore:
    """A stream the peer has opened."""
    (event,) = give(session, (f.WINDOW_UPDATE, f.SYN, stream_id, 0))
    assert isinstance(event, StreamOpened) and event.stream.id == stream_id
    assert queued(session) == [(f.WINDOW_UPDATE, f.ACK, stream_id, 0)]
    return event.stream


def collect(stream: StreamCore) -> bytearray:
    got = bytearray()
    stream.sink = got.extend
    return got


def fill(session: Session, stream: StreamCore, nbytes: int) -> bytes:
    """The DATA frame of `nbytes` that the owner would send."""
    buffer = memoryview(bytearray(f.HEADER_BYTES + nbytes))
    session.write_data_header(stream, nbytes, buffer, 0)
    return bytes(buffer)


def test_the_dialer_opens_odd_streams_and_the_listener_even_ones() -> None:
    dialer, session = Session(client=True), listener()
    assert [dialer.open().id for _ in range(3)] == [1, 3, 5]
    assert [session.open().id for _ in range(3)] == [2, 4, 6]
    assert queued(dialer) == [(f.WINDOW_UPDATE, f.SYN, stream_id, 0) for stream_id in (1, 3, 5)]


def test_an_ack_stands_alone_whatever_came_with_the_syn() -> None:
    # py-libp2p drops what rides on an ACK (libp2p spec: yamux).
    session = listener()
    events = give(session, (f.DATA, f.SYN | f.FIN, 1, 2), body=b"hi")
    assert [type(event) for event in events] == [StreamOpened, StreamFinished]
    assert queued(session) == [(f.WINDOW_UPDATE, f.ACK, 1, 0)]


def test_streams_opened_at_once_may_arrive_swapped() -> None:
    # go takes the id first and queues the frame later.
    session = listener()
    opened(session, 5)
    opened(session, 1)
    opened(session, 3)


@pytest.mark.parametrize("size", [0, 1, WINDOW])
def test_data_on_the_syn_waits_for_the_sink(size: int) -> None:
    session = listener()
    (event,) = give(session, (f.DATA, f.SYN, 1, size), body=bytes(size))
    assert isinstance(event, StreamOpened)
    assert (event.stream.backlog or b"") == bytes(size)
    assert event.stream.receive_window.credit == WINDOW - size


def test_credit_on_the_syn_counts() -> None:
    session = listener()
    (event,) = give(session, (f.WINDOW_UPDATE, f.SYN, 1, 1000))
    assert isinstance(event, StreamOpened)
    assert event.stream.send_window == WINDOW + 1000


def test_payload_goes_to_the_sink_of_its_stream_without_an_event() -> None:
    session = listener()
    first, second = collect(opened(session, 1)), collect(opened(session, 3))
    assert give(session, (f.DATA, 0, 1, 3), body=b"one") == []
    assert give(session, (f.DATA, 0, 3, 3), body=b"two") == []
    assert bytes(first) == b"one" and bytes(second) == b"two"


def test_a_header_may_come_byte_by_byte() -> None:
    session = listener()
    got = collect(opened(session))
    wire = f.encode_header(f.DATA, f.FIN, 1, 3) + b"abc"
    events = [session.receive(memoryview(wire)[i : i + 1]) for i in range(len(wire))]
    assert got == b"abc"
    assert [len(event) for event in events] == [0] * (len(wire) - 1) + [1], "FIN counts behind the last byte"


def test_credit_ends_or_is_too_little_and_its_return_is_told_only_then() -> None:
    session = Session(client=True)
    stream = session.open()
    fill(session, stream, WINDOW - 1)
    assert give(session, (f.WINDOW_UPDATE, 0, 1, 4)) == [], "the window was not empty"
    fill(session, stream, 5)
    assert stream.send_window == 0
    assert give(session, (f.WINDOW_UPDATE, 0, 1, 7)) == [CreditGranted(stream)]
    assert stream.send_window == 7
    stream.least_window = 100
    assert give(session, (f.WINDOW_UPDATE, 0, 1, 92)) == [], "99 are too few"
    assert give(session, (f.WINDOW_UPDATE, 0, 1, 1)) == [CreditGranted(stream)]
    assert give(session, (f.WINDOW_UPDATE, 0, 1, 1)) == [], "it had enough"


def test_more_than_the_credit_cannot_be_sent() -> None:
    session = Session(client=True)
    stream = session.open()
    for nbytes in (0, WINDOW + 1):
        with pytest.raises(LocalProtocolError):
            session.write_data_header(stream, nbytes, memoryview(bytearray(99)), 0)
    session.finish(stream)
    with pytest.raises(LocalProtocolError):
        session.write_data_header(stream, 1, memoryview(bytearray(99)), 0)


def test_consumption_grants_credit_at_half_the_window() -> None:
    session = listener()
    stream = opened(session)
    give(session, (f.DATA, 0, 1, WINDOW), body=bytes(WINDOW))
    session.consumed(stream, WINDOW // 2 - 1, now=1.0)
    assert queued(session) == []
    session.consumed(stream, 1, now=1.0)
    assert queued(session) == [(f.WINDOW_UPDATE, 0, 1, WINDOW // 2)]
    assert stream.receive_window.credit == WINDOW // 2


def test_no_credit_is_granted_to_a_peer_that_has_finished() -> None:
    session = listener()
    stream = opened(session)
    give(session, (f.DATA, f.FIN, 1, WINDOW), body=bytes(WINDOW))
    session.consumed(stream, WINDOW, now=1.0)
    assert queued(session) == []


def test_credit_is_still_granted_after_our_own_fin() -> None:
    # A half-closed stream goes on receiving.
    session = listener()
    stream = opened(session)
    session.finish(stream)
    assert queued(session) == [(f.WINDOW_UPDATE, f.FIN, 1, 0)]
    give(session, (f.DATA, 0, 1, WINDOW), body=bytes(WINDOW))
    session.consumed(stream, WINDOW, now=1.0)
    assert queued(session) == [(f.WINDOW_UPDATE, 0, 1, WINDOW)]


@pytest.mark.parametrize("local_first", [True, False])
@pytest.mark.parametrize("frame_type", [f.DATA, f.WINDOW_UPDATE])
def test_both_fins_end_a_stream_in_either_order(local_first: bool, frame_type: int) -> None:
    session = listener()
    stream = opened(session)
    if local_first:
        session.finish(stream)
        assert stream.state is State.LOCAL_CLOSED
    assert give(session, (frame_type, f.FIN, 1, 0)) == [StreamFinished(stream)]
    if not local_first:
        assert stream.state is State.REMOTE_CLOSED
        session.finish(stream)
    assert stream.state is State.CLOSED and session.streams == {}


def test_a_repeated_fin_says_nothing_new() -> None:
    session = listener()
    opened(session)
    fin = (f.WINDOW_UPDATE, f.FIN, 1, 0)
    assert len(give(session, fin, fin, (f.DATA, f.FIN, 1, 0))) == 1


@pytest.mark.parametrize(
    ("frame", "body", "code"),
    [
        ((f.WINDOW_UPDATE, f.RST, 1, 0), b"", 0),
        ((f.WINDOW_UPDATE, f.RST, 1, 0x1002), b"", 0x1002),  # go-yamux v5: a code, no credit
        ((f.DATA, f.RST, 1, 0), b"", 0),  # rust
        ((f.DATA, f.RST, 1, 4), b"lost", 0),
        ((f.WINDOW_UPDATE, f.RST | f.SYN, 1, 0), b"", 0),
    ],
)
def test_a_reset_ends_a_stream_and_what_comes_with_it_is_dropped(
    frame: Frame, body: bytes, code: int
) -> None:
    session = listener()
    stream = opened(session)
    got = collect(stream)
    assert give(session, frame, body=body) == [StreamWasReset(stream, code)]
    assert stream.state is State.RESET and session.streams == {} and got == b""
    assert stream.send_window == WINDOW
    assert queued(session) == [], "a reset is not answered"
    assert give(session, (f.WINDOW_UPDATE, 0, 1, 5)) == []


def test_a_reset_of_ours_stops_a_frame_in_the_middle() -> None:
    session = listener()
    stream = opened(session)
    got = collect(stream)
    session.receive(memoryview(f.encode_header(f.DATA, f.FIN, 1, 4) + b"ab"))
    session.reset(stream)
    session.reset(stream)
    assert session.receive(memoryview(b"cd")) == []
    assert got == b"ab"
    assert queued(session) == [(f.WINDOW_UPDATE, f.RST, 1, 0)]


def test_a_reset_of_ours_says_why() -> None:
    session = listener()
    session.reset(opened(session), IDLE)
    assert queued(session) == [(f.WINDOW_UPDATE, f.RST, 1, IDLE)]


def test_a_sink_may_reset_its_stream_from_inside() -> None:
    session = listener()
    stream, other = opened(session, 1), opened(session, 3)
    got = collect(other)
    stream.sink = lambda _view: session.reset(stream)
    wire = f.encode_header(f.DATA, f.FIN, 1, 2) + b"xx" + f.encode_header(f.DATA, 0, 1, 1) + b"y"
    wire += f.encode_header(f.DATA, 0, 3, 2) + b"ok"
    assert session.receive(memoryview(wire)) == []
    assert got == b"ok" and list(session.streams) == [3]


@pytest.mark.parametrize(
    "frame",
    [
        (f.DATA, 0, 9, 5),
        (f.DATA, f.FIN, 9, 5),
        (f.DATA, f.ACK, 8, 5),
        (f.DATA, f.RST, 9, 5),
        (f.DATA, 0, 0, 5),
        (f.DATA, 0, 0xFFFFFFFF, 5),
    ],
)
def test_data_for_unknown_streams_is_skipped(frame: Frame) -> None:
    session = listener()
    got = collect(opened(session))
    assert give(session, frame, body=b"12345" + f.encode_header(f.DATA, 0, 1, 2) + b"me") == []
    assert got == b"me" and queued(session) == []


def test_more_data_than_memory_for_an_unknown_stream_costs_nothing() -> None:
    session = listener()
    give(session, (f.DATA, 0, 9, 0xFFFFFFFF))
    chunk = memoryview(bytes(1 << 16))
    for _ in range(16):
        session.receive(chunk)
    assert session.streams == {} and not session.control


@pytest.mark.parametrize("flags", [0, f.ACK, f.FIN, f.RST])
def test_credit_and_ends_of_unknown_streams_are_ignored(flags: int) -> None:
    session = listener()
    assert give(session, (f.WINDOW_UPDATE, flags, 9, 5)) == []
    assert queued(session) == [] and session.streams == {}


def test_a_closed_streams_late_frames_are_ignored() -> None:
    session = listener()
    stream = opened(session)
    session.finish(stream)
    give(session, (f.WINDOW_UPDATE, f.FIN, 1, 0))
    assert give(session, (f.WINDOW_UPDATE, 0, 1, 9), (f.WINDOW_UPDATE, f.RST, 1, 0)) == []


@pytest.mark.parametrize(
    "first", [(f.WINDOW_UPDATE, f.ACK, 1, 0), (f.DATA, 0, 1, 0), (f.WINDOW_UPDATE, 0, 1, 1)]
)
def test_any_frame_of_the_peer_acknowledges_a_stream(first: Frame) -> None:
    # rust sends its ACK late, on its first frame.
    session = Session(client=True)
    stream = session.open()
    assert not stream.acked
    give(session, first)
    assert stream.acked


def test_unacknowledged_opens_are_bounded_and_free_up_one_by_one() -> None:
    session = Session(client=True)
    streams = [session.open() for _ in range(MAX_UNACKED_OPENS)]
    assert not session.can_open
    with pytest.raises(ResourceLimitExceeded):
        session.open()
    give(session, (f.WINDOW_UPDATE, f.ACK, 1, 0), (f.WINDOW_UPDATE, f.ACK, 1, 0))
    assert session.can_open
    session.open()
    assert not session.can_open
    session.reset(streams[1])  # never acknowledged: frees its place
    give(session, (f.WINDOW_UPDATE, f.RST, 5, 0))
    session.open()
    session.open()
    assert not session.can_open


def test_a_ping_is_answered_with_its_value() -> None:
    session = listener()
    assert give(session, (f.PING, f.SYN, 0, 0xDEADBEEF)) == []
    assert queued(session) == [(f.PING, f.ACK, 0, 0xDEADBEEF)]


def test_our_ping_is_answered_once_and_other_pongs_are_ignored() -> None:
    session = listener()
    session.ping(1 << 32 | 5)
    assert queued(session) == [(f.PING, f.SYN, 0, 5)]
    with pytest.raises(LocalProtocolError):
        session.ping(6)
    pong = (f.PING, f.ACK, 0, 5)
    assert give(session, (f.PING, f.ACK, 0, 4), pong, pong) == [PingAcked(5)]
    session.ping(6)


def test_after_go_away_nothing_is_opened_and_streams_go_on() -> None:
    session = Session(client=True)
    stream = session.open()
    got = collect(stream)
    assert give(session, (f.GO_AWAY, 0, 0, 0x1006)) == [WentAway(0x1006)]
    assert not session.can_open
    with pytest.raises(ResourceLimitExceeded):
        session.open()
    give(session, (f.DATA, 0, 1, 2), body=b"hi")
    assert got == b"hi"


def test_go_away_is_the_last_frame() -> None:
    session = listener()
    session.go_away(f.GoAwayCode.PROTOCOL_ERROR)
    assert queued(session) == [(f.GO_AWAY, 0, 0, 1)]


def test_stream_ids_run_out_with_an_error_and_not_with_a_second_use() -> None:
    session = Session(client=True)
    session._next_id = 0xFFFFFFFF
    assert session.open().id == 0xFFFFFFFF
    with pytest.raises(ResourceLimitExceeded):
        session.open()


@pytest.mark.parametrize("end", ["fins", "reset by us", "reset by the peer"])
def test_every_end_gives_a_streams_growth_back(end: str) -> None:
    budget = WindowBudget()
    session = Session(client=False, budget=budget)
    session.rtt_s = 0.1
    total = budget.left
    stream = opened(session)
    stream.sink = lambda view: session.consumed(stream, len(view), now=1.0)
    for _ in range(3):
        half = stream.receive_window.size // 2
        give(session, (f.DATA, 0, 1, half), body=bytes(half))
    assert budget.left < total
    if end == "fins":
        session.finish(stream)
        give(session, (f.WINDOW_UPDATE, f.FIN, 1, 0))
    elif end == "reset by us":
        session.reset(stream)
    else:
        give(session, (f.WINDOW_UPDATE, f.RST, 1, 0))
    assert budget.left == total
    session.consumed(stream, WINDOW, now=1.0)
    assert budget.left == total
