"""Contracts of the data path: what carries bytes below, who receives them, who takes a stream's payload.

A *conduit* is an ordered byte pipe with callbacks: a TCP connection, or (over a relay) a stream. A
*channel* is the security on top of it. The *receiver* of either is told of bytes by callback, never
by a task: negotiate in coroutines, then move bytes in callbacks. Views are valid during the call only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.wire.circuit import Limit


class Receiver(Protocol):
    """Told what happens on a conduit."""

    @property
    def missing(self) -> int:
        """How many bytes are missing of a wide message that has come in part, and was left for that.

        0 where it is not such a one that was left, or nothing was.
        """

    def data_received(self, view: memoryview) -> int:
        """Bytes have come; returns how many were taken. They may be changed in place.

        The rest is given again, as it was left, with more behind it.
        """

    def eof_received(self) -> None:
        """The other end sends no more."""

    def conduit_lost(self, exc: Exception | None) -> None:
        """The conduit is gone: `None` after a `close` or `abort` of ours. The last call."""

    def drained(self) -> None:
        """What could not be sent at once has been sent; `congested` is False again."""


class Conduit(Protocol):
    """An ordered byte pipe."""

    local_addr: Multiaddr
    remote_addr: Multiaddr
    limit: Limit | None
    """What a relay lets pass before it ends this; None: as much as there is."""
    segment_bytes: int | None
    """Largest piece that goes out whole; None: any."""

    @property
    def wide_bytes(self) -> int:
        """The same of a wide message that is sent now; 0: it would be cut up."""

    @property
    def limit_left(self) -> Limit | None:
        """What is left of the limit; None where there is none."""

    @property
    def heard(self) -> bool:
        """Whether anything has come yet."""

    @property
    def progressed_at(self) -> float:
        """Monotonic time of the last progress while congested."""

    @property
    def congested(self) -> bool:
        """Whether bytes wait to be sent. Do not send more until `drained`."""

    def acknowledged_s(self) -> float | None:
        """Seconds since the peer's system acknowledged anything, 0 if it has all; None: not known.

        It says that the line is whole, and nothing of the peer's process.
        """

    def retry_within(self, seconds: float | None) -> None:
        """Repeat what is not acknowledged before it is so many seconds old; None: as usual.

        To be said again, with more, before that time: what is older then is given up, and the conduit lost.
        """

    def start(self, receiver: Receiver, leftover: bytes = b"") -> None:
        """Begin, or go on, with this receiver; it is given `leftover` first."""

    def pause(self) -> None:
        """Read and deliver no more, from within `data_received` too, until `resume`. Idempotent."""

    def resume(self) -> None:
        """Deliver what was left, then read again. Idempotent."""

    def spare(self, spare: bool) -> None:
        """Read in small pieces while it is so: the receiver has no time for large ones."""

    def tell(self, moved: Callable[[], None] | None) -> None:
        """Call this at each receive and send as well that the loop is told of; None: no more."""

    @property
    def is_near(self) -> bool:
        """Whether the way is so short that what the system holds of it is a queue, and no bandwidth."""

    def squeeze(self, room: int | None) -> None:
        """Let the system hold about `room` bytes of what the peer sends while it is not read; None: as many
        as it likes."""

    @property
    def kept_bytes(self) -> int:
        """Bytes held here: read and not taken, or not sent yet."""

    def send(self, view: memoryview, *, framed: bool = False, more: bool = False) -> None:
        """Send a view; `framed`: it lies in the pool's frame buffer, which is kept if some remains.

        A framed view may be changed by it. Otherwise what cannot be sent at once is copied.
        `more`: another may follow in the same callback, which ends with `uncork`; this one may wait for it.
        """

    def uncork(self) -> None:
        """Send what waits for more. Nothing where nothing does."""

    def finish(self) -> None:
        """No more will be sent; send EOF after what waits."""

    def abort(self) -> None:
        """End at once, dropping what waits; `conduit_lost` follows."""


class GatheringSink(Protocol):
    """One that takes what a read brings together: see `SplicedStream.gather`."""

    def pass_gathered(self) -> None:
        """The read is over, or somebody else's turn has come in it."""


class StreamSink(Protocol):
    """The fast face of a stream: where its payload goes."""

    def data_received(self, view: memoryview) -> None:
        """Payload; answer with `stream.consumed(n)` when it has been passed on.

        The view is valid during the call, and longer where `stream.gather` says so.
        """

    def eof_received(self) -> None:
        """The remote half is closed; nothing was lost."""

    def stream_lost(self, exc: Exception) -> None:
        """Reset, or the connection is gone: an error, never an end. The last call."""

    def resume_sending(self) -> bool:
        """Send one frame now if there is something to send; True if more may wait."""
