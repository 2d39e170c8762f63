"""A connection: a secure channel, a yamux session on it, and its streams.

The data path runs through here once a frame each way and does no more than the arithmetic:

    socket → channel.open → session.receive → stream's sink → local socket
    local socket → begin_frame (recv into the staging buffer) → end_frame → channel.seal → socket

When what is sent, and the turns of the streams: `outbox`. How much of what comes is taken when: `intake`.
Here streams are opened, what the session tells is handed on, and the connection ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr, is_relayed
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import (
    ConnectionLost,
    P2PForwardError,
    RemoteProtocolError,
    TimedOut,
    without_frames,
)
from p2pfwd.net.channel import Channel
from p2pfwd.net.conduit.contract import GatheringSink
from p2pfwd.net.limits import Limits
from p2pfwd.net.link.contract import Accepts, Direction, DuplexStream
from p2pfwd.net.link.holdings import Holdings
from p2pfwd.net.link.intake import Intake, Taking
from p2pfwd.net.link.liveness import Liveness
from p2pfwd.net.link.outbox import Outbox
from p2pfwd.net.link.stream import Stream, lost
from p2pfwd.policy.networks import networks
from p2pfwd.wire.circuit import Limit
from p2pfwd.wire.multistream import DialerNegotiation, ListenerNegotiation, SoleProposal
from p2pfwd.wire.yamux import YAMUX, reset_codes
from p2pfwd.wire.yamux.frame import GoAwayCode
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
from p2pfwd.wire.yamux.work import REFUSAL_WORK, SHED_TOLL

log = logging.getLogger("p2pfwd.net")

CLOSE_TIMEOUT_S: Final = 3.0
"""How long a graceful close waits for what was sent to arrive, and for the peer's EOF."""

INBOUND_NEGOTIATION_S: Final = 10.0


