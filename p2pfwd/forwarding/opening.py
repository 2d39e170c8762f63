"""Accepted connections of a forward that have no stream yet: one task each, and a bound on their number.

While the peer is away they wait, `forward.wait_s` at most, and try again when there is reason to: the peer
has connected, the network has changed, or a pause is over. Rules: a try that is under way when the time is
over goes on to its own end; a program that gives up is noticed within `LOOK_S`, and its place is free; a
connection that gets no stream ends with RST.

    accepted -> opening -> spliced
                 |  ^
          failed v  | news, or the pause is over         the time is over, or the program has gone -> reset
                waiting
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Final, Protocol

from p2pfwd.errors import P2PForwardError
from p2pfwd.forwarding.splice import close_with_reset
from p2pfwd.system.acceptor import Sockaddr
from p2pfwd.system.sock_diag import SockDiag

if TYPE_CHECKING:
    from p2pfwd.forwarding.values import ForwardingLimits
    from p2pfwd.net.link.contract import DuplexStream

log = logging.getLogger("p2pfwd.forwarding")

FIRST_S: Final = 0.25
MOST_S: Final = 2.0
"""From one try to the next, twice as long each time; the dials of all who wait for a peer are one."""

LOOK_S: Final = 1.0
"""Between two looks at whether the programs are still there; 1 us each."""


class Opens(Protocol):
    """What is needed of the forward."""

    @property
    def limits(self) -> ForwardingLimits:
        """Those that hold now."""

    def describe(self) -> str:
        """For log lines."""

    async def open_stream(self) -> DuplexStream:
        """One try. Raises P2PForwardError."""

    def is_worth_waiting(self, error: P2PForwardError) -> bool:
        """Whether another try may end otherwise, soon."""

    def opened(self, sock: socket.socket, origin: Sockaddr, stream: DuplexStream) -> None:
        """A connection has its stream."""

    def not_opened(self, error: P2PForwardError) -> None:
        """A try has failed."""

    def has_room(self, room: bool) -> None:
        """Whether more connections may be accepted."""


class Openings:
    """Of one forward."""

    def __init__(self, owner: Opens, loop: asyncio.AbstractEventLoop, diag: SockDiag) -> None:
        self._owner = owner
        self._diag = diag
        self._loop = loop
        self._tasks: dict[socket.socket, asyncio.Task[None]] = {}
        self._news: asyncio.Future[None] | None = None
        self._look: asyncio.TimerHandle | None = None
        self.waiting = 0
        """Connections whose first try has failed."""

    def open(self, sock: socket.socket, origin: Sockaddr) -> None:
        """Open a stream for a connection, in a task that ends when it is there."""
        self._tasks[sock] = self._loop.create_task(self._open(sock, origin))
        if len(self._tasks) >= self._owner.limits.max_pending_opens:
            self._owner.has_room(False)
        if self._look is None:
            self._look = self._loop.call_later(LOOK_S, self._look_at_programs)

    def tell(self) -> None:
        """There is reason to try again."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def stop(self) -> set[asyncio.Task[None]]:
        """End all with RST; the tasks that are ending."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        for sock, task in self._tasks.items():
            close_with_reset(sock)  # a task cancelled before its first step would not do it
            task.cancel()
        return set(self._tasks.values())

    async def _open(self, sock: socket.socket, origin: Sockaddr) -> None:
        try:
            stream = await self._stream()
            self._owner.opened(sock, origin, stream)
        except P2PForwardError as exc:
            close_with_reset(sock)
            self._owner.not_opened(exc)
        except asyncio.CancelledError:
            close_with_reset(sock)
            raise
        except Exception:
            close_with_reset(sock)
            log.exception("%s: a defect here ended a connection", self._owner.describe())
        finally:
            self._ended(sock)

    async def _stream(self) -> DuplexStream:
        until = self._loop.time() + self._owner.limits.wait_s
        try:
            return await self._owner.open_stream()
        except P2PForwardError as exc:
            if not self._may_wait(exc, until):
                raise
            self._owner.not_opened(exc)  # the owner can see why it waits
        self.waiting += 1
        try:
            return await self._patiently(until)
        finally:
            self.waiting -= 1

    async def _patiently(self, until: float) -> DuplexStream:
        pause_s = FIRST_S
        while True:
            await self._reason_to_try(min(pause_s, until - self._loop.time()))
            pause_s = min(pause_s * 2, MOST_S)
            try:
                return await self._owner.open_stream()
            except P2PForwardError as exc:
                if not self._may_wait(exc, until):
                    raise

    def _may_wait(self, error: P2PForwardError, until: float) -> bool:
        return self._loop.time() < until and self._owner.is_worth_waiting(error)

    async def _reason_to_try(self, pause_s: float) -> None:
        if self._news is None or self._news.done():
            self._news = self._loop.create_future()
        await asyncio.wait([self._news], timeout=pause_s)

    def _look_at_programs(self) -> None:
        self._look = self._loop.call_later(LOOK_S, self._look_at_programs)
        for sock, task in tuple(self._tasks.items()):
            if self._diag.has_gone(sock):
                task.cancel()

    def _ended(self, sock: socket.socket) -> None:
        del self._tasks[sock]
        if len(self._tasks) < self._owner.limits.max_pending_opens:
            self._owner.has_room(True)
        if not self._tasks and self._look is not None:
            self._look.cancel()
            self._look = None
