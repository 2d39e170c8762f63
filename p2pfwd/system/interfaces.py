"""The addresses behind an unspecified one: what `/ip4/0.0.0.0/tcp/4011` is on this machine."""

from __future__ import annotations

import ifaddr

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, tcp_endpoint

_RANK = {
    AddressClass.PUBLIC: 0,
    AddressClass.PRIVATE: 1,
    AddressClass.UNROUTABLE: 2,
    AddressClass.LOOPBACK: 3,
}


def expand(addr: Multiaddr) -> list[Multiaddr]:
    """`addr` itself, or one address per interface if its host is unspecified; link-local ones left out."""
    endpoint = tcp_endpoint(addr)
    if endpoint is None or address_class(addr) is not AddressClass.UNSPECIFIED:
        return [addr]
    found: dict[Multiaddr, None] = {}
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            if ip.is_IPv4 and endpoint.family == "ip4":
                host = ip.ip
            elif ip.is_IPv6 and endpoint.family == "ip6":
                host = ip.ip[0]
            else:
                continue
            expanded = Multiaddr.parse(f"/{endpoint.family}/{host}/tcp/{endpoint.port}")
            if address_class(expanded) is not AddressClass.LINK_LOCAL:
                found[expanded] = None
    return list(found)


def best_first(addrs: list[Multiaddr]) -> list[Multiaddr]:
    """Public addresses, then private, then loopback; otherwise in the order given."""
    return sorted(addrs, key=lambda addr: _RANK.get(address_class(addr), 2))