class Conn:
    """One live connection to a peer. Made by the upgrader; owns its channel and streams."""

    # With more than 30 attributes the dictionaries of instances share no keys: 2 KB each.
    __slots__ = (
        "__weakref__",
        "_accepts",
        "_channel",
        "_closing",
        "_gathering",
        "_intake",
        "_limits",
        "_may_gather",
        "_on_stream",
        "_session",
        "_slot_waiters",
        "cipher",
        "closed",
        "crowd",
        "direction",
        "identified",
        "is_relayed",
        "limit",
        "liveness",
        "local_addr",
        "loop",
        "muxer",
        "networks",
        "opened_at",
        "outbox",
        "remote_addr",
        "remote_peer",
        "security",
        "streams",
        "useful_at",
    )

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
        self.security = channel.security
        self.cipher = channel.cipher
        self.muxer = YAMUX
        self.is_relayed = is_relayed(self.remote_addr)
        self.limit = channel.conduit.limit
        self.opened_at = time.monotonic()
        self.useful_at = self.opened_at
        """When it last served this node: a tunnel ended, a stream of ours was opened."""
        self.closed: asyncio.Future[Exception | None] = loop.create_future()
        """Done when the connection is over; its result is the cause, None after a close of ours."""
        self.identified: asyncio.Future[None] = loop.create_future()
        """Done when the peer has told who it is, or has failed to."""
        self.streams: dict[int, Stream] = {}
        self._channel = channel
        self._limits = limits or Limits(loop)
        self._session = Session(
            client=direction == "outbound",
            max_inbound_streams=max_inbound_streams,
            ledger=self._limits.ledger,
        )
        self._intake = Intake(self._session, channel, self._limits.lanes, loop, self)
        self.crowd = self._intake.crowd
        self._accepts: Accepts = lambda _peer, _protocol: False
        self._on_stream: Callable[[DuplexStream], None] | None = None
        self._slot_waiters: list[asyncio.Future[None]] = []
        self._closing = False
        self._may_gather = False
        """Whether a read is handled that has brought several pieces."""
        self._gathering: GatheringSink | None = None
        """Who has gathered views of this turn."""
        self.liveness = Liveness(self._session, channel.conduit, self, loop)
        self.outbox = Outbox(self._session, channel, loop, self.liveness, self._intake)
        """What streams call for every frame, without a step in between."""

    def start(
        self, leftover: bytes, accepts: Accepts, on_stream: Callable[[DuplexStream], None]
    ) -> None:
        """Begin: `accepts` says what the peer is served, `on_stream` takes each negotiated stream."""
        self._accepts = accepts
        self._on_stream = on_stream
        self.liveness.ping()
        self._intake.start()
        if leftover:
            self.plaintext_received(memoryview(leftover))
            self.turn_ended()
        self._channel.hand_over(self)
        if self._intake.state is Taking.READING:
            self._channel.resume()  # who negotiated on it may have paused it
        self.outbox.flush()

    @property
    def can_open(self) -> bool:
        """Whether streams can be opened: neither side has begun to end it."""
        return not (self.closed.done() or self._closing or self._session.remote_went_away)

    @property
    def is_usable(self) -> bool:
        """Whether streams are best opened here: it can be done, and the peer is not in doubt."""
        return self.can_open and not self.liveness.doubtful

    @property
    def ended_by_us(self) -> bool:
        """Whether it was closed here, and not lost."""
        return self._closing

    @property
    def ended_by_peer(self) -> bool:
        """Whether the peer has said that it ends it."""
        return self._session.remote_went_away

    @property
    def limit_left(self) -> Limit | None:
        """What is left of what a relay lets this carry; None where it has no bound."""
        return self._channel.conduit.limit_left

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round trip of the connection, seconds; None until it was measured."""
        return self._session.rtt_s

    def rest(self) -> None:
        """From the liveness: no stream is open, and nothing waits."""
        self._channel.rest()

    # --- streams ----------------------------------------------------------------------------------

    async def open_stream(
        self,
        protocols: Sequence[str],
        timeout_s: float = 15.0,
        *,
        known: bool = False,
        settled: Callable[[DuplexStream], None] = lambda _stream: None,
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
            what = f"for {', '.join(protocols)} within {timeout_s:.3g} s"
            raise TimedOut(f"{self.remote_peer} did not answer {what}") from None

    def open_at_once(self, protocol: str, settled: Callable[[DuplexStream], None]) -> Stream | None:
        """Open a stream for the protocol that the peer is known to serve; None where that would wait.

        Data rides along with the proposal; a refusal then fails the stream.
        """
        if not self.can_open or not self._session.can_open:
            return None
        return self._opened((protocol,), settled)

    def _opened(self, protocols: Sequence[str], settled: Callable[[DuplexStream], None]) -> Stream:
        one = len(protocols) == 1
        negotiation = SoleProposal(protocols[0]) if one else DialerNegotiation(protocols)
        core = self._session.open(negotiation.start())
        self.useful_at = time.monotonic()
        self.liveness.opening()
        stream = self.streams[core.id] = Stream(self, core, "outbound")
        stream.proposed(negotiation, settled)
        self.outbox.schedule_flush()
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
        self, protocols: Sequence[str], settled: Callable[[DuplexStream], None]
    ) -> Stream:
        done: asyncio.Future[None] = self.loop.create_future()

        def wake(stream: DuplexStream) -> None:
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
        self.liveness.opened()
        deadline: asyncio.TimerHandle | None = None

        def negotiated(stream: Stream) -> None:
            if deadline is not None:
                deadline.cancel()
            if stream.error is None and self._on_stream is not None:
                self._on_stream(stream)

        stream.answer(ListenerNegotiation(self._takes), negotiated)
        if stream.negotiating:  # mostly all of it came with the SYN
            deadline = self.loop.call_later(INBOUND_NEGOTIATION_S, stream.reset)

    def _takes(self, protocol: str) -> bool:
        """Whether the peer may have this protocol. A proposal in vain is work, and moves nothing."""
        takes = self._accepts(self.remote_peer, protocol)
        if not takes:
            self._session.work_left -= REFUSAL_WORK
            self._session.toll += REFUSAL_WORK
        return takes

    def finish_stream(self, core: StreamCore) -> None:
        """Send FIN on a stream."""
        self._session.finish(core)
        self._forget_if_over(core)
        self.outbox.schedule_end()

    def reset_stream(self, stream: Stream, code: int) -> None:
        """Send RST on a stream, if it is still there."""
        core = stream.core
        self._session.reset(core, code)
        self._forget_if_over(core)
        self.outbox.schedule_flush()

    def _forget_if_over(self, core: StreamCore) -> None:
        if core.id not in self._session.streams:
            self.streams.pop(core.id, None)

    @property
    def congested(self) -> bool:
        """Whether frames must wait."""
        return self._channel.conduit.congested  # asked for every frame: without a step in between

    def flush(self) -> None:
        """From the liveness: send what the session has queued."""
        self.outbox.flush()

    def channel_drained(self) -> None:
        """From the channel: frames need not wait any more."""
        self.outbox.drain()

    # --- receiving --------------------------------------------------------------------------------

    def gather(self, sink: GatheringSink) -> bool:
        """See `SplicedStream.gather`; one at a time, for those of the others it ends at once."""
        if not self._may_gather:
            return False
        before, self._gathering = self._gathering, sink
        if before is not None and before is not sink:
            before.pass_gathered()
        return True

    def more_follows(self) -> None:
        """From the channel: who is given a view may wait for the next one."""
        self._may_gather = True

    def plaintext_received(self, view: memoryview) -> None:
        """From the channel: a piece of the session."""
        self.outbox.begin_turn()
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
        if self._may_gather:
            self._end_gathering()
        now = self.liveness.heard_at = time.monotonic()
        if self._slot_waiters:
            self._wake_slot_waiters()
        self.outbox.end_turn()
        self._intake.settle(now)
        if self._limits.is_over:
            self._limits.relieve()

    def _end_gathering(self) -> None:
        self._may_gather = False
        sink, self._gathering = self._gathering, None
        if sink is not None:
            sink.pass_gathered()

    def _wake_slot_waiters(self) -> None:
        slots = self._session.free_slots
        over = not self.can_open
        while self._slot_waiters and (slots > 0 or over):
            waiter = self._slot_waiters.pop(0)
            if not waiter.done():  # cancelled
                waiter.set_result(None)
                slots -= 1

    def _handle(self, event: Event) -> None:
        match event:
            case StreamOpened(stream=core):
                self._stream_opened(core)
            case CreditGranted(stream=core):
                if (stream := self.streams.get(core.id)) is not None:
                    stream.on_credit()
            case StreamFinished(stream=core):
                stream = self.streams.get(core.id)
                if core.state is not State.RESET:  # a RST in the same read is told of next
                    self._forget_if_over(core)
                if stream is not None:
                    stream.on_finished()
            case StreamWasReset(stream=core, code=code, overflow=overflow):
                if (stream := self.streams.pop(core.id, None)) is not None:
                    stream.on_lost(reset_codes.failure(code, overflow=overflow))
            case PingAcked():
                self.liveness.ponged()
            case WentAway(code=code):
                log.debug("%s goes away, code %#x", self.remote_peer, code)

    @property
    def is_own(self) -> bool:
        """Whether the peer is one of the owner's."""
        return self._limits.is_own(self.remote_peer)

    def flooded(self, must_go: bool) -> None:
        """From the intake: the peer sends much that is of no use."""
        self._limits.flooded(self.holdings, must_go)

    @property
    def holdings(self) -> Holdings:
        """What the peer makes this node hold."""
        return Holdings(self._session, self._channel, self._intake, self._shed, self.abort)

    def _shed(self, core: StreamCore) -> None:
        """From the holdings: this node must hold less."""
        self._session.reset(core)
        self._session.toll += SHED_TOLL
        self._handle(StreamWasReset(core, 0, overflow=True))
        self.outbox.schedule_flush()

    def _violated(self, exc: RemoteProtocolError) -> None:
        log.warning("closing the connection to %s: %s", self.remote_peer, exc)
        self._session.go_away(GoAwayCode.PROTOCOL_ERROR)
        self.outbox.break_turn()
        self.outbox.flush()
        self._end(exc)
        self._channel.conduit.finish()
        self._channel.conduit.abort()

    # --- liveness ---------------------------------------------------------------------------------

    async def measure_rtt(self, timeout_s: float) -> float:
        """One yamux ping, shared by those who ask meanwhile; seconds. Raises TimedOut, ConnectionLost."""
        if self.closed.done():
            raise lost(self, self.closed.result())
        return await self.liveness.measure_rtt(timeout_s)

    # --- ending -----------------------------------------------------------------------------------

    def channel_lost(self, exc: Exception | None) -> None:
        """From the channel: the connection is over."""
        self._end(None if self._closing else exc)

    def _end(self, cause: Exception | None) -> None:
        if self.closed.done():
            return
        self.outbox.end()
        self._intake.end()
        self._end_gathering()
        self.closed.set_result(None if cause is None else without_frames(cause))
        if not self.identified.done():
            self.identified.set_result(None)
        error: P2PForwardError = lost(self, cause)
        self.liveness.end(error)
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
        self._wake_slot_waiters()
        self._session.go_away(GoAwayCode.NORMAL)
        self.outbox.flush(last=True)  # with the FINs that wait
        self._channel.conduit.finish()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await asyncio.shield(self.closed)
        except TimeoutError:
            self.abort()
        except asyncio.CancelledError:
            self.abort()  # maybe nobody else knows of it
            raise
