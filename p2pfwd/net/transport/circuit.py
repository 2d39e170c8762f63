"""A circuit as a conduit: a stream to a relay, whose other end is a stream to another peer.

Bytes move in callbacks, as on a socket. What the receiver does not take stays here and is not acknowledged:
the stream's window bounds it, and the other end runs out of credit. The three windows on the way (this
node's to the relay, the relay's to the peer, the peer's own) grow each by itself.

A limited relay ends a circuit in the middle of what flows: with a FIN where so many bytes have passed, with a
reset after so much time. Neither is the peer's end, and both are told as what they are. A p2pfwd resets both
ends, with a code: what waited there then was lost, and by the bytes that came nobody could tell.
"""

from __future__ import annotations

import time
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import CircuitLimitReached, StreamReset
from p2pfwd.net.conduit.contract import Receiver
from p2pfwd.net.link.contract import DuplexStream
from p2pfwd.system.buffers import BufferPool
from p2pfwd.wire.circuit import Limit
from p2pfwd.wire.yamux.reset_codes import RESOURCE_LIMIT_EXCEEDED

SEGMENT_BYTES: Final = 65_507
"""Payload of the largest frame that fits into one message of the connection to the relay: a piece of this
size is sealed, sent and opened whole, and copied nowhere in between."""

NEARLY: Final = 0.98
"""How much of its limit a circuit has used when its end is the limit's doing: headers count, too."""


