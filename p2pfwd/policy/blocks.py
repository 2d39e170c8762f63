"""Whom a node does not speak to: peers by their ID, and networks. Pure.

A network is written as an address or in CIDR; an IPv4 address inside of IPv6 is the IPv4 address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId

Network = IPv4Network | IPv6Network

_MAPPED_BITS = 96
"""Bits before the IPv4 address in `::ffff:0:0/96`."""


def parse_network(text: str) -> Network | None:
    """The network that `text` is, or None where it is no IP address and none in CIDR.

    Raises ValueError for an address with bits beyond its prefix; its text is the network that was meant.
    """
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if "%" in text:  # a zone is an interface of this machine, and no part of a network
        return None
    if "/" in text and ipaddress.ip_address(text.partition("/")[0]) != loose.network_address:
        raise ValueError(str(loose))
    if isinstance(loose, IPv6Network) and loose.prefixlen >= _MAPPED_BITS:
        mapped = loose.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, loose.prefixlen - _MAPPED_BITS))
    return loose


class Blocks:
    """One list; it does not change."""

    def __init__(self, peers: Iterable[PeerId] = (), networks: Iterable[Network] = ()) -> None:
        self.peers = frozenset(peers)
        self.networks = frozenset(networks)
        self._shifts: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}  # version -> host bits -> prefixes
        for network in self.networks:
            host_bits = network.max_prefixlen - network.prefixlen
            prefix = int(network.network_address) >> host_bits
            self._shifts[network.version].setdefault(host_bits, set()).add(prefix)

    def __len__(self) -> int:
        return len(self.peers) + len(self.networks)

    def has_host(self, host: str) -> bool:
        """Whether a literal host, as a socket tells it, is in a network of the list."""
        if not self.networks:
            return False
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        number = int(address)
        return any(number >> bits in found for bits, found in self._shifts[address.version].items())

    def has_addr(self, addr: Multiaddr) -> bool:
        """The same of an address; one over a relay is in none, for the relay's own connection is judged."""
        if not self.networks:
            return False
        endpoint = tcp_endpoint(addr)
        return endpoint is not None and endpoint.family in ("ip4", "ip6") and self.has_host(endpoint.host)
