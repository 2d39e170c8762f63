"""Who is near, as far as was heard lately: a table that no neighbour can fill, nor take others out of.

Rules:
- What was said is kept by who said it. A goodbye takes back what its sender said, and nothing else.
- A full table gives way: of the sender that has the most in it, what was heard longest ago goes. Who speaks
  for a thousand peers pushes out its own, and a newcomer is always let in.
- What was heard holds for TTL_S, whatever the answer says (see `mdns_pace`).
Times are seconds of any one clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire.mdns import MAX_TOLD_ADDRESSES, TTL_S, NearPeer

MAX_HEARD: Final = 512
"""Pairs of a peer and who told of it. A peer speaks for itself, with an address or two on each network."""

MAX_SENDERS_PER_PEER: Final = 8
"""Who tells of one peer; of more, the one not heard for the longest time gives way."""


@dataclass(slots=True)
class _Told:
    """What one sender says of one peer."""

    addrs: dict[Multiaddr, float]  # -> until when it holds; heard last, listed last
    expires_at: float


class NearPeers:
    """Who is near, and where each sender says it is."""

    def __init__(self) -> None:
        self._peers: dict[PeerId, dict[str, _Told]] = {}
        """Of each peer, who told of it; heard last, listed last."""
        self._senders: dict[str, dict[PeerId, None]] = {}
        """Of each sender, whom it told of, likewise."""
        self._heard = 0

    def __len__(self) -> int:
        """How many peers are remembered, some of them perhaps expired."""
        return len(self._peers)

    def __contains__(self, peer_id: PeerId) -> bool:
        """Whether this one is remembered, perhaps expired."""
        return peer_id in self._peers

    @property
    def is_full(self) -> bool:
        """Whether the next new one takes somebody's place."""
        return self._heard >= MAX_HEARD

    def hear(self, found: NearPeer, sender: str, now: float) -> bool:
        """Remember an answer; whether it was news: a peer or an address not known until now."""
        known = set(self.peers(now, found.peer_id).get(found.peer_id, ()))
        is_new = not self._is_there(found.peer_id, now)
        told = self._take(found.peer_id, sender)
        if found.leaving:
            return False
        if told is None and self.is_full:
            self._make_room(now)
        addrs = {} if told is None or told.expires_at <= now else told.addrs
        for addr in found.addrs:
            addrs.pop(addr, None)
            addrs[addr] = now + TTL_S
        for addr in list(addrs)[: max(0, len(addrs) - MAX_TOLD_ADDRESSES)]:
            del addrs[addr]
        self._put(found.peer_id, sender, _Told(addrs, now + TTL_S))
        return is_new or not known.issuperset(found.addrs)

    def _put(self, peer_id: PeerId, sender: str, told: _Told) -> None:
        if len(by_sender := self._peers.get(peer_id, {})) >= MAX_SENDERS_PER_PEER:
            self._take(peer_id, next(iter(by_sender)))
        self._peers.setdefault(peer_id, {})[sender] = told
        self._senders.setdefault(sender, {})[peer_id] = None
        self._heard += 1

    def _take(self, peer_id: PeerId, sender: str) -> _Told | None:
        """Take out what one sender said of a peer."""
        by_sender = self._peers.get(peer_id, {})
        told = by_sender.pop(sender, None)
        if told is None:
            return None
        if not by_sender:
            del self._peers[peer_id]
        of_sender = self._senders[sender]
        del of_sender[peer_id]
        if not of_sender:
            del self._senders[sender]
        self._heard -= 1
        return told

    def _make_room(self, now: float) -> None:
        expired = [
            (peer_id, sender)
            for peer_id, by_sender in self._peers.items()
            for sender, told in by_sender.items()
            if told.expires_at <= now
        ]
        if not expired:
            loudest = max(self._senders, key=lambda sender: len(self._senders[sender]))
            expired = [(next(iter(self._senders[loudest])), loudest)]
        for peer_id, sender in expired:
            self._take(peer_id, sender)

    def _is_there(self, peer_id: PeerId, now: float) -> bool:
        return any(told.expires_at > now for told in self._peers.get(peer_id, {}).values())

    def peers(self, now: float, only: PeerId | None = None) -> dict[PeerId, tuple[Multiaddr, ...]]:
        """Those not expired, with their addresses; all of them, or `only` this one.

        What each sender tells first of a peer goes before the second of any: one dial does not take them all.
        """
        wanted = self._peers if only is None else [only]
        return {peer_id: self._addrs(peer_id, now) for peer_id in wanted if self._is_there(peer_id, now)}

    def _addrs(self, peer_id: PeerId, now: float) -> tuple[Multiaddr, ...]:
        told = self._peers[peer_id].values()
        fresh = [[addr for addr, until in one.addrs.items() if until > now] for one in told]
        return tuple(dict.fromkeys(addr for turn in zip_longest(*fresh) for addr in turn if addr is not None))