class CircuitConduit:
    """One end of a circuit. `local_addr` and `remote_addr` lead through the relay."""

    heard = False
    segment_bytes: int | None = SEGMENT_BYTES

    def __init__(
        self,
        stream: DuplexStream,
        pool: BufferPool,
        local_addr: Multiaddr,
        remote_addr: Multiaddr,
        limit: Limit | None,
    ) -> None:
        self.local_addr = local_addr
        self.remote_addr = remote_addr
        self.limit = limit
        self.congested = False
        self.progressed_at = 0.0
        self._stream = stream
        self._pool = pool
        self._opened_at = time.monotonic()
        self._sent_bytes = self._received_bytes = 0
        self._receiver: Receiver | None = None
        self._carry = bytearray()
        """What has come and was not taken."""
        self._acknowledged = 0
        """How many of these bytes the relay has credit for: a receiver before this one had taken them, or the
        rest of their message has yet to come."""
        self._too_few = 0
        """So many are less than the message that the receiver left in part."""
        self._delivering = False
        self._paused = False
        self._resumed = False
        self._unsent = bytearray()
        self._finishing = False
        self._at_eof = False
        self._closed = False

    def start(self, receiver: Receiver, leftover: bytes = b"") -> None:
        """See Conduit."""
        if self._closed:
            receiver.conduit_lost(None)
            return
        first = self._receiver is None
        self._receiver = receiver
        self._too_few = 0
        if leftover:
            self._carry[:0] = leftover
            self._acknowledge(self._acknowledged + len(leftover))
        if first:
            self._stream.set_sink(self, tunnel=True, circuit=True)
        self._deliver()

    # --- receiving --------------------------------------------------------------------------------

    def data_received(self, view: memoryview) -> None:
        """From the stream."""
        self.heard = True
        self._received_bytes += len(view)
        if self._closed:
            self._stream.consumed(len(view))
            return
        # A receiver opens messages in place, which a view that is a copy does not allow.
        if self._carry or self._paused or self._delivering or view.readonly:
            self._carry += view
            self._deliver()
            return
        assert self._receiver is not None
        self._delivering, self._resumed = True, False
        used = self._receiver.data_received(view)
        self._delivering = False
        if used < len(view) and not self._closed:
            self._carry += view[used:]
        self._took(used)
        if self._resumed or self._too_few:
            self._deliver()

    def _deliver(self) -> None:
        if self._delivering:
            return  # the call below goes on
        self._delivering = True
        used = 1
        while (used or self._resumed) and len(self._carry) > self._too_few:
            if self._paused or self._closed:
                break
            self._resumed = False
            data, self._carry = self._carry, bytearray()
            assert self._receiver is not None
            used = self._receiver.data_received(memoryview(data))
            if not self._closed:
                self._carry[:0] = data[used:]  # in front of what has come meanwhile
            self._took(used)
        self._delivering = False
        if self._too_few and not self._closed:
            self._acknowledge_part()
        if self._at_eof and not (self._paused or self._closed):
            self._end_of_data()

    def _acknowledge_part(self) -> None:
        """The rest of its message must come, whatever the window: it may be smaller than the message."""
        if (ahead := min(len(self._carry), self._too_few + 1) - self._acknowledged) > 0:
            self._acknowledge(self._acknowledged + ahead)
            self._stream.consumed(ahead)

    def _acknowledge(self, n: int) -> None:
        """So many wait here that the stream does not count any more: the pool does."""
        self._pool.kept_bytes += n - self._acknowledged
        self._acknowledged = n

    def _took(self, n: int) -> None:
        missing = 0 if self._receiver is None else self._receiver.missing
        self._too_few = len(self._carry) + missing - 1 if missing else 0
        known = min(n, self._acknowledged)
        self._acknowledge(self._acknowledged - known)
        if n > known:
            self._stream.consumed(n - known)

    def pause(self) -> None:
        """See Conduit."""
        self._paused = True

    def resume(self) -> None:
        """See Conduit."""
        if self._paused and not self._closed:
            self._paused = False
            self._resumed = True  # who resumes while it is given something is given the rest after it
            self._deliver()

    def spare(self, spare: bool) -> None:
        """See Conduit: the relay's connection reads, and has its own pace."""

    def squeeze(self, room: int | None) -> None:
        """See Conduit: no socket of its own."""

    @property
    def kept_bytes(self) -> int:
        """See Conduit."""
        return len(self._carry) + len(self._unsent)

    @property
    def wide_bytes(self) -> int:
        """See Conduit: as the connection to the relay has it."""
        return self._stream.wide_bytes

    def acknowledged_s(self) -> float | None:
        """See Conduit: the relay's system says nothing of the peer's."""
        return None

    def retry_within(self, seconds: float | None) -> None:
        """See Conduit: the relay's connection decides."""

    # --- sending ----------------------------------------------------------------------------------

    def send(self, view: memoryview, *, framed: bool = False, more: bool = False) -> None:
        """See Conduit; nothing waits for more here: the relay's connection has its own way."""
        if self._closed or self._finishing:
            return
        if self.congested:
            self._keep_unsent(view)
        elif framed:  # the relay's connection builds its frame in the same buffer: it gets another
            buffer = view.obj
            assert isinstance(buffer, bytearray)
            self._pool.keep(view)
            self._send(view)
            self._pool.release(buffer)
        else:
            self._send(view)

    def uncork(self) -> None:
        """See Conduit."""

    def _send(self, view: memoryview) -> None:
        while len(view):
            frame = self._stream.begin_frame(len(view))
            if frame is None:
                self.congested = True
                self.progressed_at = time.monotonic()
                self._keep_unsent(view)
                self._stream.want_to_send()
                return
            n = min(len(frame), len(view))
            frame[:n] = view[:n]
            view = view[n:]
            self._sent_bytes += n
            self._stream.end_frame(n)

    def _keep_unsent(self, view: memoryview) -> None:
        self._unsent += view
        self._pool.kept_bytes += len(view)

    def resume_sending(self) -> bool:
        """From the stream: one frame's turn."""
        if self._closed or not self.congested:
            return False
        frame = self._stream.begin_frame(len(self._unsent))
        if frame is None:
            self._stream.want_to_send()
            return True
        n = min(len(frame), len(self._unsent))
        frame[:n] = self._unsent[:n]
        del self._unsent[:n]
        self._pool.kept_bytes -= n
        self._sent_bytes += n
        self._stream.end_frame(n)
        self.progressed_at = time.monotonic()
        if self._unsent:
            self._stream.want_to_send()
            return True
        self.congested = False
        if self._finishing:
            self._stream.close_write()
        elif self._receiver is not None:
            self._receiver.drained()
        return False

    # --- ending -----------------------------------------------------------------------------------

    def finish(self) -> None:
        """See Conduit."""
        self._finishing = True
        if not self.congested and not self._closed:
            self._stream.close_write()

    def abort(self) -> None:
        """See Conduit."""
        self._lose(None)

    def eof_received(self) -> None:
        """From the stream: the peer's end, or a limit."""
        self._at_eof = True
        self._deliver()

    def _end_of_data(self) -> None:
        self._at_eof = False  # told once
        if (reached := self._limit_reached()) is not None:
            self._lose(reached)
        elif self._receiver is not None:
            self._receiver.eof_received()

    def stream_lost(self, exc: Exception) -> None:
        """From the stream."""
        self._lose(self._limit_reached() or self._limit_told(exc) or exc)

    @property
    def limit_left(self) -> Limit | None:
        """See Conduit; of the way that has less. 0: no bound of this kind, as ever, so 1 is the least."""
        if self.limit is None:
            return None
        used, age_s = max(self._sent_bytes, self._received_bytes), time.monotonic() - self._opened_at
        seconds = max(1, int(self.limit.duration_s - age_s)) if self.limit.duration_s else 0
        return Limit(seconds, max(1, self.limit.data_bytes - used) if self.limit.data_bytes else 0)

    def _limit_reached(self) -> CircuitLimitReached | None:
        limit = self.limit
        if limit is None:
            return None
        most = max(self._sent_bytes, self._received_bytes)
        if limit.data_bytes and most >= NEARLY * limit.data_bytes:
            return CircuitLimitReached(f"the relay carries {limit.data_bytes} bytes for a circuit, no more")
        if limit.duration_s and time.monotonic() - self._opened_at >= NEARLY * limit.duration_s:
            return CircuitLimitReached(f"the relay ends a circuit after {limit.duration_s} s")
        return None

    def _limit_told(self, exc: Exception) -> CircuitLimitReached | None:
        limit = self.limit
        if limit is None or not isinstance(exc, StreamReset):
            return None
        if exc.details.get("reset_code") != RESOURCE_LIMIT_EXCEEDED:
            return None
        most = [f"{limit.data_bytes} bytes"] if limit.data_bytes else []
        most += [f"{limit.duration_s} s"] if limit.duration_s else []
        return CircuitLimitReached(f"the relay has ended the circuit, which had {' and '.join(most)} at most")

    def _lose(self, exc: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        self.congested = False
        self._carry.clear()
        self._acknowledge(0)
        self._pool.kept_bytes -= len(self._unsent)
        self._unsent.clear()
        receiver, self._receiver = self._receiver, None
        self._stream.reset()
        if receiver is not None:
            receiver.conduit_lost(exc)
