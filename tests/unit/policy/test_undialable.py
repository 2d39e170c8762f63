"""Pins what is said of addresses that cannot be dialed, and that the others pass."""

from __future__ import annotations

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.policy.undialable import why_no_relay, why_undialable

ID = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
HASH = "uEiAkH5a4DPGKUuOBjYw0CgwjvcJCJMD2K_1aluKR_tpevQ"
ONION = "vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{ID}", "QUIC"),
        ("/ip4/127.0.0.1/udp/4001/quic", "QUIC"),
        (f"/ip4/127.0.0.1/udp/4001/quic-v1/webtransport/certhash/{HASH}", "WebTransport"),
        ("/ip4/127.0.0.1/tcp/4001/ws", "WebSocket"),
        ("/ip4/127.0.0.1/tcp/4001/wss", "WebSocket"),
        ("/dns4/h.libp2p.direct/tcp/4001/tls/ws", "WebSocket"),
        ("/ip4/127.0.0.1/tcp/4001/tls/sni/h.libp2p.direct/ws", "WebSocket"),
        (f"/ip4/127.0.0.1/udp/4001/webrtc-direct/certhash/{HASH}", "WebRTC"),
        (f"/ip4/1.2.3.4/udp/1/quic-v1/p2p/{ID}/p2p-circuit", "its relay cannot be dialed: it is for QUIC"),
        (f"/ip4/192.0.2.1/tcp/0/p2p/{ID}/p2p-circuit", "its relay cannot be dialed: 0 is no port"),
        ("/ip4/192.0.2.1/tcp/4001/p2p-circuit", "does not say which relay"),
        ("/p2p-circuit", "does not say which relay"),
        (f"/ip4/192.0.2.1/tcp/4001/p2p/{ID}/p2p-circuit/p2p/{ID}/p2p-circuit", "a relay behind a relay"),
        (f"/ip4/192.0.2.1/tcp/4001/p2p/{ID}/p2p-circuit/ip4/192.0.2.2/tcp/1", "can only be the peer's ID"),
        ("/dns/x.example/tcp/443/tls/http", "HTTP"),
        (f"/onion3/{ONION}:1234", "Tor"),
        ("/memory/7", "memory"),
        ("/ip4/127.0.0.1/udp/4001/utp", "uTP"),
        ("/ip4/127.0.0.1/udp/4001", "UDP"),
        ("/unix/run/peer.sock", "a Unix socket"),
        ("/ip4/127.0.0.1/tcp/0", "0 is no port"),
        ("/dns4/x.example/tcp/0", "0 is no port"),
        ("/ip4/127.0.0.1", "no host and TCP port"),
        ("/tcp/4001", "no host and TCP port"),
        ("/ip4/0.0.0.0/tcp/4001", "0.0.0.0 stands for every address"),
        ("/ip6/::/tcp/4001", ":: stands for every address"),
        ("/ip6zone/wlan9/ip6/fe80::1/tcp/4001", "this machine has no network interface wlan9"),
        ("/ip6/fe80::1/tcp/4001", "/ip6zone/"),
    ],
)
def test_what_it_is_and_why(text: str, said: str) -> None:
    why = why_undialable(Multiaddr.parse(text), lambda zone: zone == "eth0")
    assert why is not None and said in why


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/192.0.2.1/tcp/4001",
        f"/ip6/::1/tcp/4001/p2p/{ID}",
        "/ip4/169.254.1.2/tcp/4001",
        "/ip6zone/eth0/ip6/fe80::1/tcp/4001",
        "/dns4/x.example/tcp/4001",
        "/dns/localhost/tcp/1",
        "/dnsaddr/x.example",
        f"/dnsaddr/x.example/p2p/{ID}",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{ID}/p2p-circuit",
        f"/dns4/x.example/tcp/4001/p2p/{ID}/p2p-circuit/p2p/{ID}",
        f"/p2p/{ID}/p2p-circuit/p2p/{ID}",
    ],
)
def test_what_can_be_dialed_maybe_after_a_look_up(text: str) -> None:
    assert why_undialable(Multiaddr.parse(text), lambda zone: zone == "eth0") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/ip4/192.0.2.1/udp/4001/quic-v1", "QUIC"),
        ("/ip4/192.0.2.1/tcp/0", "0 is no port"),
        (f"/ip4/192.0.2.1/tcp/4001/p2p/{ID}/p2p-circuit", "reached directly"),
        ("/ip4/192.0.2.1/tcp/4001", None),
        ("/ip6zone/wlan9/ip6/fe80::1/tcp/4001", None),  # another machine may have it, or this one later
        ("/dnsaddr/x.example", None),
    ],
)
def test_where_a_relay_can_be(text: str, said: str | None) -> None:
    why = why_no_relay(Multiaddr.parse(text))
    assert why is None if said is None else (why is not None and said in why)
