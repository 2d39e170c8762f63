"""Pins which addresses of a peer are dialed, in which order, and when."""

from __future__ import annotations

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.dial_plan import (
    FAR_STEP_S,
    MAX_CIRCUITS,
    MAX_DIALS,
    NEAR_STEP_S,
    RELAY_AFTER_S,
    Candidate,
    PlannedDial,
    plan,
)
from p2pfwd.policy.provenance import Provenance

PEER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(31) + b"\x01")
LOOPBACK = "/ip4/127.0.0.1/tcp/1"
LOOPBACK_6 = "/ip6/::1/tcp/1"
PRIVATE = "/ip4/192.168.1.7/tcp/1"
PRIVATE_6 = "/ip6/fd00::7/tcp/1"
PUBLIC = "/ip4/198.51.100.7/tcp/1"
GLOBAL = "/ip4/1.2.3.4/tcp/1"
GLOBAL_6 = "/ip6/2a00::7/tcp/1"
NEAR, FAR = NEAR_STEP_S, FAR_STEP_S


GIVEN, PROVED, ITSELF, HEARSAY = Provenance.GIVEN, Provenance.PROVED, Provenance.ITSELF, Provenance.HEARSAY
BARE = f"/p2p/{PEER}/p2p-circuit"
"""At a relay that is dialed wherever it is known to be."""


def addrs(*texts: str) -> list[Multiaddr]:
    return [Multiaddr.parse(text) for text in texts]


def heard(*texts: str, provenance: Provenance = HEARSAY, is_stale: bool = False) -> list[Candidate]:
    return [Candidate(addr, provenance, is_stale) for addr in addrs(*texts)]


def lies(count: int, prefix: str = "/ip6/2a00::") -> list[Candidate]:
    return heard(*(f"{prefix}{n}/tcp/1" for n in range(1, count + 1)))


def circuits(count: int, first: int = 1) -> list[str]:
    """As many places of a peer at relays."""
    return [f"/ip4/1.2.9.{n}/tcp/1/p2p/{PEER}/p2p-circuit" for n in range(first, first + count)]


def delays(candidates: list[Candidate]) -> dict[str, float]:
    return {str(dial.addr): dial.delay_s for dial in plan(candidates)}


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([], []),
        ([GLOBAL], [(GLOBAL, 0.0)]),
        ([GLOBAL, PRIVATE, LOOPBACK], [(LOOPBACK, 0.0), (PRIVATE, NEAR), (GLOBAL, 2 * NEAR)]),
        ([GLOBAL, GLOBAL_6], [(GLOBAL_6, 0.0), (GLOBAL, FAR)]),
        ([PRIVATE, PRIVATE_6], [(PRIVATE_6, 0.0), (PRIVATE, NEAR)]),
        ([LOOPBACK, LOOPBACK_6], [(LOOPBACK_6, 0.0), (LOOPBACK, NEAR)]),
        ([GLOBAL, GLOBAL, f"{GLOBAL}/p2p/{PEER}"], [(GLOBAL, 0.0)]),
        (["/ip4/1.2.3.4/tcp/2", "/ip4/1.2.3.4/tcp/1"], [("/ip4/1.2.3.4/tcp/2", 0.0), (GLOBAL, FAR)]),
    ],
)
def test_near_before_far_and_six_before_four_each_a_little_later(
    known: list[str], expected: list[tuple[str, float]]
) -> None:
    planned = plan(heard(*known))
    assert [str(dial.addr) for dial in planned] == [text for text, _ in expected]
    assert [dial.delay_s for dial in planned] == pytest.approx([delay for _, delay in expected])


def test_own_addresses_are_left_out() -> None:
    assert plan(heard(LOOPBACK, PRIVATE), own=addrs(f"{LOOPBACK}/p2p/{PEER}")) == [
        PlannedDial(Multiaddr.parse(PRIVATE), 0.0)
    ]


def test_a_relay_that_both_nodes_have_a_place_at_is_no_address_of_ours_alone() -> None:
    """The circuit leads to whoever is asked for."""
    there = f"/ip4/192.0.2.9/tcp/4011/p2p/{PEER}/p2p-circuit"
    assert [dial.addr for dial in plan(heard(there), own=addrs(there))] == addrs(there)


def test_a_hostile_list_is_cut() -> None:
    many = heard(*(f"/ip4/1.2.3.{n}/tcp/1" for n in range(1, 200)), LOOPBACK)
    planned = plan(many)
    assert len(planned) == MAX_DIALS and planned[0].addr == Multiaddr.parse(LOOPBACK)
    assert [dial.delay_s for dial in planned] == sorted(dial.delay_s for dial in planned)


# --- who said so ----------------------------------------------------------------------------------


@pytest.mark.parametrize("flood", [lies(250), lies(250, "/ip4/192.168.1."), lies(250, "/ip4/127.0.0.")])
@pytest.mark.parametrize("provenance", [GIVEN, PROVED])
def test_no_number_of_lies_hides_or_delays_what_was_given_or_proved(
    flood: list[Candidate], provenance: Provenance
) -> None:
    true = heard(GLOBAL, provenance=provenance)
    planned = plan([*flood, *true])
    assert planned[0] == PlannedDial(Multiaddr.parse(GLOBAL), 0.0)
    assert len(planned) == MAX_DIALS


