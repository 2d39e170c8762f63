"""Socket addresses of multiaddrs and back, with the zones of link-local ones; and connecting to one.

The kernel wants a zone as the number of an interface, people write its name. Python drops a zone that is text
in a two-part address, so nobody but this module makes or reads the address of an IPv6 socket.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from collections.abc import Sequence
from typing import Any

from p2pfwd.core.multiaddrs import Multiaddr, TcpEndpoint, from_sockaddr

Sockaddr = tuple[str, int] | tuple[str, int, int, int]


def interface_number(zone: str) -> int | None:
    """The number of the interface that a zone names, by name or number; None: there is none such here."""
    try:
        return socket.if_nametoindex(zone)
    except OSError:
        pass
    if not (zone.isascii() and zone.isdecimal() and len(zone) < 10):
        return None
    try:
        socket.if_indextoname(int(zone))
    except OSError:
        return None
    return int(zone)


def has_interface(zone: str) -> bool:
    """Whether this machine has the interface that a zone names."""
    return interface_number(zone) is not None


def lacks_zone(host: str) -> str | None:
    """What to say of a numeric host that is link-local and tells no interface; else None."""
    if ":" not in host or "%" in host or not ipaddress.IPv6Address(host).is_link_local:
        return None
    return f"{host} needs the interface it is behind, as {host}%eth0"


def sockaddr_of(endpoint: TcpEndpoint) -> tuple[int, Sockaddr]:
    """Family and socket address of a literal ip4 or ip6 endpoint.

    Raises OSError (ENODEV) where its interface is not, or not told: the kernel would say "Invalid argument".
    """
    return numeric_sockaddr(endpoint.host, endpoint.port)


def numeric_sockaddr(host: str, port: int) -> tuple[int, Sockaddr]:
    """Family and socket address of a numeric host, with `%zone` or without. Raises as `sockaddr_of`."""
    if ":" not in host:
        return int(socket.AF_INET), (host, port)
    if (lacking := lacks_zone(host)) is not None:
        raise OSError(errno.ENODEV, lacking)
    address, _, zone = host.partition("%")
    number = interface_number(zone) if zone else 0
    if number is None:
        raise OSError(errno.ENODEV, f"this machine has no network interface {zone}")
    return int(socket.AF_INET6), (address, port, 0, number)


def multiaddr_of(sockaddr: Sequence[Any]) -> Multiaddr:
    """The `/ip4|ip6/…/tcp/…` of a socket's address; a link-local one gets its interface by name."""
    if len(sockaddr) == 4 and sockaddr[3] and "%" not in sockaddr[0]:
        try:
            name = socket.if_indextoname(sockaddr[3])
        except OSError:  # gone since
            name = str(sockaddr[3])
        return from_sockaddr((f"{sockaddr[0]}%{name}", sockaddr[1]))
    return from_sockaddr(tuple(sockaddr))


async def connect(sock: socket.socket, sockaddr: Sockaddr) -> None:
    """Connect a non-blocking TCP socket. Raises OSError.

    Not the loop's sock_connect: uvloop's cuts IPv6 addresses to two parts, and both take a detour over names.
    """
    code = sock.connect_ex(sockaddr)
    if code in (errno.EINPROGRESS, errno.EINTR):
        await writable(asyncio.get_running_loop(), sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code not in (0, errno.EISCONN):
        raise OSError(code, os.strerror(code))


async def writable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Wait until a connecting socket has an outcome."""
    waiter = loop.create_future()
    fd = sock.fileno()

    def ready() -> None:
        if not waiter.done():
            waiter.set_result(None)

    loop.add_writer(fd, ready)
    try:
        await waiter
    finally:
        loop.remove_writer(fd)
