"""Streams in the history: told one by one while they are few, summed up where they are many. Pure.

Rules: of one peer and protocol `EACH.burst` streams are told each by itself, its opening and its end; beyond
that the streams of ten minutes are one event, with their number, their bytes and how many broke off. A stream
whose opening was told has its end told, too. To sum one up takes a few microseconds.
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


class StreamLog:
    """Of one daemon. `spends`: `Folding.spends`; `clock`: the steady one."""

    def __init__(
        self, record: Record, spends: Callable[[Party, float], bool], clock: Callable[[], float]
    ) -> None:
        self._record = record
        self._spends = spends
        self._clock = clock
        self._each = Paces(EACH)
        self._told: set[int] = set()

    def opened(
        self, number: int, peer: str, protocol: str, direction: str, path: str, stranger: Party | None
    ) -> None:
        """A stream has opened; `stranger`: of whom, if not of one of the owner's peers."""
        now = self._clock()
        if stranger is not None:
            is_told = self._spends(stranger, now)
        else:
            is_told = self._each.take((peer, protocol), now)
        if not is_told or len(self._told) >= MAX_TOLD:
            return
        self._told.add(number)
        self._record(
            "stream-opened",
            peer=peer,
            protocol=protocol,
            stranger=stranger or False,
            direction=direction,
            path=path,
        )

    def ended(
        self,
        number: int,
        peer: str,
        protocol: str,
        stranger: Party | None,
        *,
        duration_s: float,
        bytes_in: int,
        bytes_out: int,
        broken: str | None,
    ) -> None:
        """It is over; `broken`: why, if it did not end as it should."""
        if number not in self._told:
            self._record(
                "streams-summed",
                peer=peer,
                protocol=protocol,
                stranger=stranger or False,
                failed=int(broken is not None),
                bytes_in=bytes_in,
                bytes_out=bytes_out,
            )
            return
        self._told.discard(number)
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
