"""The rate of a listen: its streams, each way, at so many bytes a second in all and for each peer.

Rules: nothing is dropped. From the peer, what comes above the rate is held here and not acknowledged, so the
peer runs out of window, which bounds what is held; to the peer, the local socket is not read. An end waits
for what was held before it; a reset does not. Who waits is served in turn, every `TICK_S`; where nobody does
there is no timer. A stream without a rate never meets this module: a paced one is wrapped.

    peer ──▶ Stream ──▶ PacedStream: within the rate, or held until its turn ──▶ Splice ──▶ socket
    socket ──▶ Splice: reads what `begin_frame` allows ──▶ PacedStream ──▶ Stream ──▶ peer
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.pace import Pace, Paces, Rate

if TYPE_CHECKING:
    from p2pfwd.forwarding.splice import Splice
    from p2pfwd.net.conduit.contract import GatheringSink, StreamSink
    from p2pfwd.net.link.contract import Direction, DuplexStream

TICK_S: Final = 0.04
"""Between two rounds of those that wait."""

BURST_S: Final = 0.2
"""So much of the rate may pass at once: more than the loop is ever late, and 2 % of 10 s."""

PIECE_BYTES: Final = 64 * 1024
"""Most in one turn."""

LEAST_BYTES: Final = 1024
"""Less than this is waited for, so that a rate does not make small frames."""


class Turn:
    """One that may wait in a lane: `granted(n)` moves up to `n` bytes, and says so to the lane itself."""

    __slots__ = ("granted", "peer")

    def __init__(self, peer: PeerId, granted: Callable[[int], None]) -> None:
        self.peer = peer
        self.granted = granted


def _nothing(_n: int) -> None:
    """Of a turn whose stream is over."""


class Lane:
    """One direction of a listen's streams: its buckets, and who waits. The time is given."""

    def __init__(self, on_waiting: Callable[[], None]) -> None:
        self.waiting: dict[Turn, None] = {}
        self._waiting_of: Counter[PeerId] = Counter()
        self._on_waiting = on_waiting
        self._all: Pace | None = None
        self._peers: Paces | None = None
        self._least = LEAST_BYTES

    def set_rates(self, rate: int, rate_per_peer: int, now: float) -> None:
        """Bytes a second; 0: no bound."""
        self._all = Pace(_rate(rate), now) if rate else None
        self._peers = Paces(_rate(rate_per_peer)) if rate_per_peer else None
        slowest = min((one for one in (rate, rate_per_peer) if one), default=0)
        self._least = max(1, min(LEAST_BYTES, int(slowest * TICK_S)))

    @property
    def is_free(self) -> bool:
        """Whether there is no bound at all."""
        return self._all is None and self._peers is None

    def may(self, peer: PeerId, most: int, now: float) -> int:
        """How many bytes this peer's stream may move now, out of turn: none where others are before it."""
        if self.is_free:
            return most
        if self._waiting_of and (self._all is not None or self._waiting_of[peer]):
            return 0
        n = min(most, self._left(peer, now))
        return n if n == most or n >= self._least else 0

    def spend(self, peer: PeerId, n: int, now: float) -> None:
        """So many were moved."""
        if self._all is not None:
            self._all.owe(now, n)
        if self._peers is not None:
            self._peers.of(peer, now).owe(now, n)

    def wait(self, turn: Turn) -> None:
        """Serve it when there is something for it; idempotent."""
        if turn not in self.waiting:
            self.waiting[turn] = None
            self._waiting_of[turn.peer] += 1
            self._on_waiting()

    def leave(self, turn: Turn) -> None:
        """It does not wait any more; idempotent."""
        if turn in self.waiting:
            del self.waiting[turn]
            self._waiting_of[turn.peer] -= 1
            if not self._waiting_of[turn.peer]:
                del self._waiting_of[turn.peer]

    def serve(self, now: float) -> None:
        """A piece for each that waits, again and again while there is something to give."""
        queue = deque(self.waiting)
        while queue:
            turn = queue.popleft()
            n = min(PIECE_BYTES, self._left(turn.peer, now)) if turn in self.waiting else 0
            if n >= 1:
                self.leave(turn)
                turn.granted(n)
                if turn in self.waiting:
                    queue.append(turn)

    def _left(self, peer: PeerId, now: float) -> int:
        left = float(PIECE_BYTES)
        if self._all is not None:
            left = min(left, self._all.tokens(now))
        if self._peers is not None:
            left = min(left, self._peers.of(peer, now).tokens(now))
        return max(0, int(left))


def _rate(per_s: int) -> Rate:
    return Rate(per_s, max(1.0, per_s * BURST_S))


