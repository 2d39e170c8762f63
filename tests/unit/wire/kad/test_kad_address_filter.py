"""wire.kad.address_filter: what may pass by scope and by teller, whom the table takes, diversity groups."""

import pytest

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire.kad.address_filter import (
    MAX_PEERS_OF_GROUP,
    MAX_USABLE_ADDRESSES,
    Scope,
    ip_group,
    is_at_home,
    passing_addrs,
    passing_peers,
)
from p2pfwd.wire.kad.messages import ConnectionType, KadPeer

PEER, OTHER, LOCAL = (PeerId.from_bytes(b"\x12\x20" + bytes([n]) * 32) for n in range(3))
LOOPBACK = ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/dns/localhost/tcp/1"]
NEAR = ["/ip4/192.168.1.5/tcp/1", "/ip4/169.254.1.1/tcp/1", "/ip6/fd00::1/tcp/1", "/dns/nas.local/tcp/1"]
WORLD = ["/ip4/11.1.2.3/tcp/1", "/ip6/2606:4700::1/tcp/1", "/dns4/example.com/tcp/443/wss"]
WORLD += [f"/ip4/11.1.2.3/tcp/1/p2p/{OTHER}/p2p-circuit"]
NOWHERE = ["/ip4/0.0.0.0/tcp/1", "/ip4/192.0.2.1/tcp/1", "/ip4/224.0.0.1/tcp/1", "/unix/run/x", "/memory/1"]
NOWHERE += ["/ip6/fe80::1/tcp/1", "/ip6zone/eth0/ip6/fe80::1/tcp/1"]
EVERYTHING = [Multiaddr.parse(text) for text in LOOPBACK + NEAR + WORLD + NOWHERE]

RULES = [
    (Scope.WAN, AddressClass.PUBLIC, WORLD),
    (Scope.WAN, AddressClass.PRIVATE, WORLD),
    (Scope.WAN, AddressClass.LOOPBACK, WORLD),
    *(
        (scope, via, told)
        for scope in (Scope.LAN, Scope.PRIVATE)
        for via, told in [
            (AddressClass.LOOPBACK, LOOPBACK + NEAR + WORLD),
            (AddressClass.PRIVATE, NEAR + WORLD),
            (AddressClass.LINK_LOCAL, NEAR + WORLD),
            (AddressClass.PUBLIC, WORLD),
            (AddressClass.NAME, WORLD),
            (AddressClass.UNROUTABLE, WORLD),
            (AddressClass.UNSPECIFIED, WORLD),
        ]
    ),
]


@pytest.mark.parametrize(("scope", "via", "told"), RULES, ids=lambda v: getattr(v, "value", ""))
def test_what_may_pass(scope: Scope, via: AddressClass, told: list[str]) -> None:
    assert [str(addr) for addr in passing_addrs(PEER, EVERYTHING, scope, via)] == told


def test_the_peers_own_id_is_cut_off_and_an_address_of_another_peer_is_dropped() -> None:
    addr = Multiaddr.parse("/ip4/11.1.2.3/tcp/1")
    relayed = Multiaddr.parse(f"/ip4/11.1.2.3/tcp/1/p2p/{OTHER}/p2p-circuit")
    told = [addr.with_peer_id(OTHER), addr.with_peer_id(PEER), addr, relayed.with_peer_id(PEER)]
    assert passing_addrs(PEER, told, Scope.WAN, AddressClass.PUBLIC) == (addr, relayed)


def test_addresses_of_one_peer_are_capped_and_the_first_kept() -> None:
    told = [Multiaddr.parse(f"/ip4/11.1.2.3/tcp/{port}") for port in range(1, 100)]
    kept = passing_addrs(PEER, told, Scope.WAN, AddressClass.PUBLIC)
    assert list(kept) == told[:MAX_USABLE_ADDRESSES]


def kad_peer(number: int, *addrs: str) -> KadPeer:
    peer_id = PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32, "big"))
    return KadPeer(peer_id, tuple(map(Multiaddr.parse, addrs)), ConnectionType.CONNECTED)


def test_peers_pass_without_what_may_not_be_dialled_and_without_us() -> None:
    told = [KadPeer(LOCAL), kad_peer(1, "/ip4/10.0.0.1/tcp/1"), kad_peer(2, "/ip4/11.1.2.3/tcp/1")]
    kept = passing_peers(told, Scope.WAN, AddressClass.PUBLIC, local=LOCAL)
    assert kept == [kad_peer(1), told[2]]


def test_a_wan_answer_full_of_one_network_is_thinned() -> None:
    told = [kad_peer(n, f"/ip4/11.1.{n}.1/tcp/1") for n in range(20)]
    told.insert(0, kad_peer(50, "/ip4/11.2.0.1/tcp/1", "/ip4/11.2.0.2/tcp/1"))
    told.append(kad_peer(51, "/ip4/11.3.0.1/tcp/1"))
    kept = passing_peers(told, Scope.WAN, AddressClass.PUBLIC, local=LOCAL)
    assert kept == [*told[: 1 + MAX_PEERS_OF_GROUP], told[-1]]
    assert len(passing_peers(told, Scope.LAN, AddressClass.PRIVATE, local=LOCAL)) == len(told)


@pytest.mark.parametrize(
    ("scope", "via", "addrs", "expected"),
    [
        (Scope.WAN, AddressClass.PUBLIC, ["/ip4/11.1.2.3/tcp/1"], True),
        (Scope.WAN, AddressClass.PUBLIC, ["/dns4/example.com/tcp/1"], True),
        (Scope.WAN, AddressClass.PUBLIC, [f"/ip4/11.1.2.3/tcp/1/p2p/{OTHER}/p2p-circuit"], False),
        (Scope.WAN, AddressClass.PUBLIC, ["/ip4/192.168.1.5/tcp/1"], False),
        (Scope.WAN, AddressClass.PUBLIC, [], False),
        (Scope.LAN, AddressClass.PUBLIC, ["/ip4/192.168.1.5/tcp/1"], False),
        (Scope.LAN, AddressClass.PRIVATE, [], True),
        (Scope.LAN, AddressClass.LINK_LOCAL, [], True),
        (Scope.LAN, AddressClass.LOOPBACK, [], True),
        (Scope.PRIVATE, AddressClass.PUBLIC, [], True),
        (Scope.PRIVATE, AddressClass.LOOPBACK, [], True),
    ],
)
def test_whom_the_table_takes(scope: Scope, via: AddressClass, addrs: list[str], expected: bool) -> None:
    assert is_at_home(map(Multiaddr.parse, addrs), scope, via) is expected


@pytest.mark.parametrize(
    ("addr", "group"),
    [
        ("/ip4/11.1.2.3/tcp/1", "0b01"),
        ("/ip4/11.1.99.3/udp/1/quic-v1", "0b01"),
        ("/ip6/2606:4700:1:2::1/tcp/1", "260647000001"),
        ("/ip6/::ffff:11.1.2.3/tcp/1", "0b01"),
        ("/ip6/64:ff9b::b01:203/tcp/1", "0b01"),
        ("/ip4/192.168.1.5/tcp/1", None),
        ("/dns4/example.com/tcp/1", None),
        (f"/ip4/11.1.2.3/tcp/1/p2p/{OTHER}/p2p-circuit", None),
    ],
)
def test_diversity_groups(addr: str, group: str | None) -> None:
    assert ip_group(Multiaddr.parse(addr)) == group
