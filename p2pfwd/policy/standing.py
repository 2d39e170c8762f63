"""Where this node stands for others, in one word that people and programs are told: a pure policy.

| network | reachability | NAT | standing |
| --- | --- | --- | --- |
| none | | | offline |
| any | public, by a mapped port | | mapped |
| any | public | | public |
| any | not public | every destination gets another port | unpunchable |
| any | private | the same port for all, or none is translated | punchable |
| any | private | not known | hidden |
| any | unknown | any other | unknown |

And what a peer needs to reach it, the first that applies:

| standing | in the DHT | a place at a relay | needs |
| --- | --- | --- | --- |
| offline | | | network |
| in `lan`, any | | | same-network: the peer ID there |
| public, mapped | joined | | id: nothing else |
| public, mapped | not | | address: the line that `listen` prints |
| unpunchable | | none without limits | relay |
| any other | joined | held | id |
| any other | not | held | address |
| unknown | | none | unknown |
| any other | | none | relay |
"""

from __future__ import annotations

from enum import Enum

from p2pfwd.policy.nat_kind import NatKind
from p2pfwd.wire.reachability import Reachability


class Standing(Enum):
    """How others can get here."""

    OFFLINE = "offline"
    PUBLIC = "public"
    MAPPED = "mapped"
    PUNCHABLE = "punchable"
    UNPUNCHABLE = "unpunchable"
    HIDDEN = "hidden"
    UNKNOWN = "unknown"


class Needs(Enum):
    """What a peer has to have to reach this node."""

    ID = "id"
    SAME_NETWORK = "same-network"
    ADDRESS = "address"
    RELAY = "relay"
    NETWORK = "network"
    UNKNOWN = "unknown"


class Place(Enum):
    """The best place that this node has at a relay."""

    NONE = "none"
    LIMITED = "limited"
    """Enough to punch a hole, and no tunnel goes over it."""
    UNLIMITED = "unlimited"


def needs(standing: Standing, *, is_lan: bool, is_found: bool, place: Place) -> Needs:
    """See the table above. `is_found`: whether a DHT has let this node in, and so tells where it is."""
    if standing is Standing.OFFLINE:
        return Needs.NETWORK
    if is_lan:
        return Needs.SAME_NETWORK
    if standing not in (Standing.PUBLIC, Standing.MAPPED):
        if standing is Standing.UNPUNCHABLE and place is not Place.UNLIMITED:
            return Needs.RELAY
        if place is Place.NONE:
            return Needs.UNKNOWN if standing is Standing.UNKNOWN else Needs.RELAY
    return Needs.ID if is_found else Needs.ADDRESS


def standing(
    reachability: Reachability, nat: NatKind, *, has_network: bool, is_mapped: bool = False
) -> Standing:
    """`has_network`: whether there is an address beyond this machine; `is_mapped`: a proved one is a router's
    port that was asked for."""
    if not has_network:
        return Standing.OFFLINE
    if reachability is Reachability.PUBLIC:
        return Standing.MAPPED if is_mapped else Standing.PUBLIC
    if nat.is_per_destination:
        return Standing.UNPUNCHABLE
    if reachability is Reachability.UNKNOWN:
        return Standing.UNKNOWN
    return Standing.HIDDEN if nat is NatKind.UNKNOWN else Standing.PUNCHABLE
