"""Listening TCP sockets."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from p2pfwd.system.acceptor import BACKLOG, bind_failure
from p2pfwd.system.sockaddrs import lacks_zone, numeric_sockaddr


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
        if (lacking := lacks_zone(host)) is not None:
            raise OSError(errno.ENODEV, lacking)
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
