"""Blocks: how networks are written, and which hosts are in them."""

from __future__ import annotations

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.policy.blocks import Blocks, parse_network


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("2001:DB8::1", "2001:db8::1/128"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::/0", "::/0"),
    ],
)
def test_networks_as_they_are_written(text: str, network: str) -> None:
    assert str(parse_network(text)) == network


@pytest.mark.parametrize(
    "text", ["", "laptop", "192.0.2", "192.0.2.0/33", "fe80::1%eth0/64", "/ip4/192.0.2.7"]
)
def test_what_is_no_network(text: str) -> None:
    assert parse_network(text) is None


@pytest.mark.parametrize(
    ("text", "meant"), [("192.0.2.7/24", "192.0.2.0/24"), ("2001:db8::1/32", "2001:db8::/32")]
)
def test_bits_beyond_the_prefix_are_told_with_what_was_meant(text: str, meant: str) -> None:
    with pytest.raises(ValueError, match=meant):
        parse_network(text)


def test_which_hosts_are_in() -> None:
    texts = ("192.0.2.0/24", "198.51.100.7", "2001:db8::/32", "fe80::/10")
    blocks = Blocks(networks=[it for text in texts if (it := parse_network(text)) is not None])
    for host in (
        "192.0.2.1",
        "192.0.2.255",
        "198.51.100.7",
        "::ffff:192.0.2.9",
        "2001:db8:1::1",
        "fe80::1%eth0",
    ):
        assert blocks.has_host(host), host
    for host in ("192.0.3.1", "198.51.100.8", "2001:db9::1", "127.0.0.1", "::1"):
        assert not blocks.has_host(host), host
    assert not Blocks().has_host("192.0.2.1")
    assert blocks.has_addr(Multiaddr.parse("/ip4/192.0.2.1/tcp/4011"))
    assert blocks.has_addr(Multiaddr.parse("/ip6/2001:db8::1/tcp/4011"))
    assert not blocks.has_addr(Multiaddr.parse("/dns4/example.org/tcp/4011"))
    assert not blocks.has_addr(Multiaddr.parse("/unix/tmp/rpc.sock"))


def test_everything_can_be_blocked() -> None:
    whole = parse_network("0.0.0.0/0")
    assert whole is not None
    assert Blocks(networks=[whole]).has_host("127.0.0.1") and not Blocks(networks=[whole]).has_host("::1")