class Pacing:
    """Of one listen: a lane each way, and the timer of those that wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.clock = loop.time
        self.inward = Lane(self._arm)
        self.outward = Lane(self._arm)
        self._loop = loop
        self._slowest_s = TICK_S
        self._timer: asyncio.TimerHandle | None = None

    def set_rates(self, rate: int, rate_per_peer: int) -> None:
        """Each way, from now on; who waits is served by the new ones."""
        now = self.clock()
        most = max(rate, rate_per_peer)
        self._slowest_s = max(TICK_S, 1 / most if most else 0.0)
        for lane in (self.inward, self.outward):
            lane.set_rates(rate, rate_per_peer, now)
            lane.serve(now)

    def carry(self, stream: DuplexStream) -> PacedStream:
        """A stream whose splice is yet to be made, at the pace of this listen."""
        return PacedStream(stream, self)

    def adopt(self, splice: Splice, stream: DuplexStream) -> None:
        """A live splice and its stream, from now on."""
        if splice.stream is stream:
            splice.stream = PacedStream(stream, self, splice)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._slowest_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self.clock()
        self.inward.serve(now)
        self.outward.serve(now)
        if self.inward.waiting or self.outward.waiting:
            self._arm()

    def leave(self, inward: Turn, outward: Turn) -> None:
        """A stream is over."""
        self.inward.leave(inward)
        self.outward.leave(outward)
        if self._timer is not None and not (self.inward.waiting or self.outward.waiting):
            self._timer.cancel()
            self._timer = None


class PacedStream:
    """Between a stream and its splice, for each in the place of the other; see the head of the file."""

    __slots__ = (
        "_blocked",
        "_eof",
        "_granted",
        "_held",
        "_inward",
        "_outward",
        "_over",
        "_pacing",
        "_sink",
        "_stream",
        "direction",
        "protocol",
        "remote_peer",
    )

    def __init__(self, stream: DuplexStream, pacing: Pacing, sink: StreamSink | None = None) -> None:
        """With `sink` it takes the place of a stream that this one has already."""
        self.direction: Direction = stream.direction
        self.protocol = stream.protocol
        self.remote_peer = stream.remote_peer
        self._stream = stream
        self._pacing = pacing
        self._sink = sink
        self._inward = Turn(stream.remote_peer, self._pass_on)
        self._outward = Turn(stream.remote_peer, self._send)
        self._held = bytearray()
        self._eof = False
        self._over = False
        self._blocked = False  # the last frame was not to be had from the stream itself
        self._granted = 0  # bytes, in a turn of the lane
        if sink is not None:
            stream.change_sink(self)

    @property
    def is_stalled(self) -> bool:
        """As of the stream: who waits for the rate does not stand still."""
        return self._stream.is_stalled

    def set_sink(self, sink: StreamSink, *, tunnel: bool = False) -> None:
        """The splice."""
        self._sink = sink
        self._stream.set_sink(self, tunnel=tunnel)

    def let_go(self) -> None:
        """The splice has seen the end."""
        self._end()
        self._sink = None
        self._inward.granted = self._outward.granted = _nothing  # they knew this stream, and it knows them
        self._stream.let_go()

    # --- from the peer ----------------------------------------------------------------------------

    def data_received(self, view: memoryview) -> None:
        """Payload: as much as may pass now goes on, the rest is held."""
        assert self._sink is not None
        if not self._held:
            lane, now = self._pacing.inward, self._pacing.clock()
            n = lane.may(self.remote_peer, len(view), now)
            if n:
                lane.spend(self.remote_peer, n, now)
                self._sink.data_received(view[:n])
            if n == len(view) or self._over:
                return
            view = view[n:]
            lane.wait(self._inward)
        self._held += view

    def _pass_on(self, n: int) -> None:
        assert self._sink is not None
        piece = self._held[:n]
        del self._held[:n]
        lane = self._pacing.inward
        lane.spend(self.remote_peer, len(piece), self._pacing.clock())
        self._sink.data_received(memoryview(piece))
        if self._over:
            return
        if self._held:
            lane.wait(self._inward)
        elif self._eof:
            self._sink.eof_received()

    def eof_received(self) -> None:
        """The peer's FIN, behind what is held."""
        self._eof = True
        if not self._held and self._sink is not None:
            self._sink.eof_received()

    def stream_lost(self, exc: Exception) -> None:
        """At once; what came before goes on first, for behind a Kubo's reset it may be the whole reply."""
        sink = self._sink
        assert sink is not None
        held, self._held = self._held, bytearray()
        if held:
            sink.data_received(memoryview(held))
        self._end()
        sink.stream_lost(exc)

    def consumed(self, n: int) -> None:
        """The splice has passed so much on: the peer may have credit for it."""
        self._stream.consumed(n)

    def gather(self, _sink: GatheringSink) -> bool:
        """Never: what passes has its time, not its read."""
        return False

    # --- to the peer ------------------------------------------------------------------------------

    def begin_frame(self) -> memoryview | None:
        """As of the stream, and no longer than may be sent now."""
        frame = self._stream.begin_frame()
        self._blocked = frame is None
        if frame is None:
            return None
        n = self._granted  # in a turn of the lane
        if not n:
            n = self._pacing.outward.may(self.remote_peer, len(frame), self._pacing.clock())
        return frame[:n] if n else None

    def end_frame(self, n: int) -> None:
        """As of the stream."""
        self._pacing.outward.spend(self.remote_peer, n, self._pacing.clock())
        self._stream.end_frame(n)

    def cork(self) -> bool:
        """Never: who has a rate sends little at a time."""
        return False

    def uncork(self) -> None:
        """Nothing was corked."""

    def want_to_send(self) -> None:
        """Of the stream's turns, or the lane's: as the last frame was not to be had."""
        lane, now = self._pacing.outward, self._pacing.clock()
        in_turn = self._granted and not lane.is_free
        if self._blocked or (not in_turn and lane.may(self.remote_peer, PIECE_BYTES, now)):
            self._stream.want_to_send()
        else:
            lane.wait(self._outward)

    def _send(self, n: int) -> None:
        assert self._sink is not None
        self._granted = n
        try:
            self._sink.resume_sending()
        finally:
            self._granted = 0

    def resume_sending(self) -> bool:
        """From the stream: it has room."""
        return self._sink is not None and self._sink.resume_sending()

    # --- ending -----------------------------------------------------------------------------------

    def close_write(self) -> None:
        """As of the stream: the splice has sent everything by then."""
        self._stream.close_write()

    def reset(self, code: int = 0) -> None:
        """As of the stream; what is held is given up."""
        self._end()
        self._stream.reset(code)

    def _end(self) -> None:
        self._over = True
        self._held.clear()
        self._pacing.leave(self._inward, self._outward)
