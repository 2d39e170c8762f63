"""A connection: a secure channel, a yamux session on it, and its streams.

The data path runs through here once a frame each way and does no more than the arithmetic:

    socket → channel.open → session.receive → stream's sink → local socket
    local socket → begin_frame (recv into the staging buffer) → end_frame → channel.seal → socket

Control frames (credit, FIN, RST, pings) ride in front of the next data frame, or go out at the end
of the turn. Fairness: one frame a turn for each stream that waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr, is_relayed
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ConnectionLost, P2PForwardError, RemoteProtocolError, StreamReset, TimedOut
from p2pfwd.net.channel import Channel
from p2pfwd.net.limits import Limits
from p2pfwd.net.link.holdings import Holdings
from p2pfwd.net.link.intake import Intake, Taking
from p2pfwd.net.link.liveness import Liveness
from p2pfwd.net.link.stream import Direction, Stream, lost
from p2pfwd.policy.networks import crowd, networks
from p2pfwd.wire.multistream import DialerNegotiation, ListenerNegotiation
from p2pfwd.wire.yamux import YAMUX
from p2pfwd.wire.yamux.frame import HEADER_BYTES, GoAwayCode
from p2pfwd.wire.yamux.session import (
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
from p2pfwd.wire.yamux.work import SHED_TOLL

log = logging.getLogger("p2pfwd.net")

FRAMES_PER_TURN: Final = 16
"""Frames sent for waiting streams before the event loop gets its turn."""

CLOSE_TIMEOUT_S: Final = 3.0
"""How long a graceful close waits for what was sent to arrive, and for the peer's EOF."""

INBOUND_NEGOTIATION_S: Final = 10.0

PATIENCE_S: Final = 0.001
"""How long the answer to a proposal waits, where its stream's data came along with it, for the service's
answer: a message and a wake-up less on each side for most streams."""

Accepts = Callable[[PeerId, str], bool]
"""Whether a peer is served a protocol."""


def _reset_error(code: int, overflow: bool) -> StreamReset:
    if overflow:
        return StreamReset("the stream was reset here: too much of the peer's data waits", by="local")
    return StreamReset("the peer reset the stream", by="remote", reset_code=code)


