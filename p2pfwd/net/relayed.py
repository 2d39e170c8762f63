"""What a relay has: the places it gave, the circuits that go through it, and how much there has been."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.link.bridge import Bridge
from p2pfwd.net.link.contract import Link
from p2pfwd.net.transport.leg_door import Offer
from p2pfwd.policy.shares import Party
from p2pfwd.wire.circuit import Limit, Status


@dataclass(frozen=True, slots=True)
class Place:
    """What one peer has reserved. Times are monotonic seconds."""

    peer: PeerId
    link: Link
    party: Party
    is_own: bool
    since: float
    ends_at: float


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
