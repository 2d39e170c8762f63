"""The table of what strangers may ask: shares are shares, and honest use is within them."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfwd.policy import service_bounds as table
from p2pfwd.policy.pace import Rate
from p2pfwd.policy.service_bounds import DHT, IDENTIFY, PING, PROBE, PUSH, TABLE, Bounds
from p2pfwd.policy.shares import Held, Paced, Party, Rates
from tests.unit.policy.test_shares import party

SECURITY = Path(__file__).parents[3] / "SECURITY.md"


@pytest.mark.parametrize("bounds", TABLE, ids=lambda bounds: bounds.label)
def test_a_peer_has_less_than_its_network_and_that_less_than_all(bounds: Bounds) -> None:
    most = bounds.most
    assert most.peer <= most.network <= most.all
    for rates in (bounds.opens, bounds.requests):
        if rates is not None and rates.all is not None:
            assert rates.peer.per_s <= rates.network.per_s < rates.all.per_s
            assert rates.peer.burst <= rates.network.burst < rates.all.burst


def test_labels_are_names_of_causes() -> None:
    assert len({bounds.label for bounds in TABLE}) == len(TABLE)
    assert {"dht-requests", "identify-opens", "push-message", "tunnel-streams"} <= table.causes()
    assert "identify-message" not in table.causes(), "it reads none"


def test_what_waits_to_be_read_is_bounded_over_all_services() -> None:
    """A slowed stream holds its window; tunnels have the budget of their session."""
    windows = sum(bounds.most.all for bounds in TABLE if bounds.reads and bounds.most.all < table.NO_BOUND)
    assert windows * 256 * 1024 <= 144 << 20


def refused(rates: Rates | None, per_s: float, seconds: float, who: Party) -> int:
    assert rates is not None
    paced = Paced(rates)
    return sum(paced.empty(who, n / per_s) is not None for n in range(int(per_s * seconds)))


@pytest.mark.parametrize(
    ("rates", "per_s"),
    [
        (DHT.opens, 40.0),  # a busy node, alpha 10
        (DHT.requests, 40.0),
        (PUSH.opens, 0.1),
        (IDENTIFY.opens, 0.5),
        (PING.requests, 100.0),
        (PROBE.opens, 5.0),
    ],
)
def test_an_honest_peer_is_never_refused(rates: Rates | None, per_s: float) -> None:
    assert refused(rates, per_s, 120.0, party(1)) == 0


def test_sixty_identities_of_one_address_leave_dials_to_others() -> None:
    """FAULTS F12: they took 29 of AutoNAT's 30 dials a minute."""
    dials = Paced(table.AUTONAT_DIALS)
    sybils = [party(n, "/ip4/192.0.2.1/tcp/1") for n in range(60)]
    assert sum(dials.empty(one, 0.0) is None for one in sybils * 3) == 10
    assert dials.empty(party(99), 0.0) is None


def test_a_browser_or_a_load_test_of_one_peer_has_its_thousand_tunnels() -> None:
    """ab -c 1000 through one listen with default settings; 2,000 idle ones, too."""
    from p2pfwd.forwarding.values import ForwardingLimits
    from p2pfwd.policy.shares import Most

    limits = ForwardingLimits()
    for most in (
        table.tunnels(limits.max_streams, limits.max_streams_per_peer).most,
        Most.halves(limits.max_streams_per_listener),
        Most.halves(limits.max_pending_targets // 2),
    ):
        held = Held(most)
        for _ in range(1000):
            assert held.full(party(1)) is None
            held.take(party(1))
    assert isinstance(table.UNUSED_TUNNELS.peer, Rate) and table.UNUSED_TUNNELS.peer.burst > 1000
    assert table.UNUSED_TUNNELS.all is None, "nobody is kept out by what strangers elsewhere do"


@pytest.mark.parametrize("bounds", TABLE[:-1], ids=lambda bounds: bounds.label)
def test_security_md_shows_the_table(bounds: Bounds) -> None:
    most, opens = bounds.most, bounds.opens
    assert opens is not None and opens.all is not None
    streams = f"| {most.peer}, {most.network}, {most.all} |"
    rates = ", ".join(f"{rate.per_s:g} ({rate.burst:g})" for rate in (opens.peer, opens.network, opens.all))
    rows = [line for line in SECURITY.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    (row,) = [row for row in rows if streams in row and f"| {rates} |" in row]
    assert f"| {bounds.idle_s:g} s" in row and bounds.reads == ("dropped at once" not in row)
