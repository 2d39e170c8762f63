"""A bridge: two streams of two connections, moved into each other in callbacks. A relay's circuit is one.

Rules:
- A piece that has come goes into the other stream's next frame at once: no task, no queue, no copy but that.
- What one read of the one connection has brought for one stream goes out in one send on the other, at the
  end of that read, unless others have bulk for the same peer (cork, `net.link.outbox`).
- Back-pressure is withheld credit. What the other stream does not take stays here and is not acknowledged;
  the stream's window bounds it.
- Half-close is kept both ways; the bridge is over when both FINs have passed. A reset or a lost connection
  on one side becomes a reset on the other, never an end.
- A bridge may be bounded: so many bytes each way, then both sides are reset; so many a second, by leaving
  what comes too fast unacknowledged for a while.

Each direction is in one of these states:

    PASSING ──the other stream is full, or it was too fast──▶ HOLDING ──all passed──▶ PASSING
    PASSING ──FIN──▶ ENDED
    HOLDING ──FIN──▶ LAST ──all passed──▶ ENDED
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from p2pfwd.net.link.contract import DuplexStream
from p2pfwd.wire.yamux.reset_codes import NO_REASON, RESOURCE_LIMIT_EXCEEDED

CHUNK_BYTES: Final = 64 * 1024
"""Small pieces that wait are joined up to this. A whole frame stays whole: who opens it at the end of the
way does so in place."""


CORK_BYTES: Final = 4096
"""Least size of a piece for which others may wait: small ones are somebody's keystrokes."""


class State(Enum):
    """How it stands with one direction; the picture is at the head of the file."""

    PASSING = auto()
    HOLDING = auto()
    LAST = auto()
    """As HOLDING, and nothing more will come."""
    ENDED = auto()


class Input(Enum):
    """What changes a direction's state."""

    FULL = auto()
    TAKEN = auto()
    FIN = auto()


TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (State.PASSING, Input.FULL): State.HOLDING,
    (State.HOLDING, Input.TAKEN): State.PASSING,
    (State.PASSING, Input.FIN): State.ENDED,
    (State.HOLDING, Input.FIN): State.LAST,
    (State.LAST, Input.TAKEN): State.ENDED,
}
"""A pair that is not here is a defect, and shows as a KeyError."""

_PASSING: Final = State.PASSING  # a name of the class costs a look-up for each frame


class Bridge:
    """Between two streams. `on_over(bridge)` is called exactly once."""

    __slots__ = (
        "_on_over", "debt_s", "is_over", "is_whole", "limit_reached", "loop", "most_bytes", "one", "other",
    )  # fmt: skip

    def __init__(
        self,
        one: DuplexStream,
        other: DuplexStream,
        loop: asyncio.AbstractEventLoop,
        on_over: Callable[[Bridge], None],
        *,
        most_bytes: int | None = None,
        debt_s: Callable[[int], float] | None = None,
    ) -> None:
        """`most_bytes`: each way. `debt_s`: told of bytes that have come, says how long to take no more."""
        self.loop = loop
        self.most_bytes = most_bytes
        self.debt_s = debt_s
        self.is_over = False
        self.is_whole = False
        """Whether it ended because both FINs have passed."""
        self.limit_reached = False
        """Whether it ended because of `most_bytes`."""
        self.one, self.other = End(self, one), End(self, other)
        self.one.opposite, self.other.opposite = self.other, self.one
        self._on_over = on_over

    def start(self) -> None:
        """Begin to move bytes, what the streams already hold first."""
        for end in (self.one, self.other):
            if not self.is_over:
                end.stream.set_sink(end, tunnel=True, circuit=True)

    def finish_if_done(self) -> None:
        """Over, when both FINs have passed."""
        if self.one.state is State.ENDED and self.other.state is State.ENDED:
            self.is_whole = True
            self._end()

    def reset(self, code: int = NO_REASON) -> None:
        """End abruptly on both sides; `code` tells them why (`wire.yamux.reset_codes`). Idempotent."""
        if self.is_over:
            return
        self._end()
        self.one.stream.reset(code)
        self.other.stream.reset(code)

    def _end(self) -> None:
        if self.is_over:
            return
        self.is_over = True
        self.one.clear()
        self.other.clear()
        self._on_over(self)


