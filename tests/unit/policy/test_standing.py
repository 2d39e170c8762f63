"""The table of standings."""

from __future__ import annotations

import pytest

from p2pfwd.policy.nat_kind import NatKind
from p2pfwd.policy.standing import Needs, Place, Standing, needs, standing
from p2pfwd.wire.reachability import Reachability

PUBLIC, PRIVATE, UNKNOWN = Reachability.PUBLIC, Reachability.PRIVATE, Reachability.UNKNOWN
EASY, HARD, NEXT = NatKind.ENDPOINT_INDEPENDENT, NatKind.SYMMETRIC, NatKind.SEQUENTIAL


@pytest.mark.parametrize(
    ("reachability", "nat", "said"),
    [
        (PUBLIC, NatKind.NONE, Standing.PUBLIC),
        (PUBLIC, HARD, Standing.PUBLIC),
        (PRIVATE, EASY, Standing.PUNCHABLE),
        (PRIVATE, NatKind.NONE, Standing.PUNCHABLE),
        (PRIVATE, HARD, Standing.UNPUNCHABLE),
        (PRIVATE, NEXT, Standing.UNPUNCHABLE),
        (UNKNOWN, HARD, Standing.UNPUNCHABLE),
        (PRIVATE, NatKind.UNKNOWN, Standing.HIDDEN),
        (UNKNOWN, EASY, Standing.UNKNOWN),
        (UNKNOWN, NatKind.UNKNOWN, Standing.UNKNOWN),
    ],
)
def test_where_a_node_stands(reachability: Reachability, nat: NatKind, said: Standing) -> None:
    assert standing(reachability, nat, has_network=True) is said
    assert standing(reachability, nat, has_network=False) is Standing.OFFLINE


def test_a_mapped_port_is_named() -> None:
    assert standing(PUBLIC, EASY, has_network=True, is_mapped=True) is Standing.MAPPED
    assert standing(PRIVATE, EASY, has_network=True, is_mapped=True) is Standing.PUNCHABLE


@pytest.mark.parametrize(
    ("stands", "found", "place", "needed"),
    [
        (Standing.PUBLIC, True, Place.NONE, Needs.ID),
        (Standing.MAPPED, False, Place.NONE, Needs.ADDRESS),
        (Standing.PUNCHABLE, True, Place.LIMITED, Needs.ID),
        (Standing.PUNCHABLE, False, Place.UNLIMITED, Needs.ADDRESS),
        (Standing.PUNCHABLE, True, Place.NONE, Needs.RELAY),
        (Standing.UNPUNCHABLE, True, Place.LIMITED, Needs.RELAY),
        (Standing.UNPUNCHABLE, True, Place.UNLIMITED, Needs.ID),
        (Standing.HIDDEN, True, Place.NONE, Needs.RELAY),
        (Standing.UNKNOWN, True, Place.NONE, Needs.UNKNOWN),
        (Standing.UNKNOWN, True, Place.LIMITED, Needs.ID),
        (Standing.OFFLINE, True, Place.LIMITED, Needs.NETWORK),
    ],
)
def test_what_a_peer_needs(stands: Standing, found: bool, place: Place, needed: Needs) -> None:
    assert needs(stands, is_lan=False, is_found=found, place=place) is needed
    on_lan = Needs.NETWORK if stands is Standing.OFFLINE else Needs.SAME_NETWORK
    assert needs(stands, is_lan=True, is_found=found, place=place) is on_lan
