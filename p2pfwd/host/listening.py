"""Where a host listens: at its configured addresses, and where their port is taken at a free one.

Rules: addresses with the same port, as those of IPv4 and IPv6, keep one port in common: if one of them is
taken, all move to the same free one, so that a router or a person has one port to know. An address family
that this machine does not have is left out with a warning, as long as one address can be bound. An address
that this machine does not have at the moment is listened on when it has (a VPN, DHCP): Linux keeps a bound
socket through its address's absence, so one that was had once needs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from p2pfwd.core.multiaddrs import Multiaddr, TcpEndpoint, tcp_endpoint
from p2pfwd.errors import AddressInUse, BindFailed
from p2pfwd.net.swarm import Swarm

log = logging.getLogger("p2pfwd.host")

FREE_PORT_TRIES: Final = 8
"""Ports that the system chooses for the first address of a group, and another program has for the second."""


class Outcome(NamedTuple):
    """What became of the addresses to listen on."""

    taken_ports: tuple[int, ...] = ()
    """Those that others had, and were replaced."""
    absent: tuple[Multiaddr, ...] = ()
    """Addresses that this machine does not have now."""


async def listen(swarm: Swarm, addrs: Sequence[Multiaddr], *, fall_back_to_free_port: bool) -> Outcome:
    """Listen on `addrs`.

    Raises as `Swarm.listen`: AddressInUse only without `fall_back_to_free_port`, BindFailed where none can be
    bound and none is only absent.
    """
    taken: list[int] = []
    failures: dict[Multiaddr, BindFailed] = {}
    for port, group in _by_port(addrs):
        try:
            failures |= await _at_one_port(swarm, group, port)
        except AddressInUse as exc:
            if not (fall_back_to_free_port and port):
                raise
            failures |= await _at_a_free_port(swarm, group)
            taken.append(port)
            log.warning("%s; listening on another port instead", exc.message)
    absent = tuple(addr for addr, failure in failures.items() if failure.details.get("absent"))
    if failures and len(failures) == len(addrs) and not absent:
        raise next(iter(failures.values()))
    for addr, failure in failures.items():
        more = "; it is listened on as soon as this machine has it" if addr in absent else ""
        log.warning("%s%s", failure.message, more)
    return Outcome(tuple(taken), absent)


async def listen_again(swarm: Swarm, absent: Sequence[Multiaddr]) -> tuple[Multiaddr, ...]:
    """Listen on addresses that were absent; those that still cannot be bound."""
    left: list[Multiaddr] = []
    for addr in absent:
        try:
            await swarm.listen(addr)
        except (AddressInUse, BindFailed) as exc:
            if not exc.details.get("absent"):
                log.warning("%s", exc.message)
            left.append(addr)
        else:
            log.warning("this machine has the address of %s now: listening there", addr)
            swarm.own_addresses.told_anew()
    return tuple(left)


def _by_port(addrs: Iterable[Multiaddr]) -> list[tuple[int, list[Multiaddr]]]:
    """Addresses that share a port, in their order; one whose port is free to choose (0) is alone."""
    groups: list[tuple[int, list[Multiaddr]]] = []
    for addr in addrs:
        endpoint = tcp_endpoint(addr)
        port = endpoint.port if endpoint is not None else 0
        known = next((group for number, group in groups if number == port and port), None)
        if known is None:
            groups.append((port, [addr]))
        else:
            known.append(addr)
    return groups


async def _at_one_port(
    swarm: Swarm, addrs: Iterable[Multiaddr], port: int
) -> dict[Multiaddr, BindFailed]:
    """Listen on all at `port`, with 0 at the one that the first gets; the errors of those that cannot be.

    AddressInUse: then on none of them.
    """
    bound: list[Multiaddr] = []
    failures: dict[Multiaddr, BindFailed] = {}
    for addr in addrs:
        try:
            got = await swarm.listen(_with_port(addr, port))
        except BindFailed as exc:
            failures[addr] = exc
            continue
        except AddressInUse:
            for each in bound:
                swarm.unlisten(each)
            raise
        bound.append(got)
        endpoint = tcp_endpoint(got)
        port = port or (endpoint.port if endpoint is not None else 0)
    return failures


async def _at_a_free_port(swarm: Swarm, addrs: Sequence[Multiaddr]) -> dict[Multiaddr, BindFailed]:
    for left in reversed(range(FREE_PORT_TRIES)):
        try:
            return await _at_one_port(swarm, addrs, 0)
        except AddressInUse:
            if not left:
                raise
    raise AssertionError


def _with_port(addr: Multiaddr, port: int) -> Multiaddr:
    endpoint = tcp_endpoint(addr)
    if endpoint is None or endpoint.port == port:
        return addr
    return _multiaddr(endpoint, port)


def _multiaddr(endpoint: TcpEndpoint, port: int) -> Multiaddr:
    host, _, zone = endpoint.host.partition("%")
    return Multiaddr.parse(f"{f'/ip6zone/{zone}' if zone else ''}/{endpoint.family}/{host}/tcp/{port}")
