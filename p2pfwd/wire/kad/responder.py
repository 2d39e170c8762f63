"""What a DHT server answers: a pure function of its table, its records and who asks (libp2p spec: kad-dht).

Rules:
- The answer names the nearest peers of the table, without the asker and without peers that have no address
  the asker may use.
- The peer asked for comes first if any address of it is known, even if it is in no table. That is how clients
  and nodes behind NAT are found: through the peers they are connected to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, assert_never

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidPeerId
from p2pfwd.wire.kad.address_filter import Scope, passing_addrs
from p2pfwd.wire.kad.buckets import RoutingTable
from p2pfwd.wire.kad.keys import key_of
from p2pfwd.wire.kad.messages import (
    AddProvider,
    ConnectionType,
    FindNode,
    GetProviders,
    GetValue,
    K,
    KadPeer,
    MessageType,
    Ping,
    PutValue,
    Request,
    Response,
)
from p2pfwd.wire.kad.records import ProviderStore, ValueStore

REMEMBERED_S: Final = 2.0
"""How long what is told of a peer of the table is not put together anew. The table bounds how many."""


class Responder:
    """Answers requests out of what the node knows."""

    def __init__(
        self,
        table: RoutingTable,
        *,
        scope: Scope,
        addrs_of: Callable[[PeerId], Sequence[Multiaddr]],
        is_connected: Callable[[PeerId], bool],
    ) -> None:
        """`addrs_of`: all known addresses of a peer, best first; of ourselves, those we announce."""
        self.providers = ProviderStore()
        self.values = ValueStore()
        self._table = table
        self._scope = scope
        self._addrs_of = addrs_of
        self._is_connected = is_connected
        self._memory: dict[tuple[PeerId, AddressClass], KadPeer] = {}
        self._remembered_at = 0.0

    def respond(self, request: Request, asker: PeerId, via: AddressClass, now: float) -> Response | None:
        """The answer to `asker`, whose connection's remote address is of class `via`; None if there is none.

        RemoteProtocolError if it asks to store what may not be stored.
        """
        match request:
            case Ping():
                return Response(MessageType.PING)
            case FindNode(key=key):
                closer = self._with_target(key, asker, via, now)
                return Response(MessageType.FIND_NODE, key, closer_peers=closer)
            case GetProviders(key=key):
                return Response(
                    MessageType.GET_PROVIDERS,
                    key,
                    closer_peers=self._closest(key, asker, via, now),
                    provider_peers=self._providers_of(key, via, now),
                )
            case AddProvider(key=key, providers=providers):
                for one in providers:
                    addrs = passing_addrs(one.peer_id, one.addrs, self._scope, via)
                    self.providers.add(key, KadPeer(one.peer_id, addrs), asker, now)
                return None
            case GetValue(key=key):
                closer = self._closest(key, asker, via, now)
                return Response(MessageType.GET_VALUE, key, self.values.get(key, now), closer)
            case PutValue(record=record):
                self.values.put(record, now)
                return Response(MessageType.PUT_VALUE, record.key, record)
            case _:
                assert_never(request)

    def _closest(self, key: bytes, asker: PeerId, via: AddressClass, now: float) -> tuple[KadPeer, ...]:
        nearest = self._table.closest(key_of(key), exclude=(asker,))
        told = (self._remembered(peer_id, via, now) for peer_id in nearest)
        return tuple(peer for peer in told if peer.addrs)

    def _remembered(self, peer_id: PeerId, via: AddressClass, now: float) -> KadPeer:
        """As `_told`, at most `REMEMBERED_S` old: sorting out addresses is most of an answer's cost."""
        if not self._remembered_at <= now < self._remembered_at + REMEMBERED_S:
            self._remembered_at = now
            self._memory.clear()
        told = self._memory.get((peer_id, via))
        if told is None:
            told = self._memory[peer_id, via] = self._told(peer_id, self._addrs_of(peer_id), via)
        return told

    def _providers_of(self, key: bytes, via: AddressClass, now: float) -> tuple[KadPeer, ...]:
        """The latest K; one whose addresses are unknown can still be looked up."""
        latest = self.providers.get(key, now)[:K]
        return tuple(self._told(one.peer_id, one.addrs or self._addrs_of(one.peer_id), via) for one in latest)

    def _with_target(self, key: bytes, asker: PeerId, via: AddressClass, now: float) -> tuple[KadPeer, ...]:
        closest = self._closest(key, asker, via, now)
        try:
            target = PeerId.from_bytes(key)
        except InvalidPeerId:
            return closest  # a point of the key space, asked for to refresh a table
        if target == asker:
            return closest
        told = self._told(target, self._addrs_of(target), via)
        if not told.addrs:
            return closest
        return (told, *(peer for peer in closest if peer.peer_id != target))

    def _told(self, peer_id: PeerId, addrs: Sequence[Multiaddr], via: AddressClass) -> KadPeer:
        connected = self._is_connected(peer_id)
        return KadPeer(
            peer_id,
            passing_addrs(peer_id, addrs, self._scope, via),
            ConnectionType.CONNECTED if connected else ConnectionType.NOT_CONNECTED,
        )
