"""What the routing table takes and gives: outcomes, and its picture for people (`dht stat`)."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Protocol

from p2pfwd.core.peer_id import PeerId


class Chooser(Protocol):
    """The part of `random.Random` that is needed."""

    def randrange(self, stop: int, /) -> int:
        """A number from 0 to stop - 1."""


class Admission(Enum):
    """What became of a peer that was offered."""

    ADDED = "added"
    KNOWN = "known"
    REPLACEMENT = "replacement"
    CROWDED = "crowded"
    """Its IP group has all the entries it may have."""
    OURSELVES = "ourselves"


class Eviction(NamedTuple):
    """Whether an entry was dropped, and who took its place."""

    dropped: bool
    promoted: PeerId | None


class EntryInfo(NamedTuple):
    """One entry for people to look at; times are the caller's `now`."""

    peer_id: PeerId
    cpl: int
    added_at: float
    seen_at: float
    suspect: bool


class BucketInfo(NamedTuple):
    """One bucket: entries share `cpl` bits with us, or at least so many in the `last` bucket."""

    cpl: int
    last: bool
    entries: tuple[EntryInfo, ...]
    replacements: tuple[PeerId, ...]
    """Oldest first."""
