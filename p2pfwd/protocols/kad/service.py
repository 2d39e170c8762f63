"""One Kademlia DHT on the swarm: routing table, lookups, server (libp2p spec: kad-dht).

Rules: only peers that list the protocol and have just answered a FIND_NODE are in the table, never
clients. What strangers tell is filtered by address class before it is dialed; the dialer does so again with
what the names they tell resolve to. A lookup dials without asking the router: it is the router.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, ProtocolTaken
from p2pfwd.net.link.contract import DuplexStream, Link
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.visits import Visit
from p2pfwd.policy.provenance import Provenance
from p2pfwd.policy.service_bounds import DHT
from p2pfwd.protocols.kad.requests import answer, ask
from p2pfwd.protocols.kad.search import Answer, Search, Try
from p2pfwd.wire.kad.address_filter import Scope, is_at_home, passing_peers
from p2pfwd.wire.kad.buckets import RoutingTable
from p2pfwd.wire.kad.diversity import DiversityLimits
from p2pfwd.wire.kad.keys import key_of
from p2pfwd.wire.kad.messages import FindNode, Request, Response
from p2pfwd.wire.kad.query import Lookup
from p2pfwd.wire.kad.query_values import Goal, LookupResult, LookupSettings
from p2pfwd.wire.kad.responder import Responder

log = logging.getLogger("p2pfwd.kad")

HEARSAY_TTL_S: Final = 120.0
"""Addresses that a stranger told (go: 2 min)."""

CHECK_TIMEOUT_S: Final = 10.0
"""For a newcomer to answer before it is let into the table."""

MAX_CHECKS: Final = 16
"""Newcomers checked at once, of those that came to us and are none of the owner's. Strangers who say that
they are servers and answer nothing would hold up whom this node has dialed to be let in."""


@dataclass(frozen=True, slots=True)
class DhtSettings:
    """How one DHT behaves; intervals in seconds, each jittered by a quarter."""

    lookup: LookupSettings = field(default_factory=LookupSettings)
    refresh_s: float = 600.0
    """Between two looks at whether we are still known nearby; if not, a self lookup."""
    thorough_refresh_s: float = 3600.0
    """Between refreshes that look at random targets too, and do not spare a self lookup."""
    refresh_targets: int = 3
    """Random targets of a thorough refresh, for a client; a server takes every bucket with room."""
    revalidate_s: float = 60.0
    """Between checks of the least recently seen entry of a random bucket."""
    fresh_s: float = 3600.0
    """An entry seen since then needs no check."""


class Dht:
    """One DHT. Its timers are `upkeep.Upkeep`'s."""

    def __init__(
        self,
        swarm: Swarm,
        protocol: str,
        *,
        scope: Scope,
        server: bool,
        settings: DhtSettings | None = None,
        known_as: str | None = None,
    ) -> None:
        """`known_as`: what its servers are remembered by across restarts; the protocol, if not given."""
        self.protocol = protocol
        self.known_as = protocol if known_as is None else known_as
        self.scope = scope
        self.settings = settings or DhtSettings()
        self.table = RoutingTable(swarm.peer_id, limits=DiversityLimits() if scope is Scope.WAN else None)
        self.changed = asyncio.Event()
        """Set when somebody was let into the table."""
        self.refreshed_at: float | None = None
        self._swarm = swarm
        self._checks = asyncio.Semaphore(MAX_CHECKS)
        self._checking: set[PeerId] = set()
        self._responder = Responder(
            self.table,
            scope=scope,
            addrs_of=self._addrs_of,
            is_connected=lambda peer_id: bool(swarm.conns(peer_id)),
        )
        self.is_server = False
        swarm.services.reserve(protocol)
        self.serve(server)
        swarm.on_identified(self._identified)

    def serve(self, on: bool) -> None:
        """Be a server, or a client."""
        if on == self.is_server:
            return
        services = self._swarm.services
        if not on:
            services.withdraw(self.protocol)
        else:
            try:
                services.serve(Service(name=self.protocol, talk=self._talk, bounds=DHT))
            except ProtocolTaken:
                log.warning("%s is served by a listen: this node stays a client of it", self.protocol)
                return
        self.is_server = on

    async def _talk(self, visit: Visit) -> None:
        await answer(visit, self._respond)

    def _addrs_of(self, peer_id: PeerId) -> Sequence[Multiaddr]:
        if peer_id == self._swarm.peer_id:
            return self._swarm.listen_addrs()
        return self._swarm.peerstore.tellable(peer_id)

    def _respond(self, request: Request, stream: DuplexStream) -> Response | None:
        via = self._swarm.place_of(stream.conn)
        return self._responder.respond(request, stream.remote_peer, via, time.monotonic())

    # --- who is in the table ----------------------------------------------------------------------

    def _identified(self, peer: PeerId) -> None:
        """A peer may be, become, or cease to be a server."""
        if self.protocol not in self._swarm.peerstore.protocols(peer):
            self._swarm.peerstore.note_dht(peer, self.known_as, False)
            if peer in self.table:
                self.table.remove(peer)
            return
        conn = next((conn for conn in self._swarm.conns(peer) if self._is_candidate(conn)), None)
        if conn is not None:
            self._swarm.spawn(self._consider(conn), "kad admission")

    async def _consider(self, conn: Link) -> None:
        """Let a server into the table once it has answered."""
        peer = conn.remote_peer
        if peer in self._checking:
            return
        self._checking.add(peer)
        try:
            at_once = conn.direction == "outbound" or self._swarm.peerstore.is_chosen(peer)
            async with nullcontext() if at_once else self._checks:
                if self.table.wants(peer, conn.remote_addr):
                    await self._check(conn)
        finally:
            self._checking.discard(peer)

    def _is_candidate(self, conn: Link) -> bool:
        store, peer = self._swarm.peerstore, conn.remote_peer
        if self.protocol not in store.protocols(peer):
            return False
        return is_at_home(store.addrs(peer), self.scope, self._swarm.place_of(conn))

    async def _check(self, conn: Link) -> bool:
        peer = conn.remote_peer
        try:
            await ask(conn, self.protocol, FindNode(peer.to_bytes()), CHECK_TIMEOUT_S, known=True)
        except (P2PForwardError, TimeoutError) as exc:
            log.debug("%s is not let into the table: %s", peer, exc)
            return False
        self._answered(conn)
        return True

    def _answered(self, conn: Link) -> None:
        if self._is_candidate(conn):
            before = len(self.table)
            self._swarm.peerstore.note_dht(conn.remote_peer, self.known_as, True)
            self.table.add(conn.remote_peer, conn.remote_addr, time.monotonic())
            if len(self.table) > before:
                self.changed.set()

    async def wait_joined(self, peer: PeerId) -> None:
        """Until the peer is in the table."""
        while peer not in self.table:
            self.changed.clear()
            await self.changed.wait()

    def failed(self, peer: PeerId) -> None:
        """The peer did not answer: suspect, or replaced at once."""
        eviction = self.table.failed(peer)
        if eviction.dropped:
            log.debug("%s left the table, %s took its place", peer, eviction.promoted or "nobody")

    async def revalidate(self, peer: PeerId) -> bool:
        """Whether an entry is still there: a connection to it that lives, on which it lists this DHT.

        It is asked nothing more: an answer of twenty peers with their addresses costs as much as the dial.
        """
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                conn = await self._swarm.connect(peer, route=False)
                await asyncio.wait([conn.identified])
                if conn.liveness.is_stale:
                    await conn.measure_rtt(CHECK_TIMEOUT_S)
        except (P2PForwardError, TimeoutError) as exc:
            log.debug("%s cannot be revalidated: %s", peer, exc)
            self.failed(peer)
            return False
        if not self._is_candidate(conn):
            self.failed(peer)
            return False
        self._answered(conn)
        return True

    # --- lookups ----------------------------------------------------------------------------------

    async def find_peer(self, peer_id: PeerId, attempt: Try | None = None) -> LookupResult:
        """Look for addresses of a peer; with `attempt`, go on until some work."""
        return await self._lookup(Goal.PEER, peer_id.to_bytes(), attempt)

    async def closest(self, target: bytes) -> LookupResult:
        """The servers nearest to a key; connects to them, so that they know us."""
        return await self._lookup(Goal.CLOSEST, target, None)

    async def _lookup(self, goal: Goal, target: bytes, attempt: Try | None) -> LookupResult:
        seeds = self.table.closest(key_of(target), suspects=True)
        settings = self.settings.lookup
        query = Lookup(
            goal, target, seeds, local=self._swarm.peer_id, now=time.monotonic(), settings=settings
        )
        request = FindNode(target)

        def ask_one(peer: PeerId) -> Coroutine[Any, Any, Answer]:
            return self._ask(peer, query.addrs(peer), request)

        def report(peer: PeerId, task: asyncio.Task[Answer]) -> None:
            self._report(query, peer, task)

        return await Search(query, ask_one, report, attempt).run()

    def _report(self, query: Lookup, peer: PeerId, task: asyncio.Task[Answer]) -> None:
        now = time.monotonic()
        failure = task.exception()
        if failure is not None:
            if not isinstance(failure, P2PForwardError | TimeoutError):
                raise failure
            query.on_failure(peer, now)
            self.failed(peer)
            return
        conn, response = task.result()
        self._answered(conn)
        via, local = self._swarm.place_of(conn), self._swarm.peer_id
        closer = passing_peers(response.closer_peers, self.scope, via, local=local)
        query.on_response(peer, closer, now)

    async def _ask(
        self, peer: PeerId, addrs: Sequence[Multiaddr], request: Request
    ) -> Answer:
        timeout_s = self.settings.lookup.request_timeout_s
        if addrs:
            self._swarm.peerstore.add_addrs(peer, addrs, HEARSAY_TTL_S, Provenance.HEARSAY)
        deadline = time.monotonic() + timeout_s
        conn = await self._swarm.connect(peer, timeout_s=timeout_s, route=False)
        return conn, await ask(conn, self.protocol, request, deadline - time.monotonic(), known=True)
