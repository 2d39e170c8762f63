"""A Yamux session, sans-IO: received bytes in, events out; control frames gather in `control`.

Rules:
- The core never writes. What must be sent is appended to `control`, which the owner puts in front
  of the next data frame; a data frame's header is written into the buffer the owner gives.
- DATA payload goes straight to the stream's sink, without an event, a copy or an allocation but the
  slice; everything else is rare and is an event, in the order of arrival.
- Every length is checked against the stream's credit before any state is made (CVE-2026-32314).
- What a peer can make us answer is bounded by `MAX_CONTROL_BYTES` (CVE-2024-32984).
- `receive` stops when `work_left` is used up; the owner gives the rest again, in another turn.
- A frame for a stream that is not there is ignored, its payload skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from p2pfwd.errors import LocalProtocolError, RemoteProtocolError, ResourceLimitExceeded
from p2pfwd.wire.yamux import frame as f
from p2pfwd.wire.yamux import work
from p2pfwd.wire.yamux.ids import RemoteIds
from p2pfwd.wire.yamux.stream import Input, State, StreamCore
from p2pfwd.wire.yamux.window import Ledger, WindowBudget

MAX_INBOUND_STREAMS: Final = 1024
"""Streams one peer may have open to us; go allows 256 to 1000. More are reset."""

MAX_UNACKED_OPENS: Final = 256
"""Streams opened by us and not yet acknowledged; beyond it rust resets and go blocks."""

MAX_BUFFERED_BYTES: Final = 40 << 20
"""Payload of one session that waits to be consumed: its growth budget, and 32 initial windows. The
stream that would exceed it is reset: one peer must not fill the memory through many stalled targets. What
all sessions hold together is in the `Ledger`."""

MAX_CONTROL_BYTES: Final = 256 * 1024
"""Unsent control bytes: 20,000 frames. More means the peer makes us answer and does not read."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream; set its sink."""

    stream: StreamCore


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """The peer sends no more on it."""

    stream: StreamCore


@dataclass(frozen=True, slots=True)
class StreamWasReset:
    """The peer reset it; `code` is informational (0 from older peers).

    `overflow`: it was the session that reset it, at `MAX_BUFFERED_BYTES`.
    """

    stream: StreamCore
    code: int
    overflow: bool = False


@dataclass(frozen=True, slots=True)
class CreditGranted:
    """Its send window was less than its `least_window` and is not any more."""

    stream: StreamCore


@dataclass(frozen=True, slots=True)
class PingAcked:
    """The answer to our ping of this value."""

    value: int


@dataclass(frozen=True, slots=True)
class WentAway:
    """The peer opens and accepts no more streams."""

    code: int


Event = StreamOpened | StreamFinished | StreamWasReset | CreditGranted | PingAcked | WentAway


