"""Which networks an address belongs to, for limits: whoever has one address mostly has its neighbours too.

An IPv4 address counts by itself and by its /24; an IPv6 address by its /64 (one household's segment), its
/56 (one household) and its /48 (one site). A limit of a wider network is larger, never smaller.
"""

from __future__ import annotations

from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final, NamedTuple

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint

IP4_PREFIXES: Final[tuple[int, ...]] = (32, 24)
IP6_PREFIXES: Final[tuple[int, ...]] = (64, 56, 48)

_MAPPED: Final = bytes(10) + b"\xff\xff"
"""What an IPv4 address begins with where it is written as one of IPv6."""

MAX_HOSTS: Final = 2048
"""Hosts whose networks are remembered: to work them out costs as much as to refuse a connection."""


class Network(NamedTuple):
    """One network that an address belongs to."""

    text: str
    """As `192.0.2.0/24`."""
    width: int
    """0 for the narrowest of its family, then 1, 2."""


def networks(addr: Multiaddr) -> tuple[Network, ...]:
    """The networks of an address, the narrowest first; none where it is no IP address."""
    endpoint = tcp_endpoint(addr)
    if endpoint is None or endpoint.family not in ("ip4", "ip6"):
        return ()
    return networks_of_host(endpoint.host)


@lru_cache(maxsize=MAX_HOSTS)
def networks_of_host(host: str) -> tuple[Network, ...]:
    """The same of a literal host, as a socket tells it. Raises OSError for what is none.

    By the system's two functions: with `ipaddress` it took twenty times as long, and with a flood of ever new
    IPv6 addresses a sixth of this node's time.
    """
    family, prefixes = AF_INET, IP4_PREFIXES
    if ":" not in host:
        packed = inet_pton(AF_INET, host)
    else:
        packed = inet_pton(AF_INET6, host.partition("%")[0])
        if packed.startswith(_MAPPED):
            packed = packed[len(_MAPPED) :]
        else:
            family, prefixes = AF_INET6, IP6_PREFIXES
    return tuple(
        Network(f"{inet_ntop(family, packed[: bits // 8].ljust(len(packed), bytes(1)))}/{bits}", width)
        for width, bits in enumerate(prefixes)
    )


def household(addr: Multiaddr) -> str:
    """The network whose word counts as one observer's: the IPv4 address, the IPv6 /56.

    What is no IP address is itself.
    """
    found = networks(addr)
    return found[0 if len(found) == len(IP4_PREFIXES) else 1].text if found else str(addr)


def site(addr: Multiaddr) -> str:
    """The widest network that may be one owner's: the /24, the /48. What is no IP address is itself."""
    found = networks(addr)
    return found[-1].text if found else str(addr)


def crowd(addr: Multiaddr) -> str:
    """The network that counts as one owner's where many come at once: the /24, the /56.

    What is no IP address is itself.
    """
    found = networks(addr)
    return found[1].text if found else str(addr)
