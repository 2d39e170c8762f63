"""wire.mdns_near: who is near, and that one neighbour can neither fill the table nor empty it."""

from __future__ import annotations

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.wire.mdns import MAX_TOLD_ADDRESSES, TTL_S, NearPeer
from p2pfwd.wire.mdns_near import MAX_HEARD, MAX_SENDERS_PER_PEER, NearPeers
from tests.support.peers import peer

FOUR, SIX, LIAR = "10.0.0.1", "fe80::1", "10.0.0.66"


def addr(number: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/10.0.0.1/tcp/{number}")


def at(number: int, *ports: int, leaving: bool = False) -> NearPeer:
    return NearPeer(peer(number), tuple(map(addr, ports)), leaving)


def test_a_peer_is_news_once_and_again_with_a_new_address() -> None:
    near = NearPeers()
    assert near.hear(at(1, 1), FOUR, 0.0)
    assert not near.hear(at(1, 1), FOUR, 1.0)
    assert not near.hear(at(1, 1), SIX, 1.0), "the same, over the other IP version"
    assert near.hear(at(1, 2), FOUR, 2.0)
    assert near.peers(3.0) == {peer(1): (addr(1), addr(2))}
    assert near.hear(at(2), FOUR, 4.0) and not near.hear(at(2), FOUR, 5.0), "without an address, too"
    assert len(near) == 2


def test_what_is_not_heard_again_expires() -> None:
    """Each address 6 minutes after it was heard, the peer with the last; then it is news again."""
    near = NearPeers()
    near.hear(at(1, 1), FOUR, 0.0)
    near.hear(at(1, 2), FOUR, 100.0)
    assert near.peers(TTL_S + 1.0) == {peer(1): (addr(2),)}
    assert near.peers(TTL_S + 101.0) == {}
    assert near.hear(at(1, 1), FOUR, TTL_S + 102.0)
    assert near.peers(TTL_S + 102.0) == {peer(1): (addr(1),)}


def test_who_leaves_is_forgotten_where_it_said_so_and_nobody_says_it_for_another() -> None:
    near = NearPeers()
    near.hear(at(1, 1), FOUR, 0.0)
    near.hear(at(1, 1), SIX, 0.0)
    assert not near.hear(at(1, 1, leaving=True), LIAR, 1.0)
    assert not near.hear(at(1, 1, leaving=True), SIX, 1.0)
    assert near.peers(1.0) == {peer(1): (addr(1),)}
    assert not near.hear(at(1, 1, leaving=True), FOUR, 1.0)
    assert peer(1) not in near and len(near) == 0
    assert not near.hear(at(2, leaving=True), FOUR, 1.0)


def test_who_tells_many_addresses_of_a_peer_hides_nobody_elses() -> None:
    """The first dial takes a part of them: one of each sender in turn."""
    near = NearPeers()
    for liar in range(MAX_SENDERS_PER_PEER - 1):
        near.hear(at(1, *range(100 * liar + 100, 100 * liar + 116)), f"10.0.0.{liar + 60}", 0.0)
    near.hear(at(1, 1, 2), FOUR, 0.0)
    told = near.peers(1.0)[peer(1)]
    assert len(told) == 16 * (MAX_SENDERS_PER_PEER - 1) + 2
    assert told.index(addr(1)) == MAX_SENDERS_PER_PEER - 1
    assert told.index(addr(2)) == 2 * MAX_SENDERS_PER_PEER - 1


def test_a_crowd_pushes_out_neither_who_is_known_nor_who_comes_later() -> None:
    """F11: 256 invented peers, and one that came later was not found by its ID."""
    near = NearPeers()
    near.hear(at(1, 1), FOUR, 0.0)
    for number in range(100, 100 + 5 * MAX_HEARD):
        near.hear(at(number, 1), LIAR, 1.0)
    assert near.is_full and len(near) == MAX_HEARD and peer(1) in near
    assert near.hear(at(2, 2), "10.0.0.2", 2.0), "a newcomer"
    for number in range(100, 100 + 5 * MAX_HEARD):
        near.hear(at(number, 1), LIAR, 3.0)
    assert {peer(1), peer(2)} < near.peers(3.0).keys()


def test_a_crowd_of_invented_senders_keeps_no_newcomer_out() -> None:
    near = NearPeers()
    for number in range(5 * MAX_HEARD):
        assert near.hear(at(100 + number, 1), f"10.1.{number // 256}.{number % 256}", 0.0)
    assert len(near) == MAX_HEARD and peer(100) not in near
    assert near.hear(at(1, 1), FOUR, 1.0) and peer(1) in near.peers(1.0)


def test_what_has_expired_makes_room_first() -> None:
    near = NearPeers()
    for number in range(MAX_HEARD):
        near.hear(at(number, 1), LIAR, 0.0)
    assert near.hear(at(MAX_HEARD, 1), FOUR, TTL_S + 1.0)
    assert len(near) == 1 and not near.is_full


@pytest.mark.parametrize("at_once", [True, False])
def test_the_addresses_of_a_peer_are_bounded(at_once: bool) -> None:
    """The latest heard are kept, of each sender, and so are those of the others."""
    near, many = NearPeers(), range(1, 100)
    near.hear(at(1, 1000), FOUR, 0.0)
    for group in [tuple(many)] if at_once else [(one,) for one in many]:
        near.hear(at(1, *group), LIAR, 0.0)
    assert near.peers(1.0)[peer(1)] == (addr(1000), *map(addr, many[-MAX_TOLD_ADDRESSES:]))


def test_those_who_tell_of_a_peer_are_bounded() -> None:
    near = NearPeers()
    for number in range(1, 100):
        near.hear(at(1, number), f"10.0.1.{number}", 0.0)
        near.hear(at(1, 500), FOUR, 0.0)
    assert len(near.peers(1.0)[peer(1)]) == MAX_SENDERS_PER_PEER
    assert addr(500) in near.peers(1.0)[peer(1)], "who speaks again and again stays"
    near.hear(at(2, 1), FOUR, 0.0)
    assert near._heard == MAX_SENDERS_PER_PEER + 1
