"""The RPC's methods on this node as a relay: `relay.ls`, `relay.token.*` (p2pfwd-rpc(7))."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from p2pfwd.rpc import schema as s
from p2pfwd.rpc.server import CallContext, Handler

if TYPE_CHECKING:
    from p2pfwd.core.peer_id import PeerId
    from p2pfwd.daemon.peering import Peering
    from p2pfwd.daemon.relaying import Relaying
    from p2pfwd.net.link.contract import Link
    from p2pfwd.peers.relay_tokens import RelayToken


class RelayMethods:
    """Methods of one daemon."""

    def __init__(self, relaying: Relaying, peering: Peering) -> None:
        self._relaying = relaying
        self._peering = peering

    def table(self) -> Mapping[str, Handler]:
        """Method name -> coroutine function."""
        return {
            "relay.ls": self.ls,
            "relay.token.new": self.new,
            "relay.token.ls": self.tokens,
            "relay.token.revoke": self.revoke,
        }

    async def ls(self, context: CallContext, params: s.Empty) -> s.RelayLsResult:
        """Who has a place here, and what flows."""
        relaying, now = self._relaying, time.monotonic()
        service, names = relaying.service, self._names()
        circuits = service.circuits()
        return s.RelayLsResult(
            serves=service.serves,
            reason=relaying.why_not,
            places=tuple(
                s.RelayPlace(
                    peer=str(place.peer),
                    name=names.get(place.peer),
                    own=place.is_own,
                    remote_address=str(place.link.remote_addr),
                    age_s=now - place.since,
                    left_s=max(0.0, place.ends_at - now),
                )
                for place in service.places()
            ),
            circuits=tuple(
                s.RelayCircuit(
                    dialer=str(circuit.dialer),
                    target=str(circuit.target),
                    bytes_in=circuit.bytes_in,
                    bytes_out=circuit.bytes_out,
                    age_s=now - circuit.opened_at,
                    limited=circuit.limit is not None,
                    legs=circuit.has_legs,
                )
                for circuit in circuits
            ),
            circuits_ever=service.totals.circuits,
            bytes=service.totals.bytes + sum(each.bytes_in + each.bytes_out for each in circuits),
            refused={status.name: count for status, count in service.totals.refused.items()},
            others=self._others({place.peer for place in service.places()}, names, now),
        )

    def _others(self, placed: set[PeerId], names: dict[PeerId, str], now: float) -> tuple[s.RelayPeer, ...]:
        oldest = {conn.remote_peer: conn for conn in sorted(self._peering.swarm.conns(), key=_newest_first)}
        return tuple(
            s.RelayPeer(
                peer=str(peer),
                name=names.get(peer),
                remote_address=str(conn.remote_addr),
                age_s=now - conn.opened_at,
                refused=self._relaying.service.is_turned_away(peer),
            )
            for peer, conn in oldest.items()
            if peer not in placed
        )

    def _names(self) -> dict[PeerId, str]:
        found = {peer: token.name for token in self._relaying.tokens.all() for peer in token.peers}
        return found | {named.peer_id: named.name for named in self._peering.names.all()}

    async def new(self, context: CallContext, params: s.RelayTokenNewParams) -> s.RelayTokenNewResult:
        """A token that lets a peer in. Raises PeerExists, UsageError, StorageFailed."""
        token, text = await self._relaying.tokens.make(params.name, many=params.many)
        return s.RelayTokenNewResult(token.name, text)

    async def tokens(self, context: CallContext, params: s.Empty) -> s.RelayTokenLsResult:
        """Every token, by name, and whom it has let in."""
        return s.RelayTokenLsResult(tuple(map(_token, self._relaying.tokens.all())))

    async def revoke(
        self, context: CallContext, params: s.RelayTokenRevokeParams
    ) -> s.RelayTokenRevokeResult:
        """Take a token away, with the places and circuits of whom it let in. Raises NotFound."""
        token, circuits, still = await self._relaying.revoke(params.name)
        return s.RelayTokenRevokeResult(_token(token), circuits, tuple(map(str, still)))


def _newest_first(conn: Link) -> float:
    return -conn.opened_at


def _token(token: RelayToken) -> s.RelayToken:
    return s.RelayToken(token.name, token.many, float(token.made), tuple(map(str, token.peers)))
