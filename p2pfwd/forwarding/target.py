"""The local service behind a listen: its address, and connecting to it.

Rules: only tcp (with or without a name) and unix sockets; an address in the loopback is mostly
connected when the kernel returns from the first call, so `begin` asks it a second time instead of
waiting one turn of the event loop; names are resolved on every connection; every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint, unix_path
from p2pfwd.errors import (
    InvalidMultiaddr,
    P2PForwardError,
    ResourceLimitExceeded,
    TargetRefused,
    TargetTimeout,
)
from p2pfwd.system.os_errors import reason
from p2pfwd.system.unix_socket import MAX_PATH_BYTES

_NAMES: Final = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_CONNECTED: Final = (0, errno.EISCONN)
_UNDER_WAY: Final = (errno.EINPROGRESS, errno.EALREADY, errno.EINTR)

Sockaddr = tuple[str, int] | tuple[str, int, int, int] | str


class Target:
    """Where a listen sends its streams."""

    __slots__ = ("_family", "_sockaddr", "address", "name")

    def __init__(self, address: Multiaddr) -> None:
        """Raises InvalidMultiaddr for what cannot be a target; nothing is resolved or connected."""
        self.address = address
        self.name: tuple[str, int] | None = None  # host and port, when it must be resolved
        self._sockaddr: Sockaddr = ""
        path = unix_path(address)
        endpoint = tcp_endpoint(address)
        if address.peer_id() is not None:
            raise InvalidMultiaddr(f"a target is a service of this machine or network, not a peer: {address}")
        if path is not None:
            if len(os.fsencode(path)) > MAX_PATH_BYTES:
                raise InvalidMultiaddr(f"socket path longer than {MAX_PATH_BYTES} bytes: {address}")
            self._family, self._sockaddr = int(socket.AF_UNIX), path
            return
        if endpoint is None:
            if address.has("tcp") or address.has("unix"):
                raise InvalidMultiaddr(f"not a host and tcp port, or a unix socket, alone: {address}")
            raise InvalidMultiaddr("address does not contain tcp or unix protocol")
        if endpoint.port == 0:
            raise InvalidMultiaddr("port can not be 0")
        if endpoint.family in _NAMES:
            self._family, self.name = int(_NAMES[endpoint.family]), (endpoint.host, endpoint.port)
        else:
            self._family = int(socket.AF_INET6 if endpoint.family == "ip6" else socket.AF_INET)
            self._sockaddr = (endpoint.host, endpoint.port)

    def begin(self) -> tuple[socket.socket | None, bool]:
        """Start connecting: (socket, connected). No socket for a name, whose resolution must be awaited.

        Raises TargetRefused, ResourceLimitExceeded.
        """
        if self.name is not None:
            return None, False
        return self._begin(self._family, self._sockaddr)

    def _begin(self, family: int, sockaddr: Sockaddr) -> tuple[socket.socket, bool]:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as exc:
            raise self._failure(exc.errno) from exc
        try:
            sock.setblocking(False)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            code = sock.connect_ex(sockaddr)
            if code == errno.EINPROGRESS:
                code = sock.connect_ex(sockaddr)
        except OSError as exc:
            sock.close()
            raise self._failure(exc.errno) from exc
        if code in _CONNECTED:
            return sock, True
        if code in _UNDER_WAY or (code == errno.EAGAIN and family == socket.AF_UNIX):
            return sock, False
        sock.close()
        raise self._failure(code)

    async def connect(self, timeout_s: float) -> socket.socket:
        """A connected, non-blocking socket. Raises TargetRefused, TargetTimeout, ResourceLimitExceeded."""
        sock, connected = self.begin()
        if sock is not None and connected:
            return sock
        return await self.finish(sock, timeout_s)

    async def finish(self, sock: socket.socket | None, timeout_s: float) -> socket.socket:
        """Go on from `begin`, whose socket this call owns. Raises as `connect`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                if sock is None:
                    return await self._connect_name(loop, loop.time() + timeout_s)
                return await self._wait(loop, sock, self._sockaddr)
        except TimeoutError as exc:
            raise TargetTimeout(
                f"the target {self.address} did not answer within {timeout_s:g} s",
                hint="a firewall may drop the packets, or the machine is off",
            ) from exc

    async def _connect_name(self, loop: asyncio.AbstractEventLoop, deadline: float) -> socket.socket:
        assert self.name is not None
        host, port = self.name
        try:
            found = await loop.getaddrinfo(host, port, family=self._family, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:  # UnicodeError: no host name, by its own rules
            why = getattr(exc, "strerror", None) or exc
            raise TargetRefused(f"the name of the target {self.address} cannot be resolved: {why}") from exc
        failure: P2PForwardError | None = None
        for tried, (family, _, _, _, sockaddr) in enumerate(found):
            try:
                sock, connected = self._begin(int(family), sockaddr)  # type: ignore[arg-type]
                if connected:
                    return sock
                # A silent address may not eat the time of those after it.
                async with asyncio.timeout((deadline - loop.time()) / (len(found) - tried)):
                    return await self._wait(loop, sock, sockaddr)  # type: ignore[arg-type]
            except TargetRefused as exc:
                failure = exc
            except TimeoutError:
                if tried == len(found) - 1:
                    raise
        raise failure or TargetRefused(f"the name of the target {self.address} has no address")

    async def _wait(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, sockaddr: Sockaddr
    ) -> socket.socket:
        try:
            if sock.family == socket.AF_UNIX:
                await self._wait_unix(loop, sock, sockaddr)
                return sock
            await _writable(loop, sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise self._failure(code)
            return sock
        except BaseException:
            sock.close()
            raise

    async def _wait_unix(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, sockaddr: Sockaddr
    ) -> None:
        """Connect to a unix socket with a full backlog.

        The kernel tells nobody when there is room, it only lets a blocking connect wait: a thread does,
        for at most a second at a time so that a cancelled wait ends soon.
        """
        while True:
            code = await loop.run_in_executor(None, _connect_blocking, sock, sockaddr)
            if code in _CONNECTED:
                sock.setblocking(False)
                return
            if code != errno.EAGAIN:
                raise self._failure(code)

    def _failure(self, code: int | None) -> P2PForwardError:
        """The error of ours for errno `code`."""
        where = f"the target {self.address}"
        if code == errno.ECONNREFUSED:
            return TargetRefused(f"{where} refused the connection", hint="is the service running?")
        if code in _EXHAUSTED:
            return ResourceLimitExceeded(f"no connection to {where}: {reason(code)}")
        if code == errno.ENOENT:
            return TargetRefused(f"{where} does not exist", hint="is the service running?")
        if code == errno.ETIMEDOUT:
            return TargetTimeout(f"{where} did not answer")
        return TargetRefused(f"{where} cannot be reached: {reason(code)}")


def _connect_blocking(sock: socket.socket, sockaddr: Sockaddr) -> int:
    """Connect, waiting at most a second in the kernel: an errno, EAGAIN when there was no room."""
    duplicate = sock.dup()  # the owner may close its own at any time
    try:
        duplicate.setblocking(True)
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 1, 0))
        return duplicate.connect_ex(sockaddr)
    finally:
        duplicate.close()


async def _writable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Wait until a connecting socket has an outcome."""
    waiter = loop.create_future()
    fd = sock.fileno()

    def writable() -> None:
        if not waiter.done():
            waiter.set_result(None)

    loop.add_writer(fd, writable)
    try:
        await waiter
    finally:
        loop.remove_writer(fd)
