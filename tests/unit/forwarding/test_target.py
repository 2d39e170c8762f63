"""Pins which addresses can be a target; connecting is tested on real sockets in tests/net."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import InvalidMultiaddr, TargetRefused
from p2pfwd.forwarding.target import Target
from p2pfwd.system import sockaddrs
from tests.unit.forwarding.fakes import ALICE


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/127.0.0.1/tcp/22",
        "/ip6/::1/tcp/22",
        "/dns/localhost/tcp/22",
        "/dns4/example.com/tcp/443",
        "/dns6/example.com/tcp/443",
        "/unix/run/user/1000/a.sock",
    ],
)
def test_tcp_names_and_unix_sockets_are_targets(address: str) -> None:
    target = Target(Multiaddr.parse(address))
    assert str(target.address) == address
    assert (target.name is not None) == address.startswith("/dns")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/ip4/127.0.0.1/tcp/0", "^port can not be 0$"),
        ("/dns/localhost/tcp/0", "^port can not be 0$"),
        ("/ip4/127.0.0.1/udp/53", "^address does not contain tcp or unix protocol$"),
        ("/ip4/127.0.0.1", "^address does not contain tcp or unix protocol$"),
        ("/ip4/127.0.0.1/tcp/80/ws", "alone"),
        ("/ip4/127.0.0.1/tcp/80/http", "alone"),
        (f"/p2p/{ALICE}", "not a peer"),
        (f"/ip4/127.0.0.1/tcp/4001/p2p/{ALICE}", "not a peer"),
        ("/unix/" + "a" * 107, "longer than 107 bytes"),
    ],
)
def test_everything_else_is_refused_before_anything_is_done(address: str, words: str) -> None:
    with pytest.raises(InvalidMultiaddr, match=words) as caught:
        Target(Multiaddr.parse(address))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("typed", "family", "host", "written"),
    [
        ("/ip4/127.0.0.1", socket.AF_INET6, "::1", "[::1]"),
        ("/ip6/::1", socket.AF_INET, "127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_service_at_the_other_loopback_is_told(typed: str, family: int, host: str, written: str) -> None:
    with socket.socket(family) as service:
        if family == socket.AF_INET6:
            service.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        service.bind((host, 0))
        service.listen()
        port = service.getsockname()[1]
        with pytest.raises(TargetRefused) as caught:
            asyncio.run(Target(Multiaddr.parse(f"{typed}/tcp/{port}")).connect(5))
    where = f"a service listens at {written}:{port}"
    assert caught.value.hint == f"{where}: give that, or localhost:{port} for either"


def test_an_interface_that_goes_while_it_is_waited_for_leaves_no_socket_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(zone: str) -> int:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(sockaddrs, "interface_number", gone)
    target = Target(Multiaddr.parse("/ip6zone/wlan9/ip6/fe80::1/tcp/22"))
    sock = socket.socket(socket.AF_INET6)
    with pytest.raises(TargetRefused):
        asyncio.run(target.finish(sock, 5))
    assert sock.fileno() == -1