@pytest.mark.parametrize("flood", [lies(250), lies(250, "/ip4/192.168.1.")])
def test_nor_what_the_peer_itself_said(flood: list[Candidate]) -> None:
    true = heard(GLOBAL, GLOBAL_6, provenance=ITSELF)
    assert delays([*flood, *true])[GLOBAL] == FAR
    assert delays([*flood, *true, *heard(PUBLIC, provenance=GIVEN)])[GLOBAL] == 2 * FAR


def test_what_was_given_or_proved_is_never_cut() -> None:
    given = heard(*(f"/ip4/1.2.3.{n}/tcp/1" for n in range(100)), provenance=GIVEN)
    proved = heard(*(f"/ip4/1.2.4.{n}/tcp/1" for n in range(50)), provenance=PROVED)
    planned = {dial.addr for dial in plan([*lies(50), *proved, *given])}
    assert planned == {candidate.addr for candidate in (*given, *proved)}


OLD = [f"/ip4/192.168.{n}.1/tcp/1" for n in range(16)]


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        # A rank begins a step after the one before it began, however long that is.
        ([*heard(*OLD, provenance=PROVED), *heard(GLOBAL)], {GLOBAL: NEAR}),
        (
            [*heard(GLOBAL, GLOBAL_6, provenance=PROVED), *heard(PRIVATE)],
            {GLOBAL_6: 0.0, GLOBAL: FAR, PRIVATE: FAR},
        ),
        (
            [*heard(GLOBAL), *heard(PUBLIC, provenance=ITSELF), *heard(PRIVATE, provenance=GIVEN)],
            {PRIVATE: 0.0, PUBLIC: NEAR, GLOBAL: NEAR + FAR},
        ),
        # Within a rank the near go first, whoever else speaks for what.
        (heard(GLOBAL, PRIVATE, provenance=GIVEN), {PRIVATE: 0.0, GLOBAL: NEAR}),
        # What has expired goes last in its rank, and a rank of nothing else delays no other.
        (
            [*heard(PRIVATE, provenance=GIVEN, is_stale=True), *heard(GLOBAL, provenance=GIVEN)],
            {GLOBAL: 0.0, PRIVATE: FAR},
        ),
        ([*heard(*OLD, provenance=PROVED, is_stale=True), *heard(GLOBAL)], {OLD[0]: 0.0, GLOBAL: 0.0}),
        # The best that speaks for an address counts.
        ([*heard(GLOBAL), *heard(GLOBAL, provenance=GIVEN), *heard(PRIVATE)], {GLOBAL: 0.0, PRIVATE: FAR}),
        (heard(GLOBAL, is_stale=True) + heard(GLOBAL), {GLOBAL: 0.0}),
    ],
)
def test_ranks_run_side_by_side(candidates: list[Candidate], expected: dict[str, float]) -> None:
    planned = delays(candidates)
    assert {text: planned[text] for text in expected} == pytest.approx(expected)


def test_an_address_is_due_sooner_only_than_itself() -> None:
    (one, other) = (PlannedDial(addr, 1.0) for addr in addrs(GLOBAL, PRIVATE))
    assert PlannedDial(one.addr, 0.5).is_before(one) and not one.is_before(one)
    assert not PlannedDial(one.addr, 0.5).is_before(other)


# --- circuits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("provenance", [GIVEN, PROVED, ITSELF, HEARSAY])
@pytest.mark.parametrize("founded", [PROVED, ITSELF])
def test_no_number_of_direct_addresses_cuts_a_circuit(provenance: Provenance, founded: Provenance) -> None:
    """Who is behind a NAT is reached by nothing else."""
    direct = heard(*OLD, provenance=founded) + lies(250)
    for circuit in (BARE, *circuits(1)):
        assert delays([*direct, *heard(circuit, provenance=provenance)])[circuit] == RELAY_AFTER_S
    places = heard(*circuits(MAX_CIRCUITS), provenance=provenance)
    assert {one.addr for one in places} <= {dial.addr for dial in plan([*direct, *places])}


@pytest.mark.parametrize("provenance", [GIVEN, PROVED])
def test_no_told_circuit_cuts_or_delays_one_that_was_given_or_proved(provenance: Provenance) -> None:
    true = heard(*circuits(3 * MAX_CIRCUITS, 100), provenance=provenance)
    planned = plan([*heard(*circuits(99)), *true])
    assert [dial.addr for dial in planned] == [one.addr for one in true]
    assert [dial.delay_s for dial in planned] == pytest.approx([n * FAR for n in range(len(true))])


def test_told_circuits_are_cut_and_cut_no_direct_address() -> None:
    direct, places = lies(MAX_DIALS), heard(*circuits(250), provenance=ITSELF)
    planned = plan([*direct, *places])
    assert len(planned) == MAX_DIALS + MAX_CIRCUITS
    assert {one.addr for one in direct} < {dial.addr for dial in planned}
    assert len(plan(places)) == MAX_CIRCUITS


def test_many_old_circuits_do_not_delay_news() -> None:
    """Someone who has moved between a dozen relays is found at the one where he is now."""
    old, (new,) = heard(*circuits(12), provenance=PROVED, is_stale=True), circuits(1, 100)
    assert delays([*old, *heard(new)])[new] == 0.0
    assert delays([*heard(*circuits(12), provenance=PROVED), *heard(new)])[new] == FAR
