"""Binding the local end of a forward: a TCP address or a unix socket.

Rules: of a name the first address is bound; options are set on the listening socket, since
accepted sockets inherit them; of unix sockets `system.unix_socket` has the rules.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from dataclasses import dataclass
from typing import Final

from p2pfwd.core.multiaddrs import (
    AddressClass,
    Multiaddr,
    TcpEndpoint,
    address_class,
    from_sockaddr,
    tcp_endpoint,
    unix_path,
)
from p2pfwd.errors import AddressInUse, BindFailed, InvalidMultiaddr
from p2pfwd.forwarding.splice import reset_by_default
from p2pfwd.system import tcp_socket, unix_socket
from p2pfwd.system.acceptor import BACKLOG, bind_failure
from p2pfwd.system.host_names import FAMILY_OF, SYSTEM_NAMES, NameFailed
from p2pfwd.system.sockaddrs import multiaddr_of, numeric_sockaddr

log = logging.getLogger("p2pfwd.forwarding")

LOOPBACK_RECEIVE_BYTES: Final = 256 * 1024
"""SO_RCVBUF of connections from this machine, whose line needs no more: left to itself the system lets each
of many senders run megabytes ahead, out of the caches (20 bulk streams up: 842 MB/s, 701 before). With half
of it reads seldom fill a wide frame, with twice as much it is the caches again: 1.14 and 1.09 of the CPU."""

_ALWAYS_THERE: Final = (AddressClass.LOOPBACK, AddressClass.UNSPECIFIED)


@dataclass(slots=True)
class BoundSocket:
    """A listening socket and the address it really has."""

    sock: socket.socket
    address: Multiaddr
    unix: unix_socket.UnixSocket | None = None

    def close(self) -> None:
        """Listen no more."""
        self.sock.close()
        self.remove_file()

    def remove_file(self) -> None:
        """Unlink the unix socket's file, unless somebody has replaced it."""
        if self.unix is None:
            return
        try:
            self.unix.remove_file()
        except OSError as exc:
            log.warning("cannot remove the socket file %s: %s", self.unix.path, exc.strerror)

    def address_is_gone(self) -> bool:
        """Whether no interface of this machine has its address any more, or its socket file was removed."""
        if self.unix is not None:
            return not self.unix.is_in_place()
        endpoint = tcp_endpoint(self.address)
        if endpoint is None or address_class(self.address) in _ALWAYS_THERE:
            return False
        try:
            family, sockaddr = numeric_sockaddr(endpoint.host, 0)
            if "%" in endpoint.host and self.sock.getsockname()[-1] != sockaddr[-1]:
                return True  # its interface was made anew, and the socket belongs to the old one
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind(sockaddr)
        except OSError as exc:  # ENODEV: nor is there the interface that its zone names
            return exc.errno in (errno.EADDRNOTAVAIL, errno.ENODEV)
        return False


def check_local(address: Multiaddr) -> TcpEndpoint | None:
    """Host and port to listen on; None of a Unix socket. Raises InvalidMultiaddr for what is neither."""
    if unix_path(address) is not None:
        return None
    endpoint = tcp_endpoint(address)
    if address.has("p2p"):
        raise InvalidMultiaddr(
            f"cannot listen on {address}: it is the address of a peer",
            hint="LISTEN is an address of this machine, as 127.0.0.1:8080; PEER comes after it",
        )
    if endpoint is None:
        raise InvalidMultiaddr(
            f"cannot listen on {address}: address does not contain tcp or unix protocol alone",
            hint="use a form like /ip4/127.0.0.1/tcp/2222 or /unix/run/user/1000/ssh.sock",
        )
    return endpoint


async def numeric(address: Multiaddr) -> Multiaddr:
    """The address to bind for `address`: the same, or the first one of its name.

    Raises InvalidMultiaddr, BindFailed (the name has none).
    """
    endpoint = check_local(address)
    if endpoint is None or endpoint.family not in FAMILY_OF:
        return address
    try:
        found = await SYSTEM_NAMES.find(endpoint.host, FAMILY_OF[endpoint.family])
    except NameFailed as exc:
        raise BindFailed(f"cannot listen on {address}: the name cannot be resolved: {exc}") from exc
    return from_sockaddr((found[0].host, endpoint.port))


def bind(address: Multiaddr) -> BoundSocket:
    """Listen on `address`, one that `numeric` gave; port 0 takes a free one.

    Raises AddressInUse or BindFailed.
    """
    path = unix_path(address)
    if path is not None:
        return _bind_unix(address, path)
    endpoint = tcp_endpoint(address)
    assert endpoint is not None, "not from `numeric`"
    return _bind_tcp(endpoint.host, endpoint.port, address)


def _bind_tcp(host: str, port: int, address: Multiaddr) -> BoundSocket:
    loopback = address_class(from_sockaddr((host, port))) is AddressClass.LOOPBACK

    def tune(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        reset_by_default(sock)
        if loopback:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LOOPBACK_RECEIVE_BYTES)

    sock = tcp_socket.listen(host, port, str(address), tune)
    return BoundSocket(sock, multiaddr_of(sock.getsockname()))


def _bind_unix(address: Multiaddr, path: str) -> BoundSocket:
    size = len(os.fsencode(path))
    if size > unix_socket.MAX_PATH_BYTES:
        raise BindFailed(
            f"cannot listen on {address}: the socket path is {size} bytes long, "
            f"the system's limit is {unix_socket.MAX_PATH_BYTES}",
            hint="choose a shorter path",
        )
    try:
        bound = unix_socket.listen(path, BACKLOG)
    except OSError as exc:
        raise _unix_failure(exc, address) from exc
    return BoundSocket(bound.sock, address, bound)


def _unix_failure(exc: OSError, address: Multiaddr) -> AddressInUse | BindFailed:
    if isinstance(exc, unix_socket.NotASocket):
        where = f"cannot listen on {address}: a file that is no socket has that path"
        return AddressInUse(where, hint="choose another path, or move that file away")
    if isinstance(exc, unix_socket.SomebodyListens):
        where = f"cannot listen on {address}: another program listens there"
        return AddressInUse(where, hint="choose another path")
    if exc.errno in (errno.EACCES, errno.EPERM):  # bind_failure would speak of privileged ports
        where = f"cannot listen on {address}: no permission to create the socket file"
        return BindFailed(where, hint="choose a path in a directory of yours")
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        where = f"cannot listen on {address}: the directory does not exist"
        return BindFailed(where, hint="make it first, or choose another path")
    return bind_failure(exc, str(address))
