"""What is known of peers: addresses with an age and a source, agent, protocols. In memory, bounded.

Addresses come with a time to live, or are pinned: a forward pins its explicit addresses for its life.
What a connected peer said of itself holds while it is connected, and for a time of grace after it has left.
After its time an address is stale: no longer told to others, but still tried where nothing better is known.
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
from p2pfwd.policy.provenance import Standing

MAX_PEERS: Final = 4096
MAX_ADDRESSES_PER_PEER: Final = 64
MAX_PROTOCOLS_PER_PEER: Final = 256

GRACE_S: Final = 900.0
"""How long the addresses of a peer hold after it has left (go: 15 min)."""

TOLD_TTL_S: Final = 3600.0
"""Addresses that a person typed for one command."""

STALE_S: Final = 5 * 86_400.0
"""How long after it was last seen a stale address is kept (the ancestor's seeds: 5 days)."""

MAX_SERVED: Final = 64
"""Peers remembered as served. Those that came first stay: strangers cannot push them out by being served."""

SERVED_PROOF_S: Final = 3600.0
"""Since a peer was served first until it counts as one's own: a flood is over by then, or was noticed."""

SEEN_STEP_S: Final = 60.0
"""An address seen again sooner has not changed: whoever observes is not told of every repetition."""


@dataclass(slots=True)
class AddressEntry:
    """One address of one peer. Times are the clock's (monotonic seconds)."""

    expires_at: float
    source: str
    seen_at: float


@dataclass(frozen=True, slots=True)
class KnownAddress:
    """One address of a peer, as it is known now."""

    addr: Multiaddr
    source: str  # "given", "identify", "connected", ...
    age_s: float  # since it was last seen
    ttl_s: float  # time to live that is left; 0 or less: stale


@dataclass(slots=True)
class PeerEntry:
    """What is known of one peer."""

    addrs: dict[Multiaddr, AddressEntry] = field(default_factory=dict)
    pinned: dict[str, tuple[Multiaddr, ...]] = field(default_factory=dict)
    standing: Standing = Standing.HEARD_OF
    agent: str | None = None
    protocols: frozenset[str] = frozenset()
    served: set[str] = field(default_factory=set)
    """Protocols on which a stream of ours was accepted; they may be opened without waiting."""


GIVEN: Final = "given"
"""Source of the addresses that the owner gave in a command."""

PROVED: Final = "connected"
"""Source of the addresses at which a connection of ours found the peer."""

ITSELF: Final = "identify"
"""Source of the addresses that the peer told while it was connected."""


class Peerstore:
    """Peers by ID; the least recently used unpinned one goes when there are too many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_peers: int = MAX_PEERS) -> None:
        self.clock = clock
        self._max_peers = max_peers
        self._connected: set[PeerId] = set()
        self._served: dict[PeerId, tuple[float, float]] = {}  # first and last time
        self._peers: OrderedDict[PeerId, PeerEntry] = OrderedDict()
        self._observers: list[Callable[[PeerId], None]] = []

    def on_change(self, callback: Callable[[PeerId], None]) -> None:
        """Be told of every peer whose addresses, pinned ones included, or agent changed."""
        self._observers.append(callback)

    def _changed(self, peer_id: PeerId) -> None:
        for callback in self._observers:
            callback(peer_id)

    def _entry(self, peer_id: PeerId) -> PeerEntry:
        entry = self._peers.get(peer_id)
        if entry is None:
            entry = self._peers[peer_id] = PeerEntry()
            if len(self._peers) > self._max_peers:
                victim = next((p for p in self._peers if self._may_go(p) and p != peer_id), None)
                if victim is not None:
                    del self._peers[victim]
                    self._served.pop(victim, None)
        else:
            self._peers.move_to_end(peer_id)
        return entry

    def _may_go(self, peer_id: PeerId) -> bool:
        return peer_id not in self._connected and not self._peers[peer_id].pinned

    def connected(self, peer_id: PeerId, proved: Multiaddr | None) -> None:
        """There is a connection; `proved`: where the peer was found, if we dialed.

        From now on nothing that the peer itself said or showed expires or is evicted.
        """
        self._connected.add(peer_id)
        self._raise(peer_id, Standing.MET if proved is None else Standing.REACHED)
        self.add_addrs(peer_id, () if proved is None else (proved,), GRACE_S, PROVED)

    def disconnected(self, peer_id: PeerId) -> None:
        """The last connection is over: the time of grace begins."""
        self._connected.discard(peer_id)
        entry, now = self._entry(peer_id), self.clock()
        held = [known for known in entry.addrs.values() if known.source in (PROVED, ITSELF)]
        for known in held:
            known.expires_at, known.seen_at = max(known.expires_at, now + GRACE_S), now
        if held:
            self._changed(peer_id)

    # --- whose peers these are --------------------------------------------------------------------

    def is_own(self, peer_id: PeerId) -> bool:
        """Whether the peer is one of the owner's: what limits keep a reserve for.

        That is: named, kept or forwarded to; given in a command or forwarded to before; or served for longer
        than a flood lasts.
        """
        entry = self._peers.get(peer_id)
        if entry is None:
            return False
        if entry.pinned or entry.standing is Standing.OWN:
            return True
        first, _ = self._served.get(peer_id, (float("inf"), 0.0))
        return self.clock() - first >= SERVED_PROOF_S

    def note_forwarded(self, peer_id: PeerId) -> None:
        """A connection of the owner's programs has gone to this peer."""
        self._raise(peer_id, Standing.OWN)

    def note_served(self, peer_id: PeerId) -> None:
        """The peer has used a service of the owner's."""
        now = self.clock()
        if peer_id not in self._served and len(self._served) >= MAX_SERVED:
            for idle in [p for p, (_, last) in self._served.items() if now - last > STALE_S]:
                del self._served[idle]
            if len(self._served) >= MAX_SERVED:
                return
        first, _ = self._served.get(peer_id, (now, now))
        self._served[peer_id] = (first, now)
        self._raise(peer_id, Standing.SERVED)

    def _raise(self, peer_id: PeerId, standing: Standing) -> None:
        entry = self._entry(peer_id)
        if standing > entry.standing:
            entry.standing = standing
            self._changed(peer_id)

    # --- addresses --------------------------------------------------------------------------------

    def add_addrs(self, peer_id: PeerId, addrs: Iterable[Multiaddr], ttl_s: float, source: str) -> None:
        """Remember addresses (any `/p2p/ID` at their end is cut off) for `ttl_s` seconds."""
        entry, now = self._entry(peer_id), self.clock()
        if source == GIVEN:
            entry.standing = Standing.OWN
        seen = [self._see(entry, addr.without_peer_id(), now, now + ttl_s, source) for addr in addrs]
        if any(seen):
            self._changed(peer_id)

    def _see(self, entry: PeerEntry, bare: Multiaddr, seen_at: float, expires_at: float, source: str) -> bool:
        """Remember one address; whether that is news."""
        known = entry.addrs.get(bare)
        if known is None:
            if len(entry.addrs) >= MAX_ADDRESSES_PER_PEER:
                soonest = min(entry.addrs, key=lambda a: entry.addrs[a].expires_at)
                del entry.addrs[soonest]
            entry.addrs[bare] = AddressEntry(expires_at, source, seen_at)
            return True
        known.expires_at = max(known.expires_at, expires_at)
        if seen_at - known.seen_at < SEEN_STEP_S and source == known.source:
            return False
        known.seen_at = max(known.seen_at, seen_at)
        if source in (GIVEN, PROVED, ITSELF) or known.source not in (GIVEN, PROVED, ITSELF):
            known.source = source
        return True

    def restore(self, peer_id: PeerId, known: Iterable[KnownAddress], agent: str | None) -> None:
        """Take over what was known in an earlier life; what is known already, and younger, stays."""
        entry, now = self._entry(peer_id), self.clock()
        for item in known:
            if item.addr not in entry.addrs and item.age_s < STALE_S:
                self._see(entry, item.addr, now - item.age_s, now + item.ttl_s, item.source)
        if entry.agent is None:
            entry.agent = agent
        self._changed(peer_id)

    def drop_addr(self, peer_id: PeerId, addr: Multiaddr) -> None:
        """Forget an address at which somebody else was found."""
        entry = self._peers.get(peer_id)
        if entry is not None and entry.addrs.pop(addr.without_peer_id(), None) is not None:
            self._changed(peer_id)

    def pinned(self, peer_id: PeerId) -> list[Multiaddr]:
        """The pinned addresses."""
        entry = self._peers.get(peer_id)
        pins = entry.pinned.values() if entry is not None else ()
        return list(dict.fromkeys(addr.without_peer_id() for addrs in pins for addr in addrs))

    def is_trusted(self, peer_id: PeerId, addr: Multiaddr) -> bool:
        """Whether it was this node's owner who said that the peer is at this address."""
        entry, bare = self._peers.get(peer_id), addr.without_peer_id()
        if entry is not None and (known := entry.addrs.get(bare)) is not None and known.source == GIVEN:
            return True
        return bare in self.pinned(peer_id)

    def known(self, peer_id: PeerId) -> list[KnownAddress]:
        """Every address that is not pinned, stale ones included."""
        entry, now = self._peers.get(peer_id), self.clock()
        if entry is None:
            return []
        if peer_id in self._connected:
            for held in entry.addrs.values():
                if held.source in (PROVED, ITSELF):
                    held.expires_at, held.seen_at = max(held.expires_at, now + GRACE_S), now
        for addr in [a for a, e in entry.addrs.items() if now - e.seen_at > STALE_S and e.expires_at <= now]:
            del entry.addrs[addr]
        return [
            KnownAddress(a, e.source, now - e.seen_at, e.expires_at - now) for a, e in entry.addrs.items()
        ]

    def addrs(self, peer_id: PeerId) -> list[Multiaddr]:
        """Pinned addresses, then the others that have not expired."""
        fresh = (known.addr for known in self.known(peer_id) if known.ttl_s > 0)
        return list(dict.fromkeys([*self.pinned(peer_id), *fresh]))

    def dialable(self, peer_id: PeerId) -> list[Multiaddr]:
        """As `addrs`; the stale ones where there is none: a try costs little, and peers move seldom."""
        return self.addrs(peer_id) or [known.addr for known in self.known(peer_id)]

    def pin(self, peer_id: PeerId, addrs: Iterable[Multiaddr], tag: str) -> None:
        """Keep these addresses until `unpin` with the same tag."""
        self._entry(peer_id).pinned[tag] = tuple(addrs)
        self._changed(peer_id)

    def unpin(self, peer_id: PeerId, tag: str) -> None:
        """Undo `pin`; nothing if there was none."""
        entry = self._peers.get(peer_id)
        if entry is not None and entry.pinned.pop(tag, None) is not None:
            self._changed(peer_id)

    def identified(self, peer_id: PeerId, agent: str | None, protocols: Iterable[str]) -> None:
        """What the peer said of itself in identify."""
        entry = self._entry(peer_id)
        entry.protocols = frozenset(list(protocols)[:MAX_PROTOCOLS_PER_PEER])
        if entry.agent != agent:
            entry.agent = agent
            self._changed(peer_id)

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
