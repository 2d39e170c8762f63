"""policy.dial_schedule under any sequence of events: what it promises; it neither spins nor stops."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.dial_schedule import Dial, DialLimits, DialSchedule, Known, Priority

PEERS = [PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([n]) * 32) for n in range(6)]
ADDRS = [Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{n + 1}") for n in range(8)]
LIMITS = DialLimits(max_in_flight=3, max_resolving=1)

some_peer = st.sampled_from(PEERS)
some_addrs = st.lists(st.sampled_from(ADDRS), max_size=4, unique=True)
ages = st.sampled_from([0.0, 10.0, 1e6])


class Machine(RuleBasedStateMachine):
    """Any order of what may happen to a schedule, with a model of what it promised."""

    @initialize(
        resolvable=st.booleans(),
        seed=st.integers(0, 1000),
        first=st.lists(st.tuples(some_addrs, ages), min_size=len(PEERS), max_size=len(PEERS)),
    )
    def begin(self, resolvable: bool, seed: int, first: list[tuple[list[Multiaddr], float]]) -> None:
        self.now = 0.0
        self.known: dict[PeerId, dict[Multiaddr, float]] = {}
        self.founded: set[tuple[PeerId, Multiaddr]] = set()
        self.schedule = DialSchedule(self.addresses, random.Random(seed).random, LIMITS)
        self.schedule.resolvable = resolvable
        self.running: dict[PeerId, Dial] = {}
        self.looking: set[PeerId] = set()
        self.up: set[PeerId] = set()
        self.dialed: dict[tuple[PeerId | None, Multiaddr], float] = {}
        for who, (addrs, age_s) in zip(PEERS, first, strict=True):
            self.keep(who, addrs, age_s, Priority.STATIC)

    def addresses(self, who: PeerId) -> list[Known]:
        known = self.known.get(who, {})
        return [Known(addr, age_s, (who, addr) in self.founded) for addr, age_s in known.items()]

    def check_dialed(self, who: PeerId, addrs: Sequence[Multiaddr], found: bool = False) -> None:
        """An address that was given or proved rests after its peer's dials, any other after everybody's."""
        for addr in addrs:
            whoever = who if (who, addr) in self.founded and not found else None
            assert self.now - self.dialed.get((whoever, addr), -1e9) >= LIMITS.redial_s
            self.dialed[None, addr] = self.dialed[who, addr] = self.now

    @rule(who=some_peer, addrs=some_addrs)
    def prove(self, who: PeerId, addrs: list[Multiaddr]) -> None:
        self.founded.update((who, addr) for addr in addrs)

    @rule(who=some_peer, addrs=some_addrs, age_s=ages, priority=st.sampled_from(list(Priority)))
    def keep(self, who: PeerId, addrs: list[Multiaddr], age_s: float, priority: Priority) -> None:
        self.known[who] = dict.fromkeys(addrs, age_s)
        self.schedule.keep(who, priority, self.now)
        if who in self.up:
            self.schedule.connected(who, self.now)

    @rule(who=some_peer)
    def release(self, who: PeerId) -> None:
        self.schedule.release(who)

    @rule(who=some_peer, addrs=some_addrs)
    def learn(self, who: PeerId, addrs: list[Multiaddr]) -> None:
        self.known.setdefault(who, {}).update(dict.fromkeys(addrs, 0.0))
        self.schedule.learned(who, self.now)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 29.0, 31.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def work(self) -> None:
        for dial in self.schedule.plan(self.now):
            assert dial.addrs or dial.resolve
            assert dial.peer_id not in self.running and dial.peer_id not in self.up
            assert dial.peer_id in self.schedule.kept()
            self.check_dialed(dial.peer_id, dial.addrs)
            self.schedule.started(dial, self.now)
            self.running[dial.peer_id] = dial
            if dial.resolve:
                self.looking.add(dial.peer_id)
        assert self.schedule.plan(self.now) == []
        wakeup = self.schedule.next_wakeup(self.now)
        assert wakeup is None or wakeup > self.now  # it does not spin

    @precondition(lambda self: self.running)
    @rule(data=st.data(), found=some_addrs)
    def resolve(self, data: st.DataObject, found: list[Multiaddr]) -> None:
        who = data.draw(st.sampled_from(sorted(self.running)))
        self.looking.discard(who)
        self.check_dialed(who, self.schedule.resolved(who, found, self.now), found=True)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), well=st.booleans())
    def end(self, data: st.DataObject, well: bool) -> None:
        who = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[who]
        self.looking.discard(who)
        if well:
            self.come(who)
            self.schedule.succeeded(who, self.now)
        else:
            self.schedule.failed(who, self.now, "refused")

    @rule(who=some_peer)
    def come(self, who: PeerId) -> None:
        self.up.add(who)
        self.schedule.connected(who, self.now)

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(sorted(self.up)))
        self.up.remove(who)
        self.schedule.disconnected(who, self.now, "lost")

    @rule()
    def change_network(self) -> None:
        self.dialed.clear()
        self.schedule.network_changed(self.now)

    @invariant()
    def limits_hold(self) -> None:
        if hasattr(self, "running"):
            assert len(self.running) <= LIMITS.max_in_flight
            assert len(self.looking) <= LIMITS.max_resolving

    @invariant()
    def the_status_agrees(self) -> None:
        if not hasattr(self, "running"):
            return
        for who in self.schedule.kept():
            status = self.schedule.status(who, self.now)
            assert status is not None
            if who in self.up:
                assert status.state == "connected"
            else:
                assert status.state == ("dialing" if who in self.running else "waiting")
            assert status.next_try_at is None or status.next_try_at >= self.now


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestAnySequence = Machine.TestCase


@settings(max_examples=60)
@given(
    owners=st.lists(
        st.tuples(some_addrs.filter(bool), st.sampled_from(list(Priority))), min_size=1, max_size=6
    ),
    dial_s=st.sampled_from([0.1, 5.0, 30.0]),
    seed=st.integers(0, 1000),
)
def test_every_kept_peer_is_tried_again_and_again(
    owners: list[tuple[list[Multiaddr], Priority]], dial_s: float, seed: int
) -> None:
    """However they share addresses and slots, and however long each dial takes in vain."""
    known = {PEERS[n]: [Known(addr, 0.0) for addr in addrs] for n, (addrs, _) in enumerate(owners)}
    schedule = DialSchedule(known.__getitem__, random.Random(seed).random, DialLimits(max_in_flight=1))
    for who, (_, priority) in zip(PEERS, owners, strict=False):
        schedule.keep(who, priority, 0.0)
    now, tried = 0.0, dict.fromkeys(known, 0)
    while now < 3600.0:
        for dial in schedule.plan(now):
            schedule.started(dial, now)
            tried[dial.peer_id] += 1
            now += dial_s
            schedule.failed(dial.peer_id, now, "refused")
        wakeup = schedule.next_wakeup(now)
        assert wakeup is not None and wakeup >= now
        now = wakeup
    assert min(tried.values()) >= 3, tried