class End:
    """One of the streams, as its sink; what comes from it goes to the opposite one."""

    __slots__ = (
        "_bridge", "_came", "_corked", "_offset", "_pending", "_rest",
        "opposite", "passed", "state", "stream",
    )  # fmt: skip

    opposite: End

    def __init__(self, bridge: Bridge, stream: DuplexStream) -> None:
        self.stream = stream
        self.state = State.PASSING
        self.passed = 0
        """Bytes from this stream that the opposite one has taken."""
        self._bridge = bridge
        self._came = 0  # counted where it is bounded
        self._corked = False  # what came in this read waits for the rest of it
        self._pending: deque[bytearray] = deque()
        self._offset = 0
        self._rest: asyncio.TimerHandle | None = None

    # --- from this stream -------------------------------------------------------------------------

    def data_received(self, view: memoryview) -> None:
        """Payload: it goes on at once where it can."""
        bridge = self._bridge
        if self.state is not _PASSING or bridge.most_bytes is not None:
            self._received_slowly(view)
            return
        if not self._corked and CORK_BYTES <= len(view) <= CHUNK_BYTES and self.stream.gather(self):
            self._corked = self.opposite.stream.cork()
        sent = self._send(view)
        if bridge.is_over:
            return
        if sent < len(view):
            self._hold(view[sent:])
        if sent:
            self.stream.consumed(sent)

    def pass_gathered(self) -> None:
        """The read is over, or somebody else's turn has come in it: what waits for more goes out."""
        if self._corked:
            self._corked = False
            self.opposite.stream.uncork()

    def _received_slowly(self, view: memoryview) -> None:
        bridge, most = self._bridge, self._bridge.most_bytes
        if most is not None:
            view = view[: most - self._came + 1]
            self._came += len(view)
            if self._came > most:
                view = view[:-1]
        sent = self._send(view) if self.state is State.PASSING else 0
        if bridge.is_over:
            return
        if sent < len(view):
            self._hold(view[sent:])
        if sent:
            self.stream.consumed(sent)
        if most is not None and self._came > most:
            bridge.limit_reached = True
            bridge.reset(RESOURCE_LIMIT_EXCEEDED)
        elif bridge.debt_s is not None and (debt_s := bridge.debt_s(len(view))) > 0:
            self._rest_for(debt_s)

    def _send(self, view: memoryview) -> int:
        """How much of it the opposite stream takes now."""
        target = self.opposite.stream
        sent, size = 0, len(view)
        # A long piece that must be cut up goes out in one all the same.
        corked = size > CHUNK_BYTES and not (self._corked or target.wide_bytes) and target.cork()
        while sent < size and not self._bridge.is_over:
            frame = target.begin_frame(size - sent)
            if frame is None:
                break
            n = min(len(frame), size - sent)
            frame[:n] = view[sent : sent + n]
            target.end_frame(n)
            sent += n
        if corked:
            target.uncork()
        self.passed += sent
        return sent

    def _hold(self, view: memoryview) -> None:
        if self.state is State.PASSING:
            self.state = TRANSITIONS[self.state, Input.FULL]
        if self._pending and len(self._pending[-1]) + len(view) <= CHUNK_BYTES:
            self._pending[-1] += view
        else:
            self._pending.append(bytearray(view))
        if self._rest is None:
            self.opposite.stream.want_to_send()

    def _rest_for(self, debt_s: float) -> None:
        if self.state is State.PASSING:
            self.state = TRANSITIONS[self.state, Input.FULL]
        if self._rest is not None:
            self._rest.cancel()
        self._rest = self._bridge.loop.call_later(debt_s, self._rested)

    def _rested(self) -> None:
        self._rest = None
        if self._pending:
            self.opposite.stream.want_to_send()
        else:
            self._all_passed()

    def eof_received(self) -> None:
        """The FIN."""
        self.state = TRANSITIONS[self.state, Input.FIN]
        if self.state is State.ENDED:
            self._pass_fin()

    def stream_lost(self, exc: Exception) -> None:
        """Reset by either end of it, or its connection is gone: the other side must see an error."""
        self._bridge.reset()

    # --- to the opposite stream -------------------------------------------------------------------

    def resume_sending(self) -> bool:
        """This stream may send: a frame's turn for what waits at the opposite end. True if more may wait."""
        return self.opposite.pass_one()

    def pass_one(self) -> bool:
        """Send one frame of what waits here; see `resume_sending`."""
        bridge, pending, target = self._bridge, self._pending, self.opposite.stream
        if not pending or self._rest is not None or bridge.is_over:
            return False
        chunk, offset = pending[0], self._offset
        frame = target.begin_frame(len(chunk) - offset)
        if frame is None:
            target.want_to_send()
            return False
        n = min(len(frame), len(chunk) - offset)
        frame[:n] = memoryview(chunk)[offset : offset + n]
        target.end_frame(n)
        if bridge.is_over:
            return False
        self.passed += n
        self._offset = offset + n
        if self._offset == len(chunk):
            pending.popleft()
            self._offset = 0
        more = bool(pending)
        if more:
            target.want_to_send()
        else:
            self._all_passed()
        if not bridge.is_over:
            self.stream.consumed(n)
        return more

    def _all_passed(self) -> None:
        self.state = TRANSITIONS[self.state, Input.TAKEN]
        if self.state is State.ENDED:
            self._pass_fin()

    def _pass_fin(self) -> None:
        self.opposite.stream.close_write()
        self._bridge.finish_if_done()

    def clear(self) -> None:
        """Let go of what waits: it is over."""
        self._pending.clear()
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
