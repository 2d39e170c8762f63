"""Streams in the history: told one by one while they are few, summed up where they are many. Pure.

Rules: of one peer and protocol `EACH.burst` streams are told each by itself, its opening and its end; beyond
that the streams of ten minutes are one event, with their number, their bytes and how many broke off. A stream
whose opening was told has its end told, too. What is summed is recorded with `flush`, a moment later: one of
thousands of streams a second costs a look-up and a few additions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from p2pfwd.history.folding import Value
from p2pfwd.policy.pace import Paces, Rate
from p2pfwd.policy.shares import Party

EACH: Final = Rate(1 / 60, 20)
"""Streams of one peer and protocol that are told one by one."""

MAX_TOLD: Final = 1024
"""Live streams whose opening was told."""

MAX_SUMS: Final = 1024
"""Peers and protocols of which streams are being summed; more are not, until the next `flush`."""

Key = tuple[str, str]
"""Peer and protocol."""


class Record(Protocol):
    """`History.record`."""

    def __call__(
        self,
        code: str,
        *,
        peer: str | None = None,
        protocol: str | None = None,
        stranger: Party | bool = False,
        times: int = 1,
        **data: Value,
    ) -> None: ...


class Sum:
    """Streams of one peer and protocol that have ended since the last `flush`."""

    __slots__ = ("broken", "bytes_in", "bytes_out", "ended", "stranger")

    def __init__(self, stranger: Party | None) -> None:
        self.stranger = stranger
        self.ended = 0
        self.broken = 0
        self.bytes_in = 0
        self.bytes_out = 0


class StreamLog:
    """Of one daemon. `spends`: `Folding.spends`; `clock`: the steady one."""

    def __init__(
        self, record: Record, spends: Callable[[Party, float], bool], clock: Callable[[], float]
    ) -> None:
        self.sums: dict[Key, Sum] = {}
        self._record = record
        self._spends = spends
        self._clock = clock
        self._each = Paces(EACH)
        self._told: set[int] = set()

    def opened(self, number: int, key: Key, direction: str, path: str, stranger: Party | None) -> None:
        """A stream has opened; `stranger`: of whom, if not of one of the owner's peers."""
        now = self._clock()
        is_told = self._each.take(key, now) if stranger is None else self._spends(stranger, now)
        if is_told and len(self._told) < MAX_TOLD:
            self._told.add(number)
            peer, protocol, whose = *key, stranger or False
            self._record(
                "stream-opened", peer=peer, protocol=protocol, stranger=whose, direction=direction, path=path
            )

    def is_told(self, number: int) -> bool:
        """Whether the opening of this stream was."""
        return number in self._told

    def ended(
        self,
        number: int,
        key: Key,
        stranger: Party | None,
        *,
        duration_s: float,
        bytes_in: int,
        bytes_out: int,
        broken: str | None,
    ) -> None:
        """A stream whose opening was told is over; `broken`: why, if it did not end as it should."""
        self._told.discard(number)
        peer, protocol = key
        self._record(
            "stream-ended" if broken is None else "stream-broken",
            peer=peer,
            protocol=protocol,
            stranger=stranger or False,
            duration_s=round(duration_s, 3),
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            reason=broken or "",
        )

    def sum_of(self, key: Key, stranger: Party | None) -> Sum | None:
        """To add another stream to; None where there are too many."""
        if len(self.sums) >= MAX_SUMS:
            return None
        found = self.sums[key] = Sum(stranger)
        return found

    def flush(self) -> None:
        """Record what was summed."""
        sums, self.sums = self.sums, {}
        for (peer, protocol), one in sums.items():
            self._record(
                "streams-summed",
                peer=peer,
                protocol=protocol,
                stranger=one.stranger or False,
                times=one.ended,
                failed=one.broken,
                bytes_in=one.bytes_in,
                bytes_out=one.bytes_out,
            )
