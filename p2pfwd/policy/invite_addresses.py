"""Which of a node's addresses an invite carries: a few, the likeliest first. Pure.

Rules: first those that can be dialed directly, of the Internet before the local network's; then places at
relays, which work where a router lets nobody in. What leads nowhere but to this machine is carried only where
there is nothing else, so that two daemons of one machine can try it. The peer ID itself is the fall-back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, is_relayed, split_circuit

MAX_DIRECT: Final = 3
MAX_RELAYED: Final = 2
MAX_ADDRESS_BYTES: Final = 128
"""Longest address carried: each byte is one and a half characters of the word."""

_RANK: Final = {
    AddressClass.PUBLIC: 0,
    AddressClass.NAME: 0,
    AddressClass.PRIVATE: 1,
}


def invite_addresses(addrs: Iterable[Multiaddr]) -> list[Multiaddr]:
    """Those to carry; `addrs` are the node's own, best first, without its ID at their ends."""
    short = [addr for addr in addrs if len(addr.to_bytes()) <= MAX_ADDRESS_BYTES]
    direct = [addr for addr in short if not is_relayed(addr)]
    far = sorted((it for it in direct if address_class(it) in _RANK), key=lambda it: _RANK[address_class(it)])
    found = (_of_both_ranks(far) or direct[:1]) + _one_per_relay(it for it in short if is_relayed(it))
    return found


def _of_both_ranks(far: list[Multiaddr]) -> list[Multiaddr]:
    """The first few, one of the local network among them: the two machines may be in one room."""
    near = [addr for addr in far if address_class(addr) is AddressClass.PRIVATE]
    chosen = far[:MAX_DIRECT]
    if near and near[0] not in chosen:
        chosen[-1] = near[0]
    return chosen


def _one_per_relay(relayed: Iterable[Multiaddr]) -> list[Multiaddr]:
    found: dict[object, Multiaddr] = {}
    for addr in relayed:
        relay, where = split_circuit(addr)
        if where is not None:
            found.setdefault(relay, addr)
    return list(found.values())[:MAX_RELAYED]
