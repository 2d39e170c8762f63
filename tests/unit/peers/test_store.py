"""peers.store: lives of addresses, what hearsay cannot do, whose peers they are, who is told."""

from __future__ import annotations

from math import inf

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.peers.claims import MAX_CLAIMED, REPEATED_S, STALE_S, KnownAddress
from p2pfwd.peers.store import (
    GRACE_S,
    LISTED,
    MAX_ADDRESS_BYTES,
    MAX_DHTS_PER_PEER,
    MAX_SERVED,
    SERVED_PROOF_S,
)
from p2pfwd.policy.dial_plan import Candidate
from p2pfwd.policy.provenance import Provenance, Standing
from tests.support.peers import peer
from tests.unit.peers.store_rig import ALICE, BOB, Watched, addr

GIVEN, PROVED, ITSELF, HEARSAY = Provenance.GIVEN, Provenance.PROVED, Provenance.ITSELF, Provenance.HEARSAY
BETTER = [GIVEN, PROVED, ITSELF]
HOME = Multiaddr.parse("/ip4/192.168.1.10/tcp/4011")
"""An address that another machine has in another network."""


def everywhere(_: Multiaddr) -> bool:
    return True


# --- lives of addresses ---------------------------------------------------------------------------


def test_an_address_lives_its_time_and_is_then_stale_but_dialable() -> None:
    it = Watched()
    it.store.add_addrs(ALICE, [addr(1).with_peer_id(ALICE)], 10.0, GIVEN)
    assert it.store.addrs(ALICE) == it.store.dialable(ALICE) == [addr(1)]
    it.clock.now += 11
    assert it.store.addrs(ALICE) == []
    assert it.store.dialable(ALICE) == [addr(1)]
    assert it.store.known(ALICE) == [KnownAddress(addr(1), GIVEN, 11.0, -1.0)]
    assert it.store.candidates(ALICE, [addr(1)]) == [Candidate(addr(1), GIVEN, True)]
    it.clock.now += STALE_S
    assert it.store.dialable(ALICE) == [] and it.store.known(ALICE) == []


def test_the_best_founded_come_first_and_stale_hearsay_only_where_nothing_else_is() -> None:
    it = Watched()
    it.store.add_addrs(ALICE, [addr(1)], 10.0, HEARSAY)
    it.clock.now += 11
    assert it.store.dialable(ALICE) == [addr(1)]
    it.store.add_addrs(ALICE, [addr(2)], 10.0, HEARSAY)
    assert it.store.dialable(ALICE) == [addr(2)]
    it.store.add_addrs(ALICE, [addr(3)], 10.0, PROVED)
    it.store.add_addrs(ALICE, [addr(4)], 10.0, GIVEN)
    it.store.pin(ALICE, [addr(5)], "t")
    assert it.store.addrs(ALICE) == it.store.dialable(ALICE) == [addr(5), addr(4), addr(3), addr(2)]


@pytest.mark.parametrize("where", [addr(1), HOME])
@pytest.mark.parametrize("provenance", Provenance)
def test_somebody_else_at_an_address_takes_out_what_was_told_and_not_what_was_given(
    provenance: Provenance, where: Multiaddr
) -> None:
    it = Watched()
    it.store.add_addrs(ALICE, [where], 100.0, provenance)
    it.store.add_addrs(ALICE, [where], 100.0, HEARSAY)
    it.store.refute_addr(ALICE, where.with_peer_id(ALICE))
    stays = provenance is GIVEN or (provenance is PROVED and where == HOME)
    assert it.store.dialable(ALICE) == ([where] if stays else [])
    assert it.store._addresses == stays
    if stays:
        assert it.store.candidates(ALICE, [where]) == [Candidate(where, provenance, provenance is PROVED)]


