"""What a connection sends, and when: frames of streams, control frames, and the turns of those who wait.

    what is due   NOTHING ──control queued──▶ FLUSH ──a stream may send──▶ DRAIN    one call soon, or none
                     ▲                          │                            │
                     └────── all control sent ──┴── and each waiting stream ─┘
                                                    had a frame's turn

    the phase     OPEN ──a read is handled──▶ TURN ──its end──▶ OPEN
                  OPEN ──streams have their turns──▶ DRAINING ──▶ OPEN

    In TURN nothing becomes due: its end sends all in one, and the streams have their turns then. In DRAINING
    they have them just now, corked: who asks again is served in the same round.

Rules:
- Control frames (credit, FIN, RST, pings) ride in front of the next data frame, or go out when they are due.
- Streams that wait take turns of one frame; after `FRAMES_PER_TURN` the event loop has its own.
- Who asks anew and sends little at a time goes first: an echo waits for what is on its way, not for a round
  of bulk. One turn of four is bulk's all the same.
- While it is corked, frames wait for the next ones: up to `CORKED_FRAMES` go out in one send. It is so
  in DRAINING, while a splice goes on reading, and while a bridge is given what one read has brought; whoever
  corks uncorks in the same callback, so nothing waits for what may not come. Frames are sealed as they are
  made: what is sent later stands behind them.
- Streams with bulk have wide frames instead, where both ends have agreed on wide messages: one pass through
  here for four. All others' bytes wait behind one as long as behind four that go out in one send. A circuit
  has them for what has come in one, while nobody waits: its other pieces wait for the next ones.
- Beside others a turn is worth `TURN_BYTES`: who has had a longer frame lets its next turn pass. Without that
  a stream whose socket holds half as much would be half as fast.
- Where messages may be wide, a stream with bulk sends no crumbs (`CRUMB_BYTES`): an initial window is a
  little more than a wide frame, and what is left of it would cost a pass of its own. More credit is sure to
  come: the other end, which is a p2pfwd, gives it when half of a window is used.
- Some control frames are patient (`send_small`): alone they wait `PATIENCE_S` for company. A FIN waits with
  them, not for itself.
- A frame is built in place: `begin_frame` gives the room behind the control frames, the caller receives into
  it, `end_frame` seals and sends. Nothing else may be sent between the two.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from enum import Enum, IntEnum, auto
from typing import Final, Protocol

from p2pfwd.net.channel import Channel
from p2pfwd.net.link.intake import Intake
from p2pfwd.system.buffers import CORKED_FRAMES, WIDE_PREFIX_BYTES
from p2pfwd.wire.noise.cipher import MAX_PLAINTEXT, MAX_WIDE_MESSAGE
from p2pfwd.wire.yamux.frame import HEADER_BYTES
from p2pfwd.wire.yamux.session import Session
from p2pfwd.wire.yamux.stream import StreamCore
from p2pfwd.wire.yamux.window import Kind
from p2pfwd.wire.yamux.work import CRUMB_BYTES

FRAMES_PER_TURN: Final = 16
"""Frames sent for waiting streams before the event loop gets its turn. A wide one counts as
`CORKED_FRAMES`."""

WIDE_WINDOW_BYTES: Final = 512 * 1024
"""Credit for a wide frame of the only stream with bulk. With less one frame could be the peer's whole window,
and the next would wait a round trip for its credit. Beside others that time is theirs."""

BULK_FRAME_BYTES: Final = 32 * 1024
"""A stream whose last frame was as long has bulk."""

TURN_BYTES: Final = 128 * 1024
"""Half of a wide frame: what a local socket has at once as long as its system has not made it larger."""

FAVOURS: Final = 3
"""Turns in a row of who goes first, while there is bulk."""

PATIENCE_S: Final = 0.001
"""How long the answer to a proposal waits, where its stream's data came along with it, for the service's
answer: a message and a wake-up less on each side for most streams."""


class Waiting(Protocol):
    """A stream that has something to send."""

    core: StreamCore

    def resume(self) -> bool:
        """Send one frame."""


class Speech(Protocol):
    """Where it is noted when a frame of a stream was last sent, in monotonic seconds: `liveness`."""

    spoke_at: float


class Due(IntEnum):
    """What the one call soon will do."""

    NOTHING = 0
    FLUSH = 1
    DRAIN = 2


class Phase(Enum):
    """See the picture above."""

    OPEN = auto()
    TURN = auto()
    DRAINING = auto()


class Outbox:
    """Of one connection."""

    __slots__ = (
        "_asked_last",
        "_channel",
        "_corked",
        "_due",
        "_ended",
        "_favours",
        "_first",
        "_intake",
        "_loop",
        "_offset",
        "_patience",
        "_patient_bytes",
        "_phase",
        "_pool",
        "_session",
        "_speech",
        "_waiting",
        "_wide",
    )

    def __init__(
        self,
        session: Session,
        channel: Channel,
        loop: asyncio.AbstractEventLoop,
        speech: Speech,
        intake: Intake,
    ) -> None:
        """`intake` is told before the streams have their turns."""
        self._speech = speech
        self._session = session
        self._channel = channel
        self._pool = channel.pool
        self._loop = loop
        self._intake = intake
        self._waiting: deque[Waiting] | None = None
        """Made for the first that waits: on an idle connection it would be the largest object."""
        self._first: deque[Waiting] | None = None
        """The same of those who go before them."""
        self._favours = 0
        """How many of these have had their turns since the last with bulk had."""
        self._phase = Phase.OPEN
        self._due = Due.NOTHING
        self._corked = False
        """Whether frames wait for the next ones, to go out together."""
        self._wide = False
        """Whether the frame being built is to be a wide message."""
        self._asked_last = 0
        """The stream that last asked to cork."""
        self._ended = False
        self._offset = 0
        self._patient_bytes = 0
        self._patience: asyncio.TimerHandle | None = None

    # --- frames of streams ------------------------------------------------------------------------

    def begin_frame(self, core: StreamCore, size: int = 0) -> memoryview:
        """Where the stream's next frame's payload goes, behind the control frames that go first.

        Nowhere (empty) where the stream must wait for another turn. `size`: of a circuit's piece.
        """
        most = self._channel.max_plaintext
        offset = len(self._session.control)
        if offset and offset > most // 2:  # they would leave little room for the payload
            self.flush()
            offset = len(self._session.control)
        self._offset = offset
        self._wide = False
        alone = self._is_alone(core, size)
        if (alone or core.last_frame >= BULK_FRAME_BYTES) and self._may_be_wide(core, alone, size):
            if core.last_frame > TURN_BYTES and not alone:
                core.last_frame = TURN_BYTES  # it has had this turn already
                return memoryview(b"")
            self._wide = True
            most = self._channel.max_wide
        start = offset + HEADER_BYTES
        stop = start + core.send_window
        return self._staging()[start : stop if stop < most else most]

    def _staging(self) -> memoryview:
        """Where the frame is built; not kept, for it is the pool's."""
        return self._pool.wide[WIDE_PREFIX_BYTES:] if self._wide else self._pool.staging

    def _is_alone(self, core: StreamCore, size: int = 0) -> bool:
        """Whether no other has bulk: nobody waits, and the stream was the last to ask to cork.

        A circuit with a long piece need not have asked.
        """
        return (size > MAX_PLAINTEXT or self._asked_last == core.id) and not (self._first or self._waiting)

    def wide_bytes(self, core: StreamCore) -> int:
        """Largest piece of a circuit that has one frame now, and that a wide one; 0: none."""
        size = MAX_WIDE_MESSAGE
        if not self._may_be_wide(core, self._is_alone(core, size), size):
            return 0
        return self._channel.max_wide - len(self._session.control) - HEADER_BYTES

    def _may_be_wide(self, core: StreamCore, alone: bool, size: int = 0) -> bool:
        channel = self._channel
        return (
            channel.max_wide > 0
            and ((alone and size > MAX_PLAINTEXT) or core.receive_window.kind is not Kind.CIRCUIT)
            and core.send_window >= (WIDE_WINDOW_BYTES if alone else channel.max_plaintext)
            and not self._pool.is_scarce
        )

    def end_frame(self, core: StreamCore, n: int) -> None:
        """Seal and send control frames and a frame with `n` bytes of payload."""
        session, offset, staging = self._session, self._offset, self._staging()
        if offset:
            staging[:offset] = session.control
            session.control.clear()
            self._forget_patience()
        session.write_data_header(core, n, staging, offset)
        core.last_frame = n
        core.least_window = CRUMB_BYTES if n >= BULK_FRAME_BYTES and self._channel.max_wide else 1
        self._speech.spoke_at = time.monotonic()
        if self._wide:
            self._channel.send_wide(offset + HEADER_BYTES + n)
        else:
            self._channel.send_staged(offset + HEADER_BYTES + n, self._corked)

    def cork(self, core: StreamCore) -> bool:
        """Let the stream's next frames go out together, until `uncork`, if nobody else has bulk to send.

        That is so where nobody waits, and the stream was the last to ask: with twenty of them an echo would
        wait four times as long for its turn. Not so where they are wide instead. In a round of turns, at
        whose end all is sent, it only says that the stream has bulk.
        """
        alone = self._is_alone(core)
        self._asked_last = core.id
        if self._phase is Phase.DRAINING:
            return False
        self._corked = alone and not self._may_be_wide(core, alone)
        return self._corked

    def uncork(self) -> None:
        """Send what waited for more."""
        self._corked = False
        self._channel.uncork()

    def send_small(self, core: StreamCore, data: bytes, *, patient: bool) -> None:
        """Queue a small frame with the control frames, so that it shares their send.

        `patient`: it, and an ACK before it, go with the next frame, or after `PATIENCE_S`.
        """
        frame = bytearray(HEADER_BYTES + len(data))
        self._session.write_data_header(core, len(data), memoryview(frame), 0)
        frame[HEADER_BYTES:] = data
        self._session.control += frame
        if patient:
            self._patient_bytes += HEADER_BYTES + len(frame)  # HEADER_BYTES once more: the ACK's frame
        self.schedule_flush()

    def consumed(self, core: StreamCore, n: int) -> None:
        """Payload was passed on; grant credit when it is due."""
        self._session.consumed(core, n, time.monotonic())
        if self._session.control:
            self._make_due(Due.FLUSH)

    # --- control frames ---------------------------------------------------------------------------

    def schedule_flush(self) -> None:
        """Send what control frames there are soon."""
        if self._session.control:
            self._make_due(Due.FLUSH)

    def schedule_end(self) -> None:
        """The same of a FIN; with the answers that wait for company, where there are some."""
        if self._patience is not None:
            self._patient_bytes += HEADER_BYTES
        else:
            self.schedule_flush()

    def flush(self, *, last: bool = False) -> None:
        """Send what control frames there are; `last`: even behind what the conduit still has to send."""
        self._forget_patience()
        control = self._session.control
        while control and (last or not self._channel.congested) and not self._ended:
            n = min(len(control), self._channel.max_plaintext)
            self._pool.staging[:n] = control[:n]
            del control[:n]
            self._channel.send_staged(n)

    def _make_due(self, due: Due) -> None:
        if self._phase is Phase.TURN or due <= self._due:
            return
        if self._due is Due.NOTHING:
            self._loop.call_soon(self._soon)
        self._due = due

    def _soon(self) -> None:
        due, self._due = self._due, Due.NOTHING
        if due is Due.DRAIN:
            self.drain()
        else:
            self.flush()

    # --- streams that wait ------------------------------------------------------------------------

    def wait_to_send(self, stream: Waiting) -> None:
        """Give the stream its turn when frames can be sent."""
        if self._phase is Phase.DRAINING or stream.core.last_frame >= BULK_FRAME_BYTES:
            if self._waiting is None:
                self._waiting = deque()
            self._waiting.append(stream)
        else:
            if self._first is None:
                self._first = deque()
            self._first.append(stream)
        if not self._channel.congested and self._phase is Phase.OPEN:
            self._make_due(Due.DRAIN)

    def stop_waiting(self, stream: Waiting) -> None:
        """The stream is over."""
        for line in (self._first, self._waiting):
            if line and stream in line:
                line.remove(stream)

    def _next(self) -> Waiting:
        """Whose turn it is, of those who wait."""
        first, waiting = self._first, self._waiting
        if first and (not waiting or self._favours < FAVOURS):
            self._favours += 1
            return first.popleft()
        assert waiting
        self._favours = 0
        return waiting.popleft()

    def drain(self) -> None:
        """Control first, then one frame each for the streams that wait, in turn."""
        self._intake.drained()
        self.flush()
        frames = 0
        self._phase, self._corked = Phase.DRAINING, True
        try:
            while (self._first or self._waiting) and frames < FRAMES_PER_TURN and not self._channel.congested:
                self._next().resume()
                frames += CORKED_FRAMES if self._wide else 1
        finally:
            self._phase = Phase.OPEN
            self.uncork()
        if (self._first or self._waiting) and not self._channel.congested:
            self._make_due(Due.DRAIN)

    # --- turns ------------------------------------------------------------------------------------

    def begin_turn(self) -> None:
        """A read is handled: what it makes us send goes in one at its end."""
        self._phase = Phase.TURN

    def end_turn(self) -> None:
        """Send what the read brought about."""
        self._phase = Phase.OPEN
        if (self._first or self._waiting) and not self._channel.congested:
            self.drain()
        elif len(self._session.control) > self._patient_bytes:
            self.flush()
        elif self._patient_bytes and self._patience is None:
            self._patience = self._loop.call_later(PATIENCE_S, self._end_patience)

    def break_turn(self) -> None:
        """The read went wrong: what is to be said goes out now, by `flush`."""
        self._phase = Phase.OPEN

    def _end_patience(self) -> None:
        self.flush()

    def _forget_patience(self) -> None:
        """All goes out now. A timer that is left wakes the loop for nothing, and cuts the next one's time."""
        self._patient_bytes = 0
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def end(self) -> None:
        """The connection is over: nothing is sent any more."""
        self._ended = True
        self._forget_patience()
