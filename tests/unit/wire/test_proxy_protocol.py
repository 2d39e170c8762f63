"""The PROXY header, byte for byte, and as a parser of its own reads it."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from p2pfwd.wire.proxy_protocol import PEER_ID_TLV, SIGNATURE, Endpoint, encode
from tests.support.proxy_header import Header, parse

PEER = "12D3KooWNBSMhmHonfyQbXYczUq24ujJKQxhpNNgSaLxvupFZ5uu"
TLV = bytes.fromhex("e00034") + PEER.encode()


@pytest.mark.parametrize(
    ("source", "destination", "head"),
    [
        (
            (IPv4Address("192.0.2.7"), 51822),
            (IPv4Address("198.51.100.1"), 4001),
            "0d0a0d0a000d0a515549540a 21 11 0043 c0000207 c6336401 ca6e 0fa1",
        ),
        (
            (IPv6Address("2001:db8::7"), 1),
            (IPv6Address("::1"), 65535),
            "0d0a0d0a000d0a515549540a 21 21 005b 20010db8000000000000000000000007"
            " 00000000000000000000000000000001 0001 ffff",
        ),
        (None, (IPv4Address("198.51.100.1"), 4001), "0d0a0d0a000d0a515549540a 20 00 0037"),
        (None, None, "0d0a0d0a000d0a515549540a 20 00 0037"),
        ((IPv6Address("::1"), 7), (IPv4Address("127.0.0.1"), 8), "0d0a0d0a000d0a515549540a 20 00 0037"),
    ],
)
def test_the_header_is_these_bytes(source: Endpoint | None, destination: Endpoint | None, head: str) -> None:
    assert encode(source, destination, PEER) == bytes.fromhex(head) + TLV


@pytest.mark.parametrize(("one", "other"), [("192.0.2.7", "127.0.0.1"), ("2001:db8::7", "fe80::1")])
def test_a_reader_finds_what_was_written(one: str, other: str) -> None:
    source, destination = (ip_address(one), 4001), (ip_address(other), 22)
    header, rest = parse(encode(source, destination, PEER) + b"GET /")
    assert header == Header("PROXY", source, destination, {PEER_ID_TLV: PEER.encode()})
    assert rest == b"GET /"


def test_it_fits_what_nginx_reads_before_tls() -> None:
    """nginx to 1.22 peeks at 107 bytes of it, and refuses more."""
    longest = encode((IPv6Address("::1"), 1), (IPv6Address("::1"), 2), PEER)
    assert len(longest) == 107
    assert longest.startswith(SIGNATURE) and struct.unpack_from(">H", longest, 14) == (91,)
