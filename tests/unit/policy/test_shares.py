"""Shares: what one peer and one network may have of what is everybody's. Nobody uses up another's."""

from __future__ import annotations

import gc

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.pace import Rate
from p2pfwd.policy.shares import FEW, Held, Most, Paced, Party, Rates


def party(number: int, addr: str = "") -> Party:
    peer = PeerId(b"\x12\x20" + number.to_bytes(32, "big"))
    return Party.at(peer, Multiaddr.parse(addr or f"/ip4/{number + 1}.2.3.4/tcp/1"))


def taken(held: Held, who: Party, most: int = 1000) -> int:
    """How many `who` can take."""
    count = 0
    while held.full(who) is None and count < most:
        held.take(who)
        count += 1
    return count


@pytest.mark.parametrize(
    ("addr", "networks"),
    [
        ("/ip4/127.0.0.1/tcp/1", 0),  # programs of this machine count by peer only
        ("/ip6/::1/tcp/1", 0),
        ("/ip4/198.51.100.7/tcp/1", 2),
        ("/ip6/2001:db8::7/tcp/1", 3),
    ],
)
def test_whom_a_connection_counts_for(addr: str, networks: int) -> None:
    assert len(party(1, addr).networks) == networks


def test_a_peer_its_network_and_all_have_bounds_of_their_own() -> None:
    held = Held(Most(all=10, peer=2, network=3))
    alice, neighbour = party(1, "/ip4/192.0.2.1/tcp/1"), party(2, "/ip4/192.0.2.1/tcp/2")
    assert taken(held, alice) == 2 and held.full(alice) == "peer"
    assert taken(held, neighbour) == 1 and held.full(neighbour) == "network"
    others = [party(number) for number in range(10, 20)]
    assert sum(taken(held, one) for one in others) == 7
    assert held.full(party(30)) == "all"


def test_a_wider_network_has_twice_and_four_times_as_much() -> None:
    held = Held(Most(all=1000, peer=1000, network=2))
    same_24 = [party(n, f"/ip4/192.0.2.{n}/tcp/1") for n in range(9)]
    assert sum(taken(held, one) for one in same_24) == 4
    same_48 = [party(n, f"/ip6/2001:db8:1:{n:x}00::1/tcp/1") for n in range(9)]
    assert sum(taken(held, one) for one in same_48) == 8


def test_what_is_given_back_is_there_for_the_next() -> None:
    held = Held(Most(all=1, peer=1, network=1))
    alice, bob = party(1), party(2)
    held.take(alice)
    assert held.full(bob) == "all"
    held.give(alice)
    assert held.full(bob) is None and held.total == 0


def test_two_connections_of_one_peer_count_together_and_nothing_is_kept_of_who_is_gone() -> None:
    held = Held(Most(all=9, peer=2, network=9))
    one, two = party(1), party(1, "/ip4/203.0.113.9/tcp/1")
    held.take(one)
    held.take(two)
    assert held.full(one) == held.full(two) == "peer"
    held.give(two)
    del two
    assert held.full(one) is None
    held.give(one)
    del one
    gc.collect()
    assert not held._counts


def test_the_last_part_is_kept_for_those_who_hold_little() -> None:
    """One listen of 4,096 streams: a peer has half, two of them do not have it all."""
    held = Held(Most.halves(4096))
    assert taken(held, party(1), 9999) == 2048 and held.full(party(1)) == "peer"
    assert taken(held, party(2), 9999) == 2048 - 512 and held.full(party(2)) == "all"
    assert taken(held, party(3), 9999) == FEW


def test_made_up_peers_of_one_network_do_not_use_up_what_is_kept() -> None:
    """Each of them holds little; together they hold all that one network may."""
    held = Held(Most.halves(4096))
    made_up = [party(n, f"/ip4/192.0.2.{n % 250}/tcp/{n}") for n in range(1, 1000)]
    for one in made_up:
        taken(held, one, FEW - 1)
    assert held.total == 4096 - 512
    assert taken(held, party(9999, "/ip4/198.51.100.7/tcp/1"), 9999) == FEW


