"""Which part of the world an IP address or a name belongs to; the ranges are go-multiaddr's (manet).

Pure tables over integers; names of local domains count with the network they stand for.
"""

from __future__ import annotations

import ipaddress
from enum import Enum


class AddressClass(Enum):
    """Where an address can be reached from."""

    LOOPBACK = "loopback"
    PRIVATE = "private"
    LINK_LOCAL = "link-local"
    PUBLIC = "public"
    UNROUTABLE = "unroutable"
    UNSPECIFIED = "unspecified"
    NAME = "name"


def _ranges(*pairs: tuple[str, AddressClass]) -> list[tuple[int, int, AddressClass]]:
    nets = [(ipaddress.ip_network(text), cls) for text, cls in pairs]
    return [(int(net.network_address), int(net.netmask), cls) for net, cls in nets]


_IP4 = _ranges(
    ("0.0.0.0/32", AddressClass.UNSPECIFIED),
    ("127.0.0.0/8", AddressClass.LOOPBACK),
    ("10.0.0.0/8", AddressClass.PRIVATE),
    ("100.64.0.0/10", AddressClass.PRIVATE),
    ("172.16.0.0/12", AddressClass.PRIVATE),
    ("192.168.0.0/16", AddressClass.PRIVATE),
    ("169.254.0.0/16", AddressClass.LINK_LOCAL),
    ("0.0.0.0/8", AddressClass.UNROUTABLE),
    ("192.0.0.0/26", AddressClass.UNROUTABLE),
    ("192.0.2.0/24", AddressClass.UNROUTABLE),
    ("192.88.99.0/24", AddressClass.UNROUTABLE),
    ("198.18.0.0/15", AddressClass.UNROUTABLE),
    ("198.51.100.0/24", AddressClass.UNROUTABLE),
    ("203.0.113.0/24", AddressClass.UNROUTABLE),
    ("224.0.0.0/4", AddressClass.UNROUTABLE),
    ("240.0.0.0/4", AddressClass.UNROUTABLE),
)
"""First match counts; everything else is public."""

_IP6 = _ranges(
    ("::/128", AddressClass.UNSPECIFIED),
    ("::1/128", AddressClass.LOOPBACK),
    ("fc00::/7", AddressClass.PRIVATE),
    ("fe80::/10", AddressClass.LINK_LOCAL),
    ("2001:db8::/32", AddressClass.UNROUTABLE),
    ("2000::/3", AddressClass.PUBLIC),
)
"""First match counts; everything else is unroutable."""

_NAT64 = bytes.fromhex("0064ff9b") + bytes(8)
_V4_MAPPED = bytes(10) + b"\xff\xff"

_LOCAL_DOMAINS = ("local", "home.arpa", "test", "invalid", "in-addr.arpa", "ip6.arpa")
"""Domains the public DNS does not serve: go does not count them as public."""


def class_of_ip4(packed: bytes) -> AddressClass:
    """The class of a 4-byte IPv4 address."""
    number = int.from_bytes(packed, "big")
    return next((cls for net, mask, cls in _IP4 if number & mask == net), AddressClass.PUBLIC)


def class_of_ip6(packed: bytes) -> AddressClass:
    """The class of a 16-byte IPv6 address; IPv4 inside NAT64 or a mapped address decides for itself."""
    if packed.startswith((_NAT64, _V4_MAPPED)):
        return class_of_ip4(packed[12:])
    number = int.from_bytes(packed, "big")
    return next((cls for net, mask, cls in _IP6 if number & mask == net), AddressClass.UNROUTABLE)


def class_of_name(name: str) -> AddressClass:
    """LOOPBACK for localhost, PRIVATE for domains the public DNS does not serve, NAME otherwise."""
    bare = "." + name.lower().rstrip(".")
    if bare.endswith(".localhost"):
        return AddressClass.LOOPBACK
    if any(bare.endswith("." + domain) for domain in _LOCAL_DOMAINS):
        return AddressClass.PRIVATE
    return AddressClass.NAME