def test_a_place_at_home_is_known_after_a_stay_where_another_machine_has_its_address() -> None:
    """It goes after what is fresh, nobody is told of it, and it has its days as each stale address."""
    it = Watched()
    it.store.connected(ALICE, HOME)
    it.clock.now += 2 * STALE_S
    it.store.refute_addr(ALICE, HOME)
    it.store.disconnected(ALICE)
    assert it.store.addrs(ALICE) == it.store.tellable(ALICE) == []
    assert it.store.known(ALICE) == [KnownAddress(HOME, PROVED, 0.0, 0.0)]
    later = Watched()
    later.store.restore(ALICE, it.store.best_claims(ALICE), None)
    later.clock.now += 1
    assert later.store.candidates(ALICE, later.store.dialable(ALICE)) == [Candidate(HOME, PROVED, True)]
    later.store.connected(ALICE, HOME)
    assert later.store.candidates(ALICE, [HOME]) == [Candidate(HOME, PROVED)], "at home again"
    it.clock.now += STALE_S + 1
    assert it.store.dialable(ALICE) == []


def test_what_the_owner_alone_has_said_is_told_to_nobody() -> None:
    """A DHT server told its neighbours every address that its owner had typed, proved by nobody."""
    it = Watched()
    it.store.add_addrs(ALICE, [addr(1), addr(2)], 100.0, GIVEN)
    it.store.pin(ALICE, [addr(3)], "t")
    assert it.store.tellable(ALICE) == []
    it.store.add_addrs(ALICE, [addr(2)], 100.0, ITSELF)
    it.store.add_addrs(ALICE, [addr(4)], 100.0, HEARSAY)
    it.store.connected(ALICE, addr(3))
    assert set(it.store.tellable(ALICE)) == {addr(2), addr(3), addr(4)}
    assert it.store.tellable(BOB) == []


def test_peers_of_one_program_share_what_they_serve_and_it_goes_with_the_last() -> None:
    it = Watched()
    for number in range(2):
        it.store.identified(peer(number), "kubo/0.22", [f"/x/{name}" for name in "ab"])
    both = [id(it.store.protocols(peer(number))) for number in range(2)]
    assert both[0] == both[1]
    it.store.identified(peer(0), "kubo/0.22", ["/x/c"])
    assert len(it.store._protocols) == 2
    it.store.identified(peer(1), "kubo/0.22", ["/x/c"])
    assert len(it.store._protocols) == 1


def test_a_longer_life_is_not_shortened_by_a_shorter_one() -> None:
    it = Watched()
    it.store.add_addrs(ALICE, [addr(1)], 100.0, GIVEN)
    it.store.add_addrs(ALICE, [addr(1)], 1.0, GIVEN)
    it.store.add_addrs(ALICE, [addr(1)], 1.0, ITSELF)
    it.clock.now += 50
    assert it.store.addrs(ALICE) == [addr(1)]


def test_what_a_connected_peer_said_holds_while_it_is_and_for_the_time_of_grace() -> None:
    it = Watched()
    it.store.connected(ALICE, addr(1))
    it.store.identified(ALICE, "kubo/0.22", ["/x/a"])
    it.store.tells(ALICE, [addr(2)], everywhere)
    it.clock.now += 10 * STALE_S
    assert it.store.addrs(ALICE) == [addr(1), addr(2)]
    assert it.store.known(ALICE)[1] == KnownAddress(addr(2), ITSELF, 0.0, inf)
    it.changes()
    it.store.disconnected(ALICE)
    assert it.changes() == [ALICE]
    it.clock.now += GRACE_S - 1
    assert it.store.addrs(ALICE) == [addr(1), addr(2)]
    it.clock.now += 2
    assert it.store.addrs(ALICE) == [] and it.store.dialable(ALICE) == [addr(1), addr(2)]
    it.store.disconnected(BOB)  # nobody is known of that name
    assert it.store.peers() == [ALICE]


def test_what_a_connected_peer_takes_back_ages_and_only_as_far_as_it_can_speak_there() -> None:
    """Over a public connection a peer tells no private addresses: it does not take them back by that."""
    it = Watched()
    private, public, new = (
        Multiaddr.parse(f"/ip4/{host}/tcp/1") for host in ("10.0.0.1", "1.2.3.4", "1.2.3.5")
    )
    it.store.connected(ALICE, public)
    it.store.tells(ALICE, [private, public], everywhere)
    it.store.tells(ALICE, [new], lambda a: a != private)
    it.clock.now += GRACE_S + 1
    assert set(it.store.addrs(ALICE)) == {public, private, new}, (
        "the public one is proved: we are connected there"
    )
    it.store.tells(ALICE, [new], everywhere)
    it.clock.now += GRACE_S + 1
    assert set(it.store.addrs(ALICE)) == {public, new}


