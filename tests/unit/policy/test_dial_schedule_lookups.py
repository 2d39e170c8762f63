"""policy.dial_schedule: whose addresses are stale, and how often a peer is looked up."""

from __future__ import annotations

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.policy.dial_plan import MAX_DIALS
from p2pfwd.policy.dial_schedule import Dial, DialLimits
from tests.support.peers import peer
from tests.unit.policy.dial_story import ALICE, BOB, Story, addr


def test_stale_addresses_are_looked_up_after_they_failed_again() -> None:
    story = Story(DialLimits(redial_s=0.0))
    story.schedule.resolvable = True
    story.keep(ALICE, 1)
    seen = []
    now: float | None = 0.0
    while now is not None and now < 200:
        for dial in story.dial(now):
            assert dial.addrs == (addr(1),)
            if dial.resolve:
                seen.append(now)
                assert story.schedule.resolved(ALICE, [], now) == ()
            story.fail(ALICE, now)
        now = story.wakeup(now)
    assert seen == [7, 123]  # the third failure; then after a minute, at the next try


@pytest.mark.parametrize(
    ("age_s", "resolvable", "wanted"),
    [(0.0, True, False), (90_000.0, True, True), (90_000.0, False, False)],
)
def test_old_addresses_are_looked_up_with_the_first_dial(
    age_s: float, resolvable: bool, wanted: bool
) -> None:
    story = Story()
    story.schedule.resolvable = resolvable
    story.keep(ALICE, 1, age_s=age_s)
    assert story.dial(0.0) == [Dial(ALICE, (addr(1),), wanted)]


def test_a_peer_without_addresses_waits_for_a_look_up_or_for_news() -> None:
    story = Story()
    story.keep(ALICE)
    assert story.dial(0.0) == [] and story.wakeup(0.0) is None
    story.schedule.resolvable = True
    assert story.dial(0.0) == [Dial(ALICE, (), True)]
    assert story.schedule.resolved(ALICE, [addr(1), addr(1)], 1.0) == (addr(1),)
    story.known[ALICE] = {addr(1): 0.0}
    story.fail(ALICE, 2.0)
    assert story.wakeup(2.0) == 31.0


def test_look_ups_are_few_at_a_time() -> None:
    story = Story()
    story.schedule.resolvable = True
    for number in range(6):
        story.keep(peer(number))
    assert story.dialed(0.0) == [peer(number) for number in range(4)]
    assert story.wakeup(0.0) is None
    for number in range(4):
        story.schedule.resolved(peer(number), [], 1.0)
        story.fail(peer(number), 1.0)
    assert story.dialed(1.0) == [peer(4), peer(5)]


def test_look_ups_of_one_peer_are_ever_more_seldom() -> None:
    story = Story()
    story.schedule.resolvable = True
    story.keep(ALICE)
    now = 0.0
    pauses: list[float] = []
    story.dial(now)
    story.schedule.resolved(ALICE, [], now)
    story.fail(ALICE, now)
    while len(pauses) < 8:
        wakeup = story.wakeup(now)
        assert wakeup is not None
        pauses.append(wakeup - now)
        now = wakeup
        for who in story.dialed(now):
            story.schedule.resolved(who, [], now)
            story.fail(who, now)
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_of_what_a_look_up_found_no_number_of_direct_addresses_cuts_the_circuits() -> None:
    circuit = Multiaddr.parse(f"/ip4/192.0.2.9/tcp/1/p2p/{BOB}/p2p-circuit")
    story = Story()
    story.schedule.resolvable = True
    story.keep(ALICE)
    story.dial(0.0)
    found = story.schedule.resolved(ALICE, [*map(addr, range(1, 100)), circuit], 1.0)
    assert found == (*map(addr, range(1, MAX_DIALS + 1)), circuit)


def test_what_a_look_up_found_is_not_dialed_twice_either() -> None:
    story = Story()
    story.schedule.resolvable = True
    story.keep(ALICE, 1, age_s=1e6)
    story.dial(0.0)
    assert story.schedule.resolved(ALICE, [addr(1), addr(2)], 1.0) == (addr(2),)
