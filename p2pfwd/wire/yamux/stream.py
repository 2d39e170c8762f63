"""One Yamux stream's state machine and its two windows.

The four ways a stream can change are in one table; data and credit do not change the state. An
absent pair is a defect of ours (`LocalProtocolError`): what a peer may repeat is in the table.

    OPEN ──FIN sent──▶ LOCAL_CLOSED ──FIN received──▶ CLOSED
    OPEN ──FIN received──▶ REMOTE_CLOSED ──FIN sent──▶ CLOSED
    any ──RST sent or received──▶ RESET
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from p2pfwd.errors import LocalProtocolError
from p2pfwd.wire.yamux.frame import INITIAL_WINDOW_BYTES
from p2pfwd.wire.yamux.window import ReceiveWindow


class State(Enum):
    """Which halves are still open."""

    __hash__ = object.__hash__  # Enum's own is Python, and every stream looks up TRANSITIONS

    OPEN = auto()
    LOCAL_CLOSED = auto()
    REMOTE_CLOSED = auto()
    CLOSED = auto()
    RESET = auto()


class Input(Enum):
    """What changes a state."""

    __hash__ = object.__hash__

    FIN_SENT = auto()
    FIN_RECEIVED = auto()
    RST_SENT = auto()
    RST_RECEIVED = auto()


TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (State.OPEN, Input.FIN_SENT): State.LOCAL_CLOSED,
    (State.OPEN, Input.FIN_RECEIVED): State.REMOTE_CLOSED,
    (State.LOCAL_CLOSED, Input.FIN_RECEIVED): State.CLOSED,
    (State.REMOTE_CLOSED, Input.FIN_SENT): State.CLOSED,
    (State.REMOTE_CLOSED, Input.FIN_RECEIVED): State.REMOTE_CLOSED,  # a repeated FIN is tolerated
    **{
        (state, rst): State.RESET
        for state in (State.OPEN, State.LOCAL_CLOSED, State.REMOTE_CLOSED)
        for rst in (Input.RST_SENT, Input.RST_RECEIVED)
    },
}


class StreamCore:
    """State, windows and data sink of one stream; made by `Session` only.

    `sink` takes each piece of payload as it arrives, as a memoryview that is valid only during the
    call. Until somebody sets it, payload is held in `backlog` (bounded by the receive window).
    """

    __slots__ = (
        "acked",
        "backlog",
        "can_receive",
        "can_send",
        "id",
        "is_tunnel",
        "last_frame",
        "least_window",
        "receive_window",
        "send_window",
        "sink",
        "state",
    )

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id
        self.state = State.OPEN
        self.can_send = True
        """Whether our half is open; like `can_receive` it follows `state`, for the hot path to read."""
        self.can_receive = True
        """Whether the peer's half is open."""
        self.acked = False
        self.is_tunnel = False
        """Whether its payload goes to a local socket; set by the owner, see `wire.yamux.work`."""
        self.send_window = INITIAL_WINDOW_BYTES
        self.least_window = 1
        """With less of it the stream waits for credit; set by the owner."""
        self.last_frame = 0
        """Payload of the last data frame sent, for the owner: it shows how much there is to send."""
        self.receive_window = ReceiveWindow()
        self.backlog: bytearray | None = None
        self.sink: Callable[[memoryview], None] = self._hold

    @property
    def has_credit(self) -> bool:
        """Whether the peer lets it send a frame."""
        return self.send_window >= self.least_window

    def _hold(self, view: memoryview) -> None:
        if self.backlog is None:
            self.backlog = bytearray()
        self.backlog += view

    def advance(self, what: Input) -> State:
        """Apply one input; the new state."""
        try:
            state = self.state = TRANSITIONS[self.state, what]
        except KeyError:
            raise LocalProtocolError(f"yamux: {what.name} in state {self.state.name}") from None
        self.can_send = state is State.OPEN or state is State.REMOTE_CLOSED
        self.can_receive = state is State.OPEN or state is State.LOCAL_CLOSED
        return state
