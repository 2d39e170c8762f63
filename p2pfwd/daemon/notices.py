"""What a person should know of a request that was carried out all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, TcpEndpoint, address_class, tcp_endpoint
from p2pfwd.net.own_addresses import OwnAddresses, best_first
from p2pfwd.policy.undialable import UNDIALABLE
from p2pfwd.rpc.schema import Notice

if TYPE_CHECKING:
    from p2pfwd.daemon.relays import Relays

EXPOSED = "exposed"
ANY_ADDRESS = "any-address"
NO_PLACE = "no-place"
MAX_LISTED = 6
"""Addresses of this machine in one sentence: containers give a machine dozens."""


def of_listening(address: Multiaddr, own: OwnAddresses) -> list[Notice]:
    """Whether others than this machine reach a local address, and at which of its addresses."""
    endpoint = tcp_endpoint(address)
    if endpoint is None or address_class(address) is AddressClass.LOOPBACK:
        return []
    where = endpoint.host
    if address_class(address) is AddressClass.UNSPECIFIED:
        where = f"any address of this machine ({_listed(own.expanded(address))})"
    message = f"other machines can connect, too: whoever reaches {where} can use it"
    return [Notice(EXPOSED, message, f"to keep it to this machine, listen on {_loopback(endpoint)}")]


def of_target(address: Multiaddr) -> list[Notice]:
    """That one connects to no such address, where a target is the one that stands for all of a machine."""
    endpoint = tcp_endpoint(address)
    if endpoint is None or address_class(address) is not AddressClass.UNSPECIFIED:
        return []
    message = f"{endpoint.host} is where to listen for all addresses; connecting to it reaches this machine"
    return [Notice(ANY_ADDRESS, message, f"write {_loopback(endpoint)} for a service of this machine")]


def of_tunnel(direction: str, address: Multiaddr, own: OwnAddresses) -> list[Notice]:
    """What there is to say of the local address of a forward, or the target of a listen."""
    return of_target(address) if direction == "listen" else of_listening(address, own)


def _loopback(endpoint: TcpEndpoint) -> str:
    return f"[::1]:{endpoint.port}" if endpoint.family == "ip6" else f"127.0.0.1:{endpoint.port}"


def _listed(addrs: Iterable[Multiaddr]) -> str:
    found = [tcp_endpoint(one) for one in best_first(addrs)]
    hosts = [endpoint.host for endpoint in found if endpoint is not None]
    more = len(hosts) - MAX_LISTED
    return ", ".join(hosts[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def of_relays(relays: Relays) -> list[Notice]:
    """That a named relay has yet to give a place, where there is none: no address leads through one."""
    missing = next(iter(relays.missing().items()), None)
    if missing is None or relays.client.places():
        return []
    message = "no relay of reach.relays has given this node a place yet: {}: {}".format(*missing)
    return [Notice(NO_PLACE, message, "once p2pfwd status shows one, the same command prints its address")]


def of_peer_addresses(addrs: Iterable[Multiaddr], why_not: Callable[[Multiaddr], str | None]) -> list[Notice]:
    """Those that will never be dialed; `why_not`: of `Dialer`."""
    whys = ((addr, why_not(addr)) for addr in addrs)
    hint = "give an address for TCP: /ip4/<address>/tcp/<port>/p2p/<peer ID>"
    return [Notice(UNDIALABLE, f"{addr} is not used: {why}", hint) for addr, why in whys if why is not None]
