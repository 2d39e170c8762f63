"""Hypothesis: how the bytes of a session are cut never matters, whatever the bytes are."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire.yamux import frame as f
from p2pfwd.wire.yamux.session import Event, Session

STREAM_IDS = (0, 1, 2, 3, 4, 5, 7, 9)
LENGTHS = st.one_of(st.integers(0, 40), st.sampled_from([f.INITIAL_WINDOW_BYTES + 1, 0xFFFF_FFFF]))
FLAGS = st.one_of(st.sampled_from([0, 0, f.SYN, f.ACK, f.FIN, f.RST]), st.integers(0, 31))


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """One frame, mostly well-formed."""
    frame_type = draw(st.sampled_from([f.DATA, f.DATA, f.WINDOW_UPDATE, f.PING, f.GO_AWAY]))
    length = draw(LENGTHS)
    header = f.encode_header(frame_type, draw(FLAGS), draw(st.sampled_from(STREAM_IDS)), length)
    body = draw(st.binary(min_size=length, max_size=length)) if frame_type == f.DATA and length < 99 else b""
    return header + body


WIRES = st.lists(st.one_of(frames(), frames(), st.binary(max_size=30)), max_size=30)


def described(events: list[Event]) -> list[str]:
    """Events of different sessions, comparable: a stream counts by its id."""
    told = []
    for event in events:
        stream = getattr(event, "stream", None)
        told.append(f"{type(event).__name__} {stream.id if stream else event}")
    return told


class Run:
    """A session that was fed, and all that can be seen of it."""

    def __init__(self, pieces: list[bytes]) -> None:
        session = Session(client=True, max_inbound_streams=3)
        self.streams = {core.id: core for core in (session.open(), session.open())}
        session.finish(self.streams[1])
        self.events: list[str] = []
        self.error: str | None = None
        for piece in pieces:
            try:
                events = session.receive(memoryview(piece))
            except RemoteProtocolError as exc:
                self.error = exc.message
                break
            for event in events:
                if (stream := getattr(event, "stream", None)) is not None:
                    self.streams[stream.id] = stream
            self.events += described(events)
        self.streams |= session.streams
        self.control = bytes(session.control)

    def payloads(self) -> dict[int, bytes]:
        return {stream_id: bytes(core.backlog or b"") for stream_id, core in self.streams.items()}


@settings(max_examples=300, deadline=None)
@given(WIRES, st.lists(st.integers(0, 1500), max_size=40))
def test_events_payload_answers_and_errors_are_the_same_in_any_cut(
    wire_frames: list[bytes], at: list[int]
) -> None:
    wire = b"".join(wire_frames)
    edges = sorted({0, *(n for n in at if n < len(wire)), len(wire)})
    single = Run([wire[i : i + 1] for i in range(len(wire))])
    cut = Run([wire[a:b] for a, b in pairwise(edges)])
    assert cut.error == single.error
    assert cut.control == single.control
    if cut.error is None:
        assert cut.events == single.events
        assert cut.payloads() == single.payloads()
    else:  # what the last piece had told before its violation is of no use to anybody
        assert cut.events == single.events[: len(cut.events)]
