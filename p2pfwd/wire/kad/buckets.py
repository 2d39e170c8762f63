"""The routing table: peers by common prefix length with ourselves (libp2p spec: kad-dht).

Bucket i holds peers whose keys share i bits with ours; the last one holds all nearer peers too, and
unfolds when it overflows. Only servers that have just proved to be alive are offered (`add`).

Rules:
- At most `bucket_size` entries per bucket, least recently seen first. A full one keeps the newcomer as a
  replacement: the latest `replacement_size` of them.
- An entry that fails is dropped at once if a replacement can take its place, otherwise at its second failure
  in a row. Until then it is a suspect: told to nobody, and the first to give way.
- An outage of our own must not empty the table, for who is left in it is our way back. So a second failure
  counts only if anybody has answered since the first, and once `OUTAGE_FAILURES` entries have failed in a
  row, nothing counts until somebody answers.
- No network has more entries than `diversity` permits; among the replacements, newcomers of one network
  push out each other and nobody else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, Protocol

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire.kad.diversity import Census, DiversityLimits
from p2pfwd.wire.kad.keys import KEY_BITS, MAX_SEARCHED_CPL, KadKey, common_prefix_length, key_of_peer
from p2pfwd.wire.kad.messages import K

REPLACEMENTS: Final = 10
"""Replacements per bucket, as many as Ethereum's table keeps."""

MAX_FAILURES: Final = 2
"""Failures in a row after which an entry goes even if nobody can replace it."""

OUTAGE_FAILURES: Final = 3
"""So many entries that fail one after the other, with no answer in between: our own network is down. Where a
fifth of the entries is dead, as in a public table, chance does it too; that only delays a removal."""


class Chooser(Protocol):
    """The part of `random.Random` that is needed."""

    def randrange(self, stop: int, /) -> int:
        """A number from 0 to stop - 1."""


class Admission(Enum):
    """What became of a peer that was offered."""

    ADDED = "added"
    KNOWN = "known"
    REPLACEMENT = "replacement"
    CROWDED = "crowded"
    """Its IP group has all the entries it may have."""
    OURSELVES = "ourselves"


class Eviction(NamedTuple):
    """Whether an entry was dropped, and who took its place."""

    dropped: bool
    promoted: PeerId | None


class EntryInfo(NamedTuple):
    """One entry for people to look at; times are the caller's `now`."""

    peer_id: PeerId
    cpl: int
    added_at: float
    seen_at: float
    suspect: bool


class BucketInfo(NamedTuple):
    """One bucket: entries share `cpl` bits with us, or at least so many in the `last` bucket."""

    cpl: int
    last: bool
    entries: tuple[EntryInfo, ...]
    replacements: tuple[PeerId, ...]
    """Oldest first."""


@dataclass(slots=True)
class _Entry:
    """One peer in the table."""

    peer_id: PeerId
    key: KadKey
    cpl: int
    group: str
    added_at: float
    seen_at: float
    failures: int = 0
    doubted_at: int = 0
    """How many answers there had been in all at its latest failure that counted."""


@dataclass(slots=True)
class _Bucket:
    """The peers of one distance."""

    entries: dict[PeerId, _Entry] = field(default_factory=dict)
    """Least recently seen first."""
    replacements: dict[PeerId, _Entry] = field(default_factory=dict)
    """Oldest first."""


