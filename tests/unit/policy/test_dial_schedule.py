"""policy.dial_schedule: who is dialed when; each test is a short story."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.dial_plan import MAX_DIALS
from p2pfwd.policy.dial_schedule import PATIENCE_S, Dial, DialLimits, Priority
from tests.support.peers import peer
from tests.unit.policy.dial_story import (
    ALICE,
    BOB,
    BOOTSTRAP,
    CAROL,
    FORWARD,
    LISTED,
    REFUSED,
    RELAY,
    STATIC,
    Story,
    addr,
)


def tries(story: Story, who: PeerId, until: float) -> list[float]:
    """When a peer that never answers is tried, each try failing at once."""
    times: list[float] = []
    now: float | None = 0.0
    while now is not None and now < until:
        for dial in story.dial(now):
            assert dial.peer_id == who
            times.append(now)
            story.fail(who, now)
        now = story.wakeup(now)
    return times


def test_nothing_kept_nothing_to_do() -> None:
    story = Story()
    assert story.dial(0.0) == [] and story.wakeup(0.0) is None


def test_a_kept_peer_is_dialed_at_once_at_all_its_addresses() -> None:
    story = Story()
    story.keep(ALICE, 1, 2)
    assert story.wakeup(0.0) == 0.0
    assert story.dial(0.0) == [Dial(ALICE, (addr(1), addr(2)))]
    assert story.dial(0.0) == [] and story.wakeup(0.0) is None


@pytest.mark.parametrize("is_founded", [True, False])
def test_a_circuit_is_tried_each_time_however_many_direct_addresses_there_are(is_founded: bool) -> None:
    """With longer back-offs the same 32 direct addresses were dialed each time, and the circuit never."""
    circuit = Multiaddr.parse(f"/ip4/192.0.2.9/tcp/1/p2p/{BOB}/p2p-circuit")
    story = Story()
    story.keep(ALICE, *range(1, 100))
    story.known[ALICE][circuit] = 0.0
    if is_founded:
        story.founded |= {(ALICE, where) for where in story.known[ALICE]}
    for now in (0.0, 1000.0, 2000.0):
        (dial,) = story.dial(now)
        assert circuit in dial.addrs
        assert len(dial.addrs) == (100 if is_founded else MAX_DIALS + 1), "what was given is never cut"
        story.fail(ALICE, now)


def test_one_address_is_tried_every_30_s_until_the_back_off_is_longer() -> None:
    story = Story()
    story.keep(ALICE, 1)
    assert tries(story, ALICE, 400.0) == [0, 30, 60, 90, 120, 150, 182, 242, 302, 362]


def test_the_back_off_doubles_from_1_s_to_60_s() -> None:
    story = Story(DialLimits(redial_s=0.0))
    story.keep(ALICE, 1)
    assert tries(story, ALICE, 250.0) == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_a_relay_is_tried_every_second_for_a_while() -> None:
    """Nobody reaches this node before it is back there."""
    story = Story(DialLimits(relay_tries=4))
    story.founded.add((ALICE, addr(1)))
    story.keep(ALICE, 1, priority=RELAY)
    assert tries(story, ALICE, 60.0) == [0, 1, 2, 3, 4, 34]


def test_the_peer_of_a_forward_that_is_away_for_days_is_tried_every_ten_minutes() -> None:
    """Its programs ask by themselves; a static peer is tried each minute for as long as it takes."""
    counts = {}
    for priority in (FORWARD, STATIC):
        story = Story()
        story.keep(ALICE, 1, priority=priority)
        times = tries(story, ALICE, 86_400.0)
        assert times[-1] - times[-2] == (600.0 if priority is FORWARD else 60.0)
        assert sum(1 for at in times if at < 3600) >= 60
        counts[priority] = len(times)
        now = story.wakeup(86_400.0)
        assert now is not None and now > 86_400.0
        story.schedule.network_changed(86_400.0)
        assert story.dialed(86_400.0) == [ALICE]
        story.fail(ALICE, 86_401.0)
        assert story.wakeup(86_401.0) == 86_430.0
    assert counts[FORWARD] < 220 < 1440 < counts[STATIC]


@pytest.mark.parametrize(("priority", "due_s"), [(FORWARD, 600.0), (STATIC, 1.0)])
def test_a_forwards_peer_is_not_kept_over_a_relay_that_ends_each_connection(
    priority: Priority, due_s: float
) -> None:
    story = Story()
    story.keep(ALICE, 1, priority=priority)
    story.dial(0.0)
    story.up(ALICE, 0.0)
    story.schedule.disconnected(ALICE, 120.0, "the relay's limit", was_limited=True)
    assert story.wakeup(120.0) == 120.0 + due_s
    story.schedule.network_changed(200.0)
    assert story.wakeup(200.0) == 200.0


def test_luck_shortens_a_back_off_by_less_than_a_third() -> None:
    story = Story(DialLimits(redial_s=0.0), luck=0.999)
    story.keep(ALICE, 1)
    times = tries(story, ALICE, 4.0)
    assert times == pytest.approx([0, 0.7, 2.1], rel=0.01)


def test_another_address_is_tried_within_the_30_s() -> None:
    story = Story()
    story.keep(ALICE, 1)
    story.dial(0.0)
    story.fail(ALICE, 0.1)
    story.known[ALICE][addr(2)] = 0.0
    assert story.wakeup(0.1) == pytest.approx(1.1)
    assert story.dial(1.1) == [Dial(ALICE, (addr(2),))]
    story.fail(ALICE, 1.2)
    assert story.dial(30.0) == [Dial(ALICE, (addr(1),))]


def test_an_address_of_two_peers_is_dialed_for_one_at_a_time_and_then_the_other() -> None:
    story = Story()
    story.keep(ALICE, 1)
    story.keep(BOB, 1)
    assert story.dialed(0.0) == [ALICE]
    story.fail(ALICE, 0.1)
    assert story.wakeup(0.1) == 30.0
    assert story.dialed(30.0) == [BOB]
    story.fail(BOB, 30.1)
    assert story.dialed(60.0) == [ALICE]


@pytest.mark.parametrize("priority", [BOOTSTRAP, LISTED])
def test_static_peers_go_first_and_bootstrap_peers_not_never(priority: Priority) -> None:
    story = Story(DialLimits(max_in_flight=1, redial_s=0.0))
    story.keep(BOB, 2, priority=priority)
    story.keep(ALICE, 1)
    story.keep(CAROL, 3)
    order = []
    now = 0.0
    while now < 2 * PATIENCE_S:
        (dial,) = story.dial(now)
        order.append(dial.peer_id)
        now += 10.0  # each dial takes its time, and the slot
        story.fail(dial.peer_id, now)
        now += 64.0 if order[-3:] == [BOB, ALICE, CAROL] else 0.0
    assert order[:2] == [ALICE, CAROL] and BOB in order


def test_never_more_than_the_limit_in_flight() -> None:
    story = Story()
    for number in range(40):
        story.keep(peer(number), number + 1)
    assert story.dialed(0.0) == [peer(number) for number in range(16)]
    assert story.wakeup(0.0) is None
    story.fail(peer(3), 0.5)
    assert story.wakeup(0.5) == 0.5
    assert story.dialed(0.5) == [peer(16)]


def test_an_address_that_two_peers_have_is_dialed_for_one_of_them_at_a_time() -> None:
    story = Story()
    story.keep(ALICE, 1)
    story.keep(BOB, 1)
    assert story.dialed(0.0) == [ALICE]
    assert story.dialed(29.0) == [] and story.dialed(30.0) == [BOB]


def test_hearsay_about_one_peer_does_not_hold_up_another_at_its_own_address() -> None:
    """Or whoever is kept beside it, or speaks of one who is, could keep a peer from being dialed."""
    story = Story()
    story.keep(ALICE, 1)
    assert story.dialed(0.0) == [ALICE]
    story.keep(BOB, 1)
    story.founded.add((BOB, addr(1)))
    assert story.dialed(1.0) == [BOB]
    story.fail(BOB, 2.0)
    assert story.dialed(30.0) == [], "its own dial does"
    assert story.dialed(31.0) == [BOB]
    story.keep(CAROL, 2)
    story.keep(peer(4), 2)
    story.founded.add((peer(4), addr(2)))
    assert story.dialed(40.0) == [CAROL, peer(4)]


def test_connected_peers_are_left_alone_until_they_are_lost() -> None:
    story = Story()
    story.keep(ALICE, 1)
    story.dial(0.0)
    story.up(ALICE, 0.2)
    assert story.wakeup(0.2) is None
    story.schedule.disconnected(ALICE, 100.0, "the peer closed")
    assert story.wakeup(100.0) == 101.0
    assert story.dial(101.0) == [Dial(ALICE, (addr(1),))]


def test_one_that_comes_by_itself_is_not_dialed_and_its_failed_dial_forgotten() -> None:
    story = Story()
    story.keep(ALICE, 1)
    story.dial(0.0)
    story.schedule.connected(ALICE, 0.2)
    story.fail(ALICE, 0.3)
    status = story.schedule.status(ALICE, 1.0)
    assert status is not None
    assert (status.state, status.outcome, status.next_try_at) == ("connected", "connected", None)


def test_connections_that_do_not_last_back_off_like_failures() -> None:
    story = Story(DialLimits(redial_s=0.0))
    story.keep(ALICE, 1)
    now, pauses = 0.0, []
    for _ in range(8):
        assert story.dialed(now) == [ALICE]
        story.up(ALICE, now)
        story.schedule.disconnected(ALICE, now, "it hung up")
        wakeup = story.wakeup(now)
        assert wakeup is not None
        pauses.append(wakeup - now)
        now = wakeup
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_dial_that_ends_well_with_nothing_to_show_backs_off() -> None:
    story = Story()
    story.keep(ALICE, 1)
    story.dial(0.0)
    story.schedule.succeeded(ALICE, 0.1)
    assert story.dial(0.2) == []
    status = story.schedule.status(ALICE, 0.2)
    assert status is not None and status.state == "waiting" and status.failures == 1


def test_a_network_change_lets_everything_be_tried_again_at_once() -> None:
    story = Story()
    story.keep(ALICE, 1)
    story.keep(BOB, 2)
    story.keep(CAROL, 3)
    tries_before = story.dialed(0.0)
    story.fail(ALICE, 0.1)
    story.up(BOB, 0.1)
    story.schedule.network_changed(0.5)  # while Carol is being dialed
    assert tries_before == [ALICE, BOB, CAROL]
    assert story.dial(0.5) == [Dial(ALICE, (addr(1),))]
    story.fail(CAROL, 0.6)
    assert story.dialed(0.6) == [CAROL]
    story.fail(CAROL, 0.7)
    assert story.wakeup(0.7) == 30.6
    story.schedule.disconnected(BOB, 0.8, "no sign of life")  # made over the old network
    assert story.wakeup(0.8) == pytest.approx(1.8)


def test_a_new_address_is_tried_without_delay_and_an_old_one_is_not() -> None:
    story = Story()
    story.keep(ALICE, 1)
    for now in (0.0, 30.0, 60.0):
        story.dial(now)
        story.fail(ALICE, now)
    story.schedule.learned(ALICE, 61.0)
    assert story.wakeup(61.0) == 90.0
    story.known[ALICE][addr(2)] = 0.0
    story.schedule.learned(ALICE, 61.0)
    assert story.dial(61.0) == [Dial(ALICE, (addr(2),))]
    story.schedule.learned(BOB, 61.0)


def test_a_released_peer_is_dialed_no_more_and_one_kept_anew_not_beside_its_old_dial() -> None:
    story = Story()
    story.keep(ALICE, 1)
    story.dial(0.0)
    story.schedule.release(ALICE)
    assert story.schedule.kept() == [] and story.schedule.status(ALICE, 0.0) is None
    story.keep(ALICE, 2)
    assert story.dial(0.0) == []
    story.fail(ALICE, 0.1)
    assert story.wakeup(0.1) == pytest.approx(1.1)
    story.schedule.release(ALICE)
    story.schedule.connected(ALICE, 1.0)
    story.schedule.disconnected(ALICE, 1.0, "x")
    assert story.wakeup(2.0) is None


def statuses(story: Story, now: float) -> Sequence[object]:
    it = story.schedule.status(ALICE, now)
    assert it is not None
    return it.state, it.outcome, it.failures, it.tried_at, it.next_try_at


def test_the_status_tells_the_last_outcome_and_the_next_try() -> None:
    story = Story()
    story.keep(ALICE, 1)
    assert statuses(story, 0.0) == ("waiting", None, 0, None, 0.0)
    story.dial(0.0)
    assert statuses(story, 0.1) == ("dialing", None, 0, 0.0, None)
    story.fail(ALICE, 0.1)
    assert statuses(story, 0.2) == ("waiting", REFUSED, 1, 0.0, 30.0)
    story.dial(30.0)
    story.up(ALICE, 30.1)
    assert statuses(story, 31.0) == ("connected", "connected", 1, 30.0, None)
    story.schedule.disconnected(ALICE, 99.0, "connection lost")
    assert statuses(story, 99.5) == ("waiting", "connection lost", 1, 30.0, 100.0)


def test_priorities_can_change() -> None:
    story = Story(DialLimits(max_in_flight=1))
    story.keep(ALICE, 1, priority=BOOTSTRAP)
    story.keep(BOB, 2, priority=BOOTSTRAP)
    story.schedule.keep(BOB, STATIC, 5.0)
    assert story.dialed(5.0) == [BOB]