class Session:
    """Both ends' multiplexer. `client` is the side that dialed: it has the odd stream ids."""

    __slots__ = (
        "_body_fin",
        "_body_left",
        "_body_stream",
        "_budget",
        "_inbound",
        "_max_inbound",
        "_next_id",
        "_partial",
        "_ping_value",
        "_remote_ids",
        "_remote_parity",
        "_unacked",
        "buffered_bytes",
        "control",
        "ledger",
        "opens",
        "remote_went_away",
        "rtt_s",
        "streams",
        "taken",
        "toll",
        "work_left",
    )

    def __init__(
        self,
        *,
        client: bool,
        max_inbound_streams: int = MAX_INBOUND_STREAMS,
        budget: WindowBudget | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """`ledger`: shared by all sessions of a node, and told of every byte that waits."""
        self.control = bytearray()
        """Frames to be sent, ahead of any data."""
        self.streams: dict[int, StreamCore] = {}
        self.rtt_s: float | None = None
        """Round trip, set by the owner; windows grow only when it is known."""
        self.buffered_bytes = 0
        """Payload received on live streams and not yet consumed."""
        self.remote_went_away = False
        self.work_left = work.UNLIMITED
        """Units that `receive` may still spend; set by the owner each turn. See `wire.yamux.work`."""
        self.taken = 0
        """How many bytes the last `receive` took."""
        self.toll = 0
        """Units spent on what moves nothing; the owner takes them out."""
        self.opens = 0
        """Streams that the peer has opened; the owner takes them out as well."""
        self._next_id = 1 if client else 2
        self._remote_parity = 0 if client else 1
        self._remote_ids = RemoteIds(self._remote_parity)
        self._max_inbound = max_inbound_streams
        self._inbound = 0
        self._unacked = 0
        self.ledger = ledger or Ledger()
        self._budget = budget or WindowBudget(ledger=self.ledger)
        self._ping_value: int | None = None
        self._partial = bytearray()
        self._body_left = 0
        self._body_stream: StreamCore | None = None
        self._body_fin = False

    @property
    def inbound_streams(self) -> int:
        """Streams that the peer has open."""
        return self._inbound

    # --- receiving --------------------------------------------------------------------------------

    def receive(self, data: memoryview) -> list[Event]:
        """Take the next bytes of the session, in any cut; the events they make, in order.

        Ends early, with `taken` bytes, when `work_left` is used up. Raises RemoteProtocolError: send
        `go_away(PROTOCOL_ERROR)` and close.
        """
        events: list[Event] = []
        pos, end = 0, len(data)
        while pos < end and self.work_left > 0:
            left = self._body_left
            if left:
                stop = pos + left if left <= end - pos else end
                self._body(data[pos:stop], events)
                pos = stop
            elif self._partial or end - pos < f.HEADER_BYTES:
                stop = min(end, pos + f.HEADER_BYTES - len(self._partial))
                self._partial += data[pos:stop]
                pos = stop
                if len(self._partial) == f.HEADER_BYTES:
                    header, self._partial = self._partial, bytearray()
                    self._header(header, 0, events)
            else:
                used = self._plain_data(data, pos, end)
                if not used:
                    self._header(data, pos, events)
                    used = f.HEADER_BYTES
                pos += used
        self.taken = pos
        if len(self._partial) >= end:  # a message with nothing in it, or with a part of a header only
            self.work_left -= work.EMPTY_WORK
            self.toll += work.FRAME_TOLL
        if len(self.control) > MAX_CONTROL_BYTES:
            raise RemoteProtocolError("yamux: the peer makes this node answer and does not read the answers")
        return events

    def _plain_data(self, data: memoryview, pos: int, end: int) -> int:
        """Take a whole data frame without flags, nearly every frame, the short way; its bytes, or 0.

        Whatever is not as usual is left to `_header`, which also finds what is wrong.
        """
        length: int
        # Version, type and flags as one number: 0 is version 0, DATA, no flag, and needs no further test.
        kind, stream_id, length = f.WORDS.unpack_from(data, pos)
        stream = None if kind else self.streams.get(stream_id)
        start = pos + f.HEADER_BYTES
        stop = start + length
        if stream is None or stop > end or not length or not stream.acked or not stream.can_receive:
            return 0
        window = stream.receive_window
        if length > window.credit or self.buffered_bytes + length > MAX_BUFFERED_BYTES:
            return 0
        window.credit -= length
        self.buffered_bytes += length
        self.ledger.used += length
        self.work_left -= work.DATA_WORK
        if not stream.is_tunnel:
            self.toll += length >> work.BYTES_SHIFT
        stream.sink(data[start:stop])
        return stop - pos

    def _body(self, view: memoryview, events: list[Event]) -> None:
        self.work_left -= work.DATA_WORK  # a body may come in as many messages as it has bytes
        self._body_left -= len(view)
        stream = self._body_stream
        if stream is None:
            return
        if stream.state is not State.RESET:
            stream.sink(view)
        if not self._body_left:
            self._body_stream = None
            if self._body_fin:
                self._fin_received(stream, events)

    def _header(self, data: bytes | bytearray | memoryview, offset: int, events: list[Event]) -> None:
        frame_type, flags, stream_id, length = f.decode_header(data, offset)
        self.work_left -= work.FRAME_WORK
        if frame_type == f.DATA or frame_type == f.WINDOW_UPDATE:
            self._stream_frame(frame_type, flags, stream_id, length, events)
            return
        self.toll += work.FRAME_TOLL
        if frame_type == f.PING:
            self._ping_frame(flags, length, events)
        else:
            self.remote_went_away = True
            events.append(WentAway(length))

    def _stream_frame(
        self, frame_type: int, flags: int, stream_id: int, length: int, events: list[Event]
    ) -> None:
        is_data = frame_type == f.DATA
        if flags & f.SYN and not flags & f.RST:
            stream = self._syn_received(stream_id, length if is_data else 0, events)
        else:
            stream = self.streams.get(stream_id)
        if stream is None:
            self.toll += work.FRAME_TOLL
            if is_data:
                self._body_left, self._body_stream = length, None
            return
        if flags & f.RST:
            self.work_left -= work.END_WORK
            self._forget(stream)
            stream.advance(Input.RST_RECEIVED)
            if is_data:
                self._body_left, self._body_stream = length, None
            events.append(StreamWasReset(stream, 0 if is_data else length))
            return
        if not stream.acked:
            self._acked(stream)
        if is_data:
            self._data_announced(stream, flags, length, events)
            return
        if length:
            self._credit_received(stream, length, events)
        elif not flags:
            self.toll += work.FRAME_TOLL
        if flags & f.FIN:
            self._fin_received(stream, events)

    def _data_announced(self, stream: StreamCore, flags: int, length: int, events: list[Event]) -> None:
        window = stream.receive_window
        if length > window.credit:
            raise RemoteProtocolError(
                f"yamux: {length} bytes on stream {stream.id}, which has credit for {window.credit}"
            )
        if length and not stream.can_receive:
            raise RemoteProtocolError(f"yamux: data after FIN on stream {stream.id}")
        if self.buffered_bytes + length > MAX_BUFFERED_BYTES:
            self.reset(stream)
            self._body_left, self._body_stream = length, None
            events.append(StreamWasReset(stream, 0, overflow=True))
            return
        if not length and not flags:
            self.toll += work.FRAME_TOLL
        if not stream.is_tunnel:
            self.toll += length >> work.BYTES_SHIFT
        window.credit -= length
        self.buffered_bytes += length
        self.ledger.used += length
        self._body_left, self._body_fin = length, bool(flags & f.FIN)
        self._body_stream = stream if length else None
        if not length and self._body_fin:
            self._fin_received(stream, events)

    def _syn_received(self, stream_id: int, payload: int, events: list[Event]) -> StreamCore | None:
        self._remote_ids.open(stream_id)
        if payload > f.INITIAL_WINDOW_BYTES:
            raise RemoteProtocolError(f"yamux: {payload} bytes with the SYN of stream {stream_id}")
        self.work_left -= work.OPEN_WORK
        self.opens += 1
        if self._inbound >= self._max_inbound:
            self.toll += work.TUNNEL_TOLL
            self._queue(f.WINDOW_UPDATE, f.RST, stream_id, 0)
            return None
        stream = self.streams[stream_id] = StreamCore(stream_id)
        stream.acked = True
        self._inbound += 1
        self.ledger.streams += 1
        self._queue(f.WINDOW_UPDATE, f.ACK, stream_id, 0)
        events.append(StreamOpened(stream))
        return stream

    def _credit_received(self, stream: StreamCore, delta: int, events: list[Event]) -> None:
        was = stream.send_window
        if was + delta > f.MAX_WINDOW:
            raise RemoteProtocolError(f"yamux: the window of stream {stream.id} overflows 32 bits")
        stream.send_window = was + delta
        if delta < work.CRUMB_BYTES or was > work.WIDE_WINDOW_BYTES:
            self.toll += work.FRAME_TOLL
        if was < stream.least_window <= was + delta:
            events.append(CreditGranted(stream))

    def _fin_received(self, stream: StreamCore, events: list[Event]) -> None:
        self.work_left -= work.END_WORK
        if not stream.can_receive:
            self.toll += work.FRAME_TOLL
            return  # a repeated FIN, or one behind our reset
        if stream.advance(Input.FIN_RECEIVED) is State.CLOSED:
            self._forget(stream)
        events.append(StreamFinished(stream))

    def _ping_frame(self, flags: int, value: int, events: list[Event]) -> None:
        if flags & f.SYN:
            self._queue(f.PING, f.ACK, 0, value)
        elif value == self._ping_value:  # any other pong is ignored, as go does
            self._ping_value = None
            events.append(PingAcked(value))

    def _acked(self, stream: StreamCore) -> None:
        stream.acked = True
        self._unacked -= 1

    def _forget(self, stream: StreamCore) -> None:
        if self.streams.pop(stream.id, None) is None:
            return  # the session is closed
        unconsumed = stream.receive_window.unconsumed
        self.buffered_bytes -= unconsumed
        self.ledger.used -= unconsumed
        stream.receive_window.release(self._budget)
        if not stream.acked:
            self._acked(stream)
        if stream.id & 1 == self._remote_parity:
            self._inbound -= 1
            self.ledger.streams -= 1
            self.toll += work.TUNNEL_TOLL if stream.is_tunnel else work.BARREN_TOLL

    # --- sending ----------------------------------------------------------------------------------

    def _queue(self, frame_type: int, flags: int, stream_id: int, length: int) -> None:
        self.control += f.encode_header(frame_type, flags, stream_id, length)

    @property
    def free_slots(self) -> int:
        """How many streams may be opened before the peer must acknowledge some."""
        return 0 if self.remote_went_away else MAX_UNACKED_OPENS - self._unacked

    @property
    def can_open(self) -> bool:
        """Whether a stream may be opened now."""
        return self.free_slots > 0

    def open(self, first: bytes = b"") -> StreamCore:
        """Open a stream; its SYN, and its `first` bytes, which are few, are queued.

        Raises ResourceLimitExceeded when `can_open` is False.
        """
        stream_id = self._next_id
        if not self.can_open or stream_id > 0xFFFF_FFFF:
            raise ResourceLimitExceeded("yamux: the peer takes no more streams on this connection")
        stream = self.streams[stream_id] = StreamCore(stream_id)
        self._next_id += 2
        self._unacked += 1
        self._queue(f.WINDOW_UPDATE, f.SYN, stream_id, 0)
        if first:
            stream.send_window -= len(first)
            self._queue(f.DATA, 0, stream_id, len(first))
            self.control += first
        return stream

    def write_data_header(self, stream: StreamCore, nbytes: int, buffer: memoryview, offset: int) -> None:
        """Put the header of a DATA frame of `nbytes` at `offset` and take its credit.

        The owner sends buffer[offset : offset + 12 + nbytes], after `control`. The payload is in place
        already: it was received from the program's socket behind room for the header, and is not copied.
        """
        # Only a defect here fails this: the owner asks for window and state in the same callback.
        if not 0 < nbytes <= stream.send_window or not stream.can_send:
            raise LocalProtocolError(
                f"yamux: {nbytes} bytes on stream {stream.id} with window {stream.send_window}"
            )
        stream.send_window -= nbytes
        f.HEADER.pack_into(buffer, offset, f.VERSION, f.DATA, 0, stream.id, nbytes)

    def finish(self, stream: StreamCore) -> None:
        """Half-close: queue our FIN. Nothing may be sent on the stream after it."""
        if stream.advance(Input.FIN_SENT) is State.CLOSED:
            self._forget(stream)
        self._queue(f.WINDOW_UPDATE, f.FIN, stream.id, 0)

    def reset(self, stream: StreamCore, code: int = 0) -> None:
        """Queue a RST, if the stream is still there; `code` says why (see `reset_codes`)."""
        if stream.id in self.streams:
            self._forget(stream)
            stream.advance(Input.RST_SENT)
            self._queue(f.WINDOW_UPDATE, f.RST, stream.id, code)

    def consumed(self, stream: StreamCore, nbytes: int, now: float) -> None:
        """The application took `nbytes` of the stream's payload; queue credit when it is due."""
        if stream.id not in self.streams:
            return
        self.buffered_bytes -= nbytes
        self.ledger.used -= nbytes
        if stream.receive_window.due(nbytes) and stream.can_receive:
            delta = stream.receive_window.top_up(now, self.rtt_s, self._budget)
            if delta:
                self._queue(f.WINDOW_UPDATE, 0, stream.id, delta)

    def ping(self, value: int) -> None:
        """Queue a ping; one may be outstanding (rust and js are strict about pongs)."""
        if self._ping_value is not None:
            raise LocalProtocolError("yamux: a ping is outstanding")
        self._ping_value = value & 0xFFFF_FFFF
        self._queue(f.PING, f.SYN, 0, self._ping_value)

    def go_away(self, code: f.GoAwayCode) -> None:
        """Queue the last frame of a session."""
        self._queue(f.GO_AWAY, 0, 0, int(code))

    def close(self) -> None:
        """The session is over: what it held in the ledger and the growth budget is given back. Idempotent."""
        self.ledger.used -= self.buffered_bytes
        self.ledger.streams -= self._inbound
        self.buffered_bytes = self._inbound = 0
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.receive_window.release(self._budget)
