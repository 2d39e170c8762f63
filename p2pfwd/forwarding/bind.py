"""Binding the local end of a forward: a TCP address or a unix socket.

Rules: a name is resolved and its first address bound; options are set on the listening socket, since
accepted sockets inherit them; a unix socket is 0600 before anybody can connect, replaces a file nobody
answers on, and is removed at the end if it is still the one made here.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from dataclasses import dataclass
from typing import Final

from p2pfwd.core.multiaddrs import (
    AddressClass,
    Multiaddr,
    address_class,
    tcp_endpoint,
    unix_path,
)
from p2pfwd.errors import AddressInUse, BindFailed, InvalidMultiaddr
from p2pfwd.forwarding.splice import reset_by_default
from p2pfwd.system.acceptor import BACKLOG, bind_failure
from p2pfwd.system.host_names import SYSTEM_NAMES, NameFailed
from p2pfwd.system.sockaddrs import multiaddr_of, numeric_sockaddr

log = logging.getLogger("p2pfwd.forwarding")

MAX_UNIX_PATH_BYTES: Final = 107
"""sun_path is 108 bytes with its final zero (unix(7))."""

LOOPBACK_RECEIVE_BYTES: Final = 128 * 1024
"""SO_RCVBUF of connections from this machine, whose line needs no more: left to itself the system lets each
of many senders run megabytes ahead, out of the caches (20 bulk streams up: 842 MB/s, 701 before)."""

_FAMILIES: Final = {
    "dns4": socket.AF_INET,
    "dns6": socket.AF_INET6,
    "dns": socket.AF_UNSPEC,
}


@dataclass(slots=True)
class BoundSocket:
    """A listening socket and the address it really has."""

    sock: socket.socket
    address: Multiaddr
    path: str | None = None  # of a unix socket
    identity: tuple[int, int, int] | None = None  # of its file

    def remove_file(self) -> None:
        """Unlink the unix socket's file, unless somebody has replaced it."""
        if self.path is None:
            return
        try:
            if _identity(os.lstat(self.path)) == self.identity:
                os.unlink(self.path)
        except FileNotFoundError:
            return
        except OSError as exc:
            log.warning("cannot remove the socket file %s: %s", self.path, exc.strerror)


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    """Tells a file from its successor, which may get the same inode; unlike ctime, mtime outlives a chmod."""
    return (found.st_dev, found.st_ino, found.st_mtime_ns)


async def bind(address: Multiaddr) -> BoundSocket:
    """Listen on `address`; port 0 takes a free one.

    Raises InvalidMultiaddr, AddressInUse or BindFailed.
    """
    path = unix_path(address)
    if path is not None:
        return _bind_unix(address, path)
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
    host = endpoint.host
    if endpoint.family in _FAMILIES:
        try:
            host = (await SYSTEM_NAMES.find(host, _FAMILIES[endpoint.family]))[0].host
        except NameFailed as exc:
            raise BindFailed(f"cannot listen on {address}: the name cannot be resolved: {exc}") from exc
    return _bind_tcp(host, endpoint.port, address)


def _bind_tcp(host: str, port: int, address: Multiaddr) -> BoundSocket:
    try:
        family, sockaddr = numeric_sockaddr(host, port)
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as exc:
        raise bind_failure(exc, str(address)) from exc
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        reset_by_default(sock)
        if address_class(multiaddr_of(sockaddr)) is AddressClass.LOOPBACK:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LOOPBACK_RECEIVE_BYTES)
        sock.bind(sockaddr)  # every accepted connection inherits these options
        sock.listen(BACKLOG)
        return BoundSocket(sock, multiaddr_of(sock.getsockname()))
    except OSError as exc:
        sock.close()
        raise bind_failure(exc, str(address)) from exc


def _bind_unix(address: Multiaddr, path: str) -> BoundSocket:
    size = len(os.fsencode(path))
    if size > MAX_UNIX_PATH_BYTES:
        raise BindFailed(
            f"cannot listen on {address}: the socket path is {size} bytes long, "
            f"the system's limit is {MAX_UNIX_PATH_BYTES}",
            hint="choose a shorter path",
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(path)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            _remove_stale(address, path)
            sock.bind(path)
        os.chmod(path, 0o600)  # nobody can connect before listen()
        sock.listen(BACKLOG)
        return BoundSocket(sock, address, path, _identity(os.lstat(path)))
    except OSError as exc:
        sock.close()
        raise _unix_failure(exc, address) from exc
    except BaseException:
        sock.close()
        raise


def _unix_failure(exc: OSError, address: Multiaddr) -> AddressInUse | BindFailed:
    if exc.errno in (errno.EACCES, errno.EPERM):  # bind_failure would speak of privileged ports
        return BindFailed(f"cannot listen on {address}: no permission to create the socket file")
    if exc.errno == errno.ENOENT:
        return BindFailed(f"cannot listen on {address}: the directory does not exist")
    return bind_failure(exc, str(address))


def _remove_stale(address: Multiaddr, path: str) -> None:
    """Unlink a socket file nobody listens on; raise AddressInUse for anything else."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise AddressInUse(f"cannot listen on {address}: a file that is no socket has that path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog answers EAGAIN at once: somebody is there
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise AddressInUse(
        f"cannot listen on {address}: another program listens there", hint="choose another path"
    )