def test_that_a_peer_came_from_somewhere_proves_no_address() -> None:
    it = Watched()
    it.store.connected(ALICE, None)
    assert it.store.known(ALICE) == [] and it.store.standing(ALICE) is Standing.MET
    it.store.connected(ALICE, addr(1))
    assert it.store.candidates(ALICE, [addr(1)]) == [Candidate(addr(1), PROVED)]
    assert it.store.standing(ALICE) is Standing.REACHED


# --- what hearsay cannot do -----------------------------------------------------------------------


@pytest.mark.parametrize("better", BETTER)
def test_hearsay_lowers_hides_cuts_and_evicts_nothing(better: Provenance) -> None:
    it = Watched()
    it.store.add_addrs(ALICE, [addr(1)], 3600.0, better)
    before = it.store.candidates(ALICE, [addr(1)])
    it.store.add_addrs(ALICE, [addr(1)], 360.0, HEARSAY)
    for number in range(2, 500):
        it.store.add_addrs(ALICE, [addr(number)], 9999.0, HEARSAY)
    assert it.store.candidates(ALICE, [addr(1)]) == before
    assert it.store.dialable(ALICE)[0] == addr(1)
    assert len(it.store.known(ALICE)) == 1 + MAX_CLAIMED[HEARSAY]
    it.clock.now += 7200  # and where it is stale, too
    assert it.store.dialable(ALICE)[0] == addr(1)
    assert it.store.candidates(ALICE, [addr(1)]) == [Candidate(addr(1), better, True)]


def test_only_what_the_owner_said_is_trusted_and_nobody_can_lower_that() -> None:
    it = Watched()
    given, told, pinned = (Multiaddr.parse(f"/dns4/{name}.example/tcp/1") for name in ("a", "b", "c"))
    it.store.add_addrs(ALICE, [given], 100, GIVEN)
    it.store.add_addrs(ALICE, [told], 100, ITSELF)
    assert not it.store.is_trusted(ALICE, pinned)
    it.store.pin(ALICE, [pinned], "named")
    it.store.tells(ALICE, [given, pinned], everywhere)
    it.store.add_addrs(ALICE, [given, pinned], 100, HEARSAY)
    assert [it.store.is_trusted(ALICE, each) for each in (given, told, pinned)] == [True, False, True]
    assert it.store.is_trusted(ALICE, given.with_peer_id(ALICE))


@pytest.mark.parametrize("provenance", list(Provenance))
def test_each_provenance_has_a_bound_of_its_own(provenance: Provenance) -> None:
    it = Watched()
    for number in range(1, 200):
        it.store.add_addrs(ALICE, [addr(number)], float(number), provenance)
    latest = [addr(number) for number in range(200 - MAX_CLAIMED[provenance], 200)]
    assert it.store.addrs(ALICE) == latest


def test_what_is_raised_from_hearsay_counts_where_it_is_then() -> None:
    """Or a peer that first has others say what it then says itself could fill the memory."""
    it = Watched()
    for number in range(1, 500):
        it.store.add_addrs(ALICE, [addr(number)], 100.0, HEARSAY)
        it.store.add_addrs(ALICE, [addr(number)], 100.0, ITSELF)
    assert len(it.store.known(ALICE)) <= MAX_CLAIMED[ITSELF] + MAX_CLAIMED[HEARSAY]


def test_of_a_long_list_those_are_taken_that_this_node_could_dial() -> None:
    it = Watched()
    quic = [Multiaddr.parse(f"/ip4/192.0.2.1/udp/{port}/quic-v1") for port in range(1, 400)]
    it.store.tells(ALICE, [*quic, addr(7)], everywhere)
    assert addr(7) in it.store.addrs(ALICE) and len(it.store.addrs(ALICE)) == MAX_CLAIMED[ITSELF]
    long = Multiaddr.parse(f"/dns/{'a' * MAX_ADDRESS_BYTES}/tcp/1")
    it.store.add_addrs(BOB, [long], 10.0, HEARSAY)
    assert it.store.addrs(BOB) == []
    it.store.add_addrs(BOB, [long], 10.0, GIVEN)
    assert it.store.addrs(BOB) == [long]


# --- who is told ----------------------------------------------------------------------------------


