"""Hypothesis over the routing table: whatever strangers do, its bounds hold and the dead are replaced."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire.kad.buckets import OUTAGE_FAILURES, Admission, BucketInfo, RoutingTable
from p2pfwd.wire.kad.diversity import DiversityLimits
from p2pfwd.wire.kad.keys import common_prefix_length, key_of_peer

SIZE, WAITING = 3, 2
LIMITS = DiversityLimits()
PEERS = [PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32, "big")) for number in range(61)]
LOCAL = PEERS.pop()
CPL = {peer: common_prefix_length(key_of_peer(LOCAL), key_of_peer(peer)) for peer in PEERS}

peers = st.sampled_from(PEERS)
nets = st.integers(1, 8)


class TableMachine(RuleBasedStateMachine):
    """Peers of few networks come, answer, fail and go; `nets` remembers where each was met last."""

    def __init__(self) -> None:
        super().__init__()
        self.table = RoutingTable(LOCAL, limits=LIMITS, bucket_size=SIZE, replacement_size=WAITING)
        self.nets: dict[PeerId, int] = {}
        self.strikes: Counter[PeerId] = Counter()
        self.answers, self.silent_failures = 0, 0
        self.struck_at: dict[PeerId, int] = {}
        self.now = 0.0

    def bucket(self, peer: PeerId) -> BucketInfo:
        buckets = self.table.snapshot()
        return buckets[min(CPL[peer], len(buckets) - 1)]

    @rule(peer=peers, net=nets)
    def add(self, peer: PeerId, net: int) -> None:
        self.now += 1
        self.answered()
        known, before = peer in self.table, len(self.table)
        outcome = self.table.add(peer, Multiaddr.parse(f"/ip4/11.{net}.0.1/tcp/1"), self.now)
        if outcome is Admission.CROWDED:
            assert peer not in self.table
        else:
            self.nets[peer] = net
            self.strikes[peer] = 0
        assert (outcome is Admission.KNOWN) <= known
        assert (peer in self.table) == (outcome in (Admission.ADDED, Admission.KNOWN))
        if outcome is Admission.REPLACEMENT:
            assert len(self.bucket(peer).entries) == SIZE
            assert self.bucket(peer).replacements[-1] == peer
            assert len(self.table) == before

    def answered(self) -> None:
        self.answers += 1
        self.silent_failures = 0

    @rule(peer=peers)
    def answer(self, peer: PeerId) -> None:
        self.now += 1
        self.answered()
        known = peer in self.table
        assert self.table.seen(peer, self.now) == known
        if known:
            assert self.bucket(peer).entries[-1].peer_id == peer
            self.strikes[peer] = 0

    @rule(peer=peers)
    def fail(self, peer: PeerId) -> None:
        known, before = peer in self.table, self.bucket(peer)
        dropped, promoted = self.table.failed(peer)
        if not known:
            assert (dropped, promoted) == (False, None)
            return
        self.silent_failures += 1
        again = self.strikes[peer] and self.struck_at[peer] == self.answers
        if self.silent_failures >= OUTAGE_FAILURES or again:
            assert (dropped, promoted) == (False, None) and peer in self.table, "it may be our own outage"
            return
        self.strikes[peer] += 1
        self.struck_at[peer] = self.answers
        assert dropped == (promoted is not None or self.strikes[peer] == 2)
        assert (peer in self.table) == (not dropped)
        self.check_replaced(before, peer, promoted)

    @rule(peer=peers)
    def remove(self, peer: PeerId) -> None:
        known, before = peer in self.table, self.bucket(peer)
        dropped, promoted = self.table.remove(peer)
        assert dropped == known and peer not in self.table
        if known:
            self.check_replaced(before, peer, promoted)

    def check_replaced(self, before: BucketInfo, gone: PeerId, promoted: PeerId | None) -> None:
        """The latest replacement whose network has room without the one that is gone took the place."""
        others = set(self.table) - {gone, promoted}
        fit = [one for one in before.replacements if self.has_room(one, others)]
        assert promoted == (fit[-1] if fit else None)
        if promoted is not None:
            after = self.bucket(promoted)
            assert len(after.entries) == len(before.entries)
            assert set(before.replacements) - set(after.replacements) == {promoted}

    def has_room(self, peer: PeerId, others: set[PeerId]) -> bool:
        same = [CPL[one] for one in others if self.nets[one] == self.nets[peer]]
        return len(same) < LIMITS.per_table and same.count(CPL[peer]) < LIMITS.per_cpl

    @invariant()
    def bounds_hold(self) -> None:
        for bucket in self.table.snapshot():
            assert len(bucket.entries) <= SIZE
            assert len(bucket.replacements) <= WAITING
            for entry in bucket.entries:
                assert entry.cpl == CPL[entry.peer_id]
                assert entry.cpl >= bucket.cpl if bucket.last else entry.cpl == bucket.cpl
            seen = [entry.seen_at for entry in bucket.entries]
            assert seen == sorted(seen)

    @invariant()
    def no_network_has_more_than_its_share(self) -> None:
        entries = list(self.table)
        assert max(Counter(self.nets[one] for one in entries).values(), default=0) <= LIMITS.per_table
        shares = Counter((self.nets[one], CPL[one]) for one in entries)
        assert max(shares.values(), default=0) <= LIMITS.per_cpl

    @invariant()
    def the_closest_are_the_nearest_that_are_no_suspects(self) -> None:
        suspects = {e.peer_id for bucket in self.table.snapshot() for e in bucket.entries if e.suspect}
        target = key_of_peer(PEERS[0])
        by_distance = sorted(set(self.table) - suspects, key=lambda one: key_of_peer(one) ^ target)
        assert self.table.closest(target, 5) == by_distance[:5]


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)
