"""Which relays are asked for a place now, when to look again, and where others find them: a pure policy.

`WANTED` places are held: those the owner has named first, then peers of his own, then strangers, the fastest
first. Those named are asked though others were sooner, and have given places: `WANTED` of them are held
besides. A relay is passed over for one of the reasons below, and each of them has its end:

| a connected relay is not asked, as | until |
| --- | --- |
| it is being asked | the answer: the caller looks again |
| its place is held | `renew_at` |
| it rests after a refusal | `rests_until`, where a place of its kind is missing |
| enough places are held, or asked for | one is lost, or denied: the caller looks again |
| it is a stranger's, and few are known to choose from | the fourth comes: the caller; `choose_at` |

So nothing is waited for that neither a time nor an event ends: `Plan.look_at` is of the same moment as the
decision. What has its end between two looks at the clock would be passed over by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from typing import Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, tcp_endpoint
from p2pfwd.core.peer_id import PeerId

WANTED: Final = 2
"""Places held: one relay may go."""

ENOUGH_TO_CHOOSE: Final = 4
"""Strangers that relay, of whom the fastest are asked; with fewer known, after a while."""

UNKNOWN_RTT_S: Final = 1.0

MAX_ANNOUNCED: Final = 4
"""Addresses of one relay that are told to others."""


class Whose(IntEnum):
    """Whose relay it is; the first are asked first."""

    NAMED = 0
    """The owner has named it as a relay."""
    OWN = 1
    """A peer of the owner's."""
    STRANGER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A relay that is connected, or has given a place. Times are seconds of one clock."""

    peer: PeerId
    whose: Whose
    rtt_s: float | None = None
    is_asked: bool = False
    """A question is on its way."""
    renew_at: float | None = None
    """Of the place held there; None: none is."""
    rests_until: float = -inf


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now."""

    ask: tuple[PeerId, ...]
    """For a place, or to renew the one held."""
    look_at: float
    """When something is to be done that no event tells of; inf: never."""


def plan(relays: Sequence[Known], now: float, choose_at: float) -> Plan:
    """Whom to ask. `choose_at`: from when on strangers are asked though there are few; they are left out of
    `relays` where none is wanted."""
    held = [it for it in relays if it.renew_at is not None]
    places = held + [it for it in relays if it.renew_at is None and it.is_asked]
    idle = [it for it in relays if it.renew_at is None and not it.is_asked]
    idle.sort(key=lambda it: (it.whose, UNKNOWN_RTT_S if it.rtt_s is None else it.rtt_s))
    free = [it for it in idle if it.rests_until <= now]
    strangers = sum(it.whose is Whose.STRANGER for it in free)
    may_choose = strangers >= ENOUGH_TO_CHOOSE or now >= choose_at
    asked: list[Known] = []
    for it in free:
        if _is_wanted(it, places) and (may_choose or it.whose is not Whose.STRANGER):
            asked.append(it)
            places.append(it)
    ends = [it.rests_until for it in idle if it.rests_until > now and _is_wanted(it, places)]
    if strangers and not may_choose and len(places) < WANTED:
        ends.append(choose_at)
    due: list[Known] = []
    for it in held:
        if it.is_asked or it.renew_at is None:
            continue
        if it.renew_at <= now:
            due.append(it)
        else:
            ends.append(it.renew_at)
    return Plan(tuple(it.peer for it in due + asked), min(ends, default=inf))


def to_announce(found: Multiaddr | None, told: Sequence[Multiaddr]) -> list[Multiaddr]:
    """Where others reach a relay: where this node has `found` it, and what it has `told` of itself.

    A relay in a lab or an office tells nothing, or what only its neighbours can use.
    """
    public = [addr for addr in told if address_class(addr) is AddressClass.PUBLIC]
    addrs = [] if found is None else [found]
    addrs += [addr.without_peer_id() for addr in public or told]
    return [addr for addr in dict.fromkeys(addrs) if tcp_endpoint(addr) is not None][:MAX_ANNOUNCED]


def _is_wanted(relay: Known, places: Sequence[Known]) -> bool:
    """Whether a place there is missing, beside those held and asked for."""
    if len(places) < WANTED:
        return True
    return relay.whose is Whose.NAMED and sum(it.whose is Whose.NAMED for it in places) < WANTED
