"""A circuit as a conduit: a stream to a relay, whose other end is a stream to another peer.

Bytes move in callbacks, as on a socket. What the receiver does not take stays here and is not acknowledged:
the stream's window bounds it, and the other end runs out of credit. The three windows on the way (this
node's to the relay, the relay's to the peer, the peer's own) grow each by itself.

A limited relay ends a circuit in the middle of what flows: with a FIN where so many bytes have passed, with a
reset after so much time. Neither is the peer's end, and both are told as what they are. A p2pfwd resets both
ends, with a code: what waited there then was lost, and by the bytes that came nobody could tell.

A circuit that has carried bulk may change over to a leg (`net.transport.legs`), each way by itself:

    sending     STREAM ──READY has come on the leg, and nothing waits: FIN on the stream──▶ LEG
    receiving   STREAM ──FIN on the stream, and READY on the leg──▶ LEG

The FIN is the seam: what was sent before it has come by the stream, what is sent after it comes by the leg.
READY is sent by the relay when both ends have their leg there, so nobody changes over to one that leads
nowhere. The end of a leg in use is the circuit's end; one that is not in use is forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import CircuitLimitReached, StreamReset
from p2pfwd.net.conduit.contract import Conduit, Receiver
from p2pfwd.net.conduit.hurry import Hurry
from p2pfwd.net.link.contract import DuplexStream
from p2pfwd.net.transport.leg import Leg, Stage
from p2pfwd.system.buffers import BufferPool
from p2pfwd.wire.circuit import Limit
from p2pfwd.wire.yamux.reset_codes import RESOURCE_LIMIT_EXCEEDED

SEGMENT_BYTES: Final = 65_507
"""Payload of the largest frame that fits into one message of the connection to the relay: a piece of this
size is sealed, sent and opened whole, and copied nowhere in between."""

BUSY_BYTES: Final = 1 << 20
"""A circuit that has carried so much, both ways together, has bulk: a leg is worth its two connections."""

NEARLY: Final = 0.98
"""How much of its limit a circuit has used when its end is the limit's doing: headers count, too."""


