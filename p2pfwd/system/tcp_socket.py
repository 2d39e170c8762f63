"""Listening TCP sockets, and sockets that connect from the port of one.

A port is shared only once it is ours: the socket binds and listens without SO_REUSEPORT, so the kernel
refuses it where anybody listens, this user's other programs included, and gets the option afterwards.
A program of the same user that sets the option itself can join later: it asks for no less.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from p2pfwd.system.acceptor import BACKLOG, bind_failure
from p2pfwd.system.sockaddrs import numeric_sockaddr


def listen(
    host: str,
    port: int,
    where: str,
    tune: Callable[[socket.socket], None] | None = None,
) -> socket.socket:
    """Listen at a numeric host, with `%zone` or without; port 0 takes a free one. IPv6 means IPv6 alone.

    `tune` sets options before the bind: accepted sockets inherit them. Raises AddressInUse, BindFailed, which
    say `where`.
    """
    try:
        family, sockaddr = numeric_sockaddr(host, port)
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as exc:
        raise bind_failure(exc, where) from exc
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if tune is not None:
            tune(sock)
        sock.bind(sockaddr)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise bind_failure(exc, where) from exc
    except BaseException:
        sock.close()
        raise
    return sock


def share_port(sock: socket.socket) -> None:
    """Let `bind_to_shared` use the port of this listening socket. Where the system cannot, that fails."""
    if (option := getattr(socket, "SO_REUSEPORT", None)) is not None:
        sock.setsockopt(socket.SOL_SOCKET, option, 1)


def bind_to_shared(sock: socket.socket, port: int) -> None:
    """Make a socket connect from a port that `share_port` has shared, at whatever address the route takes.

    Raises OSError.
    """
    if (option := getattr(socket, "SO_REUSEPORT", None)) is None:
        raise OSError(errno.EADDRINUSE, "this system shares no ports")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, option, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("::" if sock.family == socket.AF_INET6 else "0.0.0.0", port))
