"""The swarm: listening sockets, connections by peer, protocol handlers.

One shared connection per peer serves everything; a second one (both dialed at once) is legal and
kept. Handlers run as tasks that the swarm owns; what escapes from one is logged and resets its stream.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr, from_sockaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import (
    ConnectionLost,
    DialFailed,
    InvalidMultiaddr,
    P2PForwardError,
    PeerNotFound,
    ProtocolNotSupported,
    ResourceLimitExceeded,
    SelfDial,
    ShuttingDown,
    TimedOut,
)
from p2pfwd.net.connmgr import ConnMgr
from p2pfwd.net.dialer import Dialer
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.resolver import Resolver
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.transport import tcp
from p2pfwd.net.upgrader import Upgrader, describe
from p2pfwd.peers import store as peerstore
from p2pfwd.peers.store import Peerstore
from p2pfwd.policy.dial_plan import is_local
from p2pfwd.system import interfaces
from p2pfwd.system.acceptor import BACKLOG, Acceptor, Sockaddr, bind_failure
from p2pfwd.system.loop_io import LoopIo

__all__ = ["Conn", "Stream", "Swarm"]

log = logging.getLogger("p2pfwd.net")

Handler = Callable[[Stream], Coroutine[Any, Any, None] | None]
Router = Callable[[PeerId, P2PForwardError], Coroutine[Any, Any, None]]
IDENTIFY_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Prefix:
    prefix: str
    accepts: Callable[[str], bool]
    handler: Handler


class Swarm:
    """All connections of one identity. Create inside a running loop; end with `close`."""

    def __init__(self, identity: PrivateKey, settings: SwarmSettings | None = None) -> None:
        self.identity = identity
        self.peer_id = PeerId.from_public_key(identity.public_key)
        self.settings = settings or SwarmSettings()
        self.peerstore = Peerstore()
        self.connmgr = ConnMgr(self.settings)
        self.resolver = Resolver(self.settings.dns_servers, local_only=self.settings.local_only)
        self._loop = asyncio.get_running_loop()
        self.io = LoopIo.of(self._loop, self.settings.busy_poll_us)
        self._upgrader = Upgrader(
            identity,
            self.io.pool,
            accepts=self.accepts,
            on_stream=self._on_stream,
            security=self.settings.security,
            early_muxer=self.settings.early_muxer,
            max_inbound_streams=self.settings.max_streams_per_peer,
            psk=self.settings.psk,
        )
        self._dialer = Dialer(self._upgrader, self.resolver, self.peerstore, self.io, self.settings)
        self._acceptors: list[Acceptor] = []
        self._conns: dict[PeerId, list[Conn]] = {}
        self._dialing: dict[PeerId, asyncio.Task[Conn]] = {}
        self._routing: dict[PeerId, asyncio.Task[None]] = {}
        self._router: Router | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._handlers: dict[str, Handler] = {}
        self._prefixes: dict[str, _Prefix] = {}
        self._observed: dict[PeerId, Multiaddr] = {}
        self._announced: tuple[Multiaddr, ...] = ()
        self._connected: list[Callable[[Conn], None]] = []
        self._disconnected: list[Callable[[Conn], None]] = []
        self._identified: list[Callable[[PeerId], None]] = []
        self._closing = False

    # --- listening --------------------------------------------------------------------------------

    async def listen(self, addr: Multiaddr) -> Multiaddr:
        """Listen on an ip4 or ip6 tcp address; the bound one (port 0 becomes real).

        Raises InvalidMultiaddr, AddressInUse, BindFailed.
        """
        endpoint = tcp_endpoint(addr)
        if endpoint is None or endpoint.family not in ("ip4", "ip6"):
            raise InvalidMultiaddr(f"cannot listen on {addr}: not an /ip4 or /ip6 TCP address")
        family = socket.AF_INET6 if endpoint.family == "ip6" else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as exc:
            raise bind_failure(exc, str(addr)) from exc
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((endpoint.host, endpoint.port))
            sock.listen(BACKLOG)
        except OSError as exc:
            sock.close()
            raise bind_failure(exc, str(addr)) from exc
        self._acceptors.append(Acceptor(sock, self._loop, self._accepted))
        return from_sockaddr(sock.getsockname())

    def listen_addrs(self) -> list[Multiaddr]:
        """Bound addresses, unspecified ones as the interfaces', and announced ones; best first."""
        found: dict[Multiaddr, None] = dict.fromkeys(self._announced)
        for acceptor in self._acceptors:
            for addr in interfaces.expand(from_sockaddr(acceptor.sock.getsockname())):
                found[addr] = None
        return interfaces.best_first(list(found))

    def announce(self, addrs: Iterable[Multiaddr]) -> bool:
        """Tell peers these addresses too, in place of those announced before; whether that is a change."""
        was, self._announced = self._announced, tuple(addrs)
        return was != self._announced

    def note_observed(self, observer: PeerId, addr: Multiaddr) -> None:
        """A connected peer says it sees us at `addr`."""
        self._observed[observer] = addr

    def observed_addrs(self) -> list[Multiaddr]:
        """As connected peers see this node."""
        return list(dict.fromkeys(self._observed.values()))

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
        self._add(conn)

    # --- connections ------------------------------------------------------------------------------

    def conns(self, peer_id: PeerId | None = None) -> list[Conn]:
        """Live connections, to one peer or all, direct and old ones first."""
        if peer_id is not None:
            return list(self._conns.get(peer_id, ()))
        return [conn for conns in self._conns.values() for conn in conns]

    def on_connected(self, callback: Callable[[Conn], None]) -> None:
        """Be told of every new connection."""
        self._connected.append(callback)

    def on_disconnected(self, callback: Callable[[Conn], None]) -> None:
        """Be told when one is over."""
        self._disconnected.append(callback)

    def on_identified(self, callback: Callable[[PeerId], None]) -> None:
        """Be told when a connected peer has said what it serves, and each time it says so anew."""
        self._identified.append(callback)

    def note_identified(self, peer_id: PeerId) -> None:
        """A connected peer has said what it serves: it is in the peerstore."""
        for callback in self._identified:
            callback(peer_id)

    def _add(self, conn: Conn) -> None:
        conns = self._conns.setdefault(conn.remote_peer, [])
        refuse = None
        if self._closing:
            refuse = "shutting down"
        elif conn.remote_peer == self.peer_id:
            refuse = "it is this node"
        elif len(conns) >= self.settings.max_connections_per_peer:
            refuse = f"the peer has {len(conns)} connections"
        if refuse is not None or conn.closed.done():
            log.debug("connection to %s dropped: %s", conn.remote_peer, refuse or "closed")
            if not conns:
                del self._conns[conn.remote_peer]
            conn.abort()
            return
        conns.append(conn)
        conns.sort(key=lambda c: (c.is_relayed, c.opened_at))
        conn.closed.add_done_callback(lambda _: self._remove(conn))
        peer, addr = conn.remote_peer, conn.remote_addr
        log.info("connected to %s at %s (%s, %s)", peer, addr, conn.direction, conn.security)
        for callback in self._connected:
            callback(conn)
        for idle in self.connmgr.to_trim(self.conns(), self._loop.time()):
            log.info("trimming the idle connection to %s", idle.remote_peer)
            self.spawn(idle.close(), "trim")

    def _remove(self, conn: Conn) -> None:
        conns = self._conns[conn.remote_peer]
        conns.remove(conn)
        if not conns:
            del self._conns[conn.remote_peer]
            self._observed.pop(conn.remote_peer, None)
        cause = conn.closed.result()
        log.info("disconnected from %s: %s", conn.remote_peer, describe(cause) if cause else "closed")
        if conn.direction == "outbound":
            addrs, ttl = [conn.remote_addr], peerstore.CONNECTED_TTL_S
            self.peerstore.add_addrs(conn.remote_peer, addrs, ttl, "connected")
        for callback in self._disconnected:
            callback(conn)

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
        if self._closing:
            raise ShuttingDown("the swarm is shutting down")
        if peer_id == self.peer_id:
            raise SelfDial("the peer is this node itself", hint="use the peer ID of the other machine")
        given = list(addrs)
        if not only:
            self.peerstore.add_addrs(peer_id, given, peerstore.TOLD_TTL_S, peerstore.GIVEN)
        if (conn := self._usable(peer_id)) is not None:
            return conn
        try:
            async with asyncio.timeout(timeout_s):
                try:
                    return await self._connect(peer_id, given, force, only)
                except (DialFailed, PeerNotFound) as exc:
                    if self._router is None or only or not route:
                        raise
                    await self._route(peer_id, self._router, exc)
                return self._usable(peer_id) or await self._connect(peer_id, (), True, False)
        except TimeoutError:
            raise TimedOut(f"{peer_id} could not be reached within {timeout_s:g} s") from None

    async def _connect(self, peer_id: PeerId, given: Sequence[Multiaddr], force: bool, only: bool) -> Conn:
        if (task := self._dialing.get(peer_id)) is not None:
            try:
                return await asyncio.shield(task)
            except (DialFailed, PeerNotFound):
                if not (given or force):  # this caller knows nothing that the dial did not know
                    raise
        if only:
            return await self._dial(peer_id, given, force)
        return await asyncio.shield(self._dialing.get(peer_id) or self._shared_dial(peer_id, force))

    def set_router(self, router: Router | None) -> None:
        """Whom to ask when no known address of a peer works.

        `router(peer_id, failure)` connects, or raises what is then the failure of the `connect`.
        """
        self._router = router

    async def _route(self, peer_id: PeerId, router: Router, failure: P2PForwardError) -> None:
        """One look-up per peer at a time, shared; a caller that gives up does not end it."""
        task = self._routing.get(peer_id)
        if task is None:
            task = self._routing[peer_id] = self._loop.create_task(router(peer_id, failure))
            task.add_done_callback(lambda done: self._routed(peer_id, done))
        await asyncio.shield(task)

    def _routed(self, peer_id: PeerId, task: asyncio.Task[None]) -> None:
        del self._routing[peer_id]
        if not task.cancelled():
            task.exception()  # retrieved, also when nobody waits any more

    def _usable(self, peer_id: PeerId) -> Conn | None:
        return next((conn for conn in self._conns.get(peer_id, ()) if conn.can_open), None)

    def _shared_dial(self, peer_id: PeerId, force: bool) -> asyncio.Task[Conn]:
        def ended(task: asyncio.Task[Conn]) -> None:
            del self._dialing[peer_id]
            if not task.cancelled():
                task.exception()  # retrieved, also when nobody waits any more

        known = self.peerstore.dialable(peer_id)
        task = self._dialing[peer_id] = self._loop.create_task(self._dial(peer_id, known, force))
        task.add_done_callback(ended)
        return task

    async def _dial(self, peer_id: PeerId, addrs: Sequence[Multiaddr], force: bool) -> Conn:
        conn = await self._dialer.dial(peer_id, addrs, self.listen_addrs(), force=force)
        self._add(conn)
        if conn.closed.done():
            if self._closing:
                raise ShuttingDown("the swarm is shutting down")
            raise ConnectionLost(f"the connection to {peer_id} ended as it came up")
        return conn

    async def dial_back(self, peer_id: PeerId, addr: Multiaddr) -> bool:
        """Whether the peer can be dialed at this address: a connection of its own, closed at once."""
        try:
            conn = await self._dialer.attempt(peer_id, addr)
        except (P2PForwardError, OSError) as exc:
            log.debug("%s cannot be dialed back at %s: %s", peer_id, addr, describe(exc))
            return False
        await conn.close()
        return True

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
        conn = self._usable(peer_id) or await self.connect(peer_id, addrs, timeout_s=timeout_s)
        if not conn.identified.done():  # once per connection; tells agent and protocols
            await asyncio.wait([conn.identified], timeout=min(IDENTIFY_WAIT_S, limit_s))
        known = len(protocols) == 1 and not confirm and self.peerstore.is_served(peer_id, protocols[0])
        settled = self._settled(peer_id, protocols)
        return await conn.open_stream(protocols, limit_s, known=known, settled=settled)

    def open_stream_at_once(self, peer_id: PeerId, protocol: str) -> Stream | None:
        """As `open_stream`, without a task: None where it would have to wait for anything."""
        conn = self._usable(peer_id)
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

    def set_stream_handler(self, protocol: str, handler: Handler) -> None:
        """Serve a protocol: `handler(stream)` for each inbound stream; what it awaits runs as a task."""
        self._handlers[protocol] = handler

    def remove_stream_handler(self, protocol: str) -> None:
        """Serve it no more; live streams stay."""
        self._handlers.pop(protocol, None)

    def set_prefix_handler(self, prefix: str, accepts: Callable[[str], bool], handler: Handler) -> None:
        """Serve the protocols below `prefix` that `accepts` takes; identify lists the bare prefix."""
        self._prefixes[prefix] = _Prefix(prefix, accepts, handler)

    def protocols(self) -> list[str]:
        """What identify lists."""
        return [*self._handlers, *self._prefixes]

    def accepts(self, protocol: str) -> bool:
        """Whether an inbound stream of this protocol is served."""
        return self._handler(protocol) is not None

    def _handler(self, protocol: str) -> Handler | None:
        if (handler := self._handlers.get(protocol)) is not None:
            return handler
        for prefix in self._prefixes.values():
            if protocol.startswith(prefix.prefix) and prefix.accepts(protocol):
                return prefix.handler
        return None

    def _on_stream(self, stream: Stream) -> None:
        assert stream.protocol is not None
        handler = self._handler(stream.protocol)
        if handler is None or self._closing:
            stream.reset()
            return
        work = handler(stream)
        if work is not None:
            self.spawn(self._serve(work, stream), f"serve {stream.protocol}")

    async def _serve(self, work: Coroutine[Any, Any, None], stream: Stream) -> None:
        try:
            await work
        except P2PForwardError as exc:
            log.debug("%s from %s ended: %s", stream.protocol, stream.remote_peer, exc)
            stream.reset()
        except BaseException:
            stream.reset()
            raise

    # --- tasks and the end ------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, Any], what: str) -> asyncio.Task[Any]:
        """Run `work` as a task owned by the swarm: logged if it fails, cancelled at the end."""

        async def wall() -> None:
            try:
                await work
            except P2PForwardError as exc:
                log.debug("%s: %s", what, exc)
            except Exception:
                log.exception("%s failed", what)

        task = self._loop.create_task(wall(), name=what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled before it began
        return task

    async def close(self) -> None:
        """Stop listening, close every connection gracefully, cancel what runs. Idempotent."""
        self._closing = True
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        dials: list[asyncio.Task[Any]] = [*self._dialing.values(), *self._routing.values()]
        for task in dials:
            task.cancel()
        await asyncio.gather(*dials, return_exceptions=True)
        await asyncio.gather(*(conn.close() for conn in self.conns()))
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.io.close()


