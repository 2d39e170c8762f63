"""policy.proofs: an address is proved, proved anew, refuted, or grows old."""

from __future__ import annotations

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.proofs import MAX_ASKED, PROOF_S, Proofs

A, B = (Multiaddr.parse(f"/ip4/203.0.113.{n}/tcp/4011") for n in (1, 2))
ONE, TWO = (PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([n]) * 32) for n in (1, 2))


def test_a_proof_counts_for_its_time_and_no_longer_unless_renewed() -> None:
    proofs = Proofs()
    assert proofs.proved(A, ONE, 0.0) and proofs.proved(B, ONE, 0.0)
    assert not proofs.proved(A, TWO, 1000.0), "known already"
    assert not proofs.expire(PROOF_S - 1)
    assert proofs.expire(PROOF_S) and proofs.addresses() == (A,)
    assert proofs.expire(PROOF_S + 1000.0) and proofs.addresses() == ()


def test_two_servers_in_a_row_take_it_back_one_alone_does_not() -> None:
    proofs = Proofs()
    proofs.proved(A, ONE, 0.0)
    assert not proofs.refuted(A, ONE) and not proofs.refuted(A, ONE), "the same one twice"
    assert proofs.refuted(A, TWO) and proofs.addresses() == ()
    assert not proofs.refuted(A, TWO), "it is gone"
    proofs.proved(A, ONE, 1.0)
    proofs.refuted(A, ONE)
    proofs.proved(A, ONE, 2.0)
    assert not proofs.refuted(A, TWO), "proved in between"


def test_each_has_its_turn_and_who_was_never_asked_about_goes_first() -> None:
    proofs = Proofs()
    proofs.asked(A, 1.0)
    assert proofs.next_to_ask((A, B)) == B
    proofs.asked(B, 2.0)
    assert proofs.next_to_ask((A, B)) == A
    proofs.asked(A, 3.0)
    assert proofs.next_to_ask((A, B)) == B


def test_what_is_remembered_is_bounded_and_can_be_cleared() -> None:
    proofs = Proofs()
    for port in range(1, 3 * MAX_ASKED):
        proofs.asked(Multiaddr.parse(f"/ip4/203.0.113.1/tcp/{port}"), float(port))
    assert len(proofs._asked) == MAX_ASKED
    proofs.proved(A, ONE, 0.0)
    assert proofs.clear() and not proofs.clear() and proofs.of(A) is None
