"""Whom we know: peers, how well each is known, where it is and who says so. In memory, bounded.

Rules:
- Addresses are claims (`claims`), or pinned: a forward, a name and whoever is kept pin theirs for their life.
- What a connected peer said of itself holds while it is connected, and for a time of grace after it has left.
- After its time an address is stale: no longer told to others, but still tried.
- Of a peer that came, told nothing and left, nothing is kept.
- Where there are too many peers, `policy.provenance.to_forget` says of which standing one goes; of those the
  one that was heard of longest ago. Whoever is connected or pinned stays.
- Everything keyed by what strangers send is capped (CVE-2023-40583 was an unbounded one).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import Final
from weakref import WeakKeyDictionary, ref

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.peers.claims import MAX_CLAIMED, STALE_S, Claims, KnownAddress
from p2pfwd.policy.dial_plan import Candidate
from p2pfwd.policy.provenance import Provenance, Standing, to_forget
from p2pfwd.policy.shares import Rank

MAX_PEERS: Final = 4096
MAX_ADDRESSES_IN_ALL: Final = 32_768
"""Addresses of all peers; some 20 MB. Eight of each peer are many, a few peers may have more."""

MAX_ADDRESS_BYTES: Final = 512
"""Longest address taken from others: a relay's with two certificate hashes has 250."""

MAX_PROTOCOLS_PER_PEER: Final = 256

MAX_DHTS_PER_PEER: Final = 8
"""DHTs that one peer is remembered by: this node takes part in two, and was in other networks before."""

GRACE_S: Final = 900.0
"""How long the addresses of a peer hold after it has left (go: 15 min)."""

TYPED_TTL_S: Final = 3600.0
"""Addresses that a person typed for one command."""

MAX_SERVED: Final = 64
"""Peers remembered as served. Those that came first stay: strangers cannot push them out by being served."""

SERVED_PROOF_S: Final = 3600.0
"""Since a peer was served first until it has `Rank.SERVED`: floods are over by then, or noticed."""


_LEAST: Final = {
    Provenance.GIVEN: Standing.OWN,
    Provenance.PROVED: Standing.REACHED,
    Provenance.ITSELF: Standing.MET,
    Provenance.SIGNED: Standing.HEARD_OF,
    Provenance.HEARSAY: Standing.HEARD_OF,
}
"""The standing of a peer that has such an address."""


LISTED: Final = "listed"
"""The pin of a peer that a list of others' names, one that came with the program for instance."""

_LISTED: Final = frozenset({LISTED})

_NONE: Final[frozenset[str]] = frozenset()
"""One for all: each empty frozenset is an object of 216 bytes."""


@dataclass(slots=True)
class PeerEntry:
    """What is known of one peer."""

    claims: Claims = field(default_factory=Claims)
    pinned: dict[str, tuple[Multiaddr, ...]] = field(default_factory=dict)
    standing: Standing = Standing.HEARD_OF
    connected: bool = False
    agent: str | None = None
    protocols: frozenset[str] = _NONE
    dhts: frozenset[str] = _NONE
    """DHTs of this node in which it has answered as a server, by the names of `note_dht`."""
    served: frozenset[str] = _NONE
    """Protocols on which a stream of ours was accepted; they may be opened without waiting."""

    @property
    def may_go(self) -> bool:
        """Whether it may be forgotten when there is no room."""
        return not self.connected and not self.pinned

    @property
    def says_nothing(self) -> bool:
        """Whether all that is known is that it was connected."""
        known = self.agent or self.protocols or self.dhts or len(self.claims)
        return self.may_go and self.standing <= Standing.MET and not known


