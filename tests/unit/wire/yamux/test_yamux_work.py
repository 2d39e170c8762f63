"""Pins what frames cost: a session stops at its turn's work, and only what moves nothing pays toll."""

from __future__ import annotations

import pytest

from p2pfwd.wire.yamux import frame as f
from p2pfwd.wire.yamux import work
from p2pfwd.wire.yamux.session import Session, StreamFinished, StreamOpened
from p2pfwd.wire.yamux.window import Ledger

OPEN = f.encode_header(f.WINDOW_UPDATE, f.SYN, 1, 0)


def opened() -> tuple[Session, list[bytes]]:
    session, got = Session(client=False), []
    (event,) = session.receive(memoryview(OPEN))
    assert isinstance(event, StreamOpened)
    event.stream.sink = lambda view: got.append(bytes(view))
    session.toll = 0
    return session, got


@pytest.mark.parametrize("budget", [1, work.OPEN_WORK, 500, 10_000])
def test_a_session_stops_when_its_work_is_used_up_and_loses_nothing(budget: int) -> None:
    wire = b"".join(
        f.encode_header(f.DATA, f.SYN | f.FIN, 2 * n + 1, 3) + b"abc" + f.encode_header(f.PING, f.SYN, 0, n)
        for n in range(100)
    )
    session, events, at, turns = Session(client=False), [], 0, 0
    while at < len(wire):
        session.work_left = budget
        events += session.receive(memoryview(wire)[at:])
        assert session.taken > 0
        at += session.taken
        turns += 1
    assert [e.stream.id for e in events if isinstance(e, StreamOpened)] == list(range(1, 200, 2))
    assert len([e for e in events if isinstance(e, StreamFinished)]) == 100
    cost = 100 * (work.OPEN_WORK + work.END_WORK + 2 * work.FRAME_WORK)
    assert turns >= cost / (budget + work.OPEN_WORK + work.END_WORK + 4)


def test_a_read_of_big_data_frames_fits_into_a_turn() -> None:
    session, got = opened()
    session.streams[1].is_tunnel = True
    session.work_left = 1000
    frames = b"".join(f.encode_header(f.DATA, 0, 1, 1024) + bytes(1024) for _ in range(240))
    session.receive(memoryview(frames))
    assert session.taken == len(frames) and len(got) == 240 and session.toll == 0


HONEST = {
    "payload": f.encode_header(f.DATA, 0, 1, 1) + b"x",
    "credit for half a window": f.encode_header(f.WINDOW_UPDATE, 0, 1, 128 * 1024),
    "the end of data": f.encode_header(f.WINDOW_UPDATE, f.FIN, 1, 0),
}
BARREN = {
    "a ping": (f.encode_header(f.PING, f.SYN, 0, 7), work.FRAME_TOLL),
    "a pong nobody asked for": (f.encode_header(f.PING, f.ACK, 0, 7), work.FRAME_TOLL),
    "no data": (f.encode_header(f.DATA, 0, 1, 0), work.FRAME_TOLL),
    "no credit": (f.encode_header(f.WINDOW_UPDATE, 0, 1, 0), work.FRAME_TOLL),
    "credit of a byte": (f.encode_header(f.WINDOW_UPDATE, 0, 1, 1), work.FRAME_TOLL),
    "a frame for nobody": (f.encode_header(f.WINDOW_UPDATE, 0, 99, 1 << 20), work.FRAME_TOLL),
    "going away": (f.encode_header(f.GO_AWAY, 0, 0, 0), work.FRAME_TOLL),
    "a stream that comes to nothing": (f.encode_header(f.WINDOW_UPDATE, f.RST, 1, 0), work.BARREN_TOLL),
    "credit beyond any use": (
        f.encode_header(f.WINDOW_UPDATE, 0, 1, work.WIDE_WINDOW_BYTES)
        + f.encode_header(f.WINDOW_UPDATE, 0, 1, 1 << 20),
        work.FRAME_TOLL,
    ),
}


@pytest.mark.parametrize("wire", HONEST.values(), ids=list(HONEST))
def test_what_moves_something_pays_no_toll(wire: bytes) -> None:
    session, _ = opened()
    session.receive(memoryview(wire))
    assert session.toll == 0


