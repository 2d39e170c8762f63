"""The RPC's methods on the DHTs: `dht.findpeer`, `dht.query`, `dht.stat` (p2pfwd-rpc(7))."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from p2pfwd.rpc import schema as s
from p2pfwd.rpc.server import CallContext, Handler
from p2pfwd.rpc.time_limit import check_timeout

if TYPE_CHECKING:
    from p2pfwd.daemon.discovery import Discovery
    from p2pfwd.daemon.peering import Peering
    from p2pfwd.protocols.kad.service import Dht


class DhtMethods:
    """Methods of one daemon."""

    def __init__(self, discovery: Discovery, peering: Peering) -> None:
        self._discovery = discovery
        self._peering = peering

    def table(self) -> Mapping[str, Handler]:
        """Method name -> coroutine function."""
        return {"dht.findpeer": self.find_peer, "dht.query": self.query, "dht.stat": self.stat}

    async def find_peer(self, context: CallContext, params: s.DhtFindParams) -> s.DhtFindResult:
        """Addresses of a peer, by its ID, from the DHT alone. Raises PeerNotFound, TimedOut."""
        peer_id, _ = await self._peering.read((params.peer,))
        dht, result = await self._discovery.find_peer(peer_id, check_timeout(params.timeout_s))
        return s.DhtFindResult(
            peer=str(peer_id),
            addresses=tuple(str(addr.with_peer_id(peer_id)) for addr in result.found),
            protocol=dht.protocol,
            asked=result.answered,
            hops=result.hops,
            elapsed_ms=result.elapsed_s * 1000,
        )

    async def query(self, context: CallContext, params: s.DhtQueryParams) -> s.DhtQueryResult:
        """The servers nearest to an ID, nearest first. Raises PeerNotFound, TimedOut."""
        peer_id, _ = await self._peering.read((params.peer,))
        dht, result = await self._discovery.closest(peer_id, check_timeout(params.timeout_s))
        return s.DhtQueryResult(
            closest=tuple(map(str, result.closest)),
            protocol=dht.protocol,
            asked=result.answered,
            hops=result.hops,
            elapsed_ms=result.elapsed_s * 1000,
        )

    async def stat(self, context: CallContext, params: s.Empty) -> s.DhtStatResult:
        """The routing table of each DHT this node takes part in."""
        return s.DhtStatResult(tuple(map(_table, self._discovery.dhts)))


def _table(dht: Dht) -> s.DhtTable:
    refreshed = time.monotonic() - dht.refreshed_at if dht.refreshed_at is not None else None
    return s.DhtTable(
        protocol=dht.protocol,
        scope=dht.scope.value,
        mode="server" if dht.is_server else "client",
        peers=len(dht.table),
        refreshed_s=refreshed,
        buckets=tuple(
            s.DhtBucket(
                prefix_bits=bucket.cpl,
                last=bucket.last,
                peers=tuple(str(entry.peer_id) for entry in bucket.entries),
                replacements=tuple(map(str, bucket.replacements)),
            )
            for bucket in dht.table.snapshot()
            if bucket.entries or bucket.replacements
        ),
    )
