"""core.multiaddrs as a source of answers: endpoints, classes, socket addresses."""

import pytest

from p2pfwd.core.multiaddrs import (
    AddressClass,
    Multiaddr,
    TcpEndpoint,
    address_class,
    from_sockaddr,
    is_relayed,
    tcp_endpoint,
    unix_path,
)
from p2pfwd.errors import InvalidMultiaddr

ID = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
RELAY_ID = "QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC"
CID = "bafzaajaiaejcal72gwuz2or47oyxxn6b3rkwdmmkrxgkjxzy3rqt5kczyn7lcm3l"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/ip4/1.2.3.4/tcp/80", ("ip4", "1.2.3.4", 80)),
        (f"/ip6/::1/tcp/0/p2p/{ID}", ("ip6", "::1", 0)),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/1", ("ip6", "fe80::1%eth0", 1)),
        ("/dns/a.example/tcp/1", ("dns", "a.example", 1)),
        ("/dns4/a.example/tcp/1", ("dns4", "a.example", 1)),
        ("/dns6/a.example/tcp/1", ("dns6", "a.example", 1)),
        ("/dnsaddr/a.example/tcp/1", None),
        ("/ip4/1.2.3.4/udp/80", None),
        ("/ip4/1.2.3.4/tcp/80/ws", None),
        ("/ip4/1.2.3.4", None),
        ("/tcp/80", None),
        ("/tcp/80/tcp/81", None),
        ("/unix/a", None),
        (f"/p2p/{ID}", None),
        (f"/ip4/1.2.3.4/tcp/80/p2p/{RELAY_ID}/p2p-circuit", None),
    ],
)
def test_tcp_endpoint_is_exactly_host_and_port(text: str, expected: tuple[str, str, int] | None) -> None:
    endpoint = tcp_endpoint(Multiaddr.parse(text))
    assert endpoint == expected
    assert endpoint is None or isinstance(endpoint, TcpEndpoint)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("/unix/run/a b.sock", "/run/a b.sock"), ("/unix/x", "/x"), ("/tcp/1/unix/x", None), ("/tcp/1", None)],
)
def test_unix_path_is_absolute(text: str, expected: str | None) -> None:
    assert unix_path(Multiaddr.parse(text)) == expected


def test_is_relayed() -> None:
    assert is_relayed(Multiaddr.parse(f"/p2p/{RELAY_ID}/p2p-circuit/p2p/{ID}"))
    assert not is_relayed(Multiaddr.parse(f"/ip4/1.2.3.4/tcp/1/p2p/{ID}"))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("ip4/127.0.0.1", AddressClass.LOOPBACK),
        ("ip4/127.255.0.9", AddressClass.LOOPBACK),
        ("ip4/10.1.2.3", AddressClass.PRIVATE),
        ("ip4/100.64.0.1", AddressClass.PRIVATE),
        ("ip4/100.128.0.1", AddressClass.PUBLIC),
        ("ip4/172.15.0.1", AddressClass.PUBLIC),
        ("ip4/172.31.255.255", AddressClass.PRIVATE),
        ("ip4/172.32.0.1", AddressClass.PUBLIC),
        ("ip4/192.168.0.1", AddressClass.PRIVATE),
        ("ip4/169.254.1.1", AddressClass.LINK_LOCAL),
        ("ip4/0.0.0.0", AddressClass.UNSPECIFIED),
        ("ip4/0.1.2.3", AddressClass.UNROUTABLE),
        ("ip4/192.0.2.1", AddressClass.UNROUTABLE),
        ("ip4/198.19.0.1", AddressClass.UNROUTABLE),
        ("ip4/224.0.0.1", AddressClass.UNROUTABLE),
        ("ip4/255.255.255.255", AddressClass.UNROUTABLE),
        ("ip4/11.0.0.1", AddressClass.PUBLIC),
        ("ip6/::", AddressClass.UNSPECIFIED),
        ("ip6/::1", AddressClass.LOOPBACK),
        ("ip6/fd00::1", AddressClass.PRIVATE),
        ("ip6/fe80::1", AddressClass.LINK_LOCAL),
        ("ip6zone/eth0/ip6/fe80::1", AddressClass.LINK_LOCAL),
        ("ip6/2001:db8::1", AddressClass.UNROUTABLE),
        ("ip6/2a00::1", AddressClass.PUBLIC),
        ("ip6/4000::1", AddressClass.UNROUTABLE),
        ("ip6/64:ff9b::808:808", AddressClass.PUBLIC),
        ("ip6/64:ff9b::a00:1", AddressClass.PRIVATE),
        ("ip6/::ffff:127.0.0.1", AddressClass.LOOPBACK),
        ("dns/example.com", AddressClass.NAME),
        ("dns4/notlocal", AddressClass.NAME),
        ("dnsaddr/bootstrap.libp2p.io", AddressClass.NAME),
        ("dns/localhost", AddressClass.LOOPBACK),
        ("dns/a.LOCALHOST.", AddressClass.LOOPBACK),
        ("dns/printer.local", AddressClass.PRIVATE),
        ("dns/box.home.arpa", AddressClass.PRIVATE),
        ("memory/1", AddressClass.UNROUTABLE),
    ],
)
def test_address_class(host: str, expected: AddressClass) -> None:
    assert address_class(Multiaddr.parse(f"/{host}/tcp/1")) is expected


def test_address_class_of_a_relayed_address_is_the_relays() -> None:
    assert (
        address_class(Multiaddr.parse(f"/ip4/11.0.0.1/tcp/1/p2p/{RELAY_ID}/p2p-circuit"))
        is AddressClass.PUBLIC
    )
    assert address_class(Multiaddr.parse("/unix/a")) is AddressClass.UNROUTABLE
    assert address_class(Multiaddr.parse(f"/p2p/{ID}").without_peer_id()) is AddressClass.UNROUTABLE


@pytest.mark.parametrize(
    ("sockaddr", "expected"),
    [
        (("127.0.0.1", 80), "/ip4/127.0.0.1/tcp/80"),
        (("::1", 80, 0, 0), "/ip6/::1/tcp/80"),
        (("::ffff:10.0.0.1", 80, 0, 0), "/ip4/10.0.0.1/tcp/80"),
        (("fe80::1", 80, 0, 2), "/ip6zone/2/ip6/fe80::1/tcp/80"),
        (("fe80::1%eth0", 80, 0, 2), "/ip6zone/eth0/ip6/fe80::1/tcp/80"),
        (("2a00::1", 80, 0, 2), "/ip6/2a00::1/tcp/80"),
    ],
)
def test_from_sockaddr(sockaddr: tuple[str | int, ...], expected: str) -> None:
    assert str(from_sockaddr(sockaddr)) == expected


def test_from_sockaddr_refuses_names() -> None:
    with pytest.raises(InvalidMultiaddr):
        from_sockaddr(("localhost", 80))
