"""TCP as a transport: a socket, upgraded to a connection by security and multiplexer.

Connections leave from the port that this node listens on: a router then has one mapping for both, and what
peers see of it is where others can dial. Where that port cannot be used, any free one is: there may be a
connection between the two ports already, or both ends have dialed at once and neither would be the listener.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, TcpEndpoint, address_class, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, ResourceLimitExceeded
from p2pfwd.net.conduit import tcp
from p2pfwd.net.link.contract import Link
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.transport.contract import Gate
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


class TcpTransport:
    """Of one swarm. `spawn` runs a coroutine as a task that the swarm owns."""

    def __init__(self, upgrader: Upgrader, io: LoopIo, settings: SwarmSettings, spawn: Spawn) -> None:
        self._upgrader = upgrader
        self._io = io
        self._settings = settings
        self._spawn = spawn
        self._listening: list[TcpListening] = []

    # --- dialing ----------------------------------------------------------------------------------

    def why_not(self, addr: Multiaddr) -> str | None:
        """See `Transport`."""
        return why_undialable(addr, sockaddrs.has_interface)

    async def dial(self, peer_id: PeerId, addr: Multiaddr, *, fresh_port: bool = False) -> Link:
        """See `Transport`."""
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        conduit = await self._connect(endpoint, None if fresh_port else self.port_towards(addr))
        return await self._upgrade(conduit, peer_id)

    async def dial_from(self, port: int, peer_id: PeerId, addr: Multiaddr) -> Link:
        """As `dial`, from this listening port of ours and no other. Raises as `dial`."""
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        limit_s = self._settings.connect_timeout_s
        return await self._upgrade(
            await tcp.connect(endpoint, self._io, limit_s, local_port=port), peer_id
        )

    async def _upgrade(self, conduit: tcp.TcpConduit, peer_id: PeerId) -> Link:
        async with asyncio.timeout(self._settings.upgrade_timeout_s):
            return await self._upgrader.upgrade(conduit, "outbound", peer_id)

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
                if not conduit.has_crossed():
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
        sock = tcp_socket.listen(endpoint.host, endpoint.port, str(addr))

        def accepted(sock: socket.socket, _peer: Sockaddr) -> None:
            self._accepted(sock, gate)

        tcp_socket.share_port(sock)
        return TcpListening(Acceptor(sock, self._io.loop, accepted), on_close)

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

        self._spawn(self._inbound(conduit, gate), "inbound upgrade").add_done_callback(ended)

    async def _inbound(self, conduit: tcp.TcpConduit, gate: Gate) -> None:
        try:
            async with asyncio.timeout(self._settings.upgrade_timeout_s):
                conn = await self._upgrader.upgrade(conduit, "inbound")
        except (P2PForwardError, TimeoutError, OSError) as exc:
            log.debug("inbound from %s failed: %s", conduit.remote_addr, describe(exc))
            return
        gate.arrived(conn)


class TcpListening:
    """One listening socket. `on_close` is told of its end, once."""

    def __init__(self, acceptor: Acceptor, on_close: Callable[[TcpListening], None]) -> None:
        self.addr: Multiaddr = sockaddrs.multiaddr_of(acceptor.sock.getsockname())
        """As it is bound."""
        self._acceptor = acceptor
        self._on_close: Callable[[TcpListening], None] | None = on_close

    def close(self) -> None:
        """Take nothing more. Idempotent."""
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
