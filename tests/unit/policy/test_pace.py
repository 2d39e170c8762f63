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
