"""wire.kad.query_peers: who has proved right, and what is kept of what was told."""

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire.kad.keys import key_of
from p2pfwd.wire.kad.query_peers import MAX_ADDRESSES, Candidate, Candidates


def peer(number: int) -> PeerId:
    return PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32, "big"))


@pytest.fixture
def peers() -> Candidates:
    return Candidates(key_of(b"target"))


def heard(peers: Candidates, number: int, informant: Candidate | None) -> Candidate:
    peers.hear(peer(number), (), informant)
    candidate = peers.get(peer(number))
    assert candidate is not None
    return candidate


def test_an_answer_proves_all_who_told_before_and_after(peers: Candidates) -> None:
    early, late, wrong = (heard(peers, number, None) for number in (1, 2, 3))
    alive, dead = heard(peers, 10, early), heard(peers, 11, wrong)
    for one in (alive, dead):
        peers.ask(one, 0.0)
    assert not early.proved
    peers.answered(alive)
    peers.failed(dead)
    heard(peers, 10, late)
    assert (early.proved, late.proved, wrong.proved) == (True, True, False)


def test_a_late_answer_proves_as_well(peers: Candidates) -> None:
    informant = heard(peers, 1, None)
    slow = heard(peers, 10, informant)
    peers.ask(slow, 0.0)
    peers.failed(slow)
    peers.answered(slow)
    assert informant.proved
    assert not peers.waiting


def test_our_own_peers_are_nobodys_word(peers: Candidates) -> None:
    informant, own = heard(peers, 1, None), heard(peers, 2, None)
    heard(peers, 2, informant)
    peers.ask(own, 0.0)
    peers.answered(own)
    assert not informant.proved
    assert own.hops == 1


def test_addresses_of_all_who_told_are_kept_up_to_a_bound(peers: Candidates) -> None:
    addrs = [Multiaddr.parse(f"/ip4/11.1.1.1/tcp/{port}") for port in range(1, 100)]
    peers.hear(peer(1), addrs[:2], None)
    peers.hear(peer(1), addrs[1:], None)
    candidate = peers.get(peer(1))
    assert candidate is not None
    assert list(candidate.addrs) == addrs[:MAX_ADDRESSES]
