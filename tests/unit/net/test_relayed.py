"""Pins whose place at a relay goes to a newcomer where strangers have all of theirs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.relayed import GivingWay, Place
from p2pfwd.policy.relay_bounds import QUIET_S
from p2pfwd.policy.shares import Most, Party, Whose
from tests.support.peers import peer

NOW = 100_000.0
NEWCOMER = Party.at(peer(1000), Multiaddr.parse("/ip4/99.9.9.9/tcp/1"))


def place(number: int, quiet_s: float = QUIET_S, host: str = "") -> Place:
    """Of a stranger, of no use for so long; alone in its network."""
    party = Party.at(peer(number), Multiaddr.parse(f"/ip4/{host or f'{number}.0.0.1'}/tcp/1"))
    link = cast("Any", None)
    return Place(peer(number), link, party, False, NOW - quiet_s, NOW - quiet_s, NOW + 1)


class Relay:
    def __init__(self) -> None:
        self.used: set[PeerId] = set()
        self.giving_way = GivingWay(Most(all=4, peer=1, network=2), self.used.__contains__)

    def victim(
        self, *places: Place, newcomer: Party = NEWCOMER, whose: Whose = "all", now: float = NOW
    ) -> Place | None:
        return self.giving_way.victim(places, newcomer, whose, now)


def test_the_longest_quiet_goes_and_none_that_was_of_use_of_late() -> None:
    old, older, new = place(1, QUIET_S + 1), place(2, QUIET_S + 2), place(3, QUIET_S - 1)
    assert Relay().victim(old, older, new) is older
    assert Relay().victim(new) is None, "two newcomers would push each other out without an end"


def test_it_is_one_of_the_network_that_has_most() -> None:
    longest, one, two = place(1, 9 * QUIET_S), place(2, host="12.0.0.1"), place(3, host="12.0.0.2")
    assert Relay().victim(longest, one, two) is one
    used = Relay()
    used.used |= {one.peer, two.peer}
    assert used.victim(longest, one, two) is longest, "or of the next one, where these are of use"


def test_a_newcomer_whose_network_is_full_takes_the_place_of_a_neighbour() -> None:
    elsewhere, one, two = place(1, 9 * QUIET_S), place(2, host="99.9.9.9"), place(3, host="99.9.9.9")
    assert Relay().victim(elsewhere, one, two, whose="network") is one
    busy = replace(one, quiet_since=NOW), replace(two, quiet_since=NOW)
    assert Relay().victim(elsewhere, *busy, whose="network") is None
    assert Relay().victim(elsewhere, one, two, whose="peer") is None


def test_it_is_never_that_of_an_own_peer_or_of_one_who_uses_its_connection_or_the_newcomers() -> None:
    relay, stranger = Relay(), place(1)
    relay.used.add(stranger.peer)
    assert relay.victim(stranger, replace(place(2), is_own=True)) is None
    assert relay.victim(place(3), newcomer=place(3).party) is None


def test_who_lost_its_place_takes_no_others_for_as_long() -> None:
    relay, gone, left = Relay(), place(1, QUIET_S + 1), place(2)
    assert relay.victim(gone, left) is gone
    assert relay.victim(left, newcomer=gone.party, now=NOW + QUIET_S - 1) is None
    assert relay.victim(left, newcomer=gone.party, now=NOW + QUIET_S) is left
    assert list(relay.giving_way._lost) == [left.peer], "and then nothing is kept of it"
