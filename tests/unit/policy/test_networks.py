"""Pins the networks of a host: as `ipaddress` has them, whatever way the host is written."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.policy.networks import IP4_PREFIXES, IP6_PREFIXES, Network, networks_of_host, site

SPARSE = st.lists(st.sampled_from([0, 0, 1, 0xFF, 0xFFFF, 0x2001]), min_size=8, max_size=8).map(
    lambda groups: ipaddress.IPv6Address(":".join(f"{group:x}" for group in groups))
)


def expected(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[Network, ...]:
    prefixes = IP4_PREFIXES if address.version == 4 else IP6_PREFIXES
    made = (ipaddress.ip_network((address, bits), strict=False) for bits in prefixes)
    return tuple(Network(str(network), width) for width, network in enumerate(made))


@given(st.ip_addresses(v=4))
def test_of_ipv4_also_where_it_is_written_as_ipv6(address: ipaddress.IPv4Address) -> None:
    assert networks_of_host(str(address)) == networks_of_host(f"::ffff:{address}") == expected(address)


@given(SPARSE | st.ip_addresses(v=6))
def test_of_ipv6_also_with_a_zone(address: ipaddress.IPv6Address) -> None:
    if address.ipv4_mapped is None:
        assert networks_of_host(str(address)) == networks_of_host(f"{address}%eth0") == expected(address)


@pytest.mark.parametrize("host", ["", "1.2.3", "::g", "relay.example", "1.2.3.4.5"])
def test_what_is_no_literal_is_refused(host: str) -> None:
    with pytest.raises(OSError, match="illegal IP address"):
        networks_of_host(host)


@pytest.mark.parametrize(
    ("addr", "widest"),
    [
        ("/ip4/192.0.2.7/tcp/1", "192.0.2.0/24"),
        ("/ip6/2a00:1:2:3::7/tcp/1", "2a00:1:2::/48"),
        ("/dns4/relay.example/tcp/1", "/dns4/relay.example/tcp/1"),
    ],
)
def test_the_widest_network_that_may_be_one_owners(addr: str, widest: str) -> None:
    assert site(Multiaddr.parse(addr)) == widest