class RoutingTable:
    """The peers we ask first and tell others of."""

    def __init__(
        self,
        local: PeerId,
        *,
        limits: DiversityLimits | None,
        bucket_size: int = K,
        replacement_size: int = REPLACEMENTS,
    ) -> None:
        """`limits` is for the public network; None where all peers may share one network."""
        self.local = local
        self._key = key_of_peer(local)
        self._census = Census(limits)
        self._bucket_size = bucket_size
        self._replacement_size = replacement_size
        self._buckets = [_Bucket()]
        self._answers = 0
        self._failures_in_row = 0

    def __len__(self) -> int:
        return sum(len(bucket.entries) for bucket in self._buckets)

    def __contains__(self, peer_id: PeerId) -> bool:
        return peer_id in self._bucket_of(peer_id).entries

    def __iter__(self) -> Iterator[PeerId]:
        """All entries, farthest bucket first."""
        for bucket in self._buckets:
            yield from bucket.entries

    # --- who comes and goes -----------------------------------------------------------------------

    def wants(self, peer_id: PeerId, met_at: Multiaddr) -> bool:
        """Whether a live check pays: `add` would take the peer, as an entry or a replacement."""
        if peer_id == self.local or peer_id in self:
            return False
        entry = self._new(peer_id, met_at, 0.0)
        waiting = self._bucket_at(entry.cpl).replacements
        return peer_id not in waiting and self._census.permits(entry.cpl, entry.group)

    def add(self, peer_id: PeerId, met_at: Multiaddr, now: float) -> Admission:
        """Offer a server that just passed its live check; `met_at` is its connection's remote address.

        An entry that has moved into a crowded IP group is dropped.
        """
        if peer_id == self.local:
            return Admission.OURSELVES
        self._answered()
        entry = self._new(peer_id, met_at, now)
        bucket = self._bucket_at(entry.cpl)
        known = bucket.entries.get(peer_id)
        if known is not None and known.group == entry.group:
            self.seen(peer_id, now)
            return Admission.KNOWN
        if known is not None:
            self._drop(bucket, known)
            entry.added_at = known.added_at
        if not self._census.permits(entry.cpl, entry.group):
            bucket.replacements.pop(peer_id, None)
            if known is not None:
                self._promote(bucket)
            return Admission.CROWDED
        bucket = self._unfolded(entry.cpl)
        if len(bucket.entries) >= self._bucket_size:
            suspect = next((one for one in bucket.entries.values() if one.failures), None)
            if suspect is None:
                return self._keep_as_replacement(bucket, entry)
            self._drop(bucket, suspect)
        self._insert(bucket, entry)
        return Admission.KNOWN if known is not None else Admission.ADDED

    def seen(self, peer_id: PeerId, now: float) -> bool:
        """The peer answered: it is now the most recently seen of its bucket. False if it is no entry."""
        self._answered()
        bucket = self._bucket_of(peer_id)
        entry = bucket.entries.pop(peer_id, None)
        if entry is None:
            return False
        entry.seen_at, entry.failures = now, 0
        bucket.entries[peer_id] = entry
        return True

    def _answered(self) -> None:
        self._answers += 1
        self._failures_in_row = 0

    def failed(self, peer_id: PeerId) -> Eviction:
        """The peer did not answer, or could not be dialled."""
        bucket = self._bucket_of(peer_id)
        entry = bucket.entries.get(peer_id)
        if entry is None:
            bucket.replacements.pop(peer_id, None)
            return Eviction(False, None)
        self._failures_in_row += 1
        if self._failures_in_row >= OUTAGE_FAILURES:
            return Eviction(False, None)
        if entry.failures and entry.doubted_at == self._answers:
            return Eviction(False, None)
        entry.failures += 1
        entry.doubted_at = self._answers
        self._drop(bucket, entry)
        promoted = self._promote(bucket)
        if promoted is None and entry.failures < MAX_FAILURES:
            self._insert(bucket, entry)
            return Eviction(False, None)
        return Eviction(True, promoted)

    def remove(self, peer_id: PeerId) -> Eviction:
        """The peer does not belong here any more: it is a client now, or was banned."""
        bucket = self._bucket_of(peer_id)
        bucket.replacements.pop(peer_id, None)
        entry = bucket.entries.get(peer_id)
        if entry is None:
            return Eviction(False, None)
        self._drop(bucket, entry)
        return Eviction(True, self._promote(bucket))

    # --- questions --------------------------------------------------------------------------------

    def closest(
        self, key: KadKey, n: int = K, *, suspects: bool = False, exclude: Collection[PeerId] = ()
    ) -> list[PeerId]:
        """The `n` entries nearest to `key`, nearest first; with `suspects` for lookups of our own."""
        found: list[PeerId] = []
        for group in self._by_nearness(key):
            near = [
                (entry.key ^ key, entry.peer_id)
                for entry in group
                if (suspects or not entry.failures) and entry.peer_id not in exclude
            ]
            near.sort()
            found += [peer_id for _, peer_id in near]
            if len(found) >= n:
                break
        return found[:n]

    def to_revalidate(self, chooser: Chooser, seen_before: float) -> PeerId | None:
        """The least recently seen entry of a random bucket; None where all were seen since `seen_before`."""
        oldest = [next(iter(bucket.entries.values())) for bucket in self._buckets if bucket.entries]
        doubtful = [entry for entry in oldest if entry.seen_at < seen_before]
        return doubtful[chooser.randrange(len(doubtful))].peer_id if doubtful else None

    def cpls_to_refresh(self) -> list[int]:
        """Common prefix lengths that want a lookup of a random target (`keys.TargetSearch`).

        Those with room that are shorter than the prefix of the `K`-th nearest entry: a self lookup finds
        whoever is nearer, and where fewer than that are known, everybody.
        """
        entries = (entry for bucket in self._buckets for entry in bucket.entries.values())
        cpls = sorted((entry.cpl for entry in entries), reverse=True)
        edge = min(cpls[K - 1], MAX_SEARCHED_CPL + 1) if len(cpls) >= K else 0
        counts = Counter(cpls)
        return [cpl for cpl in range(edge) if counts[cpl] < self._bucket_size]

    def snapshot(self) -> tuple[BucketInfo, ...]:
        """All buckets, farthest first; entries least recently seen first."""
        return tuple(
            BucketInfo(
                index,
                index == len(self._buckets) - 1,
                tuple(
                    EntryInfo(one.peer_id, one.cpl, one.added_at, one.seen_at, one.failures > 0)
                    for one in bucket.entries.values()
                ),
                tuple(bucket.replacements),
            )
            for index, bucket in enumerate(self._buckets)
        )

    # --- inside -----------------------------------------------------------------------------------

    def _bucket_at(self, cpl: int) -> _Bucket:
        return self._buckets[min(cpl, len(self._buckets) - 1)]

    def _bucket_of(self, peer_id: PeerId) -> _Bucket:
        return self._bucket_at(common_prefix_length(self._key, key_of_peer(peer_id)))

    def _new(self, peer_id: PeerId, met_at: Multiaddr, now: float) -> _Entry:
        key = key_of_peer(peer_id)
        cpl = common_prefix_length(self._key, key)
        return _Entry(peer_id, key, cpl, self._census.group(met_at), now, now)

    def _by_nearness(self, key: KadKey) -> Iterator[Collection[_Entry]]:
        """Entries in groups, each nearer to `key` than the next. Nearest are those that differ from us in the
        same first bit as `key` does; then come all nearer to us, then the farther buckets one by one."""
        cpl = common_prefix_length(self._key, key)
        buckets = self._buckets
        if cpl < len(buckets) - 1:
            yield buckets[cpl].entries.values()
            yield [entry for bucket in buckets[cpl + 1 :] for entry in bucket.entries.values()]
        else:
            cpl = len(buckets) - 1
            yield buckets[cpl].entries.values()
        for index in range(cpl - 1, -1, -1):
            yield buckets[index].entries.values()

    def _insert(self, bucket: _Bucket, entry: _Entry) -> None:
        """Put in place by when it was seen last: mostly at the end."""
        bucket.replacements.pop(entry.peer_id, None)
        later = [one for one in bucket.entries.values() if one.seen_at > entry.seen_at]
        bucket.entries[entry.peer_id] = entry
        for one in later:
            bucket.entries[one.peer_id] = bucket.entries.pop(one.peer_id)
        self._census.enter(entry.cpl, entry.group)

    def _drop(self, bucket: _Bucket, entry: _Entry) -> None:
        del bucket.entries[entry.peer_id]
        self._census.leave(entry.cpl, entry.group)

    def _promote(self, bucket: _Bucket) -> PeerId | None:
        """Move the latest replacement that diversity permits among the entries."""
        for entry in reversed(bucket.replacements.values()):
            if self._census.permits(entry.cpl, entry.group):
                self._insert(bucket, entry)
                return entry.peer_id
        return None

    def _keep_as_replacement(self, bucket: _Bucket, entry: _Entry) -> Admission:
        waiting, limits = bucket.replacements, self._census.limits
        waiting.pop(entry.peer_id, None)
        same = [one.peer_id for one in waiting.values() if one.group == entry.group]
        if limits is not None and len(same) >= limits.per_cpl:
            del waiting[same[0]]
        elif len(waiting) >= self._replacement_size:
            del waiting[next(iter(waiting))]
        waiting[entry.peer_id] = entry
        return Admission.REPLACEMENT

    def _unfolded(self, cpl: int) -> _Bucket:
        """The bucket of `cpl`; if it is the last and full, it is split until it is neither."""
        while len(self._buckets) <= min(cpl, KEY_BITS - 1) + 1:
            index, last = len(self._buckets) - 1, self._buckets[-1]
            if len(last.entries) < self._bucket_size:
                break
            rest = _Bucket()
            for entry in [one for one in last.entries.values() if one.cpl > index]:
                del last.entries[entry.peer_id]
                rest.entries[entry.peer_id] = entry
            self._buckets.append(rest)
        return self._bucket_at(cpl)