class Peerstore:
    """Peers by ID. `clock` gives seconds that only go forward."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        max_peers: int = MAX_PEERS,
        max_addresses: int = MAX_ADDRESSES_IN_ALL,
    ) -> None:
        self.clock = clock
        self._max_peers = max_peers
        self._max_addresses = max_addresses
        self._peers: dict[PeerId, PeerEntry] = {}
        self._may_go: dict[Standing, OrderedDict[PeerId, None]] = {each: OrderedDict() for each in Standing}
        """Who may be forgotten; of each standing, those heard of longest ago first."""
        self._protocols: WeakKeyDictionary[frozenset[str], ref[frozenset[str]]] = WeakKeyDictionary()
        """One of each set that peers have told: those of one program tell the same, and it is 1 to 3 KB."""
        self._addresses = 0
        self._served: dict[PeerId, tuple[float, float]] = {}  # first and last time
        self._observers: list[Callable[[PeerId], None]] = []

    def on_change(self, callback: Callable[[PeerId], None]) -> None:
        """Be told of every peer whose addresses, pinned ones included, standing or agent changed."""
        self._observers.append(callback)

    def _changed(self, peer_id: PeerId) -> None:
        for callback in self._observers:
            callback(peer_id)

    # --- the bounds -------------------------------------------------------------------------------

    def _entry(self, peer_id: PeerId) -> PeerEntry:
        """The peer's entry, which counts as heard of now; made if there is none."""
        entry = self._peers.get(peer_id)
        if entry is None:
            entry = self._peers[peer_id] = PeerEntry()
        self._touch(peer_id, entry)
        self._fit(peer_id)
        return entry

    def _touch(self, peer_id: PeerId, entry: PeerEntry) -> None:
        queue = self._may_go[entry.standing]
        queue.pop(peer_id, None)
        if entry.may_go:
            queue[peer_id] = None

    def _fit(self, newcomer: PeerId) -> None:
        """Forget others while there are too many peers or addresses."""
        while len(self._peers) > self._max_peers or self._addresses > self._max_addresses:
            counts = {standing: len(queue) - (newcomer in queue) for standing, queue in self._may_go.items()}
            standing = to_forget(counts, self._max_peers)
            if standing is None:
                return
            victim = next(peer_id for peer_id in self._may_go[standing] if peer_id != newcomer)
            self._forget(victim, self._peers[victim])

    def _forget(self, peer_id: PeerId, entry: PeerEntry) -> None:
        self._may_go[entry.standing].pop(peer_id, None)
        del self._peers[peer_id]
        self._addresses -= len(entry.claims)
        self._served.pop(peer_id, None)

    def _rise(self, peer_id: PeerId, entry: PeerEntry, standing: Standing) -> bool:
        if standing <= entry.standing:
            return False
        self._may_go[entry.standing].pop(peer_id, None)
        entry.standing = standing
        self._touch(peer_id, entry)
        return True

    # --- who they are -----------------------------------------------------------------------------

    def connected(self, peer_id: PeerId, proved: Multiaddr | None) -> None:
        """There is a connection; `proved`: where the peer was found, if we dialed.

        From now on nothing that the peer itself said or showed expires or is evicted.
        """
        entry = self._entry(peer_id)
        entry.connected = True
        rose = self._rise(peer_id, entry, Standing.MET if proved is None else Standing.REACHED)
        self._touch(peer_id, entry)
        news = proved is not None and self._claim(peer_id, entry, (proved,), Provenance.PROVED, inf)
        if rose or news:
            self._changed(peer_id)

    def disconnected(self, peer_id: PeerId) -> None:
        """The last connection is over: the time of grace begins."""
        entry = self._peers.get(peer_id)
        if entry is None:
            return
        entry.connected = False
        entry.served = _NONE  # when it is back it may serve others: no data goes ahead of its answer
        self._touch(peer_id, entry)
        if entry.says_nothing:
            self._forget(peer_id, entry)
        elif entry.claims.release(self.clock(), GRACE_S):
            self._changed(peer_id)

    def identified(self, peer_id: PeerId, agent: str | None, protocols: Iterable[str]) -> None:
        """What the peer said of itself in identify."""
        entry = self._entry(peer_id)
        told = frozenset(list(protocols)[:MAX_PROTOCOLS_PER_PEER])
        entry.protocols = self._protocols.setdefault(told, ref(told))() or told
        if entry.agent != agent:
            entry.agent = agent
            self._changed(peer_id)

    def rank(self, peer_id: PeerId) -> Rank:
        """Whose it is for limits. `SERVED`: served first longer ago than a flood lasts."""
        if self.is_chosen(peer_id):
            return Rank.OWN
        first, _ = self._served.get(peer_id, (inf, 0.0))
        is_served = peer_id in self._peers and self.clock() - first >= SERVED_PROOF_S
        return Rank.SERVED if is_served else Rank.STRANGER

    def is_chosen(self, peer_id: PeerId) -> bool:
        """Whether the peer is one of the owner's, by his own doing: what rights and trust go by.

        That is: it is named, kept, forwarded to or let in by a relay token; or since it was last disowned a
        command gave an address of it, or a connection went to it through a forward. Who is kept as a list of
        others' names it is not.
        """
        entry = self._peers.get(peer_id)
        if entry is None:
            return False
        return entry.standing is Standing.OWN or bool(entry.pinned and entry.pinned.keys() != _LISTED)

    def disown(self, peer_id: PeerId) -> bool:
        """Take back that it was given in a command, or forwarded to; whether it was. What pins it stays."""
        entry = self._peers.get(peer_id)
        if entry is None or entry.standing is not Standing.OWN:
            return False
        before = len(entry.claims)
        entry.claims.withdraw(Provenance.GIVEN)
        self._addresses -= before - len(entry.claims)
        self._may_go[entry.standing].pop(peer_id, None)
        grounds = [_LEAST[known.provenance] for known in entry.claims.known(self.clock())]
        grounds.append(Standing.SERVED if peer_id in self._served else Standing.HEARD_OF)
        grounds.append(Standing.MET if entry.connected else Standing.HEARD_OF)
        entry.standing = max(grounds)
        self._touch(peer_id, entry)
        if entry.says_nothing:
            self._forget(peer_id, entry)
        self._changed(peer_id)
        return True

    def note_forwarded(self, peer_id: PeerId) -> None:
        """A connection of the owner's programs has gone to this peer."""
        if self.standing(peer_id) is Standing.OWN:
            return
        if self._rise(peer_id, self._entry(peer_id), Standing.OWN):
            self._changed(peer_id)

    def note_served(self, peer_id: PeerId) -> None:
        """The peer has used a service of the owner's."""
        now = self.clock()
        if not self._enter_served(peer_id, now, now) or self.standing(peer_id) >= Standing.SERVED:
            return
        if self._rise(peer_id, self._entry(peer_id), Standing.SERVED):
            self._changed(peer_id)

    def _enter_served(self, peer_id: PeerId, first: float, now: float) -> bool:
        """Count it among those served, if there is room."""
        if peer_id not in self._served and len(self._served) >= MAX_SERVED:
            for idle in [p for p, (_, last) in self._served.items() if now - last > STALE_S]:
                del self._served[idle]
            if len(self._served) >= MAX_SERVED:
                return False
        first, _ = self._served.get(peer_id, (first, now))
        self._served[peer_id] = (first, now)
        return True

    def standing(self, peer_id: PeerId) -> Standing:
        """How well it is known."""
        entry = self._peers.get(peer_id)
        return entry.standing if entry is not None else Standing.HEARD_OF

    def agent(self, peer_id: PeerId) -> str | None:
        """Its agent version, if it was ever identified."""
        entry = self._peers.get(peer_id)
        return entry.agent if entry is not None else None

    def protocols(self, peer_id: PeerId) -> frozenset[str]:
        """The protocols it listed."""
        entry = self._peers.get(peer_id)
        return entry.protocols if entry is not None else _NONE

    def remember_served(self, peer_id: PeerId, protocol: str, served: bool) -> None:
        """The peer accepted, or refused, a stream of `protocol`."""
        entry = self._peers.get(peer_id)
        if served and entry is not None and protocol in entry.served:
            return  # nearly always
        entry = self._entry(peer_id)
        if not served:
            entry.served -= {protocol}
        elif len(entry.served) < MAX_PROTOCOLS_PER_PEER:
            entry.served |= {protocol}

    def is_served(self, peer_id: PeerId, protocol: str) -> bool:
        """Whether a stream of `protocol` was accepted before, or identify lists it."""
        entry = self._peers.get(peer_id)
        return entry is not None and (protocol in entry.served or protocol in entry.protocols)

    def note_dht(self, peer_id: PeerId, dht: str, serves: bool) -> None:
        """The peer has answered as a server of `dht`, a name of the owner's choice; or it serves it no more.

        Remembered across restarts: by such peers a node gets in again.
        """
        entry = self._peers.get(peer_id)
        if entry is None or (dht in entry.dhts) == serves:
            return
        if not serves:
            entry.dhts -= {dht}
        elif len(entry.dhts) < MAX_DHTS_PER_PEER:
            entry.dhts |= {dht}
        self._changed(peer_id)

    def dhts(self, peer_id: PeerId) -> frozenset[str]:
        """The DHTs it has served."""
        entry = self._peers.get(peer_id)
        return entry.dhts if entry is not None else _NONE

    def dht_servers(self) -> list[PeerId]:
        """Everybody who has served any."""
        return [peer_id for peer_id, entry in self._peers.items() if entry.dhts]

    def peers(self) -> list[PeerId]:
        """Everybody known."""
        return list(self._peers)

    # --- where they are ---------------------------------------------------------------------------

    def add_addrs(
        self, peer_id: PeerId, addrs: Iterable[Multiaddr], ttl_s: float, provenance: Provenance
    ) -> None:
        """Remember addresses (any `/p2p/ID` at their end is cut off) for `ttl_s` seconds.

        What is not given is cut to what is kept of one peer, those first that this node could dial.
        """
        known = self._peers.get(peer_id)
        entry = known if known is not None and provenance is Provenance.HEARSAY else self._entry(peer_id)
        if entry.standing is Standing.HEARD_OF:
            self._touch(peer_id, entry)
        rose = provenance is Provenance.GIVEN and self._rise(peer_id, entry, Standing.OWN)
        if self._claim(peer_id, entry, addrs, provenance, self.clock() + ttl_s) or rose:
            self._changed(peer_id)

    def tells(self, peer_id: PeerId, addrs: Iterable[Multiaddr], among: Callable[[Multiaddr], bool]) -> None:
        """The peer itself says where it is, as far as `among` goes: what it said before and not now, ages.

        Held while it is connected.
        """
        entry, now = self._entry(peer_id), self.clock()
        told = dict.fromkeys(addr.without_peer_id() for addr in addrs)
        gone = {addr for addr in entry.claims.told_by_itself() if addr not in told and among(addr)}
        news = bool(gone) and entry.claims.release(now, GRACE_S, gone)
        expires_at = inf if entry.connected else now + GRACE_S
        if self._claim(peer_id, entry, told, Provenance.ITSELF, expires_at) or news:
            self._changed(peer_id)

    def _claim(
        self,
        peer_id: PeerId,
        entry: PeerEntry,
        addrs: Iterable[Multiaddr],
        provenance: Provenance,
        expires_at: float,
    ) -> bool:
        """Enter claims of now; whether there was news."""
        bare = list(dict.fromkeys(addr.without_peer_id() for addr in addrs))
        if provenance is not Provenance.GIVEN:
            bare = [addr for addr in bare if len(addr.to_bytes()) <= MAX_ADDRESS_BYTES]
            bare.sort(key=lambda addr: tcp_endpoint(addr) is None)
        now, before = self.clock(), len(entry.claims)
        news = [entry.claims.note(a, provenance, now, expires_at) for a in bare[: MAX_CLAIMED[provenance]]]
        self._addresses += len(entry.claims) - before
        self._fit(peer_id)
        return any(news)

    def restore(
        self,
        peer_id: PeerId,
        known: Iterable[KnownAddress],
        agent: str | None,
        standing: Standing = Standing.HEARD_OF,
        dhts: Iterable[str] = (),
    ) -> None:
        """Take over what was known in an earlier life; what is known by now stays."""
        young = [item for item in known if item.age_s < STALE_S]
        if not young and peer_id not in self._peers:
            return
        entry, now = self._entry(peer_id), self.clock()
        before = len(entry.claims)
        for item in young:
            entry.claims.note(item.addr, item.provenance, now - item.age_s, now + item.ttl_s)
            standing = max(standing, _LEAST[item.provenance])
        self._addresses += len(entry.claims) - before
        if entry.agent is None:
            entry.agent = agent
        entry.dhts |= frozenset(islice(dhts, MAX_DHTS_PER_PEER - len(entry.dhts)))
        if standing is Standing.SERVED and not self._enter_served(peer_id, now - SERVED_PROOF_S, now):
            standing = Standing.REACHED
        self._rise(peer_id, entry, standing)
        self._fit(peer_id)
        self._changed(peer_id)

    def refute_addr(self, peer_id: PeerId, addr: Multiaddr) -> None:
        """Somebody else was found at an address: see `Claims.refute`."""
        entry, bare = self._peers.get(peer_id), addr.without_peer_id()
        if entry is not None and entry.claims.refute(bare, self.clock()):
            self._addresses -= bare not in entry.claims
            self._changed(peer_id)

    def pin(self, peer_id: PeerId, addrs: Iterable[Multiaddr], tag: str) -> None:
        """Keep these addresses, and the peer in mind, until `unpin` with the same tag."""
        entry = self._entry(peer_id)
        entry.pinned[tag] = tuple(addrs)
        self._touch(peer_id, entry)
        self._changed(peer_id)

    def unpin(self, peer_id: PeerId, tag: str) -> None:
        """Undo `pin`; nothing if there was none."""
        entry = self._peers.get(peer_id)
        if entry is not None and entry.pinned.pop(tag, None) is not None:
            self._touch(peer_id, entry)
            self._changed(peer_id)

    def pinned(self, peer_id: PeerId) -> list[Multiaddr]:
        """The pinned addresses."""
        entry = self._peers.get(peer_id)
        pins = entry.pinned.values() if entry is not None else ()
        return list(dict.fromkeys(addr.without_peer_id() for addrs in pins for addr in addrs))

    def is_trusted(self, peer_id: PeerId, addr: Multiaddr) -> bool:
        """Whether it was this node's owner who said that the peer is at this address."""
        entry, bare = self._peers.get(peer_id), addr.without_peer_id()
        given = entry is not None and entry.claims.has(bare, Provenance.GIVEN)
        return given or bare in self.pinned(peer_id)

    def known(self, peer_id: PeerId) -> list[KnownAddress]:
        """Every address that is not pinned, stale ones included, the best founded first."""
        claims = self._current(peer_id)
        return sorted(claims.known(self.clock()), key=lambda known: known.provenance) if claims else []

    def best_claims(self, peer_id: PeerId) -> list[KnownAddress]:
        """As `known`, with the age and life of the best claim alone: what is to be kept across restarts."""
        claims = self._current(peer_id)
        return list(claims.best(self.clock())) if claims else []

    def _current(self, peer_id: PeerId) -> Claims | None:
        """Its claims, without those that are too old."""
        entry = self._peers.get(peer_id)
        if entry is None:
            return None
        before = len(entry.claims)
        entry.claims.forget_old(self.clock())
        self._addresses += len(entry.claims) - before
        return entry.claims

    def addrs(self, peer_id: PeerId) -> list[Multiaddr]:
        """Pinned addresses, then the others that have not expired, the best founded first."""
        entry = self._peers.get(peer_id)
        if entry is None:
            return []
        fresh = entry.claims.fresh(self.clock())
        return list(dict.fromkeys([*self.pinned(peer_id), *fresh])) if entry.pinned else fresh

    def tellable(self, peer_id: PeerId) -> list[Multiaddr]:
        """What others may be told of the peer: nothing that the owner alone has said."""
        entry = self._peers.get(peer_id)
        return entry.claims.tellable(self.clock()) if entry is not None else []

    def dialable(self, peer_id: PeerId) -> list[Multiaddr]:
        """Where to try: as `addrs`, and what is stale, the best founded first.

        A try costs little, and peers move seldom. Stale hearsay only where there is nothing else.
        """
        known = self.known(peer_id)
        better = (each.addr for each in known if each.ttl_s > 0 or each.provenance < Provenance.HEARSAY)
        return list(dict.fromkeys([*self.pinned(peer_id), *better])) or [each.addr for each in known]

    def candidates(self, peer_id: PeerId, addrs: Iterable[Multiaddr]) -> list[Candidate]:
        """The addresses, each with what is known to speak for it; HEARSAY if nothing is."""
        entry, pinned, now = self._peers.get(peer_id), set(self.pinned(peer_id)), self.clock()
        found: list[Candidate] = []
        for addr in addrs:
            bare = addr.without_peer_id()
            known = entry.claims.candidate(bare, now) if entry is not None else None
            given = Candidate(bare, Provenance.GIVEN) if bare in pinned else None
            found.append(given or known or Candidate(bare, Provenance.HEARSAY))
        return found
