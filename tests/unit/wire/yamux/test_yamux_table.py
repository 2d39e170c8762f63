"""Pins each state of a stream against each thing that can happen to it, received or done here.

The expectation is one word per pair: what the state is afterwards (or stays), with `!` for the peer's
violation, `defect` for one of ours, and the event that tells of it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from p2pfwd.errors import LocalProtocolError, RemoteProtocolError
from p2pfwd.wire.yamux import frame as f
from p2pfwd.wire.yamux.session import Event, Session, StreamFinished, StreamWasReset
from p2pfwd.wire.yamux.stream import State, StreamCore

STATES = ("OPEN", "LOCAL_CLOSED", "REMOTE_CLOSED", "CLOSED", "RESET")


def received(frame_type: int, flags: int, length: int = 0) -> Callable[[Session, StreamCore], list[Event]]:
    def act(session: Session, stream: StreamCore) -> list[Event]:
        body = bytes(length) if frame_type == f.DATA else b""
        return session.receive(memoryview(f.encode_header(frame_type, flags, stream.id, length) + body))

    return act


def here(act: Callable[[Session, StreamCore], object]) -> Callable[[Session, StreamCore], list[Event]]:
    def done(session: Session, stream: StreamCore) -> list[Event]:
        act(session, stream)
        return []

    return done


def write(session: Session, stream: StreamCore) -> None:
    session.write_data_header(stream, 1, memoryview(bytearray(13)), 0)


INPUTS = {
    "DATA": received(f.DATA, 0, 3),
    "empty DATA": received(f.DATA, 0),
    "DATA with FIN": received(f.DATA, f.FIN, 3),
    "empty DATA with FIN": received(f.DATA, f.FIN),
    "DATA with RST": received(f.DATA, f.RST, 3),
    "credit": received(f.WINDOW_UPDATE, 0, 9),
    "ACK": received(f.WINDOW_UPDATE, f.ACK),
    "FIN": received(f.WINDOW_UPDATE, f.FIN),
    "RST": received(f.WINDOW_UPDATE, f.RST, 7),
    "SYN": received(f.WINDOW_UPDATE, f.SYN),
    "finish": here(lambda session, stream: session.finish(stream)),
    "reset": here(lambda session, stream: session.reset(stream)),
    "write": here(write),
    "consume": here(lambda session, stream: session.consumed(stream, 0, 1.0)),
}

#             OPEN             LOCAL_CLOSED      REMOTE_CLOSED     CLOSED   RESET
EXPECTED = {
    "DATA": ("same", "same", "!", "same", "same"),
    "empty DATA": ("same", "same", "same", "same", "same"),
    "DATA with FIN": ("REMOTE_CLOSED eof", "CLOSED eof", "!", "same", "same"),
    "empty DATA with FIN": ("REMOTE_CLOSED eof", "CLOSED eof", "same", "same", "same"),
    "DATA with RST": ("RESET rst", "RESET rst", "RESET rst", "same", "same"),
    "credit": ("same", "same", "same", "same", "same"),
    "ACK": ("same", "same", "same", "same", "same"),
    "FIN": ("REMOTE_CLOSED eof", "CLOSED eof", "same", "same", "same"),
    "RST": ("RESET rst", "RESET rst", "RESET rst", "same", "same"),
    "SYN": ("!", "!", "!", "!", "!"),
    "finish": ("LOCAL_CLOSED", "defect", "CLOSED", "defect", "defect"),
    "reset": ("RESET", "RESET", "RESET", "same", "same"),
    "write": ("same", "defect", "same", "defect", "defect"),
    "consume": ("same", "same", "same", "same", "same"),
}


def in_state(state: str) -> tuple[Session, StreamCore]:
    """A session whose stream 1, opened by the peer, is in that state."""
    session = Session(client=False)
    session.receive(memoryview(f.encode_header(f.WINDOW_UPDATE, f.SYN, 1, 0)))
    stream = session.streams[1]
    if state in ("LOCAL_CLOSED", "CLOSED"):
        session.finish(stream)
    if state in ("REMOTE_CLOSED", "CLOSED"):
        session.receive(memoryview(f.encode_header(f.WINDOW_UPDATE, f.FIN, 1, 0)))
    if state == "RESET":
        session.reset(stream)
    assert stream.state.name == state
    session.control.clear()
    return session, stream


@pytest.mark.parametrize("what", INPUTS)
@pytest.mark.parametrize("state", STATES)
def test_every_state_meets_every_input(state: str, what: str) -> None:
    session, stream = in_state(state)
    expected = EXPECTED[what][STATES.index(state)]
    if expected in ("!", "defect"):
        with pytest.raises(RemoteProtocolError if expected == "!" else LocalProtocolError):
            INPUTS[what](session, stream)
        return
    after, _, told = expected.partition(" ")
    events = INPUTS[what](session, stream)
    assert stream.state is (State[state] if after == "same" else State[after])
    kinds = {"": [], "eof": [StreamFinished], "rst": [StreamWasReset]}[told]
    assert [type(event) for event in events] == kinds
    over = stream.state in (State.CLOSED, State.RESET)
    assert (1 in session.streams) is not over, "the session knows exactly the streams that live"
    assert (session._inbound == 0) is over
