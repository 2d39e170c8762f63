"""Token buckets and the networks that limits count by."""

from __future__ import annotations

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.policy.networks import networks
from p2pfwd.policy.pace import Pace, Paces, Rate


def test_a_burst_then_the_rate() -> None:
    """`burst` at once, then one for each 1 / rate seconds, and never more than `burst` saved up."""
    pace = Pace(Rate(2.0, 3), now=10.0)
    assert [pace.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert pace.wait_s(10.0) == pytest.approx(0.5)
    assert pace.take(10.5) and not pace.take(10.5)
    assert [pace.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_grants_nothing() -> None:
    """Time that runs backwards neither fills nor empties a bucket."""
    pace = Pace(Rate(1.0, 1), now=10.0)
    assert pace.take(10.0) and not pace.take(5.0) and not pace.take(10.0)


def test_full_buckets_give_way_and_empty_ones_do_not() -> None:
    """A thousand identities cannot make room for themselves by pushing out those they have used up."""
    paces = Paces(Rate(1.0, 2), max_keys=2)
    assert paces.take("a", 0.0) and paces.take("b", 0.0)
    assert not paces.take("c", 0.0), "both others are in use"
    assert paces.take("c", 1.0), "a second later they are full again, and forgotten"


@pytest.mark.parametrize(
    ("addr", "texts"),
    [
        ("/ip4/192.0.2.7/tcp/1", ["192.0.2.7/32", "192.0.2.0/24"]),
        ("/ip6/2001:db8:1:203::7/tcp/1", ["2001:db8:1:203::/64", "2001:db8:1:200::/56", "2001:db8:1::/48"]),
        ("/dns4/example/tcp/1", []),
    ],
)
def test_an_address_counts_for_its_neighbours(addr: str, texts: list[str]) -> None:
    """/32 and /24, or /64, /56 and /48."""
    assert [network.text for network in networks(Multiaddr.parse(addr))] == texts


def test_what_is_reserved_is_taken_from_those_who_come_later() -> None:
    """A bucket may go below nothing, no further than `most_s` of waiting."""
    pace = Pace(Rate(10.0, 1), now=0.0)
    assert pace.reserve(0.0, 1.0) == 0.0
    assert pace.reserve(0.0, 1.0) == pytest.approx(0.1)
    assert pace.reserve(0.0, 1.0, later_s=5.0) == 0.0, "by then it is there"
    assert pace.tokens(0.0) == pytest.approx(-2.0)
    assert not pace.has(0.1) and not pace.take(0.1)
    assert pace.reserve(0.1, 0.05) is None
    assert pace.tokens(0.1) == pytest.approx(-1.0)


def test_in_a_full_table_those_least_used_give_way_to_a_newcomer() -> None:
    """Else four thousand identities would keep everybody out; those used up stay."""
    paces = Paces(Rate(0.001, 2), max_keys=8)
    for key in range(8):
        assert paces.take(key, 0.0, 1.0 if key in (2, 5) else 2.0)
    assert paces.take("newcomer", 0.0)
    assert not paces.has(0, 0.0), "used up, and remembered"
    assert paces.take(2, 0.0, 2.0), "forgotten: as new"


def test_full_buckets_are_let_go_of_and_those_in_use_are_not() -> None:
    """After a flood there is nothing of it, but for what is still owed."""
    paces = Paces(Rate(1.0, 2))
    for key in range(1000):
        paces.take(key, 0.0)
    paces.take("busy", 0.0, 2.0)
    assert not paces.forget_full(0.5) and len(paces) == 1001, "each is in use"
    assert paces.forget_full(1.0) and len(paces) == 1
    assert not paces.take("busy", 1.0, 2.0)
