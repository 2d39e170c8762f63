"""mDNS's policy on a clock of the test's own: back-off, one answer a second, budgets."""

from __future__ import annotations

import pytest

from p2pfwd.wire import mdns_pace
from p2pfwd.wire.mdns import TTL_S
from p2pfwd.wire.mdns_pace import MAX_ASKERS, AskPace, LinkPace

NO_SPREAD = 0.5


# --- asking


def asked_at(pace: AskPace, count: int, peers: int = 0) -> list[float]:
    """When a node asks, the first `count` times."""
    times = []
    for _ in range(count):
        times.append(pace.next_at)
        pace.asked(pace.next_at, peers, NO_SPREAD)
    return times


def test_questions_back_off_to_one_a_minute() -> None:
    """At once, then after 1, 3, 10, 30 and 60 s, and every minute from there."""
    assert asked_at(AskPace(100.0), 8) == [100, 101, 104, 114, 144, 204, 264, 324]


def test_many_peers_make_questions_rarer_but_never_too_rare() -> None:
    """Where each question brings many answers; still asked well before what is known expires."""
    few, some, many = (asked_at(AskPace(0.0), 7, peers) for peers in (12, 24, 5000))
    assert few[6] - few[5] == 60
    assert some[6] - some[5] == 120
    assert many[6] - many[5] == TTL_S / 2


def test_questions_are_spread() -> None:
    for spread, wait_s in ((0.0, 0.75), (1.0, 1.25)):
        pace = AskPace(0.0)
        pace.asked(0.0, 0, spread)
        assert pace.next_at == wait_s


def test_on_request_at_once_and_all_over_again_but_not_twice_a_second() -> None:
    pace = AskPace(0.0)
    asked_at(pace, 6)
    pace.restart(150.0)
    assert asked_at(pace, 3) == [150, 151, 154]
    pace.restart(154.1)
    assert pace.next_at == 155.0
    pace.restart(154.2)
    assert pace.next_at == 155.0


def test_a_neighbours_question_spares_ours() -> None:
    """Heard within the last half interval, it counts for all."""
    link = LinkPace()
    link.heard_question(40.0, "a", NO_SPREAD)
    assert not link.need_ask(60.0, 60.0, 5, NO_SPREAD)
    assert link.need_ask(71.0, 60.0, 5, NO_SPREAD)


@pytest.mark.parametrize(("peers", "share"), [(0, 1.0), (1, 0.5), (9, 0.1)])
def test_somebody_asks_whatever_is_heard(peers: int, share: float) -> None:
    """One in as many turns as there are nodes: nobody can silence them all, and least of all a lonely one."""
    used = 0
    for step in range(1000):
        link = LinkPace()
        link.heard_question(10.0, "a", NO_SPREAD)
        used += link.need_ask(11.0, 60.0, peers, step / 1000)
    assert used == 1000 * share


@pytest.mark.parametrize(("peers", "skipped"), [(1, 3), (3, 3), (9, 9)])
def test_turns_are_not_left_out_for_ever(peers: int, skipped: int) -> None:
    """Nobody answers his own question: with two nodes, the one who never asks would forget the other."""
    link = LinkPace()
    link.heard_question(10.0, "a", NO_SPREAD)
    turns = [link.need_ask(11.0, 60.0, peers, 0.999) for _ in range(2 * (skipped + 1))]
    assert turns == 2 * [*[False] * skipped, True]


def test_on_request_we_ask_whoever_else_did() -> None:
    link, pace = LinkPace(), AskPace(0.0)
    asked_at(pace, 6)
    link.heard_question(150.0, "a", NO_SPREAD)
    pace.restart(150.0)
    assert link.need_ask(150.0, pace.interval_s, 5, NO_SPREAD)


# --- answering


def test_an_answer_waits_a_little_and_serves_everybody() -> None:
    link = LinkPace()
    at = link.heard_question(10.0, "a", 0.0)
    assert at == 10.02
    assert link.heard_question(10.01, "b", 1.0) is None
    link.answered(at)
    later = link.heard_question(20.0, "b", 1.0)
    assert later == 20.12


def test_never_two_answers_within_a_second() -> None:
    """A thousand askers in one second get one answer, and those of the next second one more."""
    link, answers, at = LinkPace(), 0, None
    for step in range(2000):
        now = 10.0 + step / 1000
        at = link.heard_question(now, f"asker {step}", NO_SPREAD) or at
        if at is not None and now >= at:
            link.answered(now)
            answers, at = answers + 1, None
    assert answers == 2


def test_an_asker_has_a_budget() -> None:
    """One who asks without end is answered ten times, then once in five seconds; others as ever."""
    link, answers = LinkPace(), []
    for second in range(2, 120, 2):
        if (at := link.heard_question(float(second), "a", 0.0)) is not None:
            link.answered(at)
            answers.append(second)
    assert answers[:10] == list(range(2, 22, 2))
    late = [second for second in answers if second > 60]
    assert 10 <= len(late) <= 13
    assert link.heard_question(119.5, "b", 0.0) is not None


def test_questions_beyond_the_budget_do_not_silence_us() -> None:
    """Or one who floods the network with questions that nobody answers would keep us from asking."""
    link = LinkPace()
    for step in range(600):
        link.heard_question(50.0 + step / 100, "a", 0.0)
    assert link.need_ask(90.0, 60.0, 5, NO_SPREAD)


def test_the_budgets_are_bounded() -> None:
    link = LinkPace()
    for number in range(MAX_ASKERS * 4):
        link.heard_question(1.0, f"asker {number}", 0.0)
    assert len(link._budgets) == MAX_ASKERS


def test_the_figures_fit_each_other() -> None:
    """Between two hearings of a living peer lies less than its time, also where others ask for us."""
    longest_s = mdns_pace.MAX_INTERVAL_S * (1 + mdns_pace.SPREAD) + mdns_pace.MAX_INTERVAL_S / 2
    assert longest_s < TTL_S
