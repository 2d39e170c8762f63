"""Hypothesis over lookups: with any answers in any order they keep to their bounds, and end."""

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire.kad.keys import key_of_peer
from p2pfwd.wire.kad.messages import KadPeer
from p2pfwd.wire.kad.query import Lookup
from p2pfwd.wire.kad.query_values import Ending, Goal, LookupSettings

PEERS = [PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32, "big")) for number in range(42)]
LOCAL, TARGET = PEERS[:2]
ADDRS = [Multiaddr.parse(f"/ip4/11.1.1.{n}/tcp/4001") for n in range(3)]
BOUNDS = LookupSettings(
    k=5, alpha=3, beta=2, max_in_flight=6, max_queries=25, total_timeout_s=60.0
)

told = st.lists(
    st.builds(KadPeer, st.sampled_from(PEERS), st.lists(st.sampled_from(ADDRS), max_size=2).map(tuple)),
    max_size=8,
)
seconds = st.floats(0.0, 12.0)


def nearness(peer: PeerId) -> int:
    return key_of_peer(peer) ^ key_of_peer(TARGET)


class LookupMachine(RuleBasedStateMachine):
    """Answers of any content, failures, silence and time come in any order."""

    @initialize(goal=st.sampled_from(Goal), seeds=st.lists(st.sampled_from(PEERS), max_size=8, unique=True))
    def begin(self, goal: Goal, seeds: Sequence[PeerId]) -> None:
        self.now = 1000.0
        self.goal = goal
        self.lookup = Lookup(goal, TARGET.to_bytes(), seeds, local=LOCAL, now=self.now, settings=BOUNDS)
        self.asked: dict[PeerId, float] = {}
        self.answered: set[PeerId] = set()
        self.refused: set[PeerId] = set()
        self.heard = set(seeds)
        self.rejected: set[Multiaddr] = set()

    def open(self) -> list[PeerId]:
        return [one for one in self.asked if one not in self.answered | self.refused]

    def in_flight(self) -> list[PeerId]:
        return [one for one in self.open() if self.now < self.asked[one] + BOUNDS.request_timeout_s]

    @rule()
    def go_on(self) -> None:
        before = self.lookup.done
        for one in self.lookup.next_requests(self.now):
            assert not before and one not in self.asked
            assert one in self.heard - {LOCAL} and (one != TARGET or self.goal is not Goal.PEER)
            self.asked[one] = self.now
        # It waits for somebody, or is over: nothing else could ever move it.
        assert self.lookup.done or self.in_flight()
        assert len(self.in_flight()) <= BOUNDS.max_in_flight
        assert len(self.asked) <= BOUNDS.max_queries

    @precondition(lambda self: self.open())
    @rule(which=st.integers(0), closer=told)
    def answer(self, which: int, closer: list[KadPeer]) -> None:
        one = self.open()[which % len(self.open())]
        self.answered.add(one)
        if not self.lookup.done:  # who is told of later is asked no more
            self.heard |= {peer.peer_id for peer in closer}
        self.lookup.on_response(one, closer, self.now)

    @precondition(lambda self: self.in_flight())
    @rule(which=st.integers(0))
    def refuse(self, which: int) -> None:
        one = self.in_flight()[which % len(self.in_flight())]
        self.refused.add(one)
        self.lookup.on_failure(one, self.now)

    @rule(passed=seconds)
    def wait(self, passed: float) -> None:
        self.now += passed

    @rule()
    def wait_for_the_deadline(self) -> None:
        deadline = self.lookup.deadline
        if deadline is not None:
            self.now = max(self.now, deadline)

    @rule(addr=st.sampled_from(ADDRS))
    def reject(self, addr: Multiaddr) -> None:
        self.rejected.add(addr)
        self.lookup.reject_found([addr], self.now)

    @invariant()
    def the_result_is_what_was_reported(self) -> None:
        result = self.lookup.result(self.now)
        assert set(result.closest) <= self.answered
        assert list(result.closest) == sorted(result.closest, key=nearness)
        assert len(result.closest) <= BOUNDS.k
        assert not set(result.found) & self.rejected
        assert not result.found or self.goal is Goal.PEER
        assert self.lookup.done == (result.ending is not None) == (self.lookup.deadline is None)
        assert (result.queried, result.answered) == (len(self.asked), len(self.answered))

    @invariant()
    def it_converges_on_the_nearest_that_answered(self) -> None:
        result = self.lookup.result(self.now)
        if result.ending is Ending.CONVERGED and not self.open():
            nearest = sorted(self.answered, key=nearness)[: BOUNDS.k]
            assert list(result.closest) == nearest
            not_asked = self.heard - self.asked.keys() - {LOCAL, TARGET}
            assert not not_asked or nearness(nearest[-1]) < min(map(nearness, not_asked))

    def teardown(self) -> None:
        """Left alone, it ends: at the latest when its time is over."""
        if not hasattr(self, "lookup"):
            return
        for _ in range(10 * BOUNDS.max_queries):
            self.lookup.next_requests(self.now)
            deadline = self.lookup.deadline
            if deadline is None:
                return
            assert deadline > self.now
            self.now = deadline
        raise AssertionError("the lookup does not end")


TestLookup = LookupMachine.TestCase
TestLookup.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
