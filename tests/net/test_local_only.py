"""Pins `local_only`: nothing is sent to, and nobody served from, beyond this machine's own network."""

from __future__ import annotations

from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import DialFailed, PeerNotFound
from p2pfwd.net import swarm as swarm_module
from p2pfwd.net.conduit import tcp
from p2pfwd.net.dialer import OUTSIDE
from p2pfwd.net.resolver import Resolver
from p2pfwd.policy.provenance import Provenance
from tests.net.swarm_rig import stranger, swarm
from tests.support.fake_dns import FakeDns
from tests.support.loops import on_loop

FAR = ["/ip4/8.8.8.8/tcp/1", "/ip6/2606:4700::1/tcp/1", "/ip4/192.0.2.1/tcp/1"]
NEAR = ["/ip4/127.0.0.1/tcp/1", "/ip4/10.1.2.3/tcp/1", "/ip6/fd00::9/tcp/1"]


@pytest.fixture
def connects(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hosts that a connect is made to; none of them answers."""
    tried: list[str] = []

    async def refuse(endpoint: Any, *_: Any, **_options: Any) -> Any:
        tried.append(endpoint.host)
        raise ConnectionRefusedError("for the test")

    monkeypatch.setattr(tcp, "connect", refuse)
    return tried


def reasons(failure: DialFailed) -> dict[str, str]:
    """Address -> reason of every attempt."""
    return {one["Address"]: one["Reason"] for one in failure.details["attempts"]}


@on_loop
async def test_addresses_outside_are_not_dialed_and_are_told(connects: list[str]) -> None:
    async with swarm(local_only=True) as node:
        with pytest.raises(DialFailed) as caught:
            await node.connect(stranger(), map(Multiaddr.parse, FAR + NEAR))
    assert sorted(connects) == ["10.1.2.3", "127.0.0.1", "fd00::9"]
    found = reasons(caught.value)
    assert set(found) == {*FAR, *NEAR}
    assert {address for address, reason in found.items() if reason == OUTSIDE} == set(FAR)


@on_loop
async def test_a_relay_without_an_address_is_dialed_where_it_is_known_to_be_and_nowhere_outside(
    connects: list[str],
) -> None:
    relay = stranger()
    async with swarm(local_only=True) as node:
        there = map(Multiaddr.parse, (FAR[0], NEAR[1]))
        node.peerstore.add_addrs(relay, there, 60.0, Provenance.GIVEN)
        with pytest.raises(DialFailed) as caught:
            await node.connect(stranger(), [Multiaddr.parse(f"/p2p/{relay}/p2p-circuit")])
    assert connects == ["10.1.2.3"]
    (reason,) = reasons(caught.value).values()
    assert f"cannot reach {relay}: " in reason and f"{FAR[0]}: {OUTSIDE}" in reason


@on_loop
async def test_what_a_name_leads_to_outside_is_not_dialed_either(connects: list[str]) -> None:
    peer = stranger()
    with FakeDns() as dns:
        dns.texts["_dnsaddr.example.org."] = [f"dnsaddr=/ip4/8.8.8.8/tcp/4001/p2p/{peer}"]
        async with swarm(local_only=True, dns_servers=(dns.address,)) as node:
            with pytest.raises(DialFailed) as caught:
                await node.connect(peer, [Multiaddr.parse("/dnsaddr/example.org")])
    assert reasons(caught.value) == {"/ip4/8.8.8.8/tcp/4001": OUTSIDE}
    assert connects == []


@on_loop
async def test_only_name_servers_of_the_local_network_are_asked() -> None:
    entry = f"/ip4/10.1.2.3/tcp/4001/p2p/{stranger()}"
    with FakeDns() as dns:
        dns.texts["_dnsaddr.example.org."] = [f"dnsaddr={entry}"]
        resolver = Resolver(("8.8.8.8", "[2606:4700::1]:53", dns.address), local_only=True)
        found = await resolver.resolve(Multiaddr.parse("/dnsaddr/example.org"))
    assert list(map(str, found)) == [entry]


@on_loop
async def test_where_no_name_server_is_local_nobody_is_asked() -> None:
    resolver = Resolver(("8.8.8.8",), local_only=True)
    for text in ("/dnsaddr/example.org", "/dns4/example.org/tcp/1"):
        with pytest.raises(PeerNotFound, match=r"is not looked up outside .* none of swarm\.dns_servers"):
            await resolver.resolve(Multiaddr.parse(text))
    (loopback,) = await resolver.resolve(Multiaddr.parse("/dns4/localhost/tcp/1"))
    assert str(loopback) == "/ip4/127.0.0.1/tcp/1"


@pytest.mark.parametrize("local_only", [True, False])
@on_loop
async def test_nobody_is_served_from_outside(monkeypatch: pytest.MonkeyPatch, local_only: bool) -> None:
    """Loopback is told to be outside: a connection from a public address cannot be had here."""
    monkeypatch.setattr(swarm_module, "is_local", lambda addr: False)
    async with swarm(local_only=local_only) as node, swarm() as other:
        if local_only:
            with pytest.raises(DialFailed):
                await other.connect(node.peer_id, node.listen_addrs())
            assert node.conns() == []
        else:
            assert (await other.connect(node.peer_id, node.listen_addrs())).remote_peer == node.peer_id
