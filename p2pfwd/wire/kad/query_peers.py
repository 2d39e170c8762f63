"""The peers of one lookup, in order of nearness, and who told of them (see `query`)."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire.kad.keys import KadKey, distance, key_of_peer
from p2pfwd.wire.kad.query_values import MAX_HEARD, PeerState

MAX_ADDRESSES: Final = 32
"""Addresses kept of one peer, from all who told of it: two full lists."""


@dataclass(slots=True, eq=False)
class Candidate:
    """One peer that may be asked."""

    distance: int
    peer_id: PeerId
    hops: int
    """Answers it took to hear of it."""
    state: PeerState = PeerState.HEARD
    addrs: tuple[Multiaddr, ...] = ()
    informants: list[Candidate] = field(default_factory=list)
    """Who told of it; nobody if it is one of our own table."""
    asked_at: float = 0.0
    proved: bool = False
    """Whether somebody it told of has answered."""

    def __lt__(self, other: Candidate) -> bool:
        return self.distance < other.distance


class Candidates:
    """All peers heard of, at most MAX_HEARD that were not asked yet."""

    def __init__(self, target: KadKey) -> None:
        self._target = target
        self._by_id: dict[PeerId, Candidate] = {}
        self._in_order: list[Candidate] = []
        self.waiting: list[Candidate] = []
        """Those asked that have not answered yet, in order of asking."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Candidate]:
        """Nearest first."""
        return iter(self._in_order)

    def get(self, peer_id: PeerId) -> Candidate | None:
        """The candidate, if it is one."""
        return self._by_id.get(peer_id)

    def hear(self, peer_id: PeerId, addrs: Iterable[Multiaddr], informant: Candidate | None) -> None:
        """Take in what somebody told, or a peer of our own."""
        candidate = self._by_id.get(peer_id)
        if candidate is None:
            hops = 1 if informant is None else informant.hops + 1
            candidate = Candidate(distance(self._target, key_of_peer(peer_id)), peer_id, hops)
            self._by_id[peer_id] = candidate
            insort(self._in_order, candidate)
        if informant is not None and (candidate.informants or candidate.hops > 1):
            candidate.informants.append(informant)
            informant.proved |= candidate.state is PeerState.QUERIED
        candidate.addrs = tuple(islice(dict.fromkeys((*candidate.addrs, *addrs)), MAX_ADDRESSES))
        self._forget_farthest()

    def ask(self, candidate: Candidate, now: float) -> None:
        """A request goes to it."""
        candidate.state, candidate.asked_at = PeerState.WAITING, now
        self.waiting.append(candidate)

    def answered(self, candidate: Candidate) -> None:
        """It answered, perhaps after it had been given up."""
        if candidate.state is PeerState.WAITING:
            self.waiting.remove(candidate)
        candidate.state = PeerState.QUERIED
        for informant in candidate.informants:
            informant.proved = True

    def failed(self, candidate: Candidate) -> None:
        """It did not answer."""
        self.waiting.remove(candidate)
        candidate.state = PeerState.UNREACHABLE

    def _forget_farthest(self) -> None:
        if len(self._in_order) <= MAX_HEARD:
            return
        for index in range(len(self._in_order) - 1, -1, -1):
            if self._in_order[index].state is PeerState.HEARD:
                del self._by_id[self._in_order.pop(index).peer_id]
                return