def _nothing() -> None:
    pass


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
        self._progressed_at = 0.0
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
        self._spare = False
        self._moved: Callable[[], None] | None = None
        self._room: int | None = None
        """As `spare`, `tell` and `squeeze` have said it: a leg that comes later is told."""
        self._unsent = bytearray()
        self._finishing = False
        self._at_eof = False
        self._closed = False
        self._stage = Stage.NONE
        self._ask_for_leg: Callable[[], object] | None = None
        self._leg: Leg | None = None
        self._on_leg_lost: Callable[[], None] = _nothing
        self._leg_out: Conduit | None = None
        """Where we send, once we have changed over."""
        self._hurry: Hurry | None = None
        self._reads_leg = False

    def start(self, receiver: Receiver, leftover: bytes = b"") -> None:
        """See Conduit."""
        if self._closed:
            receiver.conduit_lost(None)
            return
        first = self._receiver is None
        self._receiver = receiver
        if self._reads_leg and self._leg is not None:
            self._leg.read(receiver, leftover)
            return
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
        if self._stage is Stage.PROMISED:
            self._is_busy()
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
            if not self.takes:
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
        if self._at_eof and self.takes:
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
        if self._reads_leg and self._leg is not None:
            self._leg.conduit.pause()

    def resume(self) -> None:
        """See Conduit."""
        if self._paused and not self._closed:
            self._paused = False
            self._resumed = True  # who resumes while it is given something is given the rest after it
            self._deliver()
            if self._reads_leg and self.takes and self._leg is not None:
                self._leg.resume()

    @property
    def takes(self) -> bool:
        """Whether the receiver may be given something."""
        return not (self._paused or self._closed)

    def spare(self, spare: bool) -> None:
        """See Conduit: the relay's connection reads, and has its own pace; a leg has this one's."""
        self._spare = spare
        if self._leg is not None:
            self._leg.conduit.spare(spare)

    def tell(self, moved: Callable[[], None] | None) -> None:
        """See Conduit: what the relay's connection moves is not this one's; what a leg does is."""
        self._moved = moved
        if self._leg is not None:
            self._leg.conduit.tell(moved)

    @property
    def is_near(self) -> bool:
        """See Conduit: its windows see to that."""
        return False

    def squeeze(self, room: int | None) -> None:
        """See Conduit: no socket of its own but the leg's."""
        self._room = room
        if self._leg is not None:
            self._leg.squeeze(room)

    @property
    def kept_bytes(self) -> int:
        """See Conduit."""
        leg = 0 if self._leg is None else self._leg.conduit.kept_bytes
        return len(self._carry) + len(self._unsent) + leg

    @property
    def wide_bytes(self) -> int:
        """See Conduit: as the connection to the relay has it, or the leg."""
        return self._stream.wide_bytes if self._leg_out is None else self._leg_out.wide_bytes

    @property
    def progressed_at(self) -> float:
        """See Conduit: a leg may take what waits bit by bit, and tells nobody of it."""
        return self._progressed_at if self._leg_out is None else self._leg_out.progressed_at

    def acknowledged_s(self) -> float | None:
        """See Conduit: the relay's system says nothing of the peer's. The line to the relay is looked at on
        this occasion, where it is a leg's own."""
        if self._hurry is not None:
            self._hurry.look()
        return None

    def retry_within(self, seconds: float | None) -> None:
        """See Conduit: the relay's connection decides. On a leg the system would take a relay that waits for
        the other end for one that is gone."""

    # --- sending ----------------------------------------------------------------------------------

    def send(self, view: memoryview, *, framed: bool = False, more: bool = False) -> None:
        """See Conduit; nothing waits for more here: the relay's connection has its own way."""
        if self._closed or self._finishing:
            return
        if (leg := self._leg_out) is not None:
            leg.send(view, framed=framed, more=more)
            self.congested = leg.congested
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
        if (leg := self._leg_out) is not None:
            leg.uncork()
            self.congested = leg.congested

    def _send(self, view: memoryview) -> None:
        while len(view):
            frame = self._stream.begin_frame(len(view))
            if frame is None:
                self.congested = True
                self._progressed_at = time.monotonic()
                self._keep_unsent(view)
                self._stream.want_to_send()
                return
            n = min(len(frame), len(view))
            frame[:n] = view[:n]
            view = view[n:]
            self._sent_bytes += n
            self._stream.end_frame(n)
        if self._stage is Stage.PROMISED:
            self._is_busy()

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
        self._progressed_at = time.monotonic()
        if self._unsent:
            self._stream.want_to_send()
            return True
        self.congested = False
        if self._finishing:
            self._stream.close_write()
            return False
        if self._stage is Stage.STANDS:
            self._send_by_leg()
        if self._receiver is not None:
            self._receiver.drained()
        return False

    # --- a leg ------------------------------------------------------------------------------------

    def when_busy(self, ask: Callable[[], object]) -> None:
        """Have `ask` called once when the circuit has carried bulk: then `take_leg` or `leg_failed`."""
        if not self._closed:
            self._stage, self._ask_for_leg = Stage.PROMISED, ask

    def _is_busy(self) -> None:
        if self._sent_bytes + self._received_bytes >= BUSY_BYTES and self._ask_for_leg is not None:
            ask, self._ask_for_leg = self._ask_for_leg, None
            self._stage = Stage.COMING
            ask()

    def take_leg(self, conduit: Conduit, leftover: bytes, on_lost: Callable[[], None]) -> None:
        """The relay has it; `leftover` has come on it. `on_lost`: told if it is lost while it is in use."""
        if self._closed:
            conduit.abort()
            return
        self._leg, self._on_leg_lost = Leg(self, conduit), on_lost
        conduit.spare(self._spare)
        conduit.tell(self._moved)
        self._leg.squeeze(self._room)
        conduit.start(self._leg, leftover)
        if self._finishing:  # an abort would end the circuit before what was sent has passed
            conduit.finish()

    def stand_or_fall(self) -> None:
        """It has had its time: without READY it is given up."""
        if self._leg is not None and self._stage is Stage.COMING:
            self._leg.conduit.abort()

    def leg_failed(self) -> None:
        """There is none: the circuit stays a stream. An end that has come meanwhile was its end."""
        self._stage, self._leg = Stage.NONE, None
        if self._at_eof and self.takes:
            self._end_of_data()

    def leg_stands(self) -> None:
        """From the leg: READY has come."""
        self._stage = Stage.STANDS
        if not (self.congested or self._finishing):
            self._send_by_leg()
        if self._at_eof and self.takes:
            self._end_of_data()

    def _send_by_leg(self) -> None:
        assert self._leg is not None
        self._leg_out = self._leg.conduit
        self._hurry = Hurry(self._leg_out)
        self._stream.close_write()

    def leg_drained(self) -> None:
        """From the leg."""
        if self._leg_out is not None:
            self.congested = False
            if self._receiver is not None:
                self._receiver.drained()

    def leg_lost(self, exc: Exception | None) -> None:
        """From the leg: it is gone."""
        if self._closed:
            return
        if self._reads_leg or self._leg_out is not None:
            self._leg_is_lost()
            self._lose(exc)
        else:
            self.leg_failed()

    def _leg_is_lost(self) -> None:
        on_lost, self._on_leg_lost = self._on_leg_lost, _nothing
        on_lost()

    # --- ending -----------------------------------------------------------------------------------

    def finish(self) -> None:
        """See Conduit."""
        if self._closed or self._finishing:
            return
        self._finishing = True
        if self._leg is not None:
            self._leg.conduit.finish()
        if self._leg_out is None and not self.congested:
            self._stream.close_write()

    def abort(self) -> None:
        """See Conduit. Who gives up, though neither end has ended, has found the leg dead."""
        leg = self._leg
        if self._leg_out is not None and leg is not None and not (self._finishing or leg.at_eof):
            self._leg_is_lost()
        self._lose(None)

    def eof_received(self) -> None:
        """From the stream: the peer's end, or a limit."""
        self._at_eof = True
        self._deliver()

    def _end_of_data(self) -> None:
        if self._stage is Stage.COMING:
            return  # what follows may come by the leg
        if self._leg is not None:
            if not self._reads_leg and self._receiver is not None:
                self._reads_leg = True
                self._leg.read(self._receiver, b"")
            return
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
        self._stage, self._ask_for_leg = Stage.NONE, None
        self._stream.reset()
        if self._leg is not None:
            self._leg.conduit.abort()
        if receiver is not None:
            receiver.conduit_lost(exc)
