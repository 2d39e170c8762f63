"""Which stream ids a peer may still open: each once, of its own parity.

Ids grow, but their SYNs need not come in order: go takes an id first and queues the frame later, so two
streams opened at once may arrive swapped, and an id whose opening was given up never comes at all. Of the
latest `REMEMBERED` ids it is known which were left out, as the bits of one integer, so that a peer that
jumps to and fro costs no more than one that counts.
"""

from __future__ import annotations

from typing import Final

from p2pfwd.errors import RemoteProtocolError

REMEMBERED: Final = 256
"""Ids left out that may still come: as many as go opens without an acknowledgement."""

_MASK: Final = (1 << REMEMBERED) - 1


class RemoteIds:
    """The ids of one peer; `parity` 1 for the side that dialed, else 0."""

    __slots__ = ("_left_out", "_next", "_parity")

    def __init__(self, parity: int) -> None:
        self._parity = parity
        self._next = 1 if parity else 2
        self._left_out = 0
        """Bit n: id `_next - 2 * (n + 1)` has not come yet."""

    def open(self, stream_id: int) -> None:
        """Take note of a SYN. Raises RemoteProtocolError for an id that is not the peer's or was used."""
        if stream_id == 0 or stream_id & 1 != self._parity:
            raise RemoteProtocolError(f"yamux: the peer may not open stream {stream_id}")
        ahead = (stream_id - self._next) // 2
        if ahead >= 0:
            gap = min(ahead, REMEMBERED)
            self._left_out = ((self._left_out << gap | (1 << gap) - 1) << 1) & _MASK
            self._next = stream_id + 2
            return
        behind = -ahead - 1
        if behind >= REMEMBERED or not self._left_out >> behind & 1:
            raise RemoteProtocolError(f"yamux: stream {stream_id} was opened before")
        self._left_out ^= 1 << behind
