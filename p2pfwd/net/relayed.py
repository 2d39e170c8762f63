"""What a relay has: places and who gives way, the circuits that go through it, how much there has been."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf

from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.link.bridge import Bridge
from p2pfwd.net.link.contract import Link
from p2pfwd.net.transport.leg_door import Offer
from p2pfwd.policy.relay_bounds import QUIET_S
from p2pfwd.policy.shares import Most, Party, Whose, giving_way
from p2pfwd.wire.circuit import Limit, Status


@dataclass(frozen=True, slots=True)
class Place:
    """What one peer has reserved. Times are monotonic seconds."""

    peer: PeerId
    link: Link
    party: Party
    is_own: bool
    since: float
    quiet_since: float
    """When it was given, or a circuit to it was last over."""
    ends_at: float


class GivingWay:
    """Which stranger's place goes to a newcomer where all are taken, and who has lost one so."""

    def __init__(self, most: Most, is_used: Callable[[PeerId], bool]) -> None:
        """`most`: strangers' places. `is_used`: whether a peer's connections are of use beside its place."""
        self._most = most
        self._is_used = is_used
        self._lost: dict[PeerId, float] = {}
        """When; those of the last `QUIET_S`, so at most one for each place."""

    def victim(self, places: Iterable[Place], newcomer: Party, whose: Whose, now: float) -> Place | None:
        """The place that goes, for good; None where none may. `whose` share is used up for the newcomer."""
        if now - self._lost.get(newcomer.peer, -inf) < QUIET_S:
            return None

        def quiet_since(place: Place) -> float | None:
            is_quiet = now - place.quiet_since >= QUIET_S and not self._is_used(place.peer)
            return place.quiet_since if is_quiet else None

        others = [one for one in places if not one.is_own and one.peer != newcomer.peer]
        found = next(iter(giving_way(others, newcomer, whose, self._most, quiet_since)), None)
        if found is not None:
            self._lost = {peer: at for peer, at in self._lost.items() if now - at < QUIET_S}
            self._lost[found.peer] = now
        return found


@dataclass(slots=True, eq=False)
class Circuit:
    """One, from the request on; `bridge` once it stands."""

    dialer: PeerId
    target: PeerId
    limit: Limit | None
    opened_at: float
    strangers: tuple[Party, ...]
    """Those of its two ends whose share it takes."""
    bridge: Bridge | None = None
    legs: Offer | None = None
    """Where it may have some: see `net.transport.leg_door`."""
    timer: asyncio.TimerHandle | None = None

    @property
    def bytes_out(self) -> int:
        """From the dialer to the target."""
        by_stream = 0 if self.bridge is None else self.bridge.one.passed
        return by_stream + (0 if self.legs is None else self.legs.passed[0])

    @property
    def bytes_in(self) -> int:
        """From the target to the dialer."""
        by_stream = 0 if self.bridge is None else self.bridge.other.passed
        return by_stream + (0 if self.legs is None else self.legs.passed[1])

    @property
    def has_legs(self) -> bool:
        """Whether its bytes go by its own connections."""
        return self.legs is not None and self.legs.pair is not None

    def ticket(self, end: int) -> bytes | None:
        """For a leg of the dialer's (0) or the target's (1)."""
        return None if self.legs is None else self.legs.tickets[end]


@dataclass(slots=True)
class Totals:
    """Since the start."""

    reservations: int = 0
    circuits: int = 0
    bytes: int = 0
    """Of circuits that are over, both ways."""
    refused: dict[Status, int] = field(default_factory=dict)
