"""TCP as a transport: a socket, upgraded to a connection by security and multiplexer."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
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


class TcpTransport:
    """Of one swarm. `spawn` runs a coroutine as a task that the swarm owns."""

    def __init__(self, upgrader: Upgrader, io: LoopIo, settings: SwarmSettings, spawn: Spawn) -> None:
        self._upgrader = upgrader
        self._io = io
        self._settings = settings
        self._spawn = spawn

    # --- dialing ----------------------------------------------------------------------------------

    def why_not(self, addr: Multiaddr) -> str | None:
        """See `Transport`."""
        return why_undialable(addr, sockaddrs.has_interface)

    async def dial(self, peer_id: PeerId, addr: Multiaddr) -> Link:
        """See `Transport`."""
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        conduit = await tcp.connect(endpoint, self._io, self._settings.connect_timeout_s)
        async with asyncio.timeout(self._settings.upgrade_timeout_s):
            return await self._upgrader.upgrade(conduit, "outbound", peer_id)

    # --- listening --------------------------------------------------------------------------------

    def can_listen(self, addr: Multiaddr) -> bool:
        """See `Transport`."""
        endpoint = tcp_endpoint(addr)
        return endpoint is not None and endpoint.family in ("ip4", "ip6")

    def listen(self, addr: Multiaddr, gate: Gate) -> TcpListening:
        """See `Transport`."""
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        sock = tcp_socket.listen(endpoint.host, endpoint.port, str(addr))

        def accepted(sock: socket.socket, peer: Sockaddr) -> None:
            if gate.turns_away(peer[0]):
                sock.close()
            else:
                self._accepted(sock, gate)

        return TcpListening(Acceptor(sock, self._io.loop, accepted))

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
    """One listening socket."""

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor

    @property
    def addr(self) -> Multiaddr:
        """As it is bound."""
        return sockaddrs.multiaddr_of(self._acceptor.sock.getsockname())

    def close(self) -> None:
        """Take nothing more. Idempotent."""
        self._acceptor.close()
