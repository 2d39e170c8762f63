"""The header of the PROXY protocol, version 2: who connects, told to a service before the first byte.

haproxy's specification (proxy-protocol.txt, 2.2): a signature, version and command, family, length,
addresses, then TLVs. Where no address of the other end is known (a relay is between) the command is LOCAL
with the family UNSPEC: every receiver must take that, and uses the addresses of the connection itself. The
peer ID is a TLV of the range that the specification leaves to applications.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
PEER_ID_TLV: Final = 0xE0
"""Its value: the peer ID in base58, as `-r` writes it, without a newline."""

MAX_VALUE_BYTES: Final = 1024

_LOCAL: Final = 0x20  # version 2 in the upper half
_PROXY: Final = 0x21
_UNSPEC: Final = 0x00
_TCP4: Final = 0x11
_TCP6: Final = 0x21

Endpoint = tuple[IPv4Address | IPv6Address, int]


def encode(source: Endpoint | None, destination: Endpoint | None, peer_id: str) -> bytes:
    """The header of a TCP connection between these, of one family; LOCAL where they are not, or not known."""
    tlv = peer_id.encode("ascii")
    assert len(tlv) <= MAX_VALUE_BYTES
    command, family, addresses = _LOCAL, _UNSPEC, b""
    if source is not None and destination is not None and source[0].version == destination[0].version:
        command, family = _PROXY, _TCP4 if source[0].version == 4 else _TCP6
        addresses = source[0].packed + destination[0].packed + struct.pack(">HH", source[1], destination[1])
    body = addresses + struct.pack(">BH", PEER_ID_TLV, len(tlv)) + tlv
    return SIGNATURE + struct.pack(">BBH", command, family, len(body)) + body
