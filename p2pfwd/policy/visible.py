"""Which addresses make sense to whom: loopback only over loopback, private ones not to public peers.

Who comes over a relay may be anywhere, wherever the relay is: a hub on the local network brings strangers
from the whole world, who must neither learn what is behind it nor have this node knock there. A peer of the
owner's is taken to be where the relay is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, is_relayed

_NEAR: Final = {AddressClass.LOOPBACK: 0, AddressClass.PRIVATE: 1}


def place(over: Multiaddr, *, is_own: bool) -> AddressClass:
    """Where a peer is that is met at `over`; `is_own`: it is one of the owner's."""
    return AddressClass.PUBLIC if is_relayed(over) and not is_own else address_class(over)


def is_visible(addr: Multiaddr, there: AddressClass) -> bool:
    """Whether the address makes sense to, or from, a peer at such a place."""
    return _NEAR.get(address_class(addr), 2) >= _NEAR.get(there, 2)


def visible(addrs: Iterable[Multiaddr], there: AddressClass) -> list[Multiaddr]:
    """Those of the addresses that do."""
    return [addr for addr in addrs if is_visible(addr, there)]
