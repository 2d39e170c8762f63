"""Which addresses may pass between the DHT and us, and which peers are at home in it (libp2p spec: kad-dht).

The same rule holds for what others tell us and for what we tell them. Otherwise a peer could make us dial, or
we could make it dial, addresses in a network that it cannot reach itself:

- by whom: over a loopback connection anything may be told; over a private one all but loopback; from
  anywhere else public addresses and names only;
- by scope: the WAN takes public addresses and names only, whoever tells them.

Link-local IPv6 means nothing without the teller's interface, and nobody can dial the rest (unspecified,
unroutable, no host at all). A relayed address counts as where its relay is. A name may still resolve to
anything, so the dialer checks what a name that a stranger told resolves to.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, is_relayed
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire.kad.messages import KadPeer

MAX_USABLE_ADDRESSES: Final = 16
"""Addresses kept of one peer: more than a dial plan tries; the first ones, as the teller prefers them."""

MAX_PEERS_OF_GROUP: Final = 3
"""Peers of one IP group taken from one WAN answer (go's bound)."""


class Scope(Enum):
    """Which DHT: the public one, its twin on the local network, or that of a private set of machines."""

    WAN = "wan"
    LAN = "lan"
    PRIVATE = "private"


_WORLD: Final = frozenset({AddressClass.PUBLIC, AddressClass.NAME})
_NEAR: Final = frozenset({AddressClass.PRIVATE, AddressClass.LINK_LOCAL})
_HERE: Final = frozenset({AddressClass.LOOPBACK})


def passing_classes(scope: Scope, via: AddressClass) -> frozenset[AddressClass]:
    """Classes of addresses that may pass over a connection whose remote address is of class `via`."""
    if scope is Scope.WAN or via not in _NEAR | _HERE:
        return _WORLD
    return _WORLD | _NEAR if via in _NEAR else _WORLD | _NEAR | _HERE


def passing_addrs(
    peer_id: PeerId, addrs: Iterable[Multiaddr], scope: Scope, via: AddressClass
) -> tuple[Multiaddr, ...]:
    """Those addresses of `peer_id` that may pass, without its ID at their end; at most MAX_USABLE_ADDRESSES.

    An address that ends in another peer's ID is not this peer's, and is left out.
    """
    classes = passing_classes(scope, via)
    passing: dict[Multiaddr, None] = {}
    for addr in addrs:
        if len(passing) == MAX_USABLE_ADDRESSES:
            break
        if addr.peer_id() not in (None, peer_id):
            continue
        kind = address_class(addr)
        if kind in classes and not (kind is AddressClass.LINK_LOCAL and addr.has("ip6")):
            passing[addr.without_peer_id()] = None
    return tuple(passing)


def passing_peers(
    peers: Iterable[KadPeer], scope: Scope, via: AddressClass, *, local: PeerId
) -> list[KadPeer]:
    """A stranger's peers with those of their addresses that may pass, in order, without ourselves.

    Of a WAN answer at most MAX_PEERS_OF_GROUP peers of one IP group are kept, the first. Peers without
    addresses stay: somebody may know them.
    """
    kept: list[KadPeer] = []
    groups: Counter[str] = Counter()
    for peer in peers:
        if peer.peer_id == local:
            continue
        addrs = passing_addrs(peer.peer_id, peer.addrs, scope, via)
        if scope is Scope.WAN:
            own = {group for addr in addrs if (group := ip_group(addr)) is not None}
            if any(groups[group] >= MAX_PEERS_OF_GROUP for group in own):
                continue
            groups.update(own)
        kept.append(KadPeer(peer.peer_id, addrs, peer.connection))
    return kept


def is_at_home(addrs: Iterable[Multiaddr], scope: Scope, via: AddressClass) -> bool:
    """Whether a server of the DHT with these addresses, connected over `via`, belongs into the table.

    WAN: it has a public address of its own, not only a relay's. LAN: we are connected locally. Private:
    it is one of ours, as its protocol says.
    """
    if scope is Scope.WAN:
        return any(address_class(addr) in _WORLD and not is_relayed(addr) for addr in addrs)
    return scope is Scope.PRIVATE or via in _NEAR | _HERE


def ip_group(addr: Multiaddr) -> str | None:
    """The network an address is counted under for diversity: its /16 (IPv4) or /48 (IPv6).

    None unless it is a direct address with a public IP: only for those a stranger needs a network.
    """
    if address_class(addr) is not AddressClass.PUBLIC or is_relayed(addr):
        return None
    packed = next(_packed(value) for name, value in addr.components() if name in ("ip4", "ip6"))
    if len(packed) == 16:
        # What is public outside 2000::/3 is IPv4 inside NAT64 or a mapped address.
        return packed[:6].hex() if packed[0] >> 5 == 1 else packed[12:14].hex()
    return packed[:2].hex()


def _packed(host: str | None) -> bytes:
    return ipaddress.ip_address(host or "").packed
