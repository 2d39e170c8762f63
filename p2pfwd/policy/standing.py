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
