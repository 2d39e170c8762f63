"""The swarm: the face of a node's network half. It listens, and joins the rooms that decide.

`connections` has who is connected, `dials` how to get there, `services` what is served, `own_addresses` who
we are, `peerstore` whom we know. One shared connection per peer serves everything.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, forget_remembered, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import (
    BindFailed,
    ConnectionLost,
    InvalidMultiaddr,
    NoDirectPath,
    P2PForwardError,
    PeerBlocked,
    ProtocolNotSupported,
)
from p2pfwd.net.blocklist import Blocklist
from p2pfwd.net.conduit.contract import Conduit
from p2pfwd.net.connections import Connections
from p2pfwd.net.connmgr import ConnMgr
from p2pfwd.net.dialer import Dialer
from p2pfwd.net.dials import Dials, Router
from p2pfwd.net.handshakes import Handshakes
from p2pfwd.net.limits import Limits
from p2pfwd.net.link.contract import Carrier, Direction, DuplexStream, Link
from p2pfwd.net.own_addresses import OwnAddresses
from p2pfwd.net.paths import WAIT_S, Paths
from p2pfwd.net.recovery import Recovery
from p2pfwd.net.refusals import Refusals
from p2pfwd.net.resolver import Resolver
from p2pfwd.net.services import Services
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.tasks import Tasks, log
from p2pfwd.net.transport.contract import HasSideDoors, Listening, SideDoor
from p2pfwd.net.transport.legs import Legs
from p2pfwd.net.transport.table import MakeTransports, transports
from p2pfwd.net.upgrader import Upgrader
from p2pfwd.peers.store import Peerstore
from p2pfwd.policy.blocks import Blocks
from p2pfwd.policy.dial_plan import is_local
from p2pfwd.policy.networks import networks_of_host
from p2pfwd.policy.paths import Way
from p2pfwd.policy.visible import place
from p2pfwd.policy.waking import RUN_MESSAGES, Waking
from p2pfwd.system.interfaces import Interfaces
from p2pfwd.system.loop_io import LoopIo
from p2pfwd.system.memory import MemoryKeeper
from p2pfwd.system.power import on_battery

IDENTIFY_WAIT_S = 5.0


def _nothing() -> None:
    pass


async def _no_introduction(_link: Link) -> None:
    pass


class Swarm:
    """All connections of one identity. Create inside a running loop; end with `close`."""

    def __init__(
        self,
        identity: PrivateKey,
        settings: SwarmSettings | None = None,
        make_transports: MakeTransports = transports,
    ) -> None:
        self.identity = identity
        self.peer_id = PeerId.from_public_key(identity.public_key)
        self.settings = settings or SwarmSettings()
        self.peerstore = Peerstore()
        self.connmgr = ConnMgr(self.settings)
        self.resolver = Resolver(self.settings.dns_servers, local_only=self.settings.local_only)
        loop = self._loop = asyncio.get_running_loop()
        waking = Waking(self.settings.busy_poll, on_battery, random.random)
        self.io = LoopIo.of(loop, waking, RUN_MESSAGES)
        self._tasks = Tasks(loop)
        self.refusals = Refusals()
        busy_poll, pool = self.io.busy_poll, self.io.pool
        self.limits = Limits(loop, self.refusals, lambda: busy_poll.moves, lambda: pool.kept_bytes)
        self.services = Services(self._tasks, self.refusals, self._offended)
        self.connections = Connections(
            self.peer_id, self.settings, self.connmgr, self._tasks, self.refusals
        )
        self.blocklist = Blocklist(self.refusals)
        self.connections.refuses = self.blocklist.refuses
        self.connections.on_connected(self._connected)
        self.connections.on_disconnected(self._disconnected)
        self.memory = MemoryKeeper(loop)
        self.memory.on_spare(self._spare)
        self.handshakes = Handshakes(self.settings, self.refusals, loop.time)
        self.own_addresses = OwnAddresses(Interfaces())
        self._join_limits()
        self._upgrader = self._make_upgrader()
        spawn = self._tasks.spawn
        self.legs = Legs(self._upgrader, self.io, self.settings, spawn)
        self._transports = make_transports(
            self._upgrader, self.io, self.settings, spawn, self._reach_relay, self.legs
        )
        dialer = Dialer(self._transports, self.resolver, self.peerstore, self.settings)
        self.dials = Dials(self.peer_id, dialer, self.connections, self.peerstore, self.own_addresses.all)
        self.dials.is_own = self.own_addresses.is_own = self.peerstore.is_chosen
        self.dials.check_blocked = self.blocklist.check
        self.connections.on_connected(self.dials.arrived)
        dialer.is_blocked = self.blocklist.has_addr
        self.recovery = self.dials.recovery = Recovery(
            self.connections,
            self._tasks,
            self.own_addresses.interfaces,
            self.dials.beside,
            self.dials.ask_where,
            self.connmgr.is_wanted,
        )
        self.recovery.is_own = self._is_wanted
        self.peerstore.on_change(self.recovery.address_learned)
        self.paths = Paths(self.connections, self._transports, self)
        self.introduce: Callable[[Link], Awaitable[None]] = _no_introduction
        """Awaited before a relay is asked for anything: who we are to it. What it raises is a refusal."""
        self._listening: list[Listening] = []
        self._identified: list[Callable[[PeerId], None]] = []

    def _is_wanted(self, peer_id: PeerId) -> bool:
        return self.peerstore.is_chosen(peer_id) or self.connmgr.is_kept(peer_id)

    def _make_upgrader(self) -> Upgrader:
        settings = self.settings
        return Upgrader(
            self.identity,
            self.io.pool,
            accepts=self.services.accepts,
            on_stream=self._on_stream,
            security=settings.security,
            aes=settings.aes,
            early_muxer=settings.early_muxer,
            max_inbound_streams=settings.max_streams_per_connection,
            psk=settings.psk,
            limits=self.limits,
        )

    def _join_limits(self) -> None:
        """Tell the limits whose the peers are, who holds what, and who comes and goes."""
        limits, connections = self.limits, self.connections
        limits.is_own = self.peerstore.is_chosen
        self.connmgr.rank_of = self.services.rank_of = self.peerstore.rank
        limits.holders = lambda: [conn.holdings for conn in connections.all()]
        limits.stirred = self.memory.stir
        self.handshakes.own_hosts, self.handshakes.is_own = self._own_hosts, self.peerstore.is_chosen
        connections.on_connected(lambda conn: limits.lanes.joined(conn.crowd))
        connections.on_disconnected(lambda conn: limits.lanes.left(conn.crowd))
        connections.on_disconnected(lambda _conn: self.memory.stir())

    def _spare(self) -> None:
        """Let go of what is kept only because it may be needed again."""
        self.io.pool.forget_idle()
        self.io.poller.shrink()
        self.handshakes.forget_full()
        self.services.forget_full()
        self.recovery.forget_lost()
        forget_remembered()
        networks_of_host.cache_clear()

    # --- listening --------------------------------------------------------------------------------

    async def listen(self, addr: Multiaddr) -> Multiaddr:
        """Listen on an ip4 or ip6 tcp address; the bound one (port 0 becomes real).

        Raises InvalidMultiaddr, AddressInUse, BindFailed.
        """
        transport = next((one for one in self._transports if one.can_listen(addr)), None)
        if transport is None:
            raise InvalidMultiaddr(f"cannot listen on {addr}: not an /ip4 or /ip6 TCP address")
        listening = transport.listen(addr, self)
        self._listening.append(listening)
        self.own_addresses.bind(listening.addr)
        self.memory.started()
        return listening.addr

    def unlisten(self, bound: Multiaddr) -> None:
        """Listen no more on an address that `listen` returned; connections stay."""
        for listening in [one for one in self._listening if one.addr == bound]:
            self._listening.remove(listening)
            listening.close()
            self.own_addresses.unbind(bound)

    def listen_addrs(self) -> list[Multiaddr]:
        """Where others can dial this node, as far as it knows; best first."""
        return self.own_addresses.all()

    def _own_hosts(self) -> frozenset[str]:
        own = filter(self.peerstore.is_chosen, self.peerstore.peers())
        endpoints = (tcp_endpoint(addr) for peer in own for addr in self.peerstore.addrs(peer))
        return frozenset(it.host for it in endpoints if it is not None and it.family in ("ip4", "ip6"))

    def admit(
        self,
        remote: Multiaddr,
        abort: Callable[[], None],
        heard: Callable[[], bool],
        peer: PeerId | None = None,
    ) -> Callable[[], None]:
        """See `transport.contract.Gate`; `peer`: who it must prove to be, where that is known."""
        if self.settings.local_only and not is_local(remote):
            raise ConnectionRefusedError(f"{remote} is outside the local network")
        return partial(self.handshakes.end, self.handshakes.begin(remote, abort, heard, peer))

    def turns_away(self, host: str) -> bool:
        """See `transport.contract.Gate`."""
        return self.blocklist.turns_away(host) or self.handshakes.turns_away(host)

    def shut_out(self) -> frozenset[str]:
        """See `transport.contract.Gate`."""
        return self.handshakes.shut_out()

    def arrived(self, conn: Link) -> None:
        """See `transport.contract.Gate`."""
        self.connections.add(conn)

    async def adopt(
        self, conduit: Conduit, direction: Direction, expected_peer: PeerId | None = None
    ) -> Link:
        """Make a connection of a pipe that came up in another way than by dial or listen.

        A stranger's (`inbound`) is admitted as one that comes to a socket. Raises ResourceLimitExceeded,
        ConnectionRefusedError, TimeoutError, and as `Upgrader.upgrade`; the conduit is gone then.
        """
        leave: Callable[[], None] = _nothing
        try:
            if direction == "inbound":
                leave = self.admit(conduit.remote_addr, conduit.abort, lambda: conduit.heard, expected_peer)
            async with asyncio.timeout(self.settings.upgrade_timeout_s):
                conn = await self._upgrader.upgrade(conduit, direction, expected_peer)
        except BaseException:
            conduit.abort()
            raise
        finally:
            leave()
        self.connections.add(conn)
        return conn

    # --- connections ------------------------------------------------------------------------------

    async def _reach_relay(self, peer_id: PeerId, addrs: Sequence[Multiaddr]) -> Link:
        """For a dial that leads through it, which has its slot already."""
        link = await self.dials.to_relay(peer_id, addrs)
        try:
            await self.introduce(link)
        except P2PForwardError as exc:  # it may relay for strangers
            log.debug("the relay %s: %s", peer_id, exc)
        return link

    def conns(self, peer_id: PeerId | None = None) -> list[Link]:
        """Live connections, to one peer or all, direct and old ones first."""
        return self.connections.all() if peer_id is None else self.connections.of(peer_id)

    def place_of(self, conn: Carrier) -> AddressClass:
        """Where the peer at the other end is, for what it may be told and is believed.

        All of a private network are the owner's.
        """
        is_own = self.settings.psk is not None or self.peerstore.is_chosen(conn.remote_peer)
        return place(conn.remote_addr, is_own=is_own)

    def block(self, blocks: Blocks) -> list[Link]:
        """Speak to none of these from now on; the connections that this has ended."""
        self.blocklist.blocks = blocks
        ended = [conn for conn in self.conns() if self.blocklist.has(conn)]
        for conn in ended:
            conn.abort(PeerBlocked(f"{conn.remote_peer} was blocked on this node"))
        self.blocklist.on_changed()
        return ended

    def on_connected(self, callback: Callable[[Link], None]) -> None:
        """Be told of every new connection."""
        self.connections.on_connected(callback)

    def on_disconnected(self, callback: Callable[[Link], None]) -> None:
        """Be told when one is over."""
        self.connections.on_disconnected(callback)

    def on_silent(self, callback: Callable[[PeerId, P2PForwardError | None], None]) -> None:
        """Be told of a peer that has fallen silent and is not reached anew; see `Recovery.on_silent`."""
        self.recovery.on_silent(callback)

    def on_identified(self, callback: Callable[[PeerId], None]) -> None:
        """Be told when a connected peer has said what it serves, and each time it says so anew."""
        self._identified.append(callback)

    def note_identified(self, peer_id: PeerId) -> None:
        """A connected peer has said what it serves: it is in the peerstore."""
        for callback in self._identified:
            callback(peer_id)

    def _connected(self, conn: Link) -> None:
        self.own_addresses.note_connected(conn)
        dialed = conn.direction == "outbound" and not self.paths.is_by_a_hole(conn)
        self.peerstore.connected(conn.remote_peer, conn.remote_addr if dialed else None)

    def _disconnected(self, conn: Link) -> None:
        self.own_addresses.forget_connection(conn)
        if not self.connections.of(conn.remote_peer):
            self.peerstore.disconnected(conn.remote_peer)

    async def connect(
        self,
        peer_id: PeerId,
        addrs: Iterable[Multiaddr] = (),
        *,
        timeout_s: float | None = None,
        force: bool = False,
        only: bool = False,
        route: bool = True,
    ) -> Link:
        """A live connection: one that is there, or a new one; concurrent callers share the dial.

        `addrs` are tried beside what the peerstore knows; with `only` they alone, in a dial that is not
        shared. Where nothing works the router is asked, unless `only` or not `route`. `force` ignores
        the back-off. Raises SelfDial, PeerBlocked, PeerNotFound, DialFailed,
        DialTimeout, TimedOut, ConnectionLost, ShuttingDown.
        """
        return await self.dials.connect(
            peer_id, addrs, timeout_s=timeout_s, force=force, only=only, route=route
        )

    def why_not(self, addr: Multiaddr) -> str | None:
        """Why no transport of this node can dial the address, in words; None where one can."""
        return self.dials.dialer.why_not(addr)

    def set_router(self, router: Router | None) -> None:
        """Whom to ask when no known address of a peer works; see `Dials.router`."""
        self.dials.router = router

    async def dial_back(self, peer_id: PeerId, addr: Multiaddr) -> bool:
        """Whether the peer can be dialed at this address: a connection of its own, closed at once."""
        return await self.dials.dial_back(peer_id, addr)

    async def dial_afresh(self, peer_id: PeerId, addr: Multiaddr) -> Link:
        """A connection that is the caller's alone, and does not leave from where this node listens.

        Raises OSError (TimeoutError is one), P2PForwardError.
        """
        return await self.dials.dialer.attempt(peer_id, addr, fresh_port=True)

    def side_door(self, conn: Link) -> SideDoor:
        """A listening port for a test, at the local address of a connection. Raises BindFailed."""
        for transport in self._transports:
            if isinstance(transport, HasSideDoors) and not conn.is_relayed:
                return transport.side_door(conn.local_addr, self)
        raise BindFailed(f"nothing can be listened on beside {conn.local_addr}")

    async def disconnect(self, peer_id: PeerId) -> int:
        """Close all connections to a peer gracefully; how many there were."""
        conns = self.conns(peer_id)
        await asyncio.gather(*(conn.close() for conn in conns))
        return len(conns)

    # --- streams ----------------------------------------------------------------------------------

    async def connect_by(self, peer_id: PeerId, way: Way, timeout_s: float) -> Link:
        """A connection that a tunnel may go over. Raises as `connect`, NoDirectPath."""
        found = self.connections.fitting(peer_id, way)
        return found or await self._connect(peer_id, self._loop.time() + timeout_s, way)

    async def open_stream(
        self,
        peer_id: PeerId,
        protocols: Sequence[str],
        *,
        timeout_s: float | None = None,
        confirm: bool = False,
        way: Way | None = None,
    ) -> DuplexStream:
        """A negotiated stream to a peer, connecting first if need be.

        Where the peer is known to serve the only protocol asked for, the stream is returned before
        the peer has confirmed it, unless `confirm`. `timeout_s` is for all of it; without, a dial has
        the limits of its own. `way`: what a tunnel may go over; where only a relay that will not do leads to
        the peer, a direct connection is waited for. Raises as `connect` and `Conn.open_stream`, NoDirectPath.
        """
        end = None if timeout_s is None else self._loop.time() + timeout_s
        try:
            return await self._open(peer_id, protocols, end, confirm, way)
        except ConnectionLost:  # nothing but the proposal was sent: it may be made anew
            return await self._open(peer_id, protocols, end, confirm, way)

    async def _open(
        self,
        peer_id: PeerId,
        protocols: Sequence[str],
        end: float | None,
        confirm: bool,
        way: Way | None,
    ) -> DuplexStream:
        conn = self._usable(peer_id, way)
        if conn is None:
            conn = await self._connect(peer_id, end, way)
        if conn.liveness.is_stale and not await conn.liveness.prove(self._left_s(end)):
            conn = await self._connect(peer_id, end, way)
        deadline = end if end is not None else self._loop.time() + self.settings.stream_timeout_s
        if not conn.identified.done():  # once per connection; tells agent and protocols
            wait_s = max(0.0, min(IDENTIFY_WAIT_S, deadline - self._loop.time()))
            await asyncio.wait([conn.identified], timeout=wait_s)
        known = len(protocols) == 1 and not confirm and self.peerstore.is_served(peer_id, protocols[0])
        settled = self._settled(peer_id, protocols)
        return await conn.open_stream(protocols, deadline - self._loop.time(), known=known, settled=settled)

    def _usable(self, peer_id: PeerId, way: Way | None) -> Link | None:
        return self.connections.usable(peer_id) if way is None else self.connections.fitting(peer_id, way)

    async def _connect(self, peer_id: PeerId, end: float | None, way: Way | None) -> Link:
        """A connection, one that `way` allows."""
        conn = await self.connect(peer_id, timeout_s=self._left_s(end))
        if way is None or way.fits(is_relayed=conn.is_relayed, is_limited=conn.limit is not None):
            return conn
        if way.wish == "relay" and not conn.is_relayed:
            return await self.dials.over_relay(peer_id, self._left_s(end), way)
        try:
            left_s = self._left_s(end)
            return await self.paths.wait_direct(peer_id, WAIT_S if left_s is None else left_s)
        except NoDirectPath as exc:
            if (fitting := self.connections.fitting(peer_id, way)) is not None:
                return fitting
            if way.wish == "direct":
                raise
            hint = "--allow-limited-relay uses it for a tunnel all the same, for as long as it lasts"
            text = f"{exc.message}; the relay that leads there carries little"
            raise NoDirectPath(text, hint=hint, **exc.details) from exc

    def _left_s(self, end: float | None) -> float | None:
        return None if end is None else max(0.0, end - self._loop.time())

    def open_stream_at_once(
        self, peer_id: PeerId, protocol: str, way: Way | None = None
    ) -> DuplexStream | None:
        """As `open_stream`, without a task: None where it would have to wait for anything."""
        conn = self._usable(peer_id, way)
        if conn is None or conn.liveness.is_stale or not conn.identified.done():
            return None
        if not self.peerstore.is_served(peer_id, protocol):
            return None
        return conn.open_at_once(protocol, self._settled(peer_id, (protocol,)))

    def _settled(self, peer_id: PeerId, protocols: Sequence[str]) -> Callable[[DuplexStream], None]:
        def settled(stream: DuplexStream) -> None:
            if stream.protocol is not None:
                self.peerstore.remember_served(peer_id, stream.protocol, True)
            elif isinstance(stream.error, ProtocolNotSupported):
                for protocol in protocols:
                    self.peerstore.remember_served(peer_id, protocol, False)

        return settled

    def _offended(self, conn: Carrier, cause: str, pays: bool) -> None:
        """See `OnOffence`."""
        self.refusals.note("offender", conn.remote_peer, f"it does not stop ({cause})")
        if pays:
            conn.holdings.offended()

    def _on_stream(self, stream: DuplexStream) -> None:
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
        self.connections.close()
        self.memory.close()
        for listening in self._listening:
            listening.close()
        self._listening.clear()
        self.own_addresses.unbind_all()
        self.recovery.close()
        await self.dials.close()
        await asyncio.gather(*(conn.close() for conn in self.conns()))
        await self._tasks.close()
        self.io.close()
