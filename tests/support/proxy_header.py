"""A reader of PROXY protocol v2 headers, written from haproxy's specification alone."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

Endpoint = tuple[IPv4Address | IPv6Address, int]

_ADDRESS_BYTES = {0x11: 4, 0x21: 16}


@dataclass(frozen=True, slots=True)
class Header:
    """What one says."""

    command: str
    source: Endpoint | None
    destination: Endpoint | None
    tlvs: dict[int, bytes]


def parse(data: bytes) -> tuple[Header, bytes]:
    """The header, and what comes behind it. Raises AssertionError for what the specification forbids."""
    assert data[:12] == bytes.fromhex("0d0a0d0a000d0a515549540a"), "no signature"
    assert data[12] >> 4 == 2, "no version 2"
    command = {0: "LOCAL", 1: "PROXY"}[data[12] & 15]
    length = int.from_bytes(data[14:16], "big")
    body, rest = data[16 : 16 + length], data[16 + length :]
    assert len(body) == length, "cut off"
    source = destination = None
    if (size := _ADDRESS_BYTES.get(data[13])) is not None:
        ports = body[2 * size : 2 * size + 4]
        source = ip_address(body[:size]), int.from_bytes(ports[:2], "big")
        destination = ip_address(body[size : 2 * size]), int.from_bytes(ports[2:], "big")
        body = body[2 * size + 4 :]
    else:
        assert data[13] == 0, "an unknown family"
    tlvs: dict[int, bytes] = {}
    while body:
        kind, size = body[0], int.from_bytes(body[1:3], "big")
        assert len(body) >= 3 + size, "a TLV is cut off"
        tlvs[kind] = body[3 : 3 + size]
        body = body[3 + size :]
    return Header(command, source, destination, tlvs), rest
