"""system.netlink: what of the kernel's messages is news, and that the socket tells."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from p2pfwd.system import netlink
from p2pfwd.system.netlink import ADDRESSES, Netlink, NetworkNews, list_addresses, read_addresses


def message(kind: int, body: bytes) -> bytes:
    length = 16 + len(body)
    return struct.pack("=LHHLL", length, kind, 0, 0, 0) + body + bytes(-length % 4)


def link(index: int, *, carrier: bool, kind: int = 16) -> bytes:
    return message(kind, struct.pack("=BxHiII", 0, 1, index, 0x1_0000 if carrier else 0, 0))


def address(scope: int, kind: int = 20) -> bytes:
    return message(kind, struct.pack("=BBBBI", socket.AF_INET, 24, 0, scope, 2))


def route(bits: int, *, table: int = 254, kind: int = 24, gateway: bytes = b"\x0a\0\0\1") -> bytes:
    header = struct.pack("=BBBBBBBBI", socket.AF_INET, bits, 0, 0, table, 3, 0, 1, 0)
    return message(kind, header + gateway)


@pytest.mark.parametrize(
    ("data", "news"),
    [
        pytest.param(address(0), [ADDRESSES], id="an address came"),
        pytest.param(address(0, kind=21), [ADDRESSES], id="an address went"),
        pytest.param(address(253), [], id="a link-local one, as each container has"),
        pytest.param(address(254), [], id="loopback's"),
        pytest.param(link(2, carrier=True), [], id="a line that was up"),
        pytest.param(link(2, carrier=False), [], id="a line goes down: nothing to be done yet"),
        pytest.param(link(2, carrier=False) + link(2, carrier=True), ["a line is up again"], id="up again"),
        pytest.param(link(2, carrier=False) + link(3, carrier=True), [], id="another line"),
        pytest.param(
            link(2, carrier=False) + link(2, carrier=False, kind=17) + link(2, carrier=True),
            [],
            id="taken away, and a new one",
        ),
        pytest.param(route(0), ["a default route came"], id="a default route"),
        pytest.param(route(1), ["a default route came"], id="half of one, a VPN's"),
        pytest.param(route(24), [], id="one network's route"),
        pytest.param(route(0, table=255), [], id="the local table"),
        pytest.param(route(0) + route(0), ["a default route came"], id="told again"),
        pytest.param(
            route(0) + route(0, kind=25),
            ["a default route came", "a default route went"],
            id="gone",
        ),
        pytest.param(address(0)[:20], [], id="cut off"),
        pytest.param(message(20, b"\0"), [], id="too short"),
        pytest.param(struct.pack("=LHHLL", 3, 20, 0, 0, 0), [], id="a length that is none"),
        pytest.param(b"\xff" * 40, [], id="nonsense"),
        pytest.param(message(99, bytes(40)), [], id="of another kind"),
    ],
)
def test_what_is_news(data: bytes, news: list[str]) -> None:
    assert NetworkNews().read(data) == news


def test_routes_are_remembered_up_to_a_bound() -> None:
    news = NetworkNews()
    for number in range(3 * netlink._MAX_ROUTES):
        news.read(route(0, gateway=struct.pack("=I", number)))
    assert len(news._routes) <= netlink._MAX_ROUTES


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="no netlink here")
def test_the_socket_opens_hears_and_closes() -> None:
    async def main() -> None:
        told: list[str] = []
        source = Netlink(told.append)
        source._readable()
        assert told == []
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        near.setblocking(False)
        real, source._sock = source._sock, near
        far.send(route(0))
        source._readable()
        assert told == ["a default route came"]
        source._sock = real
        source.close()
        source.close()
        near.close()
        far.close()

    asyncio.run(main())


def listed(index: int, family: int, *attributes: tuple[int, bytes]) -> bytes:
    body = struct.pack("=BBBBI", family, 24, 0, 0, index)
    for kind, value in attributes:
        body += struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
    return message(20, body)


DONE = message(3, bytes(4))
HERE, THERE = socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.2")
SIX = socket.inet_pton(socket.AF_INET6, "fd00::1")


@pytest.mark.parametrize(
    ("data", "found", "more"),
    [
        pytest.param(
            listed(2, socket.AF_INET, (1, HERE), (2, HERE), (3, b"eth0\0")), [(2, "10.0.0.1")], True, id="4"
        ),
        pytest.param(listed(3, socket.AF_INET6, (1, SIX)), [(3, "fd00::1")], True, id="6"),
        pytest.param(
            listed(4, socket.AF_INET, (1, THERE), (2, HERE)), [(4, "10.0.0.1")], True, id="point to point"
        ),
        pytest.param(listed(2, socket.AF_INET, (1, HERE)) + DONE, [(2, "10.0.0.1")], False, id="the end"),
        pytest.param(DONE, [], False, id="none"),
        pytest.param(listed(2, socket.AF_INET, (3, b"eth0\0")), [], True, id="without an address"),
        pytest.param(listed(2, socket.AF_INET, (1, HERE[:3])), [], True, id="an address cut off"),
        pytest.param(listed(2, 99, (1, HERE)), [], True, id="of another family"),
        pytest.param(listed(2, socket.AF_INET, (1, HERE))[:-6], [], True, id="cut off"),
        pytest.param(struct.pack("=LHHLL", 3, 20, 0, 0, 0), [], False, id="a length that is none"),
    ],
)
def test_the_list_of_addresses(data: bytes, found: list[tuple[int, str]], more: bool) -> None:
    told: list[tuple[int, str]] = []
    assert read_addresses(data, told) is more
    assert told == found


def test_a_refused_list_is_an_error_of_the_system() -> None:
    with pytest.raises(PermissionError):
        read_addresses(message(2, struct.pack("=i", -13)), [])


def test_the_real_list_has_loopback() -> None:
    assert "127.0.0.1" in [host for _, host in list_addresses()]
