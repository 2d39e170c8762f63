"""Pins when the loop stays awake for the next message: in a lively exchange only, never long in vain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from p2pfwd.system.busy_poll import SMALL_BYTES, STREAK, WINDOW_S, BusyPoll

RUN = 5


class Loop:
    """Turns of an event loop, run by hand; a turn takes `turn_s` of the clock."""

    turn_s = WINDOW_S / 50

    def __init__(self) -> None:
        self.now = 0.0
        self.yields = self.asked = 0
        self._ready: list[Callable[[], None]] = []

    def clock(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._ready.append(callback)

    def turn(self) -> bool:
        """Whether there was anything to call: a loop without would sleep."""
        ready, self._ready = self._ready, []
        for callback in ready:
            callback()
        self.now += self.turn_s
        return bool(ready)

    def turns_awake(self) -> int:
        """Turns until the loop would sleep."""
        count = 0
        while self.turn():
            count += 1
            assert count < 1000
        return count

    def yield_processor(self) -> None:
        self.yields += 1

    def run_ready(self) -> None:
        self.asked += 1


class Judge:
    """Polls through each run as `plan` says, the last word for all that follow; notes what it is told."""

    def __init__(self, *plan: bool) -> None:
        self.plan = list(plan)
        self.asked: list[float] = []
        self.told: list[tuple[float, bool]] = []

    def polls(self, now: float) -> bool:
        self.asked.append(now)
        return self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]

    def ran(self, now: float, took_s: float, *, polled: bool) -> None:
        self.told.append((took_s, polled))


def made(judge: Judge | None = None) -> tuple[Loop, BusyPoll]:
    loop = Loop()
    return loop, BusyPoll(
        cast("Any", loop), judge or Judge(True), RUN, loop.run_ready, loop.clock, loop.yield_processor
    )


GAP_S = WINDOW_S / 5


def messages(loop: Loop, poll: BusyPoll, count: int, gap_s: float = GAP_S, nbytes: int = 40) -> None:
    for _ in range(count):
        loop.now += gap_s
        poll.moved(nbytes)


def test_it_begins_after_a_streak_of_close_messages_and_not_before() -> None:
    loop, poll = made()
    messages(loop, poll, STREAK)
    assert not loop.turn()
    messages(loop, poll, 1)
    assert loop.turn()


def test_it_ends_a_window_after_the_last_message_and_gives_the_processor_away_meanwhile() -> None:
    loop, poll = made()
    messages(loop, poll, STREAK + 1)
    awake = loop.turns_awake()
    assert WINDOW_S / Loop.turn_s - 2 <= awake <= WINDOW_S / Loop.turn_s + 2
    assert loop.yields == loop.asked >= awake - 2
    messages(loop, poll, STREAK)
    assert not loop.turn(), "the streak starts again"
    messages(loop, poll, 1)
    assert loop.turn()


def test_each_message_starts_the_window_anew() -> None:
    loop, poll = made()
    messages(loop, poll, STREAK + 1)
    for _ in range(10):
        loop.now += WINDOW_S * 0.9
        poll.moved(1)
        assert loop.turn()


def test_messages_far_apart_never_begin_it() -> None:
    loop, poll = made()
    messages(loop, poll, 10 * STREAK, gap_s=WINDOW_S * 1.01)
    assert not loop.turn()
    for _ in range(10):  # a far peer: its answers are late, and each is followed at once by the next question
        messages(loop, poll, 1, gap_s=20 * WINDOW_S)
        messages(loop, poll, 1, gap_s=WINDOW_S / 10)
    assert not loop.turn()


def test_bulk_ends_it_and_never_begins_it() -> None:
    loop, poll = made()
    messages(loop, poll, 10 * STREAK, nbytes=SMALL_BYTES)
    assert not loop.turn()
    messages(loop, poll, STREAK + 1, nbytes=SMALL_BYTES - 1)
    poll.moved(SMALL_BYTES)
    loop.turn()
    assert not loop.turn()


def test_without_a_judge_and_once_closed_it_never_polls() -> None:
    loop = Loop()
    poll = BusyPoll(cast("Any", loop), None, RUN, loop.run_ready, loop.clock, loop.yield_processor)
    messages(loop, poll, 10 * STREAK, gap_s=0.0)
    assert not loop.turn()
    judge = Judge(True)
    loop, poll = made(judge)
    poll.close()
    messages(loop, poll, 10 * STREAK, gap_s=0.0)
    assert not loop.turn() and not judge.asked


def test_a_judge_is_asked_before_each_run_and_told_how_long_it_took() -> None:
    judge = Judge(False, True, False)
    loop, poll = made(judge)
    awake = []
    for _ in range(STREAK + 1 + 3 * RUN):
        messages(loop, poll, 1)
        awake.append(loop.turn())
    assert awake == [False] * (STREAK + RUN) + [True] * RUN + [True] + [False] * RUN, "one turn to end it"
    assert len(judge.asked) == 4
    assert [polled for _, polled in judge.told] == [False, True, False]
    assert all(RUN * GAP_S <= took_s < RUN * (GAP_S + 2 * Loop.turn_s) for took_s, _ in judge.told)


def test_a_run_that_a_pause_or_bulk_cuts_short_is_not_told_of() -> None:
    judge = Judge(False)
    loop, poll = made(judge)
    messages(loop, poll, STREAK + RUN)
    messages(loop, poll, 1, gap_s=2 * WINDOW_S)
    messages(loop, poll, STREAK + RUN - 1)
    messages(loop, poll, 1, nbytes=SMALL_BYTES)
    messages(loop, poll, STREAK + RUN - 1)
    assert len(judge.asked) == 3 and not judge.told


def test_who_says_no_is_asked_no_more_than_once_a_run_and_the_loop_sleeps() -> None:
    judge = Judge(False)
    loop, poll = made(judge)
    messages(loop, poll, STREAK + 1 + 100 * RUN)
    assert not loop.turn() and len(judge.asked) == 101


def test_only_one_call_is_in_the_loop_at_a_time() -> None:
    loop, poll = made()
    messages(loop, poll, 10 * STREAK, gap_s=WINDOW_S / 500)
    assert len(loop._ready) == 1
