"""Pins names in multiaddrs, against a name server on loopback: families, dnsaddr, nesting, hostile zones."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import PeerNotFound
from p2pfwd.net import name_servers as name_servers_module
from p2pfwd.net.resolver import (
    MAX_QUESTIONS,
    MAX_RESULTS,
    MAX_STRANGERS_QUESTIONS,
    Resolver,
    has_name,
)
from p2pfwd.system import host_names
from p2pfwd.system.host_names import HostAddress, HostNames
from tests.support.fake_dns import FakeDns
from tests.support.peers import peer

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
    dns.texts["_dnsaddr.net.example."] = [f"dnsaddr={long}"]
    dns.hosts[f"{'a' * 60}.{'b' * 60}.{'c' * 60}.example."] = ["192.0.2.3"]
    assert resolve(dns, f"/dnsaddr/net.example/p2p/{ALICE}") == [f"/ip4/192.0.2.3/tcp/1/p2p/{ALICE}"]


def test_a_name_that_leads_nowhere_anyway_is_not_looked_up(dns: FakeDns) -> None:
    texts = [
        f"/dns4/four.example/udp/1/quic-v1/p2p/{ALICE}",
        f"/dns4/four.example/tcp/1/tls/ws/p2p/{ALICE}",
        f"/dns4/four.example/udp/1/quic-v1/p2p/{BOB}/p2p-circuit/p2p/{ALICE}",
    ]
    dns.texts["_dnsaddr.net.example."] = [f"dnsaddr={text}" for text in texts]
    assert resolve(dns, f"/dnsaddr/net.example/p2p/{ALICE}") == sorted(texts)
    for text in texts:
        assert resolve(dns, text) == [text]
    assert dns.asked == [("_dnsaddr.net.example.", "TXT")]


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


@pytest.mark.parametrize(("trusted", "most"), [(True, MAX_QUESTIONS), (False, MAX_STRANGERS_QUESTIONS)])
def test_a_hostile_zone_does_not_have_us_ask_without_end(dns: FakeDns, trusted: bool, most: int) -> None:
    for level in range(4):
        entries = [f"dnsaddr=/dnsaddr/{level + 1}-{n}.example/p2p/{ALICE}" for n in range(10)]
        for n in range(10):
            dns.texts[f"_dnsaddr.{level}-{n}.example."] = entries

    async def ask() -> list[Multiaddr]:
        addr = Multiaddr.parse(f"/dnsaddr/0-0.example/p2p/{ALICE}")
        return await Resolver([dns.address]).resolve(addr, trusted=trusted)

    with pytest.raises(PeerNotFound, match=f"{most} questions for one address are enough"):
        asyncio.run(ask())
    assert len(dns.asked) == most


def test_a_name_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_servers_module, "LIFETIME_S", 0.1)

    async def ask(server: str) -> None:
        await Resolver([server]).resolve(Multiaddr.parse("/dns4/four.example/tcp/1"))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        said = r"^DNS: no answer for four\.example within 0\.1 s from 127\.0\.0\.1$"
        with pytest.raises(PeerNotFound, match=said):
            asyncio.run(ask(f"127.0.0.1:{deaf.getsockname()[1]}"))


@pytest.mark.parametrize(
    ("text", "named"),
    [("/ip4/192.0.2.1/tcp/1", False), ("/dns4/a.example/tcp/1", True), ("/dnsaddr/a.example", True)],
)
def test_which_addresses_have_a_name(text: str, named: bool) -> None:
    assert has_name(Multiaddr.parse(text)) is named


# --- the system's way -----------------------------------------------------------------------------


class System:
    """Stands for getaddrinfo: what it knows, and what it was asked."""

    def __init__(self, **known: list[HostAddress]) -> None:
        self.known = known
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, family: int) -> list[HostAddress]:
        self.asked.append((host, family))
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [one for one in self.known[host] if family in (0, one.family)]


NAS = [HostAddress(socket.AF_INET, "192.0.2.7"), HostAddress(socket.AF_INET6, "fe80::7%eth0")]


def resolve_by_system(system: System, text: str, **how: bool) -> list[str]:
    resolver = Resolver(names=HostNames(system), resolv_conf=Path("/nonexistent"))
    return list(map(str, asyncio.run(resolver.resolve(Multiaddr.parse(text), **how))))


@pytest.mark.parametrize(
    ("text", "expected", "family"),
    [
        ("/dns4/nas/tcp/1", ["/ip4/192.0.2.7/tcp/1"], socket.AF_INET),
        ("/dns6/nas/tcp/1", ["/ip6zone/eth0/ip6/fe80::7/tcp/1"], socket.AF_INET6),
        ("/dns/nas/tcp/1", ["/ip4/192.0.2.7/tcp/1", "/ip6zone/eth0/ip6/fe80::7/tcp/1"], socket.AF_UNSPEC),
    ],
)
def test_a_name_of_the_owner_goes_the_systems_way(text: str, expected: list[str], family: int) -> None:
    system = System(nas=NAS)
    assert resolve_by_system(system, text) == expected
    assert system.asked == [("nas", family)]


def test_a_name_the_system_does_not_know_is_not_found_and_says_dns() -> None:
    with pytest.raises(PeerNotFound, match=r"^DNS: the name nas does not exist$"):
        resolve_by_system(System(), "/dns4/nas/tcp/1")


@pytest.mark.parametrize("text", ["/dns4/nas/tcp/1", "/dnsaddr/nas"])
@pytest.mark.parametrize("content", ["", "search lan\n", None])
def test_without_name_servers_the_sentence_names_dns_and_the_cure(
    tmp_path: Path, text: str, content: str | None
) -> None:
    conf = tmp_path / "resolv.conf"
    if content is not None:
        conf.write_text(content)
    resolver = Resolver(resolv_conf=conf)
    said = rf"^DNS: .*nas cannot be looked up, {conf} names no name server \(add one there or in swarm"
    with pytest.raises(PeerNotFound, match=said):
        asyncio.run(resolver.resolve(Multiaddr.parse(text), trusted=False))


def test_a_name_that_others_told_finds_neither_hosts_file_nor_search_domain(dns: FakeDns) -> None:
    system = System(**{"four.example": NAS})
    dns.texts["_dnsaddr.net.example."] = [f"dnsaddr=/dns4/four.example/tcp/1/p2p/{ALICE}"]

    async def story() -> None:
        # The servers of the settings stand for those of resolv.conf, which have port 53 only.
        resolver = Resolver([dns.address], names=HostNames(system))
        for text in ("/dns4/four.example/tcp/1", f"/dnsaddr/net.example/p2p/{ALICE}"):
            (found,) = await resolver.resolve(Multiaddr.parse(text), trusted=False)
            assert str(found).startswith("/ip4/192.0.2.1/tcp/1")

    asyncio.run(story())
    with pytest.raises(PeerNotFound, match="names no name server"):
        resolve_by_system(system, "/dns4/four.example/tcp/1", trusted=False)
    assert system.asked == []


def test_name_servers_of_the_settings_are_asked_in_place_of_the_system(dns: FakeDns) -> None:
    system = System(**{"four.example": NAS})

    async def story() -> None:
        resolver = Resolver([dns.address], names=HostNames(system))
        (found,) = await resolver.resolve(Multiaddr.parse("/dns4/four.example/tcp/1"))
        assert str(found) == "/ip4/192.0.2.1/tcp/1"

    asyncio.run(story())
    assert system.asked == [] and dns.asked == [("four.example.", "A")]


def test_resolv_conf_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 192.0.2.1\n")
    servers = name_servers_module.NameServers(resolv_conf=conf)

    async def asked() -> list[str]:
        return list(map(name_servers_module._address, servers._resolver().nameservers))

    assert asyncio.run(asked()) == ["192.0.2.1"]
    assert servers._resolver() is servers._resolver(), "unchanged, it is not read again"
    replacement = tmp_path / "new"
    replacement.write_text("nameserver 192.0.2.2\n")
    os.replace(replacement, conf)
    assert asyncio.run(asked()) == ["192.0.2.2"]
    conf.write_text("nameserver 192.0.2.3\nnameserver 192.0.2.4\n")
    assert asyncio.run(asked()) == ["192.0.2.3", "192.0.2.4"]
    conf.unlink()
    with pytest.raises(PeerNotFound, match="names no name server"):
        asyncio.run(Resolver(resolv_conf=conf).resolve(Multiaddr.parse("/dnsaddr/nas.example")))


# A name server by its name, a search domain that is none, bytes that are no text.
BAD_LINES = [b"nameserver router.lan\n", b"search a..b\n", b"domain a..b\n", b"# \xe4\xff\n"]


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_line_of_resolv_conf_that_cannot_be_read_is_left_out(tmp_path: Path, line: bytes) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_bytes(line + b"nameserver 192.0.2.1\noptions timeout:1\n")
    resolver = name_servers_module.NameServers(resolv_conf=conf)._resolver()
    assert resolver.nameservers == ["192.0.2.1"] and resolver.timeout == 1


@pytest.mark.parametrize("line", BAD_LINES)
@pytest.mark.parametrize("text", ["/dnsaddr/nas.example", "/dns/nas.example/tcp/1"])
def test_a_resolv_conf_that_cannot_be_read_fails_names_with_one_sentence_and_no_literal_address(
    tmp_path: Path, line: bytes, text: str
) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_bytes(line)

    async def resolve(text: str) -> list[Multiaddr]:
        return await Resolver(resolv_conf=conf).resolve(Multiaddr.parse(text), trusted=False)

    said = rf"^DNS: .*nas\.example cannot be looked up, {conf} names no name server (by .* )?\(add one there"
    with pytest.raises(PeerNotFound, match=said):
        asyncio.run(resolve(text))
    assert list(map(str, asyncio.run(resolve("/ip4/192.0.2.1/tcp/1")))) == ["/ip4/192.0.2.1/tcp/1"]


def test_a_host_name_that_dns_does_not_allow_fails_names_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dnspython asks for this machine's own name, and takes it for one of DNS."""
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 192.0.2.1\n")
    monkeypatch.setattr(socket, "gethostname", lambda: "my..box")
    with pytest.raises(PeerNotFound, match=r"^DNS: _dnsaddr\.nas\.example cannot be looked up: "):
        asyncio.run(Resolver(resolv_conf=conf).resolve(Multiaddr.parse("/dnsaddr/nas.example")))


