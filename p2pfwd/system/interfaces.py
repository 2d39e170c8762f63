"""The interfaces of this machine and their addresses: listed by one walker, and kept for everybody who asks.

Rules:
- Link-local addresses carry their zone apart, as the interface's index; addresses are text without it.
- A listing is kept until `refresh`, and at most `MAX_AGE_S`: the network watch refreshes it on each change.
- Nobody is hurt where it cannot be read: out of descriptors the last listing stands; where the system does
  not tell at all (a sandbox without netlink) it is what getsockname tells, and one warning.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from p2pfwd.system.netlink import list_addresses

log = logging.getLogger("p2pfwd.net")

MAX_AGE_S: Final = 5.0
"""For those whose network nobody watches. Listing takes 0.3 to 0.9 ms, too long for each dial and answer."""

_OUTWARD: Final = {socket.AF_INET: ("127.0.0.1", "192.0.2.1"), socket.AF_INET6: ("::1", "2001:db8::1")}
"""Per family: loopback, and an address of documentation that a default route leads to."""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network this machine is in."""

    name: str
    index: int
    hosts: frozenset[str]  # its IP addresses as text, without zones

    def has(self, version: int) -> bool:
        """Whether it has an address of IP version 4 or 6."""
        return any((":" in host) == (version == 6) for host in self.hosts)


Listing = tuple[Interface, ...]


def walk() -> Listing:
    """What the system lists now. Raises OSError."""
    return _by_netlink() if sys.platform == "linux" else _by_getifaddrs()


def _by_netlink() -> Listing:
    """As `_by_getifaddrs`, in half the time, without the 0.7 MB and the 30 ms that loading it takes."""
    hosts: dict[int, set[str]] = {}
    for index, host in list_addresses():
        hosts.setdefault(index, set()).add(host)
    names = dict(socket.if_nameindex())
    return tuple(Interface(names[i], i, frozenset(found)) for i, found in hosts.items() if i in names)


def _by_getifaddrs() -> Listing:
    import ifaddr

    found: list[Interface] = []
    for adapter in ifaddr.get_adapters():
        texts = (ip.ip if isinstance(ip.ip, str) else ip.ip[0] for ip in adapter.ips)
        hosts = frozenset(str(ipaddress.ip_address(text.partition("%")[0])) for text in texts)
        found.append(Interface(adapter.name, adapter.index or 0, hosts))
    return tuple(found)


def by_getsockname() -> Listing:
    """What sockets tell: loopback, and where datagrams to the world would come from. Nothing is sent."""
    return (Interface("", 0, frozenset(_sources())),)


def _sources() -> Iterator[str]:
    for family, ways in _OUTWARD.items():
        for where in ways:
            with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((where, 9))
                yield str(sock.getsockname()[0]).partition("%")[0]


class Interfaces:
    """The listing of one node."""

    def __init__(
        self, walk: Callable[[], Listing] = walk, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._walk = walk
        self._monotonic = monotonic
        self._listing: Listing | None = None
        self._read_at = 0.0
        self._warned = False
        self.is_complete = True
        """Whether the system listed them, the last time it was asked."""

    def listing(self) -> Listing:
        """All interfaces with their addresses; the same object until something changed."""
        if self._listing is None or self._monotonic() - self._read_at > MAX_AGE_S:
            return self.refresh()
        return self._listing

    def refresh(self) -> Listing:
        """As `listing`, read anew."""
        self._read_at = self._monotonic()
        try:
            found = self._walk()
            self.is_complete = True
        except OSError as exc:
            found = self._without(exc)
            self.is_complete = False
        if found != self._listing:
            self._listing = found
        return self._listing or ()

    def _without(self, exc: OSError) -> Listing:
        """The next best: what was known, or what sockets tell."""
        if self._warned or self._listing is None:
            found = by_getsockname()
            if found[0].hosts and not self._warned:
                self._warned = True
                log.warning(
                    "the interfaces cannot be listed (%s): only addresses that sockets tell are announced."
                    " Where a service manager restricts address families, allow AF_NETLINK",
                    exc.strerror or exc,
                )
            if found[0].hosts or self._listing is None:
                return found
        log.debug("the interfaces cannot be listed: %s", exc)
        return self._listing

    def hosts(self) -> frozenset[str]:
        """Every address of this machine, as text without zones."""
        return frozenset(host for interface in self.listing() for host in interface.hosts)
