"""Which addresses make sense to whom: loopback only over loopback, private ones not to public peers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class

_NEAR: Final = {AddressClass.LOOPBACK: 0, AddressClass.PRIVATE: 1}


def is_visible(addr: Multiaddr, over: Multiaddr) -> bool:
    """Whether the address makes sense to, or from, a peer met at `over`."""
    return _NEAR.get(address_class(addr), 2) >= _NEAR.get(address_class(over), 2)


def visible(addrs: Iterable[Multiaddr], over: Multiaddr) -> list[Multiaddr]:
    """Those of the addresses that do."""
    return [addr for addr in addrs if is_visible(addr, over)]