def test_observers_are_told_of_news_and_not_of_repetitions() -> None:
    it = Watched()
    it.store.add_addrs(ALICE, [addr(1), addr(2)], 100.0, GIVEN)
    assert it.changes() == [ALICE]
    it.store.add_addrs(ALICE, [addr(1)], 100.0, GIVEN)
    it.store.add_addrs(ALICE, [], 100.0, GIVEN)
    assert it.changes() == []
    it.clock.now += REPEATED_S
    it.store.add_addrs(ALICE, [addr(1)], 100.0, GIVEN)
    assert it.changes() == [ALICE]
    it.store.add_addrs(ALICE, [addr(1)], 100.0, PROVED)
    assert it.changes() == [ALICE]
    it.store.add_addrs(ALICE, [addr(3)], 900.0, GIVEN)
    assert it.changes() == [ALICE]
    it.clock.now += 299
    it.store.add_addrs(ALICE, [addr(3)], 900.0, GIVEN)
    assert it.changes() == [], "a long life is renewed when a third of it is over"
    it.clock.now += 2
    it.store.add_addrs(ALICE, [addr(3)], 900.0, GIVEN)
    assert it.changes() == [ALICE]


def test_observers_are_told_of_agents_pins_standing_and_refutations() -> None:
    it = Watched()
    it.store.identified(ALICE, "p2pfwd/1", ["/x/a"])
    it.store.identified(ALICE, "p2pfwd/1", ["/x/b"])
    assert it.changes() == [ALICE]
    it.store.pin(BOB, [addr(1)], "t")
    it.store.unpin(BOB, "t")
    it.store.unpin(BOB, "t")
    assert it.changes() == [BOB, BOB]
    it.store.refute_addr(ALICE, addr(1))
    assert it.changes() == []
    it.store.add_addrs(ALICE, [addr(1)], 10.0, PROVED)
    it.store.refute_addr(ALICE, addr(1))
    assert it.changes() == [ALICE, ALICE]
    it.store.add_addrs(ALICE, [HOME], 10.0, PROVED)
    it.store.refute_addr(ALICE, HOME)
    it.store.refute_addr(ALICE, HOME)
    assert it.changes() == [ALICE, ALICE], "that it is stale is told once"
    it.store.note_forwarded(ALICE)
    it.store.note_forwarded(ALICE)
    assert it.changes() == [ALICE]


def test_restored_addresses_have_their_age_and_what_is_known_by_now_stays() -> None:
    it = Watched()
    it.store.add_addrs(ALICE, [addr(1)], 10.0, GIVEN)
    old = [KnownAddress(addr(n), PROVED, 3600.0, -2700.0) for n in (1, 2)]
    old.append(KnownAddress(addr(3), PROVED, STALE_S + 1, -STALE_S))
    it.store.restore(ALICE, old, "kubo/0.22", Standing.MET)
    assert it.store.agent(ALICE) == "kubo/0.22" and it.store.standing(ALICE) is Standing.OWN
    assert it.store.known(ALICE) == [KnownAddress(addr(1), GIVEN, 0.0, 10.0), old[1]]
    it.store.identified(BOB, "p2pfwd/1", [])
    it.store.restore(BOB, old[1:2], "kubo/0.22")
    assert it.store.agent(BOB) == "p2pfwd/1" and it.store.standing(BOB) is Standing.REACHED
    it.store.restore(peer(3), old[2:], "kubo/0.22")
    assert peer(3) not in it.store.peers(), "of whom nothing is left"


# --- whose peers they are -------------------------------------------------------------------------


def test_ones_own_are_pinned_given_and_forwarded_to_and_not_whoever_came_or_was_dialed() -> None:
    it = Watched()
    came, dialed, heard_of, named, given, forwarded = map(peer, range(10, 16))
    it.store.connected(came, None)
    it.store.connected(dialed, addr(1))
    it.store.add_addrs(heard_of, [addr(1)], 10.0, HEARSAY)
    listed = peer(16)
    it.store.pin(named, [], "named")
    for who in (named, listed):
        it.store.pin(who, [], LISTED)
    it.store.add_addrs(given, [addr(1)], 10.0, GIVEN)
    it.store.note_forwarded(forwarded)
    everybody = (came, dialed, heard_of, named, given, forwarded, listed, peer(99))
    assert [who for who in everybody if it.store.is_chosen(who)] == [named, given, forwarded]
    assert [who for who in everybody if it.store.rank(who)] == [named, given, forwarded]
    it.store.unpin(named, "named")
    assert not it.store.is_chosen(named) and not it.store.rank(named)


