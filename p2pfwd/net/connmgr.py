"""Which connections may stay: protection for the useful, a share for every network, a reserve for own peers.

Bookkeeping; who goes is decided in `policy.trimming`, and `connections` obeys.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class
from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.policy import trimming
from p2pfwd.policy.dial_plan import is_local
from p2pfwd.policy.networks import Network
from p2pfwd.policy.shares import Rank, RankOf, a_stranger
from p2pfwd.policy.trimming import Standing, Use

if TYPE_CHECKING:
    from p2pfwd.net.link.contract import Link

TUNNEL_TAG: Final = "p2pfwd-stream"
"""The protection of a peer that has tunnels: one that a stranger can give itself."""

RELAY_TAG: Final = "relay-place"
"""The protection of a peer that has a place at this relay: it is reached through its connection. No more
than a tunnel's, for strangers may have places, too."""

CIRCUIT_TAG: Final = "relay-circuit"
"""The same for both ends of a circuit through this relay."""

_RELAYED_FOR: Final = {RELAY_TAG, CIRCUIT_TAG}
_STRANGERS: Final = {TUNNEL_TAG, *_RELAYED_FOR}

FOUND_BY: Final = "found by "
"""Begin of the tags of servers by which this node is found: kept, and asked seldom whether they live."""

RESERVE: Final = 8
"""One in so many connections is kept for peers of this node's own, and for those it dials."""

WIDER: Final = (1, 2, 4)
"""A network's share, by its width (policy.networks), in shares of one address."""

RANKING_S: Final = 0.2
"""For how long the order in which connections give way is kept: a flood of newcomers must not have the whole
table judged for each of them. Who has become useful meanwhile is passed over."""

INNER_SHARE: Final = 2
"""Networks that are no part of the internet (loopback, a home, an office) have one in so many connections
each: who is there is no stranger, and everybody is in the same /24."""


