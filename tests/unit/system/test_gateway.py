"""system.gateway: the router of the IPv4 default route, out of /proc/net/route."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from p2pfwd.system import gateway
from p2pfwd.system.gateway import Gateway, default_gateway

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def native(host: str) -> str:
    (number,) = struct.unpack("=I", socket.inet_aton(host))
    return f"{number:08X}"


def route(to: str, by: str, mask: str = "0.0.0.0", flags: int = 3, metric: int = 0) -> str:
    fields = (
        "eth0",
        native(to),
        native(by),
        f"{flags:04X}",
        "0",
        "0",
        str(metric),
        native(mask),
        "0",
        "0",
        "0",
    )
    return "\t".join(fields) + "\n"


LAN = route("192.168.1.0", "0.0.0.0", "255.255.255.0", flags=1)
DEFAULT = route("0.0.0.0", "127.0.0.7", metric=100)
VPN = route("0.0.0.0", "0.0.0.0", "128.0.0.0", flags=1) + route("128.0.0.0", "0.0.0.0", "128.0.0.0", flags=1)


@pytest.mark.parametrize(
    ("routes", "host"),
    [
        pytest.param(LAN + DEFAULT, "127.0.0.7", id="usual"),
        pytest.param(DEFAULT + route("0.0.0.0", "127.0.0.8", metric=50), "127.0.0.8", id="the least metric"),
        pytest.param(DEFAULT + VPN, None, id="all goes into a VPN"),
        pytest.param(DEFAULT + route("0.0.0.0", "0.0.0.0", flags=1, metric=1), None, id="a line of its own"),
        pytest.param(LAN, None, id="no way to the world"),
        pytest.param(route("0.0.0.0", "127.0.0.7", flags=2), None, id="a route that is down"),
        pytest.param("eth0 x y z\n\neth0\t00000000\tzz\t3\t0\t0\t0\t00000000\n", None, id="garbage"),
        pytest.param("", None, id="empty"),
    ],
)
def test_the_router_of_the_default_route(tmp_path: Path, routes: str, host: str | None) -> None:
    (tmp_path / "route").write_text(HEAD + routes)
    found = default_gateway(tmp_path)
    assert found == (None if host is None else Gateway(host, "127.0.0.1"))


def test_a_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_gateway(tmp_path) is None
    (tmp_path / "route").write_text(HEAD + DEFAULT)
    monkeypatch.setattr(gateway, "_source_towards", lambda host: None)
    assert default_gateway(tmp_path) is None