def test_who_is_disowned_is_known_as_well_as_others_would_be_and_what_pins_it_stays() -> None:
    it = Watched()
    given, reached, served, came, heard_of, named = map(peer, range(10, 16))
    everybody = (given, reached, served, came, heard_of, named)
    it.store.connected(reached, addr(2))
    it.store.note_served(served)
    it.store.connected(came, None)
    it.store.add_addrs(heard_of, [addr(3)], 10.0, HEARSAY)
    it.store.pin(named, [], "named")
    for who in everybody:
        it.store.add_addrs(who, [addr(1)], 10.0, GIVEN)
        it.store.note_forwarded(who)
    it.changes()
    assert [who for who in everybody if it.store.disown(who)] == list(everybody)
    assert it.changes() == list(everybody)
    assert [who for who in everybody if it.store.is_chosen(who)] == [named]
    assert not any(it.store.is_trusted(who, addr(1)) for who in everybody)
    left = {who: it.store.dialable(who) for who in everybody if it.store.dialable(who)}
    assert left == {reached: [addr(2)], heard_of: [addr(3)]} and it.store._addresses == 2
    standings = [it.store.standing(who) for who in (reached, served, came, heard_of)]
    assert standings == [Standing.REACHED, Standing.SERVED, Standing.MET, Standing.HEARD_OF]
    assert given not in it.store.peers(), "of whom nothing else is known"
    assert not any(map(it.store.disown, (*everybody, ALICE))) and it.changes() == []


def test_who_was_served_has_a_reserve_an_hour_later_and_a_flood_of_others_takes_no_place() -> None:
    it = Watched()
    for number in range(MAX_SERVED):
        it.store.note_served(peer(number))
    assert not it.store.rank(peer(0))
    it.clock.now += SERVED_PROOF_S
    assert it.store.rank(peer(0)) and not it.store.is_chosen(peer(0))
    it.store.note_served(peer(0))
    it.store.note_served(peer(1000))
    it.clock.now += STALE_S + 1
    assert it.store.rank(peer(0)) and not it.store.rank(peer(1000))
    it.store.note_served(peer(1000))
    it.clock.now += SERVED_PROOF_S
    assert it.store.rank(peer(1000)), "whoever was not seen for days has made room"


def test_who_was_served_in_an_earlier_life_has_a_reserve_at_once() -> None:
    it = Watched()
    known = [KnownAddress(addr(1), ITSELF, 10.0, 10.0)]
    it.store.restore(ALICE, known, None, Standing.SERVED)
    it.store.restore(BOB, known, None, Standing.MET)
    assert it.store.rank(ALICE) and not it.store.rank(BOB)


def test_who_served_a_dht_is_remembered_until_it_serves_it_no_more() -> None:
    it = Watched()
    it.store.note_dht(ALICE, "wan", True)  # nobody knows her: nothing is kept
    assert it.changes() == [] and it.store.dht_servers() == []
    it.store.connected(ALICE, addr(1))
    it.changes()
    for _ in range(3):  # every answer says so, and is news once
        it.store.note_dht(ALICE, "wan", True)
    it.store.note_dht(ALICE, "lan", True)
    assert it.changes() == [ALICE, ALICE]
    assert (it.store.dht_servers(), it.store.dhts(ALICE)) == ([ALICE], {"wan", "lan"})
    it.store.disconnected(ALICE)
    assert it.store.dhts(ALICE) == {"wan", "lan"}
    it.store.note_dht(ALICE, "wan", False)
    it.store.note_dht(ALICE, "lan", False)
    assert it.store.dht_servers() == []


def test_the_dhts_of_one_peer_are_bounded() -> None:
    it = Watched()
    many = [str(number) for number in range(2 * MAX_DHTS_PER_PEER)]
    it.store.restore(ALICE, [KnownAddress(addr(1), PROVED, 10.0, 10.0)], None, Standing.REACHED, many)
    it.store.note_dht(ALICE, "one more", True)
    assert len(it.store.dhts(ALICE)) == MAX_DHTS_PER_PEER
