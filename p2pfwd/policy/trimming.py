"""Which connections go: those nobody needs, those too many, and one where a newcomer needs its place.

Pure; a connection is a `Standing`, and the answers are places in the list that was given. Usefulness counts
what this node's owner has of a connection, not how busy the peer keeps it: a stranger's streams of
identify, ping or the DHT are none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from p2pfwd.policy.shares import Rank

FEW: Final = 8
"""Connections of one crowd (a /24, a /56) that are nothing unusual. Beyond, it goes before others."""


class Use(IntEnum):
    """What a connection is good for, the least first."""

    NONE = 0
    ASKED = 1
    """This node has a stream of its own open on it: it waits for an answer."""
    TUNNELS = 2
    """A stranger uses a service here, or seems to."""
    KEPT = 3
    """This node wants it: kept, forwarded to, needed to be found."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One connection. Times are monotonic seconds."""

    use: Use
    rank: Rank
    useful_at: float
    """When it was last of use, or came up."""
    crowd: str
    """Whom it counts for, as `192.0.2.0/24`."""
    is_outbound: bool = False
    """This node opened it."""


def to_trim(standings: Sequence[Standing], now: float, high: int, low: int, grace_s: float) -> list[int]:
    """Above `high`: whom to close to come down to `low`. Crowds first, then the longest idle; own peers last.

    Spared is who is of any use, or was within `grace_s`.
    """
    if len(standings) <= high:
        return []
    crowds = Counter(standing.crowd for standing in standings)
    idle = [
        place
        for place, standing in enumerate(standings)
        if standing.use is Use.NONE and now - standing.useful_at > grace_s
    ]
    return sorted(idle, key=lambda place: _order(standings[place], crowds))[: len(standings) - low]


def to_let_go(standings: Sequence[Standing], now: float, idle_s: float) -> list[int]:
    """Whom to close though there is room, the longest idle first: nobody needs the connection.

    Only what this node opened: of the others it cannot know what they are for, and who opened one for nothing
    lets go of it. Spared is who is of any use, an own peer, or was of use within `idle_s`.
    """
    idle = [
        place
        for place, standing in enumerate(standings)
        if standing.is_outbound
        and standing.use is Use.NONE
        and standing.rank is not Rank.OWN
        and now - standing.useful_at > idle_s
    ]
    return sorted(idle, key=lambda place: standings[place].useful_at)


def to_replace(standings: Sequence[Standing], newcomer: Rank) -> list[int]:
    """Who gives way to newcomers where all places are taken, one after the other; nobody: the newcomer does.

    An own peer gives way to another alone, if it is of no use. Others that have tunnels, or were served, give
    way to a stranger only where their crowd has more than `FEW`: thousands of identities with a silent tunnel
    each are one neighbourhood, honest users are not. To an own peer they do in any case.
    """
    crowds = Counter(standing.crowd for standing in standings)
    left = Counter(crowds)

    def may_go(standing: Standing) -> bool:
        """Judged by how many of its crowd are left."""
        is_idle = standing.use is Use.NONE
        if standing.use is Use.KEPT or standing.rank is Rank.OWN:
            return is_idle and newcomer is Rank.OWN
        if standing.use is not Use.TUNNELS and standing.rank is Rank.STRANGER:
            return True
        is_above = newcomer > standing.rank or (is_idle and newcomer is standing.rank)
        return is_above or left[standing.crowd] > FEW

    def first(place: int) -> tuple[bool, Use, Rank, int, float]:
        standing = standings[place]
        return standing.rank is Rank.OWN, standing.use, *_order(standing, crowds)

    candidates = [place for place, standing in enumerate(standings) if may_go(standing)]
    order = []
    for place in sorted(candidates, key=first):
        if may_go(standings[place]):
            order.append(place)
            left[standings[place].crowd] -= 1
    return order


def _order(standing: Standing, crowds: Counter[str]) -> tuple[Rank, int, float]:
    """Who goes first has the least."""
    return standing.rank, -max(FEW, crowds[standing.crowd]), standing.useful_at
