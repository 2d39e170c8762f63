"""Which stream ids a peer may still open (WIRE 8): each once, of its own parity.

Ids grow, but their SYNs need not come in order: go takes an id first and queues the frame later, so two
streams opened at once may arrive swapped, and an id whose opening was given up never comes at all. The
ids left out are remembered, the latest `MAX_SKIPPED` of them.
"""

from __future__ import annotations

from typing import Final

from p2pfwd.errors import RemoteProtocolError

MAX_SKIPPED: Final = 256
"""Ids left out that may still come: as many as go opens without an acknowledgement."""


class RemoteIds:
    """The ids of one peer; `parity` 1 for the side that dialed, else 0."""

    __slots__ = ("_next", "_parity", "_skipped")

    def __init__(self, parity: int) -> None:
        self._parity = parity
        self._next = 1 if parity else 2
        self._skipped: dict[int, None] = {}  # in order of age

    def open(self, stream_id: int) -> None:
        """Take note of a SYN. Raises RemoteProtocolError for an id that is not the peer's or was used."""
        if stream_id == 0 or stream_id & 1 != self._parity:
            raise RemoteProtocolError(f"yamux: the peer may not open stream {stream_id}")
        if stream_id < self._next:
            if stream_id not in self._skipped:
                raise RemoteProtocolError(f"yamux: stream {stream_id} was opened before")
            del self._skipped[stream_id]
            return
        for skipped in range(max(self._next, stream_id - 2 * MAX_SKIPPED), stream_id, 2):
            self._skipped[skipped] = None
            if len(self._skipped) > MAX_SKIPPED:
                del self._skipped[next(iter(self._skipped))]
        self._next = stream_id + 2