class ConnMgr:
    """Holds protections, and says who goes. `rank_of` is set by the swarm."""

    def __init__(self, settings: SwarmSettings) -> None:
        self.rank_of: RankOf = a_stranger
        self.released: Callable[[PeerId], None] = lambda _peer: None
        """Told when a peer's last tunnel, or another protection, has ended."""
        self._settings = settings
        self._protected: dict[PeerId, set[str]] = {}
        self._rankings: dict[tuple[str, Rank], _Ranking] = {}

    # --- protection -------------------------------------------------------------------------------

    def protect(self, peer_id: PeerId, tag: str) -> None:
        """Never trim this peer's connections while the tag is there."""
        self._protected.setdefault(peer_id, set()).add(tag)

    def unprotect(self, peer_id: PeerId, tag: str) -> None:
        """Take one tag away; nothing if it was not there."""
        tags = self._protected.get(peer_id)
        if tags is None or tag not in tags:
            return
        tags.discard(tag)
        if not tags:
            del self._protected[peer_id]
        self.released(peer_id)

    def is_protected(self, peer_id: PeerId) -> bool:
        """Whether any tag is there."""
        return peer_id in self._protected

    def is_wanted(self, peer_id: PeerId) -> bool:
        """Whether this node would reach the peer again: who only uses it as a relay comes by itself."""
        return bool(self._protected.get(peer_id, set()) - _RELAYED_FOR)

    def is_kept(self, peer_id: PeerId) -> bool:
        """Whether this node wants the peer: it does not only use this node's tunnels, or its relay."""
        return bool(self._protected.get(peer_id, set()) - _STRANGERS)

    def is_urgent(self, peer_id: PeerId) -> bool:
        """Whether the loss of the peer must be noticed soon: a person's programs would wait for it."""
        tags = self._protected.get(peer_id, ())
        return any(not tag.startswith(FOUND_BY) for tag in tags) or self.rank_of(peer_id) is Rank.OWN

    def has_use_beside(self, conn: Link, tag: str) -> bool:
        """Whether a connection is of any use but the one that this tag tells of."""
        return _use(conn, self._protected.get(conn.remote_peer, set()) - {tag}) is not Use.NONE

    # --- who goes ---------------------------------------------------------------------------------

    def _standing(self, conn: Link) -> Standing:
        use = _use(conn, self._protected.get(conn.remote_peer, ()))
        is_outbound = conn.direction == "outbound"
        return Standing(use, self.rank_of(conn.remote_peer), conn.useful_at, conn.crowd, is_outbound)

    def to_let_go(self, conns: Sequence[Link], now: float) -> list[Link]:
        """The connections that nobody needs, the longest idle first."""
        self._rankings.clear()
        standings = [self._standing(conn) for conn in conns]
        return [conns[place] for place in trimming.to_let_go(standings, now, self._settings.idle_s)]

    def to_trim(self, conns: Sequence[Link], now: float) -> list[Link]:
        """The connections to close, the first to go first."""
        settings = self._settings
        if len(conns) <= settings.high_water:
            return []
        standings = [self._standing(conn) for conn in conns]
        places = trimming.to_trim(standings, now, settings.high_water, settings.low_water, settings.grace_s)
        return [conns[place] for place in places]

    def to_replace(
        self, conns: Sequence[Link], newcomer: Link, now: float
    ) -> tuple[str, Link | None] | None:
        """What is full, and who gives way to `newcomer`, if anybody; None where there is room."""
        most = self._settings.max_connections
        rank = self.rank_of(newcomer.remote_peer)
        if rank is not Rank.OWN and newcomer.direction == "inbound":
            for network in newcomer.networks:
                inside = [c for c in conns if c.direction == "inbound" and network in c.networks]
                if len(inside) >= self.share(newcomer.remote_addr, network):
                    victim = self._victim(network.text, inside, rank, now)
                    return f"{network.text} has {len(inside)} connections", victim
            most -= most // RESERVE
        if len(conns) < most:
            return None
        return f"there are {len(conns)} connections", self._victim("", conns, rank, now)

    def share(self, addr: Multiaddr, network: Network) -> int:
        """How many inbound connections the network of an address may have."""
        settings = self._settings
        one = settings.max_connections_per_ip
        if is_local(addr) and (network.width or address_class(addr) is AddressClass.LOOPBACK):
            return max(one, settings.max_connections // INNER_SHARE)
        return one * WIDER[network.width]

    def _victim(self, where: str, conns: Sequence[Link], newcomer: Rank, now: float) -> Link | None:
        """The first to go of `conns`, all those of `where`, a network or the table ("")."""
        key = where, newcomer
        ranking = self._rankings.get(key)
        if ranking is not None and now < ranking.until and (victim := self._next(ranking)) is not None:
            return victim
        standings = [self._standing(conn) for conn in conns]
        order = trimming.to_replace(standings, newcomer)
        self._rankings = {at: one for at, one in self._rankings.items() if now < one.until}
        ranking = _Ranking(now + RANKING_S, deque((conns[place], standings[place]) for place in order))
        self._rankings[key] = ranking
        return self._next(ranking)

    def _next(self, ranking: _Ranking) -> Link | None:
        while ranking.order:
            conn, then = ranking.order.popleft()
            now = self._standing(conn)
            if not conn.closed.done() and now.use <= then.use and now.rank <= then.rank:
                return conn
        return None


def _use(conn: Link, tags: Collection[str]) -> Use:
    """What a connection is good for, whose peer is protected by these tags."""
    if tags:
        return Use.TUNNELS if _STRANGERS.issuperset(tags) else Use.KEPT
    is_asked = any(stream.direction == "outbound" for stream in conn.streams.values())
    return Use.ASKED if is_asked else Use.NONE


@dataclass(slots=True)
class _Ranking:
    """Connections in the order in which they would go, until it is made anew."""

    until: float
    order: deque[tuple[Link, Standing]]
    """Who may go, the first first, and how it stood."""
