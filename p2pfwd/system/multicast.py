"""UDP multicast on one interface: which interfaces there are, and a socket that hears and speaks on one.

Rules:
- An interface is used if it is up, takes multicast and is no line to somewhere else: nothing that is meant
  for the local network goes into a VPN. Loopback takes no multicast.
- A socket is bound to the group's address, not to any: it hears multicast alone, and takes no datagram from
  another program on the same port (Avahi, a browser). It hears the interface it joined, and no other.
- A flood costs a bounded share of the CPU: above MAX_PER_S the socket is not read until the second is over,
  and the kernel drops what its buffer does not hold.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import logging
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Final

from p2pfwd.system.interfaces import Interface

log = logging.getLogger("p2pfwd.net")

MAX_INTERFACES: Final = 16
"""Interfaces used; who has more has bridges of containers, not networks."""

MAX_PER_S: Final = 100
"""Datagrams read in a second, of all services of the network: at the worst a fifth of a core. More than this
at once, as when hundreds answer one question, wait in the kernel's buffer."""

MAX_PER_TURN: Final = 16
"""Datagrams read before others in the loop have their turn."""

MAX_SOURCES: Final = 16
"""Addresses of one interface that are sent from; a few is usual, privacy addresses among them."""

HOPS: Final = 255
"""As RFC 6762 wants; the groups are link-local, no router passes them on."""

_IFF_UP: Final = 0x1
_IFF_POINT_TO_POINT: Final = 0x10
_IFF_MULTICAST: Final = 0x1000
_SIOCGIFFLAGS: Final = 0x8913
_IFREQ: Final = struct.Struct("16sH22x")
_IP_MULTICAST_ALL: Final = 49
"""Linux: off, a socket hears only the interfaces it joined itself."""


def usable(interfaces: Iterable[Interface]) -> list[Interface]:
    """Those of them that multicast goes out on. Raises OSError when that cannot be asked."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        found = [each for each in interfaces if each.index and _takes_multicast(asked, each.name)]
    return found[:MAX_INTERFACES]


def _takes_multicast(asked: socket.socket, name: str) -> bool:
    if sys.platform != "linux":  # other systems number the request and the flags in other ways
        return not name.startswith("lo")
    try:
        answer = fcntl.ioctl(asked, _SIOCGIFFLAGS, _IFREQ.pack(name.encode("utf-8"), 0))
    except OSError:  # gone since it was listed
        return False
    (_, flags) = _IFREQ.unpack(answer)
    return bool(flags & _IFF_UP and flags & _IFF_MULTICAST and not flags & _IFF_POINT_TO_POINT)


_Where = tuple[str, int] | tuple[str, int, int, int]


def _where(interface: Interface, host: str, port: int) -> _Where:
    """The socket address of a host, or a group, on the interface's network."""
    return (host, port, 0, interface.index) if ":" in host else (host, port)


def _outlet(interface: Interface, host: str, port: int) -> socket.socket:
    """A socket bound to `host`, the group or an own address, that sends to groups on the interface alone.

    Raises OSError.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface.index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOPS)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        else:
            through = bytes(8) + struct.pack("@i", interface.index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, through)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, HOPS)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            if sys.platform == "linux":
                sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        sock.bind(_where(interface, host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _join(sock: socket.socket, interface: Interface, group: str) -> None:
    """Hear the group on the interface. Raises OSError."""
    packed = ipaddress.ip_address(group).packed
    if sock.family == socket.AF_INET6:
        membership = packed + struct.pack("@I", interface.index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
    else:
        membership = packed + bytes(4) + struct.pack("@i", interface.index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)


class GroupSocket:
    """One multicast group on one interface. `heard(data, sender's IP)` is called for each datagram."""

    def __init__(
        self, interface: Interface, group: str, port: int, max_bytes: int, heard: Callable[[bytes, str], None]
    ) -> None:
        """Join; needs a running loop. Raises OSError."""
        self._interface, self._where = interface, _where(interface, group, port)
        self._sock = _outlet(interface, group, port)
        try:
            _join(self._sock, interface, group)
        except BaseException:
            self._sock.close()
            raise
        self._max_bytes = max_bytes
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._second_began = self._loop.time()
        self._in_second = 0
        self._rest: asyncio.TimerHandle | None = None
        self._closed = False
        self._loop.add_reader(self._sock, self._readable)

    def send(self, data: bytes) -> None:
        """Send to the group; a datagram that cannot be sent is lost, as others are."""
        try:
            self._sock.sendto(data, self._where)
        except OSError as exc:
            log.debug("multicast to %s: %s", self._where[0], exc)

    def send_from_all(self, data: bytes, hosts: Iterable[str]) -> None:
        """Send to the group, and once more from each of `hosts` that is an address of the interface.

        The system chooses the source of what `send` sends, and chooses otherwise once a better address is
        there: who hears us takes the two for two machines.
        """
        self.send(data)
        group, port = self._where[:2]
        for host in sorted(host for host in hosts if (":" in host) == (":" in group))[:MAX_SOURCES]:
            try:
                with _outlet(self._interface, host, port) as sock:
                    sock.sendto(data, self._where)
            except OSError as exc:  # an address that is gone, or not yet confirmed
                log.debug("multicast from %s to %s: %s", host, group, exc)

    def _readable(self) -> None:
        now = self._loop.time()
        if now - self._second_began >= 1.0:
            self._second_began, self._in_second = now, 0
        for _ in range(MAX_PER_TURN):
            if self._closed:
                return
            if self._in_second >= MAX_PER_S:
                self._loop.remove_reader(self._sock)
                self._rest = self._loop.call_at(self._second_began + 1.0, self._resume)
                return
            try:
                data, sender = self._sock.recvfrom(self._max_bytes)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:  # the interface went down: whoever owns this looks at interfaces itself
                log.debug("multicast from %s: %s", self._where[0], exc)
                return
            self._in_second += 1
            self._heard(data, sender[0].partition("%")[0])

    def _resume(self) -> None:
        self._rest = None
        self._loop.add_reader(self._sock, self._readable)

    def close(self) -> None:
        """Leave. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._rest is not None:
            self._rest.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()
