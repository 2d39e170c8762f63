"""TCP as a transport: a socket, upgraded to a connection by security and multiplexer.

Connections leave from the port that this node listens on: a router then has one mapping for both, and what
peers see of it is where others can dial. Where that port cannot be used, any free one is: there may be a
connection between the two ports already, or both ends have dialed at once and neither would be the listener.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from p2pfwd.core.multiaddrs import (
    AddressClass,
    Multiaddr,
    TcpEndpoint,
    address_class,
    is_relayed,
    tcp_endpoint,
)
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, ResourceLimitExceeded, TimedOut
from p2pfwd.net.conduit import tcp
from p2pfwd.net.link.contract import Link
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.transport.contract import Gate, Meeting
from p2pfwd.net.transport.porch import Porch
from p2pfwd.net.transport.shutters import Shutters
from p2pfwd.net.upgrader import Upgrader, describe
from p2pfwd.policy.undialable import why_undialable
from p2pfwd.system import sockaddrs, tcp_socket
from p2pfwd.system.acceptor import Acceptor, Sockaddr
from p2pfwd.system.loop_io import LoopIo

log = logging.getLogger("p2pfwd.net")

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[Any]]

_PORT_OF_NO_USE: Final = frozenset(
    (errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EACCES, errno.EPERM, errno.ECONNRESET)
)
"""Errors that a connect from the listen port ends with though one from another may work: there is such a
connection, somebody else has the port too, it is privileged, or the peer gave up what had crossed ours."""

_KNOCK_AGAIN: Final = _PORT_OF_NO_USE | {errno.ECONNREFUSED, errno.ETIMEDOUT}
"""Errors of a connect to a peer that dials this node: its router or its system was not ready for ours."""

KNOCK_PAUSES_S: Final = (0.05, 0.2)
"""Between two connects to one address; by chance within, or both sides would miss each other for ever."""

PROOF_S: Final = 3.0
"""For a connection of a meeting to answer a ping, where the security handshake is no answer yet: there are
routers that let TCP's through alone."""


