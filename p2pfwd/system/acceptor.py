"""Listening sockets: bind, accept, and survive running out of file descriptors.

Accepting never spins: EMFILE and its kin pause the listener and are retried with a growing delay.
An owner that has enough on its hands pauses it too; connections then wait in the kernel's backlog.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

from p2pfwd.errors import AddressInUse, BindFailed
from p2pfwd.system.os_errors import reason

log = logging.getLogger("p2pfwd.net")

BACKLOG: Final = 512
RETRY_FIRST_S: Final = 0.1
RETRY_MOST_S: Final = 2.0

_OF_ONE_CONNECTION = {
    getattr(errno, name)
    for name in (
        "EPROTO",
        "ENOPROTOOPT",
        "ENETDOWN",
        "ENETUNREACH",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENONET",
        "EOPNOTSUPP",
        "EPERM",
    )
    if hasattr(errno, name)
}
"""What accept(2) says of a connection that failed before it was accepted, or that a firewall refused."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


Sockaddr = tuple[Any, ...] | str
"""As `accept` gives it: of TCP a tuple, of a unix client its path, mostly ""."""


def bind_failure(exc: OSError, where: str) -> AddressInUse | BindFailed:
    """The error of ours for a failed bind to `where`."""
    if exc.errno == errno.EADDRINUSE:
        hint = "choose another port, or port 0 for a free one"
        return AddressInUse(f"cannot listen on {where}: the address is already in use", hint=hint)
    if exc.errno in (errno.EACCES, errno.EPERM):
        hint = "ports below 1024 need privileges; choose a higher one"
        return BindFailed(f"cannot listen on {where}: permission denied", hint=hint)
    if exc.errno == errno.EADDRNOTAVAIL:
        return BindFailed(f"cannot listen on {where}: no interface of this machine has that address")
    return BindFailed(f"cannot listen on {where}: {reason(exc.errno) if exc.errno else exc}")


class Acceptor:
    """Hands every accepted socket, non-blocking, and its peer's address to `accepted`.

    Owns `sock`, which must be listening.

    `exhausted` is told the error when descriptors run out, and None at the first accept after that.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        accepted: Callable[[socket.socket, Sockaddr], None],
        exhausted: Callable[[OSError | None], None] | None = None,
    ) -> None:
        self.sock = sock
        self._fd = sock.fileno()
        self._loop = loop
        self._accepted = accepted
        self._exhausted = exhausted
        self._retry: asyncio.TimerHandle | None = None
        self._delay_s = RETRY_FIRST_S
        self._starved = False
        self._paused = False
        self._closed = False
        sock.setblocking(False)
        loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        try:  # one a turn: to ask for a second one mostly gets nothing, and costs as much as a turn
            sock, peer = self.sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as exc:
            if exc.errno in _OF_ONE_CONNECTION:
                return
            if exc.errno not in _EXHAUSTED:
                raise
            self._back_off(exc)
            return
        if self._starved:
            self._recovered()
        sock.setblocking(False)
        self._accepted(sock, peer)

    def _back_off(self, exc: OSError) -> None:
        if not self._starved:
            log.warning("accepting paused: %s", reason(exc.errno))
        self._starved = True
        self._loop.remove_reader(self._fd)
        self._retry = self._loop.call_later(self._delay_s, self._retry_now)
        self._delay_s = min(self._delay_s * 2, RETRY_MOST_S)
        if self._exhausted is not None:
            self._exhausted(exc)

    def _retry_now(self) -> None:
        self._retry = None
        if not self._paused:
            self._loop.add_reader(self._fd, self._readable)

    def _recovered(self) -> None:
        self._starved = False
        self._delay_s = RETRY_FIRST_S
        log.warning("accepting again")
        if self._exhausted is not None:
            self._exhausted(None)

    def pause(self) -> None:
        """Leave connections in the backlog until `resume`; idempotent."""
        if not self._paused and not self._closed:
            self._paused = True
            if self._retry is None:
                self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Accept again; idempotent."""
        if self._paused and not self._closed:
            self._paused = False
            if self._retry is None:
                self._loop.add_reader(self._fd, self._readable)

    def close(self) -> None:
        """Stop listening; idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        elif not self._paused:
            self._loop.remove_reader(self._fd)
        self.sock.close()
