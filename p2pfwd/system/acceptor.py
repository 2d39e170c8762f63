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
from p2pfwd.system.descriptors import Spare, cure, reason, shortage

log = logging.getLogger("p2pfwd.net")

BACKLOG: Final = 512
RETRY_FIRST_S: Final = 0.1
RETRY_MOST_S: Final = 2.0

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

PENDING_ERRORS: Final = frozenset(
    code
    for name in (
        *("EAGAIN", "EWOULDBLOCK", "EINTR", "ECONNABORTED", "ECONNRESET", "ETIMEDOUT", "EPERM", "EPROTO"),
        *("ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "ENONET", "ENOPROTOOPT", "EOPNOTSUPP"),
    )
    if (code := getattr(errno, name, None)) is not None
)
"""What accept(2) tells of one connection that came to nothing (Linux passes on its network errors; EPERM is a
firewall's): the next one is as good as any."""


Sockaddr = tuple[Any, ...] | str
"""As `accept` gives it: of TCP a tuple, of a unix client its path, mostly ""."""


def bind_failure(exc: OSError, where: str) -> AddressInUse | BindFailed:
    """The error of ours for a failed bind to `where`; its detail `absent`: this machine lacks the address."""
    if exc.errno == errno.EADDRINUSE and where.endswith("/tcp/0"):  # the system was to choose
        hint = "net.ipv4.ip_local_port_range is the system's choice; a port outside it may be free"
        return AddressInUse(f"cannot listen on {where}: this machine has no free port to give", hint=hint)
    if exc.errno == errno.EADDRINUSE:
        hint = "choose another port, or port 0 for a free one"
        return AddressInUse(f"cannot listen on {where}: the address is already in use", hint=hint)
    if exc.errno in (errno.EACCES, errno.EPERM):
        hint = "ports below 1024 need privileges; choose a higher one"
        return BindFailed(f"cannot listen on {where}: permission denied", hint=hint)
    if (named := shortage(exc.errno)) is not None:
        return BindFailed(f"cannot listen on {where}: {named}", hint=cure(exc.errno))
    if exc.errno == errno.EADDRNOTAVAIL:
        hint = "`ip address` shows those it has; 127.0.0.1 is for this machine alone, 0.0.0.0 is all of them"
        told = f"cannot listen on {where}: no interface of this machine has that address"
        return BindFailed(told, hint=hint, absent=True)
    if exc.errno == errno.ENODEV and exc.strerror:  # a zone that is none: `sockaddrs` says which
        hint = "`ip link` shows the interfaces of this machine"
        return BindFailed(f"cannot listen on {where}: {exc.strerror}", hint=hint)
    return BindFailed(f"cannot listen on {where}: {reason(exc.errno) if exc.errno else exc}")


class Acceptor:
    """Hands every accepted socket, non-blocking, and its peer's address to `accepted`.

    Owns `sock`, which must be listening.

    `exhausted` is told the error when descriptors run out, and None at the first accept after that. With a
    `spare`, which stays its owner's, one more connection is accepted then. `what` begins the log's lines.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        accepted: Callable[[socket.socket, Sockaddr], None],
        exhausted: Callable[[OSError | None], None] | None = None,
        spare: Spare | None = None,
        what: str = "",
    ) -> None:
        self.sock = sock
        self._fd = sock.fileno()
        self._loop = loop
        self._accepted = accepted
        self._exhausted = exhausted
        self._spare = spare
        self._what = what
        self._retry: asyncio.TimerHandle | None = None
        self._delay_s = RETRY_FIRST_S
        self._starved = False
        self._paused = False
        self._closed = False
        sock.setblocking(False)
        loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        try:  # one a turn: to ask for a second one mostly gets nothing, and costs as much as a turn
            sock, peer = self.sock.accept() if self._spare is None else self._accept_with(self._spare)
        except OSError as exc:
            if exc.errno in PENDING_ERRORS:
                return
            if exc.errno not in _EXHAUSTED:
                raise
            self._back_off(exc)
            return
        if self._starved:
            self._recovered()
        sock.setblocking(False)
        self._accepted(sock, peer)

    def _accept_with(self, spare: Spare) -> tuple[socket.socket, Sockaddr]:
        spare.keep()
        try:
            return self.sock.accept()
        except OSError as exc:
            if exc.errno != errno.EMFILE or not spare.give():
                raise
            return self.sock.accept()

    def _back_off(self, exc: OSError) -> None:
        if not self._starved:
            log.warning("%saccepting paused: %s", self._what, reason(exc.errno))
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
        log.warning("%saccepting again", self._what)
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
