"""Pins what a session does not take from a peer: each case is an incident or a rule."""

from __future__ import annotations

import pytest

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire.yamux import frame as f
from p2pfwd.wire.yamux import session as session_module
from p2pfwd.wire.yamux.session import MAX_CONTROL_BYTES, Session, StreamOpened, StreamWasReset

WINDOW = f.INITIAL_WINDOW_BYTES
OPEN = f.encode_header(f.WINDOW_UPDATE, f.SYN, 1, 0)
OPEN_FIN = f.encode_header(f.WINDOW_UPDATE, f.SYN | f.FIN, 1, 0)

VIOLATIONS = {
    "first data over the initial credit (CVE-2026-32314)": f.encode_header(f.DATA, f.SYN, 1, WINDOW + 1),
    "a giant length with the SYN": f.encode_header(f.DATA, f.SYN, 1, 0xFFFFFFFF),
    "data over credit (GHSA-hmj8-5xmh-5573)": OPEN + f.encode_header(f.DATA, 0, 1, WINDOW + 1),
    "a giant length": OPEN + f.encode_header(f.DATA, 0, 1, 0xFFFFFFFF),
    "credit used up piece by piece": OPEN
    + f.encode_header(f.DATA, 0, 1, WINDOW)
    + bytes(WINDOW)
    + f.encode_header(f.DATA, 0, 1, 1),
    "window overflow (CVE-2026-31814)": OPEN + f.encode_header(f.WINDOW_UPDATE, 0, 1, 0xFFFFFFFF),
    "window overflow with the SYN": f.encode_header(f.WINDOW_UPDATE, f.SYN, 1, 0xFFFFFFFF),
    "data after FIN": OPEN_FIN + f.encode_header(f.DATA, 0, 1, 1),
    "a duplicate SYN": OPEN + OPEN,
    "a SYN of an id used up": OPEN + f.encode_header(f.WINDOW_UPDATE, f.RST, 1, 0) + OPEN,
    "a late SYN that comes twice": f.encode_header(f.WINDOW_UPDATE, f.SYN, 5, 0) + OPEN + OPEN,
    "a SYN of our parity": f.encode_header(f.WINDOW_UPDATE, f.SYN, 2, 0),
    "a SYN of stream 0": f.encode_header(f.WINDOW_UPDATE, f.SYN, 0, 0),
    "another version": b"\x01" + bytes(11),
    "an unknown type": b"\x00\x04" + bytes(10),
    "an HTTP request": b"GET / HTTP/1.1\r\n",
    "a TLS hello": bytes.fromhex("160301020001000001fc0303"),
}


@pytest.mark.parametrize("wire", VIOLATIONS.values(), ids=list(VIOLATIONS))
@pytest.mark.parametrize("step", [1 << 20, 1, 13])
def test_a_violation_ends_the_session_however_it_is_cut(wire: bytes, step: int) -> None:
    session = Session(client=False)
    with pytest.raises(RemoteProtocolError, match=r"^yamux: "):
        for at in range(0, len(wire), step):
            session.receive(memoryview(wire)[at : at + step])


def test_no_state_is_made_before_the_length_was_checked() -> None:
    session = Session(client=False)
    with pytest.raises(RemoteProtocolError):
        session.receive(memoryview(f.encode_header(f.DATA, f.SYN, 1, WINDOW + 1)))
    assert session.streams == {} and not session.control


def test_the_window_may_grow_to_32_bits_and_not_beyond() -> None:
    session = Session(client=False)
    session.receive(memoryview(OPEN + f.encode_header(f.WINDOW_UPDATE, 0, 1, f.MAX_WINDOW - WINDOW)))
    assert session.streams[1].send_window == f.MAX_WINDOW
    with pytest.raises(RemoteProtocolError, match="overflows"):
        session.receive(memoryview(f.encode_header(f.WINDOW_UPDATE, 0, 1, 1)))


def test_a_syn_flood_beyond_the_limit_is_reset_and_its_data_skipped() -> None:
    session = Session(client=False, max_inbound_streams=3)
    wire = b"".join(f.encode_header(f.DATA, f.SYN, 2 * i + 1, 1) + b"x" for i in range(5))
    events = session.receive(memoryview(wire))
    assert [event.stream.id for event in events if isinstance(event, StreamOpened)] == [1, 3, 5]
    control = bytes(session.control)
    assert [f.decode_header(control, at)[1:3] for at in range(0, len(control), 12)] == [
        (f.ACK, 1),
        (f.ACK, 3),
        (f.ACK, 5),
        (f.RST, 7),
        (f.RST, 9),
    ]
    assert len(session.streams) == 3