def test_without_a_descriptor_to_read_dnspython_with_a_name_fails_and_is_found_later(
    dns: FakeDns, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoDescriptor:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "dns":
                raise OSError(errno.EMFILE, "Too many open files", name)

    with monkeypatch.context() as patched:
        for name in [name for name in sys.modules if name.split(".")[0] == "dns"]:
            patched.delitem(sys.modules, name)
        patched.setattr(sys, "meta_path", [NoDescriptor, *sys.meta_path])
        with pytest.raises(PeerNotFound, match=r"^DNS: four\.example cannot be looked up: this process"):
            resolve(dns, "/dns4/four.example/tcp/1")
    assert resolve(dns, "/dns4/four.example/tcp/1") == ["/ip4/192.0.2.1/tcp/1"]


# --- the local network ----------------------------------------------------------------------------


def test_in_the_local_network_the_hosts_file_and_the_segment_are_asked_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, nsswitch = tmp_path / "hosts", tmp_path / "nsswitch.conf"
    hosts.write_text("192.0.2.9 box\n")
    nsswitch.write_text("hosts: files mdns4_minimal [NOTFOUND=return] dns\n")
    monkeypatch.setattr(host_names.in_hosts_file, "__defaults__", (socket.AF_UNSPEC, hosts))
    monkeypatch.setattr(host_names.asks_local_names_locally, "__defaults__", (nsswitch,))
    system = System(**{"nas.local": NAS, "nas.lan": NAS})

    async def story(text: str) -> str:
        resolver = Resolver(local_only=True, names=HostNames(system))
        return str((await resolver.resolve(Multiaddr.parse(text)))[0])

    assert asyncio.run(story("/dns4/box/tcp/1")) == "/ip4/192.0.2.9/tcp/1"
    assert asyncio.run(story("/dns4/nas.local/tcp/1")) == "/ip4/192.0.2.7/tcp/1"
    for text in ("/dns4/nas.lan/tcp/1", "/dnsaddr/nas.lan"):
        said = r"nas\.lan is not looked up outside the local network, .* \(name it in the hosts file, or"
        with pytest.raises(PeerNotFound, match=said):
            asyncio.run(story(text))
    nsswitch.write_text("hosts: files dns\n")
    with pytest.raises(PeerNotFound, match=r"nas\.local is not looked up outside the local network"):
        asyncio.run(story("/dns4/nas.local/tcp/1"))
    assert system.asked == [("nas.local", socket.AF_INET)]
