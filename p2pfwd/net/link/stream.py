"""A libp2p stream with two faces.

Slow, for negotiation and small messages: `await read()`, `await write()`. Fast, for splices:
`set_sink()` once, then payload goes from the yamux frame straight to the sink, and `begin_frame` /
`end_frame` let the sink's owner receive from its socket into the frame that will be sealed.

Truth about ends: EOF means that the remote sent FIN and every byte before it was given out. A reset
or a lost connection is an error, and comes at once; a reader who had not yet read up to the FIN when the
connection was lost still gets the rest and the EOF.

A stream and its sink know each other only until it is over: as a circle they would lie in memory until Python
looks for such, which after a flood of short streams are megabytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from p2pfwd.core import varint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import (
    ConnectionLost,
    LocalProtocolError,
    P2PForwardError,
    ProtocolError,
    ProtocolNotSupported,
    RemoteProtocolError,
    StreamReset,
)
from p2pfwd.net.conduit.contract import GatheringSink, StreamSink
from p2pfwd.net.link.contract import Carrier, Direction
from p2pfwd.net.link.outbox import Outbox
from p2pfwd.wire.multistream import DialerNegotiation, ListenerNegotiation, SoleProposal
from p2pfwd.wire.yamux.reset_codes import NO_REASON
from p2pfwd.wire.yamux.stream import StreamCore
from p2pfwd.wire.yamux.window import Kind

Negotiation = DialerNegotiation | SoleProposal | ListenerNegotiation

LINGER_S: Final = 15.0
"""How long `close()` lets the remote take to send its FIN before the stream is reset."""


class StreamCarrier(Carrier, Protocol):
    """What a stream needs of the connection it is on (`net.link.conn.Conn`)."""

    loop: asyncio.AbstractEventLoop
    outbox: Outbox

    @property
    def congested(self) -> bool: ...
    def gather(self, sink: GatheringSink) -> bool: ...
    def finish_stream(self, core: StreamCore) -> None: ...
    def reset_stream(self, stream: Stream, code: int) -> None: ...


class Stream:
    """One stream of a connection. Made by `Conn`."""

    __slots__ = (
        "_buffer",
        "_eof",
        "_error",
        "_finish_due",
        "_negotiation",
        "_on_negotiated",
        "_read_waiter",
        "_sink",
        "_waiting_to_send",
        "_when_over",
        "_write_waiter",
        "conn",
        "core",
        "direction",
        "protocol",
    )

    def __init__(self, conn: StreamCarrier, core: StreamCore, direction: Direction) -> None:
        self.conn = conn
        self.direction: Direction = direction
        self.protocol: str | None = None
        self.core = core
        self._buffer = bytearray()
        self._eof = False
        self._error: P2PForwardError | None = None
        self._finish_due = False
        self._sink: StreamSink | None = None
        self._read_waiter: asyncio.Future[None] | None = None
        self._write_waiter: asyncio.Future[None] | None = None
        self._waiting_to_send = False
        self._negotiation: Negotiation | None = None
        self._on_negotiated: Callable[[Stream], None] | None = None
        self._when_over: list[Callable[[], object]] | None = None
        core.sink = self._received
        if conn.is_relayed:
            core.receive_window.kind = Kind.OVER_CIRCUIT

    @property
    def id(self) -> int:
        """The yamux stream id."""
        return self.core.id

    @property
    def remote_peer(self) -> PeerId:
        """The peer at the other end."""
        return self.conn.remote_peer

    # --- negotiation ------------------------------------------------------------------------------

    def proposed(
        self, negotiation: DialerNegotiation | SoleProposal, on_negotiated: Callable[[Stream], None]
    ) -> None:
        """Run multistream-select in callbacks; its start has been sent with the stream's SYN.

        `on_negotiated`: once `protocol` is known, or the stream has failed (see `error`).
        """
        self._negotiation = negotiation
        self._on_negotiated = on_negotiated

    def answer(self, negotiation: ListenerNegotiation, on_negotiated: Callable[[Stream], None]) -> None:
        """Run multistream-select in callbacks, on what has come first; see `proposed`."""
        self._negotiation = negotiation
        self._on_negotiated = on_negotiated
        opening = negotiation.start()
        backlog, self.core.backlog = self.core.backlog, None
        if backlog:
            self._negotiate(memoryview(backlog), opening)
        else:
            self._send_small(opening)

    @property
    def negotiating(self) -> bool:
        """Whether no protocol has been agreed on yet, and may still be."""
        return self._negotiation is not None and self._error is None

    def _negotiate(self, view: memoryview, opening: bytes = b"") -> None:
        negotiation = self._negotiation
        assert negotiation is not None
        try:
            answer = opening + negotiation.receive(view)
        except (ProtocolError, ProtocolNotSupported) as exc:
            self._send_small(opening + negotiation.last_words())
            self._fail(exc)
            self.reset()
            return
        if negotiation.selected is None:
            self._send_small(answer)
            self.consumed(len(view))
            return
        self.protocol = negotiation.selected
        self._negotiation = None
        leftover = negotiation.leftover()
        self._send_small(answer, patient=bool(leftover))  # who sent data along does not wait for it
        if self._finish_due:
            self.close_write()
        self.consumed(len(view) - len(leftover))
        done, self._on_negotiated = self._on_negotiated, None
        if self._sink is not None:
            self.core.sink = self._sink.data_received
        if leftover:
            self.core.sink(memoryview(leftover))
        if done is not None:
            done(self)

    def _send_small(self, data: bytes, *, patient: bool = False) -> None:
        """A negotiation message: a few bytes, always within the initial window."""
        if data and self.core.can_send:
            self.conn.outbox.send_small(self.core, data, patient=patient)

    # --- from the connection ----------------------------------------------------------------------

    def _received(self, view: memoryview) -> None:
        if self._negotiation is not None:
            self._negotiate(view)
            return
        self._buffer += view
        self._wake_reader()

    def on_finished(self) -> None:
        """The remote half is closed."""
        self._eof = True
        if self._negotiation is not None:
            self._fail(RemoteProtocolError("multistream: the peer closed the stream, no protocol chosen"))
            self.reset()
        elif self._sink is not None:
            self._sink.eof_received()
        self._wake_reader()
        self._tell_if_over()

    def on_lost(self, error: P2PForwardError) -> None:
        """Reset by the peer, or the connection is gone."""
        self._fail(error)

    def _fail(self, error: P2PForwardError) -> None:
        if self._error is not None:
            return
        self._error = error
        if not self._whole:
            self._buffer.clear()
        self.conn.outbox.stop_waiting(self)
        done, self._on_negotiated = self._on_negotiated, None
        if self._sink is not None:
            self._sink.stream_lost(error)
        if done is not None:
            done(self)
        self._wake_reader()
        self._wake_writer()
        self._tell_if_over()

    def _wake_reader(self) -> None:
        if self._read_waiter is not None and not self._read_waiter.done():
            self._read_waiter.set_result(None)

    def _wake_writer(self) -> None:
        if self._write_waiter is not None and not self._write_waiter.done():
            self._write_waiter.set_result(None)

    @property
    def _whole(self) -> bool:
        """Everything to the remote's FIN has come, and neither side took it back with a reset."""
        return self._eof and (self._error is None or isinstance(self._error, ConnectionLost))

    @property
    def error(self) -> P2PForwardError | None:
        """Why the stream failed, if it did."""
        return self._error

    @property
    def is_over(self) -> bool:
        """Whether it is gone from its connection: both FINs have passed, or it failed."""
        return self._error is not None or not (self.core.can_send or self.core.can_receive)

    def when_over(self, callback: Callable[[], object]) -> None:
        """Call `callback` once when the stream is over, at once if it is."""
        if self.is_over:
            callback()
        elif self._when_over is None:
            self._when_over = [callback]
        else:
            self._when_over.append(callback)

    def _tell_if_over(self) -> None:
        if not self.is_over:
            return
        self.core.sink = _drop_it
        callbacks, self._when_over = self._when_over, None
        for callback in callbacks or ():
            callback()

    # --- slow face --------------------------------------------------------------------------------

    async def read(self, max_bytes: int = 65536) -> bytes:
        """Up to `max_bytes` bytes, at least one; b"" at the remote's FIN.

        Raises StreamReset, ConnectionLost, or the error of a failed negotiation.
        """
        while not self._buffer:
            if self._whole:
                return b""
            if self._error is not None:
                raise self._error
            assert self._read_waiter is None, "two tasks read one stream"
            self._read_waiter = self.conn.loop.create_future()
            try:
                await self._read_waiter
            finally:
                self._read_waiter = None
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[: len(data)]
        self.consumed(len(data))
        return data

    async def read_exactly(self, n: int) -> bytes:
        """Exactly `n` bytes. Raises RemoteProtocolError when the remote closes before."""
        parts = bytearray()
        while len(parts) < n:
            data = await self.read(n - len(parts))
            if not data:
                raise RemoteProtocolError(f"the peer closed the stream after {len(parts)} of {n} bytes")
            parts += data
        return bytes(parts)

    async def read_delimited(self, max_bytes: int, prefix: bytes = b"") -> bytes:
        """One message with a varint length in front, of which `prefix` was read already.

        Raises RemoteProtocolError above `max_bytes`.
        """
        length = await self.read_length(prefix)
        if length > max_bytes:
            raise RemoteProtocolError(f"a message of {length} bytes, more than {max_bytes}")
        return await self.read_exactly(length)

    async def read_length(self, prefix: bytes = b"") -> int:
        """The varint in front of a message, of which `prefix` was read already."""
        while True:
            try:
                return varint.decode(prefix)[0]
            except varint.VarintIncomplete:
                prefix += await self.read_exactly(1)

    def discard_input(self) -> None:
        """Drop what comes, and what has come, from now on: nobody will read it. Writing goes on."""
        if not self.is_over:
            self.core.sink = self._drop
        dropped, self._buffer = len(self._buffer), bytearray()
        self.consumed(dropped)

    def _drop(self, view: memoryview) -> None:
        self.consumed(len(view))

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`, waiting for credit and for the connection.

        Raises as `read` does, and LocalProtocolError after `close_write`.
        """
        view = memoryview(data)
        while len(view):
            if self._error is not None:
                raise self._error
            if self._finish_due or not self.core.can_send:
                raise LocalProtocolError(f"a write after the end of stream {self.id} was sent")
            frame = self.begin_frame()
            if frame is None:
                self.want_to_send()
                assert self._write_waiter is None, "two tasks write one stream"
                self._write_waiter = self.conn.loop.create_future()
                try:
                    await self._write_waiter
                finally:
                    self._write_waiter = None
                continue
            n = min(len(frame), len(view))
            frame[:n] = view[:n]
            self.end_frame(n)
            view = view[n:]

    async def write_delimited(self, message: bytes) -> None:
        """One message with a varint length in front."""
        await self.write(varint.encode(len(message)) + message)

    # --- fast face --------------------------------------------------------------------------------

    def set_sink(self, sink: StreamSink, *, tunnel: bool = False, circuit: bool = False) -> None:
        """Give payload, EOF and loss to `sink` from now on, what is already here first.

        `tunnel`: it is of use to this node's owner, see `wire.yamux.work`. `circuit`: it is one, or half of
        one; its window then counts as `wire.yamux.window` says.
        """
        self._sink = sink
        if circuit:
            self.core.receive_window.kind = Kind.CIRCUIT
        self.core.is_tunnel = tunnel
        if self._error is not None:
            sink.stream_lost(self._error)
            return
        if self._negotiation is None:
            if not self.is_over:
                self.core.sink = sink.data_received
            if self._buffer:
                buffer, self._buffer = self._buffer, bytearray()
                sink.data_received(memoryview(buffer))
            if self._eof:
                sink.eof_received()

    def change_sink(self, sink: StreamSink) -> None:
        """Another one from now on: it is given nothing that the one before was given."""
        self._sink = sink
        if self._negotiation is None and not self.is_over:
            self.core.sink = sink.data_received

    def let_go(self) -> None:
        """The sink has seen the end, and is told no more."""
        self._sink = None

    @property
    def wide_bytes(self) -> int:
        """Largest piece of a circuit that would go out whole now in a wide frame; 0: none would."""
        return self.conn.outbox.wide_bytes(self.core)

    def begin_frame(self, size: int = 0) -> memoryview | None:
        """Where to put the payload of the next frame, or None when nothing can be sent now.

        `size`: of the piece to be sent, for a circuit: a long one has a wide frame, where it may be.
        Follow with `end_frame` in the same callback, or with nothing.
        """
        core = self.core
        if not core.has_credit or self.conn.congested or not core.can_send:
            return None
        return self.conn.outbox.begin_frame(core, size) or None  # empty: full of control frames, or not now

    def end_frame(self, n: int) -> None:
        """Send the `n` > 0 bytes put into the view of `begin_frame`."""
        self.conn.outbox.end_frame(self.core, n)

    def cork(self) -> bool:
        """Let the next frames go out together, until `uncork` in the same callback.

        False, and nothing is changed, where other streams have bulk to send as well.
        """
        return self.conn.outbox.cork(self.core)

    def uncork(self) -> None:
        """Send what waited for more."""
        self.conn.outbox.uncork()

    def want_to_send(self) -> None:
        """Have `resume_sending` called (or a waiting `write` woken) when a frame may be sent."""
        if not self._waiting_to_send:
            self._waiting_to_send = True
            if self.core.has_credit:
                self.conn.outbox.wait_to_send(self)

    @property
    def is_stalled(self) -> bool:
        """Whether something waits to be sent that the peer gives no credit for, or does not read."""
        return self._waiting_to_send and (not self.core.has_credit or self.conn.congested)

    def on_credit(self) -> None:
        """There is credit again."""
        if self._waiting_to_send:
            self.conn.outbox.wait_to_send(self)

    def resume(self) -> bool:
        """From the connection, when it can send: one frame's turn. True if more may wait."""
        self._waiting_to_send = False
        if self._sink is not None:
            return self._sink.resume_sending()
        self._wake_writer()
        return False

    def consumed(self, n: int) -> None:
        """`n` bytes of payload were passed on: the peer may have credit for more."""
        self.conn.outbox.consumed(self.core, n)

    def gather(self, sink: GatheringSink) -> bool:
        """Whether a view just given may be kept until `sink.pass_gathered`: more may come in this read."""
        return self.conn.gather(sink)

    # --- ending -----------------------------------------------------------------------------------

    def close_write(self) -> None:
        """Half-close: FIN after what was written. Idempotent.

        It waits for the answer to a proposal that data rode along with: js-libp2p 3.3 forgets a FIN that
        comes while it still negotiates, and its application never sees the end.
        """
        if self._negotiation is not None:
            self._finish_due = True
        elif self.core.can_send:
            self.conn.finish_stream(self.core)
            self._tell_if_over()
        self._wake_writer()

    async def close(self) -> None:
        """FIN, and no interest in more from the remote; what comes is dropped. Idempotent."""
        self.close_write()
        if self.core.can_receive and self._error is None and not isinstance(self._sink, _Discard):
            self.set_sink(_Discard(self))  # a negotiation under way still comes to its end

    def reset(self, code: int = NO_REASON) -> None:
        """End abruptly, both ways; `code` tells the peer why (`wire.yamux.reset_codes`). Idempotent."""
        self.conn.reset_stream(self, code)
        self._fail(StreamReset("the stream was reset here", by="local", reset_code=code))


class _Discard:
    """Sink of a stream in which nobody is interested any more.

    Its timer ends with the stream: a timer that waits keeps the stream and its connection in memory.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._deadline = stream.conn.loop.call_later(LINGER_S, stream.reset)

    def data_received(self, view: memoryview) -> None:
        self._stream.consumed(len(view))

    def eof_received(self) -> None:
        self._deadline.cancel()
        self._stream.let_go()

    def stream_lost(self, exc: Exception) -> None:
        self.eof_received()

    def resume_sending(self) -> bool:
        return False


def _drop_it(_view: memoryview) -> None:
    """Sink of a stream that is over: the last read of a lost connection may have more for it."""


def lost(conn: Carrier, cause: Exception | None) -> ConnectionLost:
    """The error of every stream of a connection that ended."""
    because = f": {cause}" if cause is not None else ""
    return ConnectionLost(f"the connection to {conn.remote_peer} was lost{because}")
