"""Which addresses an invite carries."""

from __future__ import annotations

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.policy.invite_addresses import MAX_ADDRESS_BYTES, invite_addresses

RELAYS = (
    "12D3KooWR4KPFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg",
    "12D3KooWS8JciKc2RoVbTPHeDG2puS8DXRrK2gLAja91JmN3s51E",
    "12D3KooWGcQcL3RfR1bmquTwxEF25cPLg3c1EdrSUicVJm1WijhL",
)
PUBLIC = [f"/ip4/8.8.4.{n}/tcp/1" for n in range(1, 5)]
PRIVATE = [f"/ip4/192.168.1.{n}/tcp/1" for n in range(1, 5)]
LOOPBACK = ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"]
CIRCUITS = [f"/ip4/8.8.8.{n}/tcp/1/p2p/{relay}/p2p-circuit" for n, relay in enumerate(RELAYS)]
SAME_RELAY = f"/ip6/2a11::1/tcp/1/p2p/{RELAYS[0]}/p2p-circuit"
LONG = f"/dns4/{'a' * 60}.{'b' * 60}.example/tcp/1"


@pytest.mark.parametrize(
    ("own", "carried"),
    [
        ([], []),
        (LOOPBACK, LOOPBACK[:1]),
        ([*PRIVATE[:1], *LOOPBACK], PRIVATE[:1]),
        ([*PUBLIC, *PRIVATE, *LOOPBACK], [*PUBLIC[:2], PRIVATE[0]]),
        ([*PRIVATE, PUBLIC[0]], [PUBLIC[0], *PRIVATE[:2]]),
        (PUBLIC, PUBLIC[:3]),
        ([*PRIVATE[:1], CIRCUITS[0], SAME_RELAY, *CIRCUITS[1:]], [*PRIVATE[:1], *CIRCUITS[:2]]),
        ([*CIRCUITS, *LOOPBACK], [LOOPBACK[0], *CIRCUITS[:2]]),
        ([f"/p2p/{RELAYS[0]}/p2p-circuit"], []),
        (["/ip6zone/eth0/ip6/fe80::1/tcp/1", "/dns4/home.example/tcp/1"], ["/dns4/home.example/tcp/1"]),
        ([LONG, PUBLIC[0]], PUBLIC[:1]),
    ],
)
def test_a_few_the_likeliest_first(own: list[str], carried: list[str]) -> None:
    assert list(map(str, invite_addresses(map(Multiaddr.parse, own)))) == carried
    assert len(Multiaddr.parse(LONG).to_bytes()) > MAX_ADDRESS_BYTES
