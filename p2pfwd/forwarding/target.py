"""The local service behind a listen: its address, and connecting to it.

Rules: only tcp (with or without a name) and unix sockets; an address in the loopback is mostly
connected when the kernel returns from the first call, so `begin` asks it a second time instead of
waiting one turn of the event loop; names are resolved on every connection; every wait has a deadline.
Of several addresses each next one is tried a little later, or when one before it has failed; the one that
worked last goes first. When all fail, each says why.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, tcp_endpoint, unix_path
from p2pfwd.errors import (
    InvalidMultiaddr,
    P2PForwardError,
    ResourceLimitExceeded,
    TargetRefused,
    TargetTimeout,
)
from p2pfwd.system.descriptors import cure, reason, shortage
from p2pfwd.system.host_names import FAMILY_OF, LOOKUP_S, SYSTEM_NAMES, NameFailed
from p2pfwd.system.proc_net import somebody_listens
from p2pfwd.system.sockaddrs import lacks_zone, multiaddr_of, numeric_sockaddr, writable
from p2pfwd.system.unix_socket import MAX_PATH_BYTES

STEP_S: Final = 0.25
"""From one address of a name to the next, as RFC 8305: what a dead first one costs, once."""

REMEMBER_S: Final = 600.0
"""How long the address that worked goes first: a service seldom moves, and then it costs `STEP_S` again."""

_WRITE: Final = "use a form like 127.0.0.1:22, /ip4/127.0.0.1/tcp/22 or /unix/run/app.sock"

_OTHER_LOOPBACK: Final = {"127.0.0.1": ("/ip6/::1", "[::1]"), "::1": ("/ip4/127.0.0.1", "127.0.0.1")}

_CONNECTED: Final = (0, errno.EISCONN)
_UNDER_WAY: Final = (errno.EINPROGRESS, errno.EALREADY, errno.EINTR)


class _Place(NamedTuple):
    """One socket address of a target, and what people call it."""

    family: int
    sockaddr: Any
    text: str


class Target:
    """Where a listen sends its streams."""

    __slots__ = (
        "_family",
        "_first",
        "_first_until",
        "_fixed",
        "_hosts",
        "_port",
        "_unix_turn",
        "address",
        "is_near",
        "name",
    )

    def __init__(self, address: Multiaddr, *, any_loopback: bool = False) -> None:
        """`any_loopback`: 127.0.0.1 was meant as the loopback in general, and ::1 is as good.

        Raises InvalidMultiaddr for what cannot be a target; nothing is resolved or connected.
        """
        self.address = address
        self.name: tuple[str, int] | None = None  # host and port, when it must be resolved
        self._family = int(socket.AF_UNSPEC)
        self._hosts: tuple[str, ...] = ()
        self._port = 0
        self._fixed: tuple[_Place, ...] = ()
        self._first, self._first_until = "", 0.0
        self._unix_turn = asyncio.Semaphore(1)
        self.is_near = address_class(address) is AddressClass.LOOPBACK
        """Whether it is on this machine by its address, and so mostly answers within the first call."""
        path = unix_path(address)
        endpoint = tcp_endpoint(address)
        if address.peer_id() is not None:
            raise InvalidMultiaddr(
                f"a target is a service of this machine or network, not a peer: {address}",
                hint="to reach the service of a peer: p2pfwd forward PROTOCOL LISTEN PEER",
            )
        if path is not None:
            if len(os.fsencode(path)) > MAX_PATH_BYTES:
                raise InvalidMultiaddr(
                    f"socket path longer than {MAX_PATH_BYTES} bytes: {address}", hint="choose a shorter path"
                )
            self._fixed, self.is_near = (_Place(int(socket.AF_UNIX), path, path),), True
            return
        if endpoint is None:
            if address.has("tcp") or address.has("unix"):
                raise InvalidMultiaddr(
                    f"not a host and tcp port, or a unix socket, alone: {address}", hint=_WRITE
                )
            raise InvalidMultiaddr("address does not contain tcp or unix protocol", hint=_WRITE)
        if endpoint.port == 0:
            raise InvalidMultiaddr("port can not be 0", hint="give the port at which the service listens")
        self._port = endpoint.port
        if endpoint.family in FAMILY_OF:
            self._family, self.name = int(FAMILY_OF[endpoint.family]), (endpoint.host, endpoint.port)
            self.is_near = False
            return
        if (lacking := lacks_zone(endpoint.host)) is not None:
            hint = "`ip link` shows the interfaces of this machine"
            raise InvalidMultiaddr(f"the target {address}: {lacking}", hint=hint)
        self._hosts = ("127.0.0.1", "::1") if any_loopback else (endpoint.host,)
        if "%" not in endpoint.host:  # the number of a zone's interface may change
            self._fixed = self._places_of(self._hosts)

    def begin(self) -> tuple[socket.socket | None, bool]:
        """Start connecting: (socket, connected). No socket for a name, whose resolution must be awaited.

        Raises TargetRefused, ResourceLimitExceeded.
        """
        if self.name is not None:
            return None, False
        failures: list[tuple[str, OSError]] = []
        for place in self._places():
            try:
                sock, connected = _begin(place)
            except OSError as exc:
                failures.append((place.text, exc))
                continue
            if connected:
                self._worked(place)
            return sock, connected
        raise self._failure(failures) from failures[-1][1]

    async def connect(self, timeout_s: float) -> socket.socket:
        """A connected, non-blocking socket. Raises TargetRefused, TargetTimeout, ResourceLimitExceeded."""
        sock, connected = self.begin()
        if sock is not None and connected:
            return sock
        return await self.finish(sock, timeout_s)

    async def finish(self, sock: socket.socket | None, timeout_s: float) -> socket.socket:
        """Go on from `begin`, whose socket this call owns. Raises as `connect`."""
        failures: list[tuple[str, OSError]] = []
        try:
            async with asyncio.timeout(timeout_s):
                if sock is None:
                    return await self._race(await self._resolved(timeout_s, failures), failures)
                try:
                    places = self._places()
                except P2PForwardError:  # its interface has gone since
                    sock.close()
                    raise
                mine = next(place for place in places if place.family == sock.family)
                return await self._race([it for it in places if it is not mine], failures, (mine, sock))
        except TimeoutError as exc:
            told = "; ".join(f"{text} {_clause(failure)}" for text, failure in failures)
            raise TargetTimeout(
                f"the target {self.address} did not answer within {timeout_s:g} s"
                f"{f' ({told})' if len(failures) > 1 else ''}",
                hint="a firewall may drop the packets, or the machine is off",
            ) from exc

    def listening_at(self) -> Multiaddr | None:
        """Where a service is seen to listen, without touching it; None: not known."""
        places = [self.address]
        if len(self._hosts) > 1:
            places.append(Multiaddr.parse(f"/ip6/::1/tcp/{self._port}"))
        return next((place for place in places if somebody_listens(place)), None)

    @property
    def host(self) -> str:
        """Host and port, as a URL has them."""
        if self.name is not None:
            return f"{self.name[0]}:{self.name[1]}"
        if not self._hosts:
            return "localhost"
        host = self._hosts[0].partition("%")[0]
        return f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"

    def found_at(self, sock: socket.socket) -> Multiaddr:
        """The address of this target that a connected socket leads to."""
        if sock.family == socket.AF_UNIX:
            return self.address
        return multiaddr_of(sock.getpeername())

    # --- its addresses ------------------------------------------------------------------------------

    def _places(self) -> Sequence[_Place]:
        """Of a target without a name. Raises TargetRefused when its interface is not there."""
        try:
            return self._ordered(self._fixed or self._places_of(self._hosts))
        except OSError as exc:
            raise self._failure([(self._hosts[0], exc)]) from exc

    def _places_of(self, hosts: Sequence[str]) -> tuple[_Place, ...]:
        return tuple(_Place(*numeric_sockaddr(host, self._port), host) for host in hosts)

    async def _resolved(
        self, timeout_s: float, failures: list[tuple[str, OSError]]
    ) -> Sequence[_Place]:
        """Of the name. `failures` gets those of its addresses whose interface is not there, or not told."""
        assert self.name is not None
        try:
            found = await SYSTEM_NAMES.find(self.name[0], self._family, min(timeout_s, LOOKUP_S))
        except NameFailed as exc:
            raise TargetRefused(f"the name of the target {self.address} cannot be resolved: {exc}") from exc
        places: list[_Place] = []
        for one in found:
            try:
                places += self._places_of([one.host])
            except OSError as exc:
                failures.append((one.host, exc))
        return self._ordered(tuple(places))

    def _ordered(self, places: tuple[_Place, ...]) -> Sequence[_Place]:
        if len(places) < 2 or time.monotonic() >= self._first_until:
            return places
        return sorted(places, key=lambda place: place.text != self._first)

    def _worked(self, place: _Place) -> None:
        self._first, self._first_until = place.text, time.monotonic() + REMEMBER_S

    # --- connecting ---------------------------------------------------------------------------------

    async def _race(
        self,
        places: Sequence[_Place],
        failures: list[tuple[str, OSError]],
        begun: tuple[_Place, socket.socket] | None = None,
    ) -> socket.socket:
        """The first socket that connects; the others are closed. `failures` gets the rest, at a cancel too.

        Raises TargetRefused, ResourceLimitExceeded.
        """
        loop = asyncio.get_running_loop()
        left, start_next = list(places), begun is None
        tries: dict[asyncio.Task[socket.socket], _Place] = {}
        if begun is not None:
            tries[loop.create_task(_wait(loop, begun[1], begun[0], self._unix_turn))] = begun[0]
        winner: socket.socket | None = None
        try:
            while left or tries:
                if left and (start_next or not tries):
                    place = left.pop(0)
                    tries[loop.create_task(_connect(loop, place, self._unix_turn))] = place
                wait_s = STEP_S if left else None
                done, _ = await asyncio.wait(tries, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    place, error = tries.pop(task), task.exception()
                    if error is None:
                        self._worked(place)
                        winner = task.result()
                        return winner
                    if not isinstance(error, OSError):
                        raise error
                    failures.append((place.text, error))
                start_next = True
            raise self._failure(failures)
        finally:
            failures += [(place.text, OSError(errno.ETIMEDOUT, "")) for place in tries.values()]
            await _end(tries)
            if begun is not None and winner is not begun[1]:
                begun[1].close()  # a task cancelled before its first step has not done it

    def _cure(self) -> str:
        """What to do when nothing listens: the service may be at the other loopback, as many are."""
        for host in self._hosts if len(self._hosts) == 1 else ():
            place, written = _OTHER_LOOPBACK.get(host, ("", ""))
            if place and somebody_listens(Multiaddr.parse(f"{place}/tcp/{self._port}")):
                where = f"{written}:{self._port}"
                return f"a service listens at {where}: give that, or localhost:{self._port} for either"
        return "is the service running?"

    def _failure(self, failures: Sequence[tuple[str, OSError]]) -> P2PForwardError:
        """The error of ours when these addresses failed, all there are."""
        where = f"the target {self.address}"
        codes = [exc.errno or 0 for _, exc in failures]
        short = next(filter(shortage, codes), None)
        if short is not None:
            return ResourceLimitExceeded(f"no connection to {where}: {reason(short)}", hint=cure(short))
        if self._hosts and len(failures) > 1 and set(codes) != {errno.ECONNREFUSED}:
            failures, codes = failures[:1], codes[:1]  # no ::1 here says nothing of a service on 127.0.0.1
        kind = TargetTimeout if set(codes) == {errno.ETIMEDOUT} else TargetRefused
        hint = self._cure() if set(codes) <= {errno.ECONNREFUSED, errno.ENOENT} else None
        if len(failures) == 1:
            return kind(f"{where} {_clause(failures[0][1])}", hint=hint)
        if set(codes) == {errno.ECONNREFUSED}:
            at = " and at ".join(text for text, _ in failures)
            return kind(f"{where} refused the connection, at {at}", hint=hint)
        told = "; ".join(f"{text} {_clause(exc)}" for text, exc in failures)
        return kind(f"{where} cannot be reached: {told}", hint=hint)


def _clause(exc: OSError) -> str:
    """What an address did, to follow its name."""
    if exc.errno == errno.ECONNREFUSED:
        return "refused the connection"
    if exc.errno == errno.ENOENT:
        return "does not exist"
    if exc.errno == errno.ETIMEDOUT:
        return "did not answer"
    if exc.errno == errno.ENODEV and exc.strerror:  # which interface
        return f"cannot be reached: {exc.strerror}"
    return f"cannot be reached: {reason(exc.errno)}"


def _begin(place: _Place) -> tuple[socket.socket, bool]:
    """A socket that is connected, or connecting. Raises OSError."""
    sock = socket.socket(place.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if place.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        code = sock.connect_ex(place.sockaddr)
        if code == errno.EINPROGRESS:
            code = sock.connect_ex(place.sockaddr)
    except BaseException:
        sock.close()
        raise
    if code in _CONNECTED:
        return sock, True
    if code in _UNDER_WAY or (code == errno.EAGAIN and place.family == socket.AF_UNIX):
        return sock, False
    sock.close()
    raise OSError(code, os.strerror(code))


async def _connect(
    loop: asyncio.AbstractEventLoop, place: _Place, unix_turn: asyncio.Semaphore
) -> socket.socket:
    sock, connected = _begin(place)
    return sock if connected else await _wait(loop, sock, place, unix_turn)


async def _wait(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, place: _Place, unix_turn: asyncio.Semaphore
) -> socket.socket:
    """The socket when it has connected; closed, and OSError raised, when it does not."""
    try:
        if sock.family == socket.AF_UNIX:
            await _wait_unix(loop, sock, place.sockaddr, unix_turn)
            return sock
        await writable(loop, sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        return sock
    except BaseException:
        sock.close()
        raise


def _turn_over(turn: asyncio.Semaphore, waiting: asyncio.Future[int]) -> None:
    turn.release()  # when the thread is back, not when its waiter has given up
    if not waiting.cancelled():
        waiting.exception()  # retrieved, also when nobody waits any more


async def _wait_unix(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, path: str, turn: asyncio.Semaphore
) -> None:
    """Connect to a unix socket with a full backlog.

    The kernel tells nobody when there is room, it only lets a blocking connect wait: a thread does,
    for at most a second at a time so that a cancelled wait ends soon. One thread for all who wait for one
    target: the others are for other targets.
    """
    while True:
        await turn.acquire()
        waiting = loop.run_in_executor(None, _connect_blocking, sock, path)
        waiting.add_done_callback(partial(_turn_over, turn))
        code = await asyncio.shield(waiting)
        if code in _CONNECTED:
            sock.setblocking(False)
            return
        if code != errno.EAGAIN:
            raise OSError(code, os.strerror(code))


def _connect_blocking(sock: socket.socket, path: str) -> int:
    """Connect, waiting at most a second in the kernel: an errno, EAGAIN when there was no room."""
    duplicate = sock.dup()  # the owner may close its own at any time
    try:
        duplicate.setblocking(True)
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 1, 0))
        return duplicate.connect_ex(path)
    finally:
        duplicate.close()


async def _end(tries: Iterable[asyncio.Task[socket.socket]]) -> None:
    """End those that lost; one that had connected meanwhile is closed."""
    left = list(tries)
    for task in left:
        task.cancel()
    for result in await asyncio.gather(*left, return_exceptions=True):
        if isinstance(result, socket.socket):
            result.close()
