"""Which networks an address belongs to, for limits: whoever has one address mostly has its neighbours too.

An IPv4 address counts by itself and by its /24; an IPv6 address by its /64 (one household's segment), its
/56 (one household) and its /48 (one site). A limit of a wider network is larger, never smaller.
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint

IP4_PREFIXES: Final = (32, 24)
IP6_PREFIXES: Final = (64, 56, 48)


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
    prefixes = IP4_PREFIXES if endpoint.family == "ip4" else IP6_PREFIXES
    host = ipaddress.ip_address(endpoint.host.partition("%")[0])
    made = (ipaddress.ip_network((host, bits), strict=False) for bits in prefixes)
    return tuple(Network(str(network), width) for width, network in enumerate(made))


def household(addr: Multiaddr) -> str:
    """The network whose word counts as one observer's: the IPv4 address, the IPv6 /56.

    What is no IP address is itself.
    """
    found = networks(addr)
    return found[0 if len(found) == len(IP4_PREFIXES) else 1].text if found else str(addr)


def crowd(addr: Multiaddr) -> str:
    """The network that counts as one owner's where many come at once: the /24, the /56.

    What is no IP address is itself.
    """
    found = networks(addr)
    return found[1].text if found else str(addr)
