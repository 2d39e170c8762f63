"""The messages of hole punching: the spec's bytes, and what is refused or left out."""

from __future__ import annotations

import pytest

from p2pfwd.core import varint
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import dcutr
from p2pfwd.wire.dcutr import HolePunch, Kind

ADDR = Multiaddr.parse("/ip4/11.0.0.1/tcp/4011")
SHORT = ADDR.to_bytes()


def test_a_connect_is_the_spec_s_bytes() -> None:
    data = bytes([0x08, 100, 0x12, len(SHORT)]) + SHORT
    assert dcutr.encode(HolePunch(Kind.CONNECT, (ADDR,))) == data
    assert dcutr.decode(data, Kind.CONNECT) == HolePunch(Kind.CONNECT, (ADDR,))


def test_a_sync_is_the_spec_s_bytes_and_has_no_addresses() -> None:
    assert dcutr.encode(HolePunch(Kind.SYNC)) == bytes([0x08, 0xAC, 0x02])
    stuffed = bytes([0x08, 0xAC, 0x02, 0x12, len(SHORT)]) + SHORT
    assert dcutr.decode(stuffed, Kind.SYNC) == HolePunch(Kind.SYNC)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", Kind.CONNECT),
        (b"\x08\x00", Kind.CONNECT),
        (b"\x08\x64", Kind.SYNC),
        (b"\x08\xac\x02", Kind.CONNECT),
        (b"\x08\x65", Kind.CONNECT),
        (b"\xff", Kind.CONNECT),
        (b"\x12\x08" + SHORT, Kind.CONNECT),
    ],
)
def test_what_does_not_belong_here_is_the_peer_s_fault(data: bytes, wanted: Kind) -> None:
    with pytest.raises(RemoteProtocolError, match="dcutr"):
        dcutr.decode(data, wanted)


@pytest.mark.parametrize(
    "odd",
    [b"", b"\xff\xff", b"\x04\x01", b"\x35\x81\x01" + b"a" * 129],
    ids=["empty", "unknown", "cut", "long"],
)
def test_an_odd_address_costs_itself_alone(odd: bytes) -> None:
    data = b"\x08\x64" + b"".join(b"\x12" + varint.encode(len(one)) + one for one in (odd, SHORT))
    assert dcutr.decode(data, Kind.CONNECT).addrs == (ADDR,)


def test_of_many_addresses_a_few_are_looked_at_and_sent() -> None:
    many = tuple(Multiaddr.parse(f"/ip4/11.0.0.1/tcp/{port}") for port in range(1, 200))
    data = b"\x08\x64" + b"".join(b"\x12" + bytes([len(a.to_bytes())]) + a.to_bytes() for a in many)
    assert dcutr.decode(data, Kind.CONNECT).addrs == many[: dcutr.MAX_ADDRESSES]
    assert len(dcutr.encode(HolePunch(Kind.CONNECT, many))) < 300
