"""Which addresses of a peer to dial, and when: a pure policy (happy eyeballs, RFC 8305; go's ranker).

Addresses nearer to home go first, IPv6 before IPv4 of the same class; each next one starts a little
later, and none waits for another to fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, tcp_endpoint
from p2pfwd.policy.undialable import why_undialable

NEAR_STEP_S: Final = 0.03
"""Between private or loopback addresses: they answer at once or never."""

FAR_STEP_S: Final = 0.25
"""Between public addresses, as RFC 8305 and go."""

MAX_ADDRESSES: Final = 32
"""Tried for one peer; the rest only costs time."""

_ORDER: Final = {
    AddressClass.LOOPBACK: 0,
    AddressClass.PRIVATE: 1,
    AddressClass.LINK_LOCAL: 1,
    AddressClass.PUBLIC: 2,
    AddressClass.NAME: 2,
    AddressClass.UNROUTABLE: 3,
}


_LOCAL: Final = (AddressClass.LOOPBACK, AddressClass.PRIVATE, AddressClass.LINK_LOCAL)


@dataclass(frozen=True, slots=True)
class PlannedDial:
    """Dial `addr`, `delay_s` seconds after the beginning."""

    addr: Multiaddr
    delay_s: float


def is_dialable(addr: Multiaddr) -> bool:
    """Whether this node can dial the address as it is: a literal TCP endpoint that is somewhere.

    Whether a link-local one's interface is here is for the dialer to look.
    """
    endpoint = tcp_endpoint(addr)
    literal = endpoint is not None and endpoint.family in ("ip4", "ip6")
    return literal and why_undialable(addr, lambda _zone: True) is None


def is_local(addr: Multiaddr) -> bool:
    """Whether the address is on this machine or in its own network, by its class."""
    return address_class(addr) in _LOCAL


def plan(addrs: Iterable[Multiaddr], own: Sequence[Multiaddr] = ()) -> list[PlannedDial]:
    """The dials to make, in order. Drops what cannot be dialed, duplicates, and `own` addresses."""
    mine = {addr.without_peer_id() for addr in own}
    wanted = {
        addr.without_peer_id(): None
        for addr in addrs
        if is_dialable(addr) and addr.without_peer_id() not in mine
    }

    def rank(addr: Multiaddr) -> tuple[int, int]:
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        return _ORDER[address_class(addr)], 0 if endpoint.family == "ip6" else 1

    planned: list[PlannedDial] = []
    delay = 0.0
    for addr in sorted(wanted, key=rank)[:MAX_ADDRESSES]:
        planned.append(PlannedDial(addr, delay))
        near = address_class(addr) in _LOCAL
        delay += NEAR_STEP_S if near else FAR_STEP_S
    return planned