class TcpTransport:
    """Of one swarm. `spawn` runs a coroutine as a task that the swarm owns."""

    def __init__(self, upgrader: Upgrader, io: LoopIo, settings: SwarmSettings, spawn: Spawn) -> None:
        self._upgrader = upgrader
        self._io = io
        self._settings = settings
        self._spawn = spawn
        self._porch = Porch(io.loop, settings.max_turned_away)
        self._shutters = Shutters(io.loop)
        self._listening: list[TcpListening] = []
        self._expected: list[tuple[frozenset[TcpEndpoint], Meeting]] = []

    # --- dialing ----------------------------------------------------------------------------------

    def why_not(self, addr: Multiaddr) -> str | None:
        """See `Transport`."""
        why = why_undialable(addr, sockaddrs.has_interface)
        return why or ("it leads through a relay" if is_relayed(addr) else None)

    async def dial(self, peer_id: PeerId, addr: Multiaddr, *, fresh_port: bool = False) -> Link:
        """See `Transport`."""
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        conduit = await self._connect(endpoint, None if fresh_port else self.port_towards(addr))
        # One that has crossed the peer's own in a meeting has no listener.
        listens_s = self._listens_s(conduit.remote_addr) if conduit.has_crossed() else None
        return await self._upgrade(conduit, peer_id, listens_s)

    async def dial_from(self, port: int, peer_id: PeerId, addr: Multiaddr) -> Link:
        """As `dial`, from this listening port of ours and no other. Raises as `dial`."""
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        limit_s = self._settings.connect_timeout_s
        return await self._upgrade(
            await tcp.connect(endpoint, self._io, limit_s, local_port=port), peer_id
        )

    async def _upgrade(
        self, conduit: tcp.TcpConduit, peer_id: PeerId, listens_s: float | None = None
    ) -> Link:
        async with asyncio.timeout(self._settings.upgrade_timeout_s):
            return await self._upgrader.upgrade(conduit, "outbound", peer_id, listens_s=listens_s)

    async def _connect(self, endpoint: TcpEndpoint, local_port: int | None) -> tcp.TcpConduit:
        limit_s = self._settings.connect_timeout_s
        if local_port is not None:
            try:
                conduit = await tcp.connect(endpoint, self._io, limit_s, local_port=local_port)
            except OSError as exc:
                if exc.errno not in _PORT_OF_NO_USE:
                    raise
                log.debug("not from port %d to %s: %s", local_port, endpoint.host, describe(exc))
            else:
                if not conduit.has_crossed() or self._listens_s(conduit.remote_addr) is not None:
                    return conduit
                conduit.abort()
        return await tcp.connect(endpoint, self._io, limit_s)

    def port_towards(self, addr: Multiaddr) -> int | None:
        """The port that a connection to `addr` leaves from; None: nothing listens on its kind of address.

        One that listens everywhere rather than one of a single address: the route may take another.
        """
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        inside = address_class(addr) is AddressClass.LOOPBACK
        fit: dict[int, int] = {}
        for listening in self._listening:
            bound = tcp_endpoint(listening.addr)
            assert bound is not None
            kind = address_class(listening.addr)
            if bound.family != endpoint.family:
                continue
            if kind is AddressClass.UNSPECIFIED:
                fit.setdefault(bound.port, 0)
            elif (kind is AddressClass.LOOPBACK) is inside:
                fit.setdefault(bound.port, 1)
        return min(fit, key=fit.__getitem__, default=None)

    # --- listening --------------------------------------------------------------------------------

    def can_listen(self, addr: Multiaddr) -> bool:
        """See `Transport`."""
        endpoint = tcp_endpoint(addr)
        return endpoint is not None and endpoint.family in ("ip4", "ip6")

    def listen(self, addr: Multiaddr, gate: Gate) -> TcpListening:
        """See `Transport`."""
        listening = self._listen(addr, gate, self._listening.remove)
        self._listening.append(listening)
        return listening

    def _listen(self, addr: Multiaddr, gate: Gate, on_close: Callable[[TcpListening], None]) -> TcpListening:
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        listener = tcp_socket.listen(endpoint.host, endpoint.port, str(addr))

        def accepted(sock: socket.socket, peer: Sockaddr) -> None:
            if gate.turns_away(peer[0]):
                self._porch.keep(sock)
                self._shutters.look(gate.shut_out)
            else:
                self._shutters.let_in(sock)
                self._accepted(sock, gate)

        def closed(listening: TcpListening) -> None:
            self._porch.close()
            self._shutters.remove(listener)
            on_close(listening)

        tcp_socket.share_port(listener)
        self._shutters.add(listener)
        return TcpListening(Acceptor(listener, self._io.loop, accepted), closed)

    def side_door(self, addr: Multiaddr, gate: Gate) -> TcpSideDoor:
        """See `HasSideDoors`."""
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        somewhere = Multiaddr.parse(f"/{endpoint.family}/{endpoint.host}/tcp/0")
        return TcpSideDoor(self, self._listen(somewhere, gate, lambda _listening: None))

    def _accepted(self, sock: socket.socket, gate: Gate) -> None:
        try:
            tcp.tune(sock)
            conduit = tcp.TcpConduit(sock, self._io)
            leave = gate.admit(conduit.remote_addr, conduit.abort, lambda: conduit.heard)
        except (OSError, ResourceLimitExceeded) as exc:
            log.debug("connection refused: %s", exc)
            sock.close()
            return

        def ended(task: asyncio.Task[None]) -> None:
            leave()
            if task.cancelled():  # maybe before its first step
                conduit.abort()

        listens_s = self._listens_s(conduit.remote_addr)
        if listens_s is None:
            work = self._inbound(conduit, gate)
        else:
            work = self._met(conduit, listens_s, None, gate)
        self._spawn(work, "inbound upgrade").add_done_callback(ended)

    async def _inbound(self, conduit: tcp.TcpConduit, gate: Gate) -> None:
        try:
            async with asyncio.timeout(self._settings.upgrade_timeout_s):
                conn = await self._upgrader.welcome(conduit)
        except (P2PForwardError, TimeoutError, OSError) as exc:
            log.debug("inbound from %s failed: %s", conduit.remote_addr, describe(exc))
            return
        if conn is not None:
            gate.arrived(conn)

    # --- meetings: both sides dial ----------------------------------------------------------------

    async def knock(self, addr: Multiaddr, meeting: Meeting, gate: Gate) -> None:
        """See `Transport`. One connect lasts as long as the meeting: the system repeats its SYN."""
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        while (left_s := meeting.until - self._io.loop.time()) > 0:
            try:
                conduit = await tcp.connect(
                    endpoint, self._io, left_s, local_port=self.port_towards(addr)
                )
            except TimeoutError:
                return
            except OSError as exc:
                if exc.errno not in _KNOCK_AGAIN:
                    raise
                await asyncio.sleep(random.uniform(*KNOCK_PAUSES_S))
                continue
            if conduit.local_addr == conduit.remote_addr:  # our own port: it has met itself
                conduit.abort()
                return
            self._meet(conduit, meeting, gate)
            return

    def _meet(self, conduit: tcp.TcpConduit, meeting: Meeting, gate: Gate) -> None:
        """In a task of its own: who ends the knocking must not end what the peer may have chosen."""

        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled():  # maybe before its first step
                conduit.abort()

        work = self._met(conduit, meeting.listens_s, meeting.peer_id, gate)
        self._spawn(work, "upgrade of a meeting").add_done_callback(ended)

    async def _met(
        self, conduit: tcp.TcpConduit, listens_s: float, expected: PeerId | None, gate: Gate
    ) -> None:
        """Upgrade, and hand over what has answered: the listener's part of the handshake, or a ping."""
        try:
            async with asyncio.timeout(self._settings.upgrade_timeout_s):
                conn = await self._upgrader.upgrade(conduit, "outbound", expected, listens_s=listens_s)
            if conn.direction == "outbound":
                try:
                    await conn.measure_rtt(PROOF_S)
                except BaseException:
                    conn.abort(TimedOut("the new connection did not answer"))
                    raise
        except (P2PForwardError, TimeoutError, OSError) as exc:
            log.debug("no connection with %s, though both dialed: %s", conduit.remote_addr, describe(exc))
            return
        gate.arrived(conn)

    def expect(self, addrs: Sequence[Multiaddr], meeting: Meeting) -> Callable[[], None]:
        """See `Transport`."""
        found = (tcp_endpoint(addr) for addr in addrs)
        entry = (frozenset(endpoint for endpoint in found if endpoint is not None), meeting)
        self._expected.append(entry)
        return lambda: self._expected.remove(entry)

    def _listens_s(self, remote: Multiaddr) -> float | None:
        """How long to listen on what has come from there; None: nobody is expected from there."""
        endpoint = tcp_endpoint(remote)
        assert endpoint is not None
        for endpoints, meeting in self._expected:
            if endpoint in endpoints:
                return meeting.listens_s
        for endpoints, meeting in self._expected:
            if endpoint.host in {one.host for one in endpoints}:
                return meeting.patience_s
        return None


class TcpListening:
    """One listening socket. `on_close` is told of its end, once."""

    def __init__(self, acceptor: Acceptor, on_close: Callable[[TcpListening], None]) -> None:
        self.addr: Multiaddr = sockaddrs.multiaddr_of(acceptor.sock.getsockname())
        """As it is bound."""
        self._acceptor = acceptor
        self._on_close: Callable[[TcpListening], None] | None = on_close

    def close(self) -> None:
        """Take nothing more; who was turned away anywhere goes, too. Idempotent."""
        self._acceptor.close()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close(self)


class TcpSideDoor:
    """See `SideDoor`."""

    def __init__(self, transport: TcpTransport, listening: TcpListening) -> None:
        self.addr = listening.addr
        self._transport = transport
        self._listening = listening

    async def dial(self, peer_id: PeerId, addr: Multiaddr) -> Link:
        """See `SideDoor`."""
        endpoint = tcp_endpoint(self.addr)
        assert endpoint is not None
        return await self._transport.dial_from(endpoint.port, peer_id, addr)

    def close(self) -> None:
        """Take nothing more. Idempotent."""
        self._listening.close()
