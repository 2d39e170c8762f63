"""Pins the table of a stream's states: every (state, input) pair, present or absent."""

from __future__ import annotations

import itertools

import pytest

from p2pfwd.errors import LocalProtocolError
from p2pfwd.wire.yamux.stream import Input, State, StreamCore

# The state machine, written out once more; None: must never be asked.
EXPECTED = {
    State.OPEN: (State.LOCAL_CLOSED, State.REMOTE_CLOSED, State.RESET, State.RESET),
    State.LOCAL_CLOSED: (None, State.CLOSED, State.RESET, State.RESET),
    State.REMOTE_CLOSED: (State.CLOSED, State.REMOTE_CLOSED, State.RESET, State.RESET),
    State.CLOSED: (None, None, None, None),
    State.RESET: (None, None, None, None),
}
INPUTS = (Input.FIN_SENT, Input.FIN_RECEIVED, Input.RST_SENT, Input.RST_RECEIVED)

WAYS = {
    State.OPEN: (),
    State.LOCAL_CLOSED: (Input.FIN_SENT,),
    State.REMOTE_CLOSED: (Input.FIN_RECEIVED,),
    State.CLOSED: (Input.FIN_RECEIVED, Input.FIN_SENT),
    State.RESET: (Input.RST_RECEIVED,),
}


@pytest.mark.parametrize(("state", "what"), list(itertools.product(State, Input)))
def test_every_pair_has_its_result_or_is_our_defect(state: State, what: Input) -> None:
    stream = StreamCore(1)
    stream.state = state
    expected = EXPECTED[state][INPUTS.index(what)]
    if expected is None:
        with pytest.raises(LocalProtocolError, match=f"{what.name} in state {state.name}"):
            stream.advance(what)
        assert stream.state is state
    else:
        assert stream.advance(what) is stream.state is expected


@pytest.mark.parametrize(
    ("state", "sends", "receives"),
    [
        (State.OPEN, True, True),
        (State.LOCAL_CLOSED, False, True),
        (State.REMOTE_CLOSED, True, False),
        (State.CLOSED, False, False),
        (State.RESET, False, False),
    ],
)
def test_which_halves_are_open(state: State, sends: bool, receives: bool) -> None:
    stream = StreamCore(1)
    for what in WAYS[state]:
        stream.advance(what)
    assert stream.state is state
    assert (stream.can_send, stream.can_receive) == (sends, receives)


def test_payload_waits_for_the_first_sink() -> None:
    stream = StreamCore(1)
    view = memoryview(bytearray(b"one"))
    stream.sink(view)
    view[:] = b"XXX"  # the view is the caller's again
    stream.sink(memoryview(b"two"))
    assert bytes(stream.backlog or b"") == b"onetwo"
