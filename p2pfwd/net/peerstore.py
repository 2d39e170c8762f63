"""What is known of peers: addresses with an age and a source, agent, protocols. In memory, bounded.

Addresses come with a time to live, or are pinned: a forward pins its explicit addresses for its life.
Everything keyed by what strangers send is capped (CVE-2023-40583 was an unbounded one).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId

MAX_PEERS: Final = 4096
MAX_ADDRESSES_PER_PEER: Final = 64
MAX_PROTOCOLS_PER_PEER: Final = 256

CONNECTED_TTL_S: Final = 900.0
"""Addresses of a peer that was connected lately (go: 15 min)."""

TOLD_TTL_S: Final = 3600.0
"""Addresses that a person typed for one command."""


@dataclass(slots=True)
class AddressEntry:
    """One address of one peer. Times are the clock's (monotonic seconds)."""

    expires_at: float
    source: str


@dataclass(slots=True)
class PeerEntry:
    """What is known of one peer."""

    addrs: dict[Multiaddr, AddressEntry] = field(default_factory=dict)
    pinned: dict[str, tuple[Multiaddr, ...]] = field(default_factory=dict)
    agent: str | None = None
    protocols: frozenset[str] = frozenset()
    served: set[str] = field(default_factory=set)
    """Protocols on which a stream of ours was accepted; they may be opened without waiting."""


class Peerstore:
    """Peers by ID; the least recently used unpinned one goes when there are too many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_peers: int = MAX_PEERS) -> None:
        self._clock = clock
        self._max_peers = max_peers
        self._peers: OrderedDict[PeerId, PeerEntry] = OrderedDict()

    def _entry(self, peer_id: PeerId) -> PeerEntry:
        entry = self._peers.get(peer_id)
        if entry is None:
            entry = self._peers[peer_id] = PeerEntry()
            if len(self._peers) > self._max_peers:
                victim = next((p for p, e in self._peers.items() if not e.pinned and p != peer_id), None)
                if victim is not None:
                    del self._peers[victim]
        else:
            self._peers.move_to_end(peer_id)
        return entry

    def add_addrs(self, peer_id: PeerId, addrs: Iterable[Multiaddr], ttl_s: float, source: str) -> None:
        """Remember addresses (any `/p2p/ID` at their end is cut off) for `ttl_s` seconds."""
        entry = self._entry(peer_id)
        expires_at = self._clock() + ttl_s
        for addr in addrs:
            bare = addr.without_peer_id()
            known = entry.addrs.get(bare)
            if known is not None:
                known.expires_at = max(known.expires_at, expires_at)
                known.source = source
                continue
            if len(entry.addrs) >= MAX_ADDRESSES_PER_PEER:
                soonest = min(entry.addrs, key=lambda a: entry.addrs[a].expires_at)
                del entry.addrs[soonest]
            entry.addrs[bare] = AddressEntry(expires_at, source)

    def drop_addr(self, peer_id: PeerId, addr: Multiaddr) -> None:
        """Forget an address at which somebody else was found."""
        if (entry := self._peers.get(peer_id)) is not None:
            entry.addrs.pop(addr.without_peer_id(), None)

    def addrs(self, peer_id: PeerId) -> list[Multiaddr]:
        """Pinned addresses, then the others that have not expired."""
        entry = self._peers.get(peer_id)
        if entry is None:
            return []
        now = self._clock()
        for addr in [a for a, e in entry.addrs.items() if e.expires_at <= now]:
            del entry.addrs[addr]
        pinned = (addr.without_peer_id() for addrs in entry.pinned.values() for addr in addrs)
        return list(dict.fromkeys([*pinned, *entry.addrs]))

    def pin(self, peer_id: PeerId, addrs: Iterable[Multiaddr], tag: str) -> None:
        """Keep these addresses until `unpin` with the same tag."""
        self._entry(peer_id).pinned[tag] = tuple(addrs)

    def unpin(self, peer_id: PeerId, tag: str) -> None:
        """Undo `pin`; nothing if there was none."""
        if (entry := self._peers.get(peer_id)) is not None:
            entry.pinned.pop(tag, None)

    def identified(self, peer_id: PeerId, agent: str | None, protocols: Iterable[str]) -> None:
        """What the peer said of itself in identify."""
        entry = self._entry(peer_id)
        entry.agent = agent
        entry.protocols = frozenset(list(protocols)[:MAX_PROTOCOLS_PER_PEER])

    def agent(self, peer_id: PeerId) -> str | None:
        """Its agent version, if it was ever identified."""
        entry = self._peers.get(peer_id)
        return entry.agent if entry is not None else None

    def protocols(self, peer_id: PeerId) -> frozenset[str]:
        """The protocols it listed."""
        entry = self._peers.get(peer_id)
        return entry.protocols if entry is not None else frozenset()

    def remember_served(self, peer_id: PeerId, protocol: str, served: bool) -> None:
        """The peer accepted, or refused, a stream of `protocol`."""
        entry = self._entry(peer_id)
        if not served:
            entry.served.discard(protocol)
        elif len(entry.served) < MAX_PROTOCOLS_PER_PEER:
            entry.served.add(protocol)

    def is_served(self, peer_id: PeerId, protocol: str) -> bool:
        """Whether a stream of `protocol` was accepted before, or identify lists it."""
        entry = self._peers.get(peer_id)
        return entry is not None and (protocol in entry.served or protocol in entry.protocols)

    def peers(self) -> list[PeerId]:
        """Everybody known."""
        return list(self._peers)