@pytest.mark.parametrize("how", ["reset by the peer", "reset by us", "both fins"])
def test_an_ended_stream_makes_room_for_another(how: str) -> None:
    session = Session(client=False, max_inbound_streams=1)
    for stream_id in (1, 3, 5):
        (event,) = session.receive(memoryview(f.encode_header(f.WINDOW_UPDATE, f.SYN, stream_id, 0)))
        assert isinstance(event, StreamOpened)
        if how == "reset by us":
            session.reset(event.stream)
        elif how == "both fins":
            session.finish(event.stream)
            session.receive(memoryview(f.encode_header(f.WINDOW_UPDATE, f.FIN, stream_id, 0)))
        else:
            session.receive(memoryview(f.encode_header(f.WINDOW_UPDATE, f.RST, stream_id, 0)))
    assert session.streams == {}


def test_streams_of_ours_do_not_count_as_the_peers() -> None:
    session = Session(client=False, max_inbound_streams=1)
    for _ in range(3):
        session.reset(session.open())
    (event,) = session.receive(memoryview(OPEN))
    assert isinstance(event, StreamOpened)
    assert session.receive(memoryview(f.encode_header(f.WINDOW_UPDATE, f.SYN, 3, 0))) == []


def test_what_one_peer_makes_us_buffer_is_bounded_over_all_its_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_module, "MAX_BUFFERED_BYTES", 2 * WINDOW)
    session = Session(client=False)
    for stream_id in (1, 3):
        session.receive(memoryview(f.encode_header(f.DATA, f.SYN, stream_id, WINDOW) + bytes(WINDOW)))
    one, two = session.streams[1], session.streams[3]
    session.control.clear()
    wire = f.encode_header(f.DATA, f.SYN, 5, 1) + b"x" + f.encode_header(f.DATA, 0, 5, 1) + b"y"
    opened, lost = session.receive(memoryview(wire))
    assert isinstance(opened, StreamOpened) and isinstance(lost, StreamWasReset)
    assert opened.stream is lost.stream and not opened.stream.backlog
    assert lost.overflow, "not the peer's doing"
    assert session.control[12:] == f.encode_header(f.WINDOW_UPDATE, f.RST, 5, 0)
    assert session.streams == {1: one, 3: two}, "the streams that were there before stay"
    session.consumed(one, WINDOW, now=1.0)
    session.reset(two)
    assert session.buffered_bytes == 0
    (opened,) = session.receive(memoryview(f.encode_header(f.DATA, f.SYN, 7, 1) + b"z"))
    assert isinstance(opened, StreamOpened) and bytes(opened.stream.backlog or b"") == b"z"


FLOODS = {
    "pings": lambda i: f.encode_header(f.PING, f.SYN, 0, i),
    "opens and resets": lambda i: (
        f.encode_header(f.WINDOW_UPDATE, f.SYN, 2 * i + 1, 0)
        + f.encode_header(f.WINDOW_UPDATE, f.RST, 2 * i + 1, 0)
    ),
    "opens beyond the limit": lambda i: f.encode_header(f.WINDOW_UPDATE, f.SYN, 2 * i + 1, 0),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=list(FLOODS))
def test_answers_that_nobody_reads_are_bounded(flood: object) -> None:
    # CVE-2024-32984: nothing takes `control` away, as with a peer that does not read.
    assert callable(flood)
    session = Session(client=False, max_inbound_streams=8)
    read = 4096
    with pytest.raises(RemoteProtocolError, match="does not read"):
        for turn in range(100_000):
            session.receive(memoryview(flood(turn)))
    assert len(session.control) <= MAX_CONTROL_BYTES + read
    assert len(session.streams) <= 8


def test_a_peer_that_reads_its_answers_may_ping_for_ever() -> None:
    session = Session(client=False)
    for turn in range(50_000):
        session.receive(memoryview(f.encode_header(f.PING, f.SYN, 0, turn)))
        session.control.clear()
