"""The swarm: the face of a node's network half. It listens, and joins the rooms that decide.

`connections` has who is connected, `dials` how to get there, `services` what is served, `own_addresses` who
we are, `peerstore` whom we know. One shared connection per peer serves everything.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr, from_sockaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidMultiaddr, P2PForwardError, ProtocolNotSupported, ResourceLimitExceeded
from p2pfwd.net.connections import Connections
from p2pfwd.net.connmgr import ConnMgr
from p2pfwd.net.dialer import Dialer
from p2pfwd.net.dials import Dials, Router
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.own_addresses import OwnAddresses
from p2pfwd.net.refusals import Refusals
from p2pfwd.net.resolver import Resolver
from p2pfwd.net.services import Services
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.tasks import Tasks
from p2pfwd.net.transport import tcp
from p2pfwd.net.upgrader import Upgrader, describe
from p2pfwd.peers import store
from p2pfwd.peers.store import Peerstore
from p2pfwd.policy.dial_plan import is_local
from p2pfwd.system import tcp_socket
from p2pfwd.system.acceptor import Acceptor, Sockaddr
from p2pfwd.system.loop_io import LoopIo

__all__ = ["Conn", "Stream", "Swarm"]

log = logging.getLogger("p2pfwd.net")

IDENTIFY_WAIT_S = 5.0


class Swarm:
    """All connections of one identity. Create inside a running loop; end with `close`."""

    def __init__(self, identity: PrivateKey, settings: SwarmSettings | None = None) -> None:
        self.identity = identity
        self.peer_id = PeerId.from_public_key(identity.public_key)
        self.settings = settings or SwarmSettings()
        self.peerstore = Peerstore()
        self.connmgr = ConnMgr(self.settings)
        self.resolver = Resolver(self.settings.dns_servers, local_only=self.settings.local_only)
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.io = LoopIo.of(loop, self.settings.busy_poll_us)
        self._tasks = Tasks(loop)
        self.refusals = Refusals()
        self.services = Services(self._tasks)
        self.connections = Connections(self.peer_id, self.settings, self.connmgr, self._tasks)
        self.connections.on_disconnected(self._disconnected)
        self.own_addresses = OwnAddresses(self._bound)
        self._upgrader = Upgrader(
            identity,
            self.io.pool,
            accepts=self.services.accepts,
            on_stream=self._on_stream,
            security=self.settings.security,
            early_muxer=self.settings.early_muxer,
            max_inbound_streams=self.settings.max_streams_per_connection,
            psk=self.settings.psk,
        )
        dialer = Dialer(self._upgrader, self.resolver, self.peerstore, self.io, self.settings)
        self.dials = Dials(self.peer_id, dialer, self.connections, self.peerstore, self.own_addresses.all)
        self._acceptors: list[Acceptor] = []
        self._identified: list[Callable[[PeerId], None]] = []

    # --- listening --------------------------------------------------------------------------------

    async def listen(self, addr: Multiaddr) -> Multiaddr:
        """Listen on an ip4 or ip6 tcp address; the bound one (port 0 becomes real).

        Raises InvalidMultiaddr, AddressInUse, BindFailed.
        """
        endpoint = tcp_endpoint(addr)
        if endpoint is None or endpoint.family not in ("ip4", "ip6"):
            raise InvalidMultiaddr(f"cannot listen on {addr}: not an /ip4 or /ip6 TCP address")
        family = socket.AF_INET6 if endpoint.family == "ip6" else socket.AF_INET
        sock = tcp_socket.listen(family, (endpoint.host, endpoint.port), str(addr))
        self._acceptors.append(Acceptor(sock, self._loop, self._accepted))
        return from_sockaddr(sock.getsockname())

    def unlisten(self, bound: Multiaddr) -> None:
        """Listen no more on an address that `listen` returned."""
        for acceptor in list(self._acceptors):
            if from_sockaddr(acceptor.sock.getsockname()) == bound:
                acceptor.close()
                self._acceptors.remove(acceptor)

    def _bound(self) -> list[Multiaddr]:
        return [from_sockaddr(acceptor.sock.getsockname()) for acceptor in self._acceptors]

    def listen_addrs(self) -> list[Multiaddr]:
        """Where others can dial this node, as far as it knows; best first."""
        return self.own_addresses.all()

    def _accepted(self, sock: socket.socket, _peer: Sockaddr) -> None:
        stack = ExitStack()
        try:
            tcp.tune(sock)
            conduit = tcp.TcpConduit(sock, self.io)
            if self.settings.local_only and not is_local(conduit.remote_addr):
                raise ConnectionRefusedError(f"{conduit.remote_addr} is outside the local network")
            stack.enter_context(self.connmgr.pending_inbound(conduit.remote_addr, self.conns()))
        except (OSError, ResourceLimitExceeded) as exc:
            log.debug("connection refused: %s", exc)
            sock.close()
            return

        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled():  # maybe before its first step
                stack.close()
                conduit.abort()

        self.spawn(self._inbound(conduit, stack), "inbound upgrade").add_done_callback(ended)

    async def _inbound(self, conduit: tcp.TcpConduit, stack: ExitStack) -> None:
        with stack:
            try:
                async with asyncio.timeout(self.settings.upgrade_timeout_s):
                    conn = await self._upgrader.upgrade(conduit, "inbound")
            except (P2PForwardError, TimeoutError, OSError) as exc:
                log.debug("inbound from %s failed: %s", conduit.remote_addr, describe(exc))
                return
        self.connections.add(conn)

    # --- connections ------------------------------------------------------------------------------

    def conns(self, peer_id: PeerId | None = None) -> list[Conn]:
        """Live connections, to one peer or all, direct and old ones first."""
        return self.connections.all() if peer_id is None else self.connections.of(peer_id)

    def on_connected(self, callback: Callable[[Conn], None]) -> None:
        """Be told of every new connection."""
        self.connections.on_connected(callback)

    def on_disconnected(self, callback: Callable[[Conn], None]) -> None:
        """Be told when one is over."""
        self.connections.on_disconnected(callback)

    def on_identified(self, callback: Callable[[PeerId], None]) -> None:
        """Be told when a connected peer has said what it serves, and each time it says so anew."""
        self._identified.append(callback)

    def note_identified(self, peer_id: PeerId) -> None:
        """A connected peer has said what it serves: it is in the peerstore."""
        for callback in self._identified:
            callback(peer_id)

    def _disconnected(self, conn: Conn) -> None:
        if not self.connections.of(conn.remote_peer):
            self.own_addresses.forget_observer(conn.remote_peer)
        if conn.direction == "outbound":
            addrs, ttl = [conn.remote_addr], store.CONNECTED_TTL_S
            self.peerstore.add_addrs(conn.remote_peer, addrs, ttl, "connected")

    async def connect(
        self,
        peer_id: PeerId,
        addrs: Iterable[Multiaddr] = (),
        *,
        timeout_s: float | None = None,
        force: bool = False,
        only: bool = False,
        route: bool = True,
    ) -> Conn:
        """A live connection: one that is there, or a new one; concurrent callers share the dial.

        `addrs` are tried beside what the peerstore knows; with `only` they alone, in a dial that is not
        shared. Where nothing works the router is asked, unless `only` or not `route`. `force` ignores
        the back-off. Raises SelfDial, PeerNotFound, DialFailed, DialTimeout,
        TimedOut, ConnectionLost, ShuttingDown.
        """
        return await self.dials.connect(
            peer_id, addrs, timeout_s=timeout_s, force=force, only=only, route=route
        )

    def set_router(self, router: Router | None) -> None:
        """Whom to ask when no known address of a peer works; see `Dials.router`."""
        self.dials.router = router

    async def dial_back(self, peer_id: PeerId, addr: Multiaddr) -> bool:
        """Whether the peer can be dialed at this address: a connection of its own, closed at once."""
        return await self.dials.dial_back(peer_id, addr)

    async def disconnect(self, peer_id: PeerId) -> int:
        """Close all connections to a peer gracefully; how many there were."""
        conns = self.conns(peer_id)
        await asyncio.gather(*(conn.close() for conn in conns))
        return len(conns)

    # --- streams ----------------------------------------------------------------------------------

    async def open_stream(
        self,
        peer_id: PeerId,
        protocols: Sequence[str],
        *,
        addrs: Iterable[Multiaddr] = (),
        timeout_s: float | None = None,
        confirm: bool = False,
    ) -> Stream:
        """A negotiated stream to a peer, connecting first if need be.

        Where the peer is known to serve the only protocol asked for, the stream is returned before
        the peer has confirmed it, unless `confirm`. Raises as `connect` and `Conn.open_stream`.
        """
        limit_s = timeout_s if timeout_s is not None else self.settings.stream_timeout_s
        conn = self.connections.usable(peer_id) or await self.connect(peer_id, addrs, timeout_s=timeout_s)
        if not conn.identified.done():  # once per connection; tells agent and protocols
            await asyncio.wait([conn.identified], timeout=min(IDENTIFY_WAIT_S, limit_s))
        known = len(protocols) == 1 and not confirm and self.peerstore.is_served(peer_id, protocols[0])
        settled = self._settled(peer_id, protocols)
        return await conn.open_stream(protocols, limit_s, known=known, settled=settled)

    def open_stream_at_once(self, peer_id: PeerId, protocol: str) -> Stream | None:
        """As `open_stream`, without a task: None where it would have to wait for anything."""
        conn = self.connections.usable(peer_id)
        if conn is None or not conn.identified.done() or not self.peerstore.is_served(peer_id, protocol):
            return None
        return conn.open_at_once(protocol, self._settled(peer_id, (protocol,)))

    def _settled(self, peer_id: PeerId, protocols: Sequence[str]) -> Callable[[Stream], None]:
        def settled(stream: Stream) -> None:
            if stream.protocol is not None:
                self.peerstore.remember_served(peer_id, stream.protocol, True)
            elif isinstance(stream.error, ProtocolNotSupported):
                for protocol in protocols:
                    self.peerstore.remember_served(peer_id, protocol, False)

        return settled

    def _on_stream(self, stream: Stream) -> None:
        if self.connections.closing:
            stream.reset()
        else:
            self.services.dispatch(stream)

    # --- tasks and the end ------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, Any], what: str) -> asyncio.Task[Any]:
        """Run `work` as a task owned by the swarm: logged if it fails, cancelled at the end."""
        return self._tasks.spawn(work, what)

    async def close(self) -> None:
        """Stop listening, close every connection gracefully, cancel what runs. Idempotent."""
        self.connections.closing = True
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        await self.dials.close()
        await asyncio.gather(*(conn.close() for conn in self.conns()))
        await self._tasks.close()
        self.io.close()
