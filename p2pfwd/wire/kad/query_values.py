"""What a lookup takes and gives: its goal, its settings, its result."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire.kad.messages import K

MAX_HEARD: Final = 1000
"""Peers a lookup remembers: of those not asked yet the farthest is forgotten first. An honest lookup hears
of 200 to 400."""

MAX_CLOSER_PEERS: Final = 2 * K
"""Peers taken of one answer (go's bound)."""


FIRST: Final = 4
"""Addresses of one answer, but of the first that has any, that count while others are still to be asked."""


class Goal(Enum):
    """What a lookup is for."""

    CLOSEST = "closest"
    """The `k` live peers nearest to the target."""
    PEER = "peer"
    """Addresses of the peer whose ID the target is."""


class PeerState(Enum):
    """How far a lookup has come with one peer."""

    HEARD = "heard"
    WAITING = "waiting"
    QUERIED = "queried"
    UNREACHABLE = "unreachable"


class Ending(Enum):
    """Why a lookup is over."""

    FOUND = "found"
    CONVERGED = "converged"
    """The nearest peers have all answered: nobody knows more."""
    CAPPED = "capped"
    """`max_queries` were sent."""
    TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True)
class Told:
    """How an address of the peer sought was told."""

    place: int
    """In the answer that has it nearest to its beginning."""
    hops: int
    """Answers that led to it, that one included."""


@dataclass(frozen=True, slots=True)
class LookupSettings:
    """Bounds and pace of a lookup."""

    k: int = K
    alpha: int = 10
    """Requests in flight while the lookup comes nearer (go; rust and js have 3)."""
    beta: int = 3
    """The nearest peers that have to have answered before it stops coming nearer."""
    request_timeout_s: float = 10.0
    total_timeout_s: float = 60.0
    patience_s: float = 2.0
    """A request that takes longer no longer counts against `alpha`; its answer is still welcome. A fifth of
    all entries is dead in a public table, and most of those do not even refuse."""
    max_in_flight: int = 30
    max_queries: int = 200


@dataclass(frozen=True, slots=True)
class LookupResult:
    """What a lookup has so far, or at its end."""

    ending: Ending | None
    closest: tuple[PeerId, ...]
    """The nearest peers that answered, at most `k`, nearest first."""
    found: tuple[Multiaddr, ...]
    """Goal PEER: the addresses somebody told, those that were rejected aside."""
    heard: int
    queried: int
    """Requests sent."""
    answered: int
    failed: int
    hops: int
    """Answers that led to what was found, or to the nearest peer that answered, one after the other."""
    elapsed_s: float
