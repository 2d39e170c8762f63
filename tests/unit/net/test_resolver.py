"""Pins names in multiaddrs, against a name server on loopback: families, dnsaddr, nesting, hostile zones."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import PeerNotFound
from p2pfwd.net import resolver as resolver_module
from p2pfwd.net.resolver import MAX_RESULTS, Resolver, has_name
from tests.support.fake_dns import FakeDns


def peer(number: int) -> PeerId:
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big"))


ALICE, BOB = peer(1), peer(2)


@pytest.fixture
def dns() -> Iterator[FakeDns]:
    with FakeDns() as server:
        server.hosts["both.example."] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
        server.hosts["four.example."] = ["192.0.2.1"]
        yield server


def resolve(dns: FakeDns, text: str) -> list[str]:
    """The answer, sorted: records of one name have no order."""

    async def ask() -> list[Multiaddr]:
        return await Resolver([dns.address]).resolve(Multiaddr.parse(text))

    return sorted(str(addr) for addr in asyncio.run(ask()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/ip4/192.0.2.9/tcp/1", ["/ip4/192.0.2.9/tcp/1"]),
        ("/dns4/both.example/tcp/1", ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1"]),
        ("/dns6/both.example/tcp/1", ["/ip6/2001:db8::1/tcp/1"]),
        (
            "/dns/both.example/tcp/1",
            ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1", "/ip6/2001:db8::1/tcp/1"],
        ),
        ("/dns/four.example/tcp/1", ["/ip4/192.0.2.1/tcp/1"]),
        (f"/dns4/four.example/tcp/1/p2p/{ALICE}", [f"/ip4/192.0.2.1/tcp/1/p2p/{ALICE}"]),
        ("/dns4/localhost/tcp/1", ["/ip4/127.0.0.1/tcp/1"]),
    ],
)
def test_names_become_addresses_of_their_family(dns: FakeDns, text: str, expected: list[str]) -> None:
    assert resolve(dns, text) == expected


@pytest.mark.parametrize(
    "text", ["/dns4/nobody.example/tcp/1", "/dns6/four.example/tcp/1", "/dnsaddr/nobody.example"]
)
def test_a_name_without_an_answer_is_not_found_and_named(dns: FakeDns, text: str) -> None:
    with pytest.raises(PeerNotFound, match=r"DNS: .*(nobody|four)\.example"):
        resolve(dns, text)


def test_localhost_is_never_asked_of_a_name_server(dns: FakeDns) -> None:
    assert resolve(dns, "/dns/localhost/tcp/1") == ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"]
    assert dns.asked == []


def test_a_dnsaddr_counts_only_with_the_peer_that_was_asked_for(dns: FakeDns) -> None:
    dns.texts["_dnsaddr.net.example."] = [
        f"dnsaddr=/ip4/192.0.2.1/tcp/1/p2p/{ALICE}",
        f"dnsaddr=/ip4/192.0.2.2/tcp/1/p2p/{BOB}",
        f"dnsaddr=/dns4/four.example/tcp/7/p2p/{ALICE}",
        "dnsaddr=/no/such/thing",
        "v=spf1 -all",
        "dnsaddr=",
    ]
    assert resolve(dns, f"/dnsaddr/net.example/p2p/{ALICE}") == [
        f"/ip4/192.0.2.1/tcp/1/p2p/{ALICE}",
        f"/ip4/192.0.2.1/tcp/7/p2p/{ALICE}",
    ]
    assert len(resolve(dns, "/dnsaddr/net.example")) == 3


def test_a_long_entry_comes_in_several_strings(dns: FakeDns) -> None:
    long = f"/dns4/{'a' * 60}.{'b' * 60}.{'c' * 60}.example/tcp/1/p2p/{ALICE}"
    assert len(long) > 230
    dns.texts["_dnsaddr.net.example."] = [f"dnsaddr={long}/p2p-circuit/p2p/{BOB}"]
    dns.hosts[f"{'a' * 60}.{'b' * 60}.{'c' * 60}.example."] = ["192.0.2.3"]
    assert resolve(dns, f"/dnsaddr/net.example/p2p/{BOB}") == [
        f"/ip4/192.0.2.3/tcp/1/p2p/{ALICE}/p2p-circuit/p2p/{BOB}"
    ]


def test_dnsaddrs_may_name_dnsaddrs_to_a_depth(dns: FakeDns) -> None:
    for depth in range(6):
        dns.texts[f"_dnsaddr.d{depth}.example."] = [f"dnsaddr=/dnsaddr/d{depth + 1}.example/p2p/{ALICE}"]
    dns.texts["_dnsaddr.d6.example."] = [f"dnsaddr=/ip4/192.0.2.1/tcp/1/p2p/{ALICE}"]
    assert resolve(dns, f"/dnsaddr/d3.example/p2p/{ALICE}") == [f"/ip4/192.0.2.1/tcp/1/p2p/{ALICE}"]
    with pytest.raises(PeerNotFound, match="nested"):
        resolve(dns, f"/dnsaddr/d0.example/p2p/{ALICE}")


def test_a_dnsaddr_that_names_itself_ends(dns: FakeDns) -> None:
    dns.texts["_dnsaddr.loop.example."] = [f"dnsaddr=/dnsaddr/loop.example/p2p/{ALICE}"]
    with pytest.raises(PeerNotFound, match="nested"):
        resolve(dns, f"/dnsaddr/loop.example/p2p/{ALICE}")
    assert len(dns.asked) <= 4


def test_one_dead_entry_does_not_hide_the_others(dns: FakeDns) -> None:
    dns.texts["_dnsaddr.net.example."] = [
        f"dnsaddr=/dns4/nobody.example/tcp/1/p2p/{ALICE}",
        f"dnsaddr=/dnsaddr/nobody.example/p2p/{ALICE}",
        f"dnsaddr=/ip4/192.0.2.1/tcp/1/p2p/{ALICE}",
    ]
    assert resolve(dns, f"/dnsaddr/net.example/p2p/{ALICE}") == [f"/ip4/192.0.2.1/tcp/1/p2p/{ALICE}"]
    del dns.texts["_dnsaddr.net.example."][2]
    with pytest.raises(PeerNotFound, match="nobody"):
        resolve(dns, f"/dnsaddr/net.example/p2p/{ALICE}")


def test_a_hostile_zone_does_not_fill_the_dialer(dns: FakeDns) -> None:
    dns.texts["_dnsaddr.big.example."] = [
        f"dnsaddr=/ip4/10.0.{n // 250}.{n % 250}/tcp/1/p2p/{ALICE}" for n in range(MAX_RESULTS + 50)
    ]
    assert len(resolve(dns, f"/dnsaddr/big.example/p2p/{ALICE}")) == MAX_RESULTS


def test_a_name_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "LIFETIME_S", 0.1)

    async def ask(server: str) -> None:
        await Resolver([server]).resolve(Multiaddr.parse("/dns4/four.example/tcp/1"))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        with pytest.raises(PeerNotFound, match=r"four\.example"):
            asyncio.run(ask(f"127.0.0.1:{deaf.getsockname()[1]}"))


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_name_servers_are_given_with_or_without_a_port(server: str, expected: tuple[str, int]) -> None:
    assert resolver_module._host_port(server) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [("/ip4/192.0.2.1/tcp/1", False), ("/dns4/a.example/tcp/1", True), ("/dnsaddr/a.example", True)],
)
def test_which_addresses_have_a_name(text: str, named: bool) -> None:
    assert has_name(Multiaddr.parse(text)) is named