@pytest.mark.parametrize(("wire", "toll"), BARREN.values(), ids=list(BARREN))
def test_what_moves_nothing_pays(wire: bytes, toll: int) -> None:
    session, _ = opened()
    session.receive(memoryview(wire))
    assert session.toll == toll


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("tunnel", "toll"), [(True, 0), (False, 64_000 >> work.BYTES_SHIFT)])
def test_payload_pays_unless_it_is_a_tunnels(whole: bool, tunnel: bool, toll: int) -> None:
    session, _ = opened()
    session.streams[1].is_tunnel = tunnel
    wire = memoryview(f.encode_header(f.DATA, 0, 1, 64_000) + bytes(64_000))
    for part in [wire] if whole else [wire[:100], wire[100:]]:
        session.receive(part)
    assert session.toll == toll


def test_a_tunnel_pays_less_than_a_stream_that_comes_to_nothing() -> None:
    session, _ = opened()
    session.streams[1].is_tunnel = True
    session.receive(memoryview(f.encode_header(f.WINDOW_UPDATE, f.RST, 1, 0)))
    assert session.toll == work.TUNNEL_TOLL


def test_the_ledger_has_what_waits_in_all_sessions_and_loses_it_with_them() -> None:
    ledger = Ledger()
    sessions = [Session(client=False, ledger=ledger) for _ in range(2)]
    for session in sessions:
        session.receive(memoryview(f.encode_header(f.DATA, f.SYN, 1, 1000) + bytes(400)))
    assert (ledger.used, ledger.streams) == (2000, 2)
    one, two = sessions
    one.consumed(one.streams[1], 300, 1.0)
    assert ledger.used == 1700
    two.reset(two.streams[1])
    assert (ledger.used, ledger.streams) == (700, 1)
    one.close()
    one.close()
    assert (ledger.used, ledger.streams) == (0, 0)
    growth = ledger.growth_left
    assert growth == Ledger().growth_left


def test_windows_do_not_grow_while_the_node_holds_much() -> None:
    ledger = Ledger(total_bytes=1 << 20)
    session = Session(client=False, ledger=ledger)
    session.rtt_s = 1.0
    session.receive(memoryview(OPEN))
    stream = session.streams[1]
    stream.sink = lambda view: session.consumed(stream, len(view), 100.0)

    def sizes() -> int:
        body = bytes(stream.receive_window.credit)
        session.receive(memoryview(f.encode_header(f.DATA, 0, 1, len(body)) + body))
        return stream.receive_window.size

    sizes()
    ledger.used += 600 * 1024
    before = stream.receive_window.size
    assert sizes() == before
    ledger.used -= 600 * 1024
    assert sizes() > before


def test_a_message_with_nothing_in_it_costs_too() -> None:
    """It has to be opened; thousands of them a second were free, and kept everybody waiting."""
    session, _ = opened()
    before = session.work_left = 1000
    for _ in range(10):
        assert session.receive(memoryview(b"")) == []
    assert before - session.work_left == 10 * work.EMPTY_WORK and session.toll == 10 * work.FRAME_TOLL


def test_a_part_of_a_header_costs_as_much_as_nothing() -> None:
    """Else twelve messages with a byte each were one ping's work."""
    session, _ = opened()
    before = session.work_left = 1000
    ping = f.encode_header(f.PING, f.SYN, 0, 7)
    for at in range(len(ping)):
        session.receive(memoryview(ping)[at : at + 1])
    parts = len(ping) - 1
    assert before - session.work_left == parts * work.EMPTY_WORK + work.FRAME_WORK
    assert session.toll == (parts + 1) * work.FRAME_TOLL


def test_each_piece_of_a_body_is_work_and_a_tunnels_pays_no_toll() -> None:
    session, got = opened()
    session.streams[1].is_tunnel = True
    session.receive(memoryview(f.encode_header(f.DATA, 0, 1, 10)))
    before = session.work_left = 1000
    for _ in range(10):
        session.receive(memoryview(b"x"))
    assert before - session.work_left == 10 * work.DATA_WORK and not session.toll and len(got) == 10
