"""peers.store: who is forgotten when there are too many, and that a flood reaches only its own kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.peers.claims import MAX_CLAIMED
from p2pfwd.peers.store import MAX_PEERS, Peerstore
from p2pfwd.policy.provenance import Provenance, Standing, to_forget
from tests.support.peers import peer
from tests.unit.peers.store_rig import ALICE, BOB, Watched, addr

HEARD_OF, MET, REACHED, SERVED, OWN = Standing


@pytest.mark.parametrize(
    ("counts", "goes"),
    [
        ({}, None),
        ({HEARD_OF: 0, MET: 0}, None),
        ({HEARD_OF: 1, OWN: 100}, OWN),  # of 100: beyond its share, and there are but few others
        ({HEARD_OF: 26, MET: 30, OWN: 44}, HEARD_OF),
        ({HEARD_OF: 25, MET: 30, OWN: 44}, MET),
        ({HEARD_OF: 25, MET: 25, REACHED: 50}, REACHED),
        ({HEARD_OF: 20, MET: 20, REACHED: 20, SERVED: 20, OWN: 20}, HEARD_OF),  # too many addresses, say
        ({MET: 5, OWN: 5}, MET),
    ],
)
def test_the_least_go_first_and_each_standing_is_sure_of_a_quarter(
    counts: dict[Standing, int], goes: Standing | None
) -> None:
    assert to_forget(counts, 100) is goes


def sybil_comes(store: Peerstore, who: PeerId) -> None:
    store.connected(who, None)
    store.tells(who, [addr(1)], lambda _: True)
    store.identified(who, "sybil", ["/x/a"])
    store.disconnected(who)


def is_talked_about(store: Peerstore, who: PeerId) -> None:
    store.add_addrs(who, [addr(1)], 120.0, Provenance.HEARSAY)


def is_served(store: Peerstore, who: PeerId) -> None:
    sybil_comes(store, who)
    store.note_served(who)


@pytest.mark.parametrize("flood", [sybil_comes, is_talked_about, is_served])
def test_peers_used_before_do_not_fall_out_of_memory(flood: Callable[[Peerstore, PeerId], None]) -> None:
    """F16: 4,806 identities in 45 s, and the peers dialed and used before were gone until a restart."""
    it = Watched()
    dialed, forwarded, named, there = map(peer, range(1, 5))
    it.store.connected(dialed, addr(1))
    it.store.disconnected(dialed)
    it.store.connected(forwarded, None)
    it.store.note_forwarded(forwarded)
    it.store.disconnected(forwarded)
    it.store.pin(named, [addr(3)], "named")
    it.store.connected(there, None)
    it.store.identified(there, "kubo/0.22", ["/x/b"])
    for number in range(100, 100 + 2 * MAX_PEERS):
        flood(it.store, peer(number))
    assert len(it.store.peers()) == MAX_PEERS
    assert {dialed, forwarded, named, there} <= set(it.store.peers())
    assert it.store.agent(there) == "kubo/0.22", "a tunnel to a Kubo keeps its FIN protection"
    assert it.store.protocols(there) == {"/x/b"}


def test_a_flood_of_visitors_leaves_room_for_those_a_look_up_hears_of() -> None:
    it = Watched(max_peers=100)
    for number in range(100, 400):
        sybil_comes(it.store, peer(number))
    heard_of = [peer(number) for number in range(1, 21)]
    for who in heard_of:
        is_talked_about(it.store, who)
    for number in range(400, 700):
        sybil_comes(it.store, peer(number))
    assert all(it.store.addrs(who) == [addr(1)] for who in heard_of)


def test_of_equals_the_one_heard_of_longest_ago_goes() -> None:
    it = Watched(max_peers=3)
    for who in (peer(5), peer(6), peer(7), peer(5), peer(8)):
        is_talked_about(it.store, who)
    assert set(it.store.peers()) == {peer(5), peer(7), peer(8)}


def test_who_is_connected_or_pinned_stays_whatever_comes_and_may_go_afterwards() -> None:
    it = Watched(max_peers=4)
    it.store.connected(ALICE, None)
    it.store.pin(BOB, [], "t")
    for number in range(10, 30):
        is_talked_about(it.store, peer(number))
    assert {ALICE, BOB} < set(it.store.peers()) and len(it.store.peers()) == 4
    it.store.disconnected(ALICE)
    it.store.unpin(BOB, "t")
    for number in range(30, 50):
        it.store.connected(peer(number), None)
    assert not {ALICE, BOB} & set(it.store.peers())
    assert len(it.store.peers()) == 20, "who is connected is bounded elsewhere"


def test_addresses_of_all_peers_together_are_bounded() -> None:
    it = Watched(max_addresses=1000)
    many = [Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{port}") for port in range(1, 200)]
    it.store.add_addrs(BOB, many, 900.0, Provenance.GIVEN)
    for number in range(10, 300):
        it.store.add_addrs(peer(number), many, 900.0, Provenance.HEARSAY)
    held = sum(len(it.store.known(who)) for who in it.store.peers())
    assert held <= 1000 and len(it.store.known(BOB)) == MAX_CLAIMED[Provenance.GIVEN]
    assert len(it.store.known(peer(299))) == MAX_CLAIMED[Provenance.HEARSAY], "the newcomer is taken"
    it.store.refute_addr(peer(299), many[0])
    it.clock.now += 1e7
    for who in it.store.peers():
        assert it.store.known(who) == []
    assert it.store._addresses == 0, "the count is right after drops and forgetting"


def test_of_a_peer_that_came_and_told_nothing_nothing_is_kept() -> None:
    """A thousand of them left a table of a megabyte, in memory that a flood had taken."""
    it = Watched()
    for number in range(10):
        it.store.connected(peer(number), None)
        it.store.disconnected(peer(number))
    assert it.store.peers() == [] and not any(it.store._may_go.values())


def test_whoever_told_something_was_found_or_is_pinned_stays_when_it_leaves() -> None:
    it = Watched()
    agent, address, dialed, pinned, served = map(peer, range(1, 6))
    for who in (agent, address, pinned, served):
        it.store.connected(who, None)
    it.store.connected(dialed, addr(1))
    it.store.identified(agent, "it", [])
    it.store.tells(address, [addr(2)], lambda _: True)
    it.store.pin(pinned, [], "name")
    it.store.note_served(served)
    everybody = it.store.peers()
    for who in everybody:
        it.store.disconnected(who)
    assert it.store.peers() == everybody and len(everybody) == 5