def test_a_peer_that_is_too_fast_uses_up_its_own_share_only() -> None:
    paced = Paced(Rates(peer=Rate(1, 2), network=Rate(1, 3), all=Rate(1, 4)))
    alice, neighbour = party(1, "/ip4/192.0.2.1/tcp/1"), party(2, "/ip4/192.0.2.1/tcp/2")
    assert [paced.empty(alice, 0.0) for _ in range(50)] == [None, None, *["peer"] * 48]
    assert [paced.empty(neighbour, 0.0) for _ in range(2)] == [None, "network"]
    assert [paced.empty(party(9), 0.0) for _ in range(2)] == [None, "all"]
    assert paced.empty(party(9), 1.0) is None


def test_looking_takes_nothing() -> None:
    paced = Paced(Rates(peer=Rate(1, 1), network=Rate(1, 9)))
    assert paced.is_spent(party(1), 0.0) is None and paced.is_spent(party(1), 0.0) is None
    assert paced.empty(party(1), 0.0) is None
    assert paced.is_spent(party(1), 0.0) == "peer" and paced.is_spent(party(2), 0.0) is None
    assert paced.is_spent(party(1), 1.0) is None


def test_who_asks_too_fast_waits_each_time_a_little_longer_and_no_longer_than_the_most() -> None:
    paced = Paced(Rates(peer=Rate(10, 1), network=Rate(1000, 1000), all=Rate(1000, 1000)))
    waits = [paced.waits_s(party(1), 0.0, 0.25) for _ in range(5)]
    assert [wait for wait, _ in waits] == pytest.approx([0.0, 0.1, 0.2, 0.0, 0.0])
    assert [whose for _, whose in waits] == [None, None, None, "peer", "peer"]
    assert paced.waits_s(party(2), 0.0, 0.25) == (0.0, None), "nobody else waits"


def test_a_wait_for_ones_own_share_counts_for_the_wider_ones() -> None:
    """Two waits after each other would be twice as long as needed."""
    paced = Paced(Rates(peer=Rate(10, 1), network=Rate(10, 1), all=Rate(10, 1)))
    assert paced.waits_s(party(1), 0.0, 5.0) == (0.0, None)
    wait_s, whose = paced.waits_s(party(1), 0.0, 5.0)
    assert (wait_s, whose) == (pytest.approx(0.1), None)


def test_a_debt_of_two_is_taken_of_both_and_lasts_as_long_as_the_longer_one() -> None:
    paced = Paced(Rates(peer=Rate(10, 10), network=Rate(100, 100), all=Rate(1000, 1000)))
    alice, bob, carol = party(1), party(2), party(3)
    assert paced.owes_s((alice, bob), 0.0, 10, 60.0) == 0.0
    assert paced.owes_s((carol, bob), 0.0, 10, 60.0) == 1.0, "of whom the first has poured into as well"
    assert paced.owes_s((alice, carol), 0.0, 10, 60.0) == 1.0
    assert paced.owes_s((carol,), 0.0, 10, 60.0) == 2.0


def test_what_two_have_in_common_pays_once() -> None:
    paced = Paced(Rates(peer=Rate(1000, 1000), network=Rate(10, 10), all=Rate(1000, 1000)))
    neighbours = party(1, "/ip4/192.0.2.1/tcp/1"), party(2, "/ip4/192.0.2.1/tcp/2")
    assert paced.owes_s(neighbours, 0.0, 10, 60.0) == 0.0
    assert paced.owes_s(neighbours, 0.0, 10, 60.0) == 1.0
    in_all = Paced(Rates(peer=Rate(1000, 1000), network=Rate(1000, 1000), all=Rate(10, 10)))
    assert in_all.owes_s((party(1), party(2)), 0.0, 20, 60.0) == 1.0


def test_a_debt_is_let_off_beyond_the_longest_that_it_may_last() -> None:
    paced = Paced(Rates(peer=Rate(10, 10), network=Rate(10, 10), all=Rate(10, 10)))
    assert paced.owes_s((party(1),), 0.0, 10_000, 30.0) == 30.0
    assert paced.owes_s((party(1),), 30.0, 10, 30.0) == 1.0
    assert paced.owes_s((party(2),), 30.0, 0, 30.0) == 1.0, "as all do"
