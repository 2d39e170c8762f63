"""What a relay grants, as tables; and that SECURITY.md says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfwd.policy import relay_bounds as it
from p2pfwd.policy.relay_bounds import Serve, is_let_in, limit_between

SECURITY = " ".join((Path(__file__).parents[3] / "SECURITY.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    ("serve", "own", "stranger"),
    [("off", False, False), ("peers", True, False), ("anyone", True, True)],
)
def test_who_gets_a_place(serve: Serve, own: bool, stranger: bool) -> None:
    assert is_let_in(serve, True) is own
    assert is_let_in(serve, False) is stranger


def test_a_stranger_at_either_end_bounds_a_circuit() -> None:
    assert limit_between(True, True) is None
    assert limit_between(True, False) == limit_between(False, True) == limit_between(False, False) == it.LIMIT


def test_a_limited_circuit_is_never_slower_than_its_time_allows() -> None:
    """At a peer's own rate the bytes of a circuit take a fraction of its time."""
    assert it.LIMIT.data_bytes / it.BYTES.peer.per_s < it.LIMIT.duration_s / 10


def test_what_all_circuits_at_once_may_carry_is_paid_for_before_a_debt_is_let_off() -> None:
    """Whatever is let off was brought by circuits that are over, so the rates hold."""
    assert it.BYTES.all is not None
    bounds = (
        (it.CIRCUITS.peer, it.BYTES.peer),
        (it.CIRCUITS.network, it.BYTES.network),
        (it.CIRCUITS.all, it.BYTES.all),
    )
    for ends, rate in bounds:
        assert (ends * 2 * it.LIMIT.data_bytes - rate.burst) / rate.per_s <= it.DEBT_S


@pytest.mark.parametrize("most", [it.RESERVATIONS, it.CIRCUITS])
def test_a_peer_has_less_than_its_network_and_that_less_than_all(most: it.Most) -> None:
    assert most.peer <= most.network < most.all


def test_security_md_says_the_same() -> None:
    places, circuits, kib = it.RESERVATIONS, it.CIRCUITS, it.KIB
    bytes_ = it.BYTES
    assert bytes_.all is not None
    assert (
        f"Of strangers a peer has {places.peer} place, its network {places.network}, all {places.all}; "
        f"a peer has {circuits.peer} ends of circuits, its network {circuits.network}, all {circuits.all}."
    ) in SECURITY
    assert (
        f"carries {it.LIMIT.data_bytes // kib} KiB each way for {it.LIMIT.duration_s} seconds, then it is "
        f"reset; strangers' circuits have {bytes_.peer.per_s / kib:g} KiB a second of a peer "
        f"({bytes_.peer.burst / kib:g} KiB at once), {bytes_.network.per_s / kib:g} KiB of a network "
        f"({bytes_.network.burst / kib:g} KiB) and {bytes_.all.per_s / kib:g} KiB in all "
        f"({bytes_.all.burst / kib:g} KiB), of the strangers at both ends: what comes faster waits at its "
        f"sender. Such a debt lasts {it.DEBT_S:g} seconds at most."
    ) in SECURITY