class Conn:
    """One live connection to a peer. Made by the upgrader; owns its channel and streams."""

    def __init__(
        self,
        channel: Channel,
        *,
        direction: Direction,
        loop: asyncio.AbstractEventLoop,
        max_inbound_streams: int,
        limits: Limits | None = None,
    ) -> None:
        """`limits`: the node's, shared by all its connections."""
        self.loop = loop
        self.direction: Direction = direction
        self.remote_peer: PeerId = channel.remote_peer
        self.remote_addr: Multiaddr = channel.conduit.remote_addr
        self.local_addr: Multiaddr = channel.conduit.local_addr
        self.networks = networks(self.remote_addr)
        self.crowd = crowd(self.remote_addr)
        self.security = channel.security
        self.muxer = YAMUX
        self.is_relayed = is_relayed(self.remote_addr)
        self.limited = False
        self.opened_at = time.monotonic()
        self.useful_at = self.opened_at
        """When it last served this node: a tunnel ended, a stream of ours was opened."""
        self.closed: asyncio.Future[Exception | None] = loop.create_future()
        """Done when the connection is over; its result is the cause, None after a close of ours."""
        self.identified: asyncio.Future[None] = loop.create_future()
        """Done when the peer has told who it is, or has failed to."""
        self.streams: dict[int, Stream] = {}
        self._channel = channel
        self._pool = channel.pool
        self._limits = limits or Limits(loop)
        self._session = Session(
            client=direction == "outbound",
            max_inbound_streams=max_inbound_streams,
            ledger=self._limits.ledger,
        )
        lanes = self._limits.lanes
        self._intake = Intake(
            self._session, channel, lanes, loop, self.plaintext_received, self.turn_ended
        )
        self.holdings = Holdings(self._session, channel, self._intake, self._shed, self.abort)
        self._intake.flooded = partial(self._limits.flooded, self.holdings)
        self._intake.is_own = lambda: self._limits.is_own(self.remote_peer)
        self._accepts: Accepts = lambda _peer, _protocol: False
        self._on_stream: Callable[[Stream], None] | None = None
        self._waiting: deque[Stream] = deque()
        self._slot_waiters: deque[asyncio.Future[None]] = deque()
        self._in_turn = False
        self._flush_due = False
        self._drain_due = False
        self._draining = False
        self._closing = False
        self._offset = 0
        self._patient_bytes = 0
        self._patience: asyncio.TimerHandle | None = None
        self._liveness = Liveness(
            self._session, channel.conduit, self.remote_peer, loop, self._flush, self.abort
        )

    def start(
        self, leftover: bytes, accepts: Accepts, on_stream: Callable[[Stream], None]
    ) -> None:
        """Begin: `accepts` says what the peer is served, `on_stream` takes each negotiated stream."""
        self._accepts = accepts
        self._on_stream = on_stream
        self._liveness.ping()
        if leftover:
            self.plaintext_received(memoryview(leftover))
            self.turn_ended()
        self._channel.hand_over(self)
        if self._intake.state is Taking.READING:
            self._channel.resume()  # who negotiated on it may have paused it
        self._flush()

    @property
    def can_open(self) -> bool:
        """Whether streams can be opened: neither side has begun to end it."""
        return not (self.closed.done() or self._closing or self._session.remote_went_away)

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round trip of the connection, seconds; None until it was measured."""
        return self._session.rtt_s

    # --- streams ----------------------------------------------------------------------------------

    async def open_stream(
        self,
        protocols: Sequence[str],
        timeout_s: float = 15.0,
        *,
        known: bool = False,
        settled: Callable[[Stream], None] = lambda _stream: None,
    ) -> Stream:
        """Open a stream for the first of `protocols` that the peer serves.

        `known`: as `open_at_once`, after a wait if need be. `settled` is called once when the
        negotiation has ended, well or with `stream.error`. Raises ProtocolNotSupported, TimedOut,
        ConnectionLost, ResourceLimitExceeded.
        """
        self._check_open()
        try:
            async with asyncio.timeout(timeout_s):
                while not self._session.can_open:
                    await self._slot()
                if known:
                    return self._opened(protocols, settled)
                return await self._negotiated(protocols, settled)
        except TimeoutError:
            names = ", ".join(protocols)
            raise TimedOut(f"{self.remote_peer} did not answer for {names} within {timeout_s:g} s") from None

    def open_at_once(self, protocol: str, settled: Callable[[Stream], None]) -> Stream | None:
        """Open a stream for the protocol that the peer is known to serve; None where that would wait.

        Data rides along with the proposal; a refusal then fails the stream.
        """
        if not self.can_open or not self._session.can_open:
            return None
        return self._opened((protocol,), settled)

    def _opened(self, protocols: Sequence[str], settled: Callable[[Stream], None]) -> Stream:
        core = self._session.open()
        self.useful_at = time.monotonic()
        stream = self.streams[core.id] = Stream(self, core, "outbound")
        stream.negotiate(DialerNegotiation(protocols), settled)
        return stream

    async def _slot(self) -> None:
        """Wait until the peer has acknowledged some of the streams opened before."""
        self._check_open()
        waiter = self.loop.create_future()
        self._slot_waiters.append(waiter)
        await waiter
        self._check_open()

    def _check_open(self) -> None:
        if not self.can_open:
            raise ConnectionLost(f"the connection to {self.remote_peer} is closing")

    async def _negotiated(
        self, protocols: Sequence[str], settled: Callable[[Stream], None]
    ) -> Stream:
        done: asyncio.Future[None] = self.loop.create_future()

        def wake(stream: Stream) -> None:
            settled(stream)
            if not done.done():
                done.set_result(None)

        stream = self._opened(protocols, wake)
        try:
            await done
        except BaseException:
            stream.reset()
            raise
        if stream.error is not None:
            raise stream.error
        return stream

    def _stream_opened(self, core: StreamCore) -> None:
        stream = self.streams[core.id] = Stream(self, core, "inbound")
        deadline: asyncio.TimerHandle | None = None

        def negotiated(stream: Stream) -> None:
            if deadline is not None:
                deadline.cancel()
            if stream.error is None and self._on_stream is not None:
                self._on_stream(stream)

        stream.negotiate(ListenerNegotiation(partial(self._accepts, self.remote_peer)), negotiated)
        if stream.negotiating:  # mostly all of it came with the SYN
            deadline = self.loop.call_later(INBOUND_NEGOTIATION_S, stream.reset)

    def finish_stream(self, core: StreamCore) -> None:
        """Send FIN on a stream."""
        self._session.finish(core)
        self._forget_if_over(core)
        self._schedule_flush()

    def reset_stream(self, stream: Stream) -> None:
        """Send RST on a stream, if it is still there."""
        core = stream.core
        self._session.reset(core)
        self._forget_if_over(core)
        self._schedule_flush()

    def _forget_if_over(self, core: StreamCore) -> None:
        if core.id not in self._session.streams:
            self.streams.pop(core.id, None)

    # --- sending ----------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether frames must wait."""
        return self._channel.congested

    def begin_frame(self, max_payload: int) -> memoryview:
        """Where the next frame's payload goes, behind the control frames that go first."""
        control = self._session.control
        if len(control) > self._channel.max_plaintext // 2:
            self._flush()
        start = self._offset = len(control)
        start += HEADER_BYTES
        stop = start + max_payload
        most = self._channel.max_plaintext
        return self._pool.staging[start : stop if stop < most else most]

    def end_frame(self, core: StreamCore, n: int) -> None:
        """Seal and send control frames and a frame with `n` bytes of payload."""
        session, offset = self._session, self._offset
        if offset:
            self._pool.staging[:offset] = session.control
            session.control.clear()
            self._patient_bytes = 0
        session.write_data_header(core, n, self._pool.staging, offset)
        self._channel.send_staged(offset + HEADER_BYTES + n)

    def send_small(self, core: StreamCore, data: bytes, *, patient: bool) -> None:
        """Queue a small frame with the control frames, so that it shares their send.

        `patient`: it, and an ACK before it, go with the next frame, or after `PATIENCE_S`.
        """
        frame = bytearray(HEADER_BYTES + len(data))
        self._session.write_data_header(core, len(data), memoryview(frame), 0)
        frame[HEADER_BYTES:] = data
        self._session.control += frame
        if patient:
            self._patient_bytes += HEADER_BYTES + len(frame)
        self._schedule_flush()

    def consumed(self, core: StreamCore, n: int) -> None:
        """Payload was passed on; grant credit when it is due."""
        self._session.consumed(core, n, time.monotonic())
        if self._session.control and not self._in_turn:
            self._schedule_flush()

    def _schedule_flush(self) -> None:
        if not self._flush_due and not self._in_turn and self._session.control:
            self._flush_due = True
            self.loop.call_soon(self._flush)

    def _flush(self, *, last: bool = False) -> None:
        """Send what control frames there are; `last`: even behind what the conduit still has to send."""
        self._flush_due = False
        self._patient_bytes = 0
        control = self._session.control
        while control and (last or not self._channel.congested) and not self.closed.done():
            n = min(len(control), self._channel.max_plaintext)
            self._pool.staging[:n] = control[:n]
            del control[:n]
            self._channel.send_staged(n)

    def wait_to_send(self, stream: Stream) -> None:
        """Give the stream its turn when frames can be sent."""
        self._waiting.append(stream)
        if not self._channel.congested and not self._in_turn and not self._draining:
            self._schedule_drain()

    def stop_waiting(self, stream: Stream) -> None:
        """The stream is over."""
        if stream in self._waiting:
            self._waiting.remove(stream)

    def _schedule_drain(self) -> None:
        if not self._drain_due:
            self._drain_due = True
            self.loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._drain_due = False
        self.channel_drained()

    def channel_drained(self) -> None:
        """Control first, then one frame each for the streams that wait, in turn."""
        self._intake.drained()
        self._flush()
        waiting, frames = self._waiting, 0
        self._draining = True
        while waiting and not self._channel.congested:
            if frames == FRAMES_PER_TURN:
                self._schedule_drain()
                break
            frames += 1
            waiting.popleft().resume()
        self._draining = False

    # --- receiving --------------------------------------------------------------------------------

    def plaintext_received(self, view: memoryview) -> None:
        """From the channel: a piece of the session."""
        self._in_turn = True
        session = self._session
        self._intake.turn_bytes += len(view)
        try:
            events = session.receive(view)
        except RemoteProtocolError as exc:
            self._violated(exc)
            return
        for event in events:
            self._handle(event)
        if session.work_left <= 0:
            self._intake.hold(view[session.taken :])

    def turn_ended(self) -> None:
        """From the channel: answer what this read brought, all in one send; then pay for it."""
        self._in_turn = False
        now = self._liveness.heard_at = time.monotonic()
        self._answer()
        self._intake.settle(now)
        if self._limits.is_over:
            self._limits.relieve()

    def _answer(self) -> None:
        if self._slot_waiters:
            self._wake_slot_waiters()
        if self._waiting and not self._channel.congested:
            self.channel_drained()
        elif len(self._session.control) > self._patient_bytes:
            self._flush()
        elif self._patient_bytes and self._patience is None:
            self._patience = self.loop.call_later(PATIENCE_S, self._end_patience)

    def _end_patience(self) -> None:
        self._patience = None
        self._flush()

    def _wake_slot_waiters(self) -> None:
        slots = self._session.free_slots
        over = self.closed.done() or self._session.remote_went_away
        while self._slot_waiters and (slots > 0 or over):
            waiter = self._slot_waiters.popleft()
            if not waiter.done():  # cancelled
                waiter.set_result(None)
                slots -= 1

    def _handle(self, event: Event) -> None:
        match event:
            case StreamOpened(core):
                self._stream_opened(core)
            case CreditGranted(core):
                if (stream := self.streams.get(core.id)) is not None:
                    stream.on_credit()
            case StreamFinished(core):
                stream = self.streams.get(core.id)
                if core.state is not State.RESET:  # a RST in the same read is told of next
                    self._forget_if_over(core)
                if stream is not None:
                    stream.on_finished()
            case StreamWasReset(core, code, overflow):
                if (stream := self.streams.pop(core.id, None)) is not None:
                    stream.on_lost(_reset_error(code, overflow))
            case PingAcked():
                self._liveness.ponged()
            case WentAway(code):
                log.debug("%s goes away, code %#x", self.remote_peer, code)

    def _shed(self, core: StreamCore) -> None:
        """From the holdings: this node must hold less."""
        self._session.reset(core)
        self._session.toll += SHED_TOLL
        self._handle(StreamWasReset(core, 0, overflow=True))
        self._schedule_flush()

    def _violated(self, exc: RemoteProtocolError) -> None:
        log.warning("closing the connection to %s: %s", self.remote_peer, exc)
        self._session.go_away(GoAwayCode.PROTOCOL_ERROR)
        self._in_turn = False
        self._flush()
        self._end(exc)
        self._channel.conduit.finish()
        self._channel.conduit.abort()

    # --- liveness ---------------------------------------------------------------------------------

    async def measure_rtt(self, timeout_s: float) -> float:
        """One yamux ping, shared by those who ask meanwhile; seconds. Raises TimedOut, ConnectionLost."""
        if self.closed.done():
            raise lost(self, self.closed.result())
        return await self._liveness.measure_rtt(timeout_s)

    # --- ending -----------------------------------------------------------------------------------

    def channel_lost(self, exc: Exception | None) -> None:
        """From the channel: the connection is over."""
        self._in_turn = False
        self._end(None if self._closing else exc)

    def _end(self, cause: Exception | None) -> None:
        if self.closed.done():
            return
        if self._patience is not None:
            self._patience.cancel()
        self._intake.end()
        self.closed.set_result(cause)
        if not self.identified.done():
            self.identified.set_result(None)
        error: P2PForwardError = lost(self, cause)
        self._liveness.end(error)
        self._wake_slot_waiters()
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.on_lost(error)
        self._session.close()

    def abort(self, exc: Exception | None = None) -> None:
        """End at once; every stream fails with `exc` as its cause."""
        self._end(exc)
        self._channel.conduit.abort()

    async def close(self) -> None:
        """End gracefully: say so, let what was sent arrive, then close. Idempotent."""
        if self._closing or self.closed.done():
            await asyncio.shield(self.closed)
            return
        self._closing = True
        self._session.go_away(GoAwayCode.NORMAL)
        self._flush(last=True)  # with the FINs that wait
        self._channel.conduit.finish()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await asyncio.shield(self.closed)
        except TimeoutError:
            self.abort()
