"""core.multiaddrs as a source of answers: endpoints, classes, shorthand, PEER arguments."""

import pytest

from p2pfwd.core.multiaddrs import (
    AddressClass,
    Multiaddr,
    TcpEndpoint,
    address_class,
    from_sockaddr,
    is_relayed,
    parse_endpoint,
    parse_peer,
    tcp_endpoint,
    unix_path,
)
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidMultiaddr, InvalidPeerId

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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:22", "/ip4/127.0.0.1/tcp/22"),
        ("0.0.0.0:22", "/ip4/0.0.0.0/tcp/22"),
        ("[::1]:22", "/ip6/::1/tcp/22"),
        ("[fe80::1%eth0]:22", "/ip6zone/eth0/ip6/fe80::1/tcp/22"),
        (":22", "/ip4/127.0.0.1/tcp/22"),
        ("22", "/ip4/127.0.0.1/tcp/22"),
        ("0", "/ip4/127.0.0.1/tcp/0"),
        ("localhost:22", "/ip4/127.0.0.1/tcp/22"),
        ("LOCALHOST:22", "/ip4/127.0.0.1/tcp/22"),
        ("host.name:22", "/dns/host.name/tcp/22"),
        ("my_host-1:22", "/dns/my_host-1/tcp/22"),
        ("/ip4/1.2.3.4/tcp/5/", "/ip4/1.2.3.4/tcp/5"),
        ("/unix/run/x", "/unix/run/x"),
    ],
)
def test_shorthand_for_endpoints(text: str, expected: str) -> None:
    assert str(parse_endpoint(text)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must begin with /"),
        ("foo", "the port is missing"),
        ("127.0.0.1", "the port is missing"),
        ("[::1]", "the port is missing"),
        ("host:", "a port is a number"),
        ("host:ssh", "a port is a number"),
        ("host:65536", "a port is a number"),
        ("host:\u0663", "a port is a number"),
        ("65536", "a port is a number from 0 to 65535"),
        ("99999", "a port is a number from 0 to 65535"),
        ("1" * 40, "a port is a number from 0 to 65535"),
        ("::1:22", "needs brackets"),
        ("1.2.3:22", "four numbers"),
        ("1.2.3.256:22", "four numbers"),
        ("[::g]:22", "not an IPv6 address"),
        ("a b:22", "is no host name"),
        ("a..b:22", "is no host name"),
        ("a/b:22", "is no host name"),
        ("\udcff:22", "is no host name"),
        ("x" * 64 + ":22", "is no host name"),
        ("/run/app.sock", "unknown protocol run"),
    ],
)
def test_bad_endpoints_name_the_fault_and_the_cure(text: str, reason: str) -> None:
    with pytest.raises(InvalidMultiaddr) as caught:
        parse_endpoint(text)
    assert reason in caught.value.message
    assert caught.value.message.startswith("failed to parse multiaddr ")
    assert caught.value.hint and caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("text", "addr"),
    [
        (ID, None),
        (CID, None),
        (f"/p2p/{ID}", None),
        (f"/ipfs/{ID}", None),
        (f"/p2p/{CID}", None),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{ID}", "/ip4/1.2.3.4/tcp/1"),
        (f"/ip4/1.2.3.4/tcp/1/ipfs/{ID}/", "/ip4/1.2.3.4/tcp/1"),
        (f"/dnsaddr/example.com/p2p/{ID}", "/dnsaddr/example.com"),
        (
            f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY_ID}/p2p-circuit/p2p/{ID}",
            f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY_ID}/p2p-circuit",
        ),
    ],
)
def test_peer_arguments(text: str, addr: str | None) -> None:
    assert parse_peer(text) == (PeerId.parse(ID), None if addr is None else Multiaddr.parse(addr))


def test_a_dnsaddr_may_leave_the_peer_id_to_its_records() -> None:
    assert parse_peer("/dnsaddr/example.com") == (None, Multiaddr.parse("/dnsaddr/example.com"))


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("/ip4/1.2.3.4/tcp/1", InvalidMultiaddr, "no peer ID at its end"),
        ("/dnsaddr/example.com/tcp/1", InvalidMultiaddr, "no peer ID at its end"),
        (f"/p2p/{ID}/tcp/1", InvalidMultiaddr, "no peer ID at its end"),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY_ID}/p2p-circuit", InvalidMultiaddr, "not the peer behind it"),
        ("/ip4/1.2.3.4/tcp/1/p2p", InvalidMultiaddr, "p2p needs a value"),
        ("/p2p/12D3KooW", InvalidMultiaddr, "incomplete or mistyped"),
        ("12D3KooW", InvalidPeerId, "incomplete or mistyped"),
        ("", InvalidPeerId, "is empty"),
        ("1.2.3.4:4001", InvalidPeerId, "is no peer ID"),
    ],
)
def test_bad_peer_arguments_name_the_fault_and_the_cure(
    text: str, error: type[InvalidMultiaddr | InvalidPeerId], reason: str
) -> None:
    with pytest.raises(error) as caught:
        parse_peer(text)
    assert reason in caught.value.message
    assert caught.value.hint
