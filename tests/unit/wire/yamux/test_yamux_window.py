"""Pins flow control on the receiving side: when credit is granted, how windows grow, what bounds them."""

from __future__ import annotations

import pytest

from p2pfwd.wire.yamux.frame import INITIAL_WINDOW_BYTES
from p2pfwd.wire.yamux.window import (
    BUSY_S,
    CIRCUIT_RTT_S,
    CIRCUITS_BYTES,
    COMMON_WINDOW_BYTES,
    CREDIT_BYTES,
    GROWTH_ROUND_TRIPS,
    MAX_WINDOW_BYTES,
    NODE_GROWTH_BYTES,
    ONE_CIRCUIT_BYTES,
    OVER_CIRCUIT,
    SESSION_BUDGET_BYTES,
    SHRINK_ROUND_TRIPS,
    BusyCircuits,
    Kind,
    Ledger,
    ReceiveWindow,
    WindowBudget,
    credit_step,
)

RTT_S = 0.05
SLOW_S = GROWTH_ROUND_TRIPS * RTT_S
FAST_S = SLOW_S - 0.001


def consume(window: ReceiveWindow, nbytes: int, now: float, budget: WindowBudget) -> int:
    """The peer sends `nbytes`, the application takes them: the credit granted for it."""
    window.credit -= nbytes
    return window.top_up(now, RTT_S, budget) if window.due(nbytes) else 0


def test_credit_is_granted_at_half_the_window_and_not_before() -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    half = INITIAL_WINDOW_BYTES // 2
    assert consume(window, half - 1, 0.0, budget) == 0
    assert consume(window, 1, 0.0, budget) == half
    assert window.credit == window.size == INITIAL_WINDOW_BYTES


@pytest.mark.parametrize(
    ("window_kib", "step_kib"),
    [(256, 128), (512, 256), (1024, 512), (2048, 512), (4096, 512), (8192, 1024), (32768, 4096)],
)
def test_a_large_windows_credit_comes_in_eighths_but_never_in_crumbs(window_kib: int, step_kib: int) -> None:
    assert credit_step(window_kib << 10) == step_kib << 10
    assert CREDIT_BYTES == 512 << 10


def test_a_window_that_has_grown_is_topped_up_each_eighth_and_grows_by_halves() -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    now = grow_to(8 << 20, window, budget) + FAST_S
    eighth = 1 << 20
    for turn in range(3):
        assert consume(window, eighth - 1, now, budget) == 0
        assert consume(window, 1, now, budget) == eighth, f"credit for eighth {turn}, and no growth"
        assert window.size == window.credit == 8 << 20
    assert consume(window, eighth, now, budget) == eighth + (8 << 20)
    assert window.size == window.credit == 16 << 20


def test_a_circuits_credit_comes_in_halves_however_large_its_window() -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    window.kind = Kind.CIRCUIT
    now = grow_to(8 << 20, window, budget)
    for _ in range(2):
        now += 1.1 * SLOW_S
        assert consume(window, (4 << 20) - 1, now, budget) == 0
        assert consume(window, 1, now, budget) == 4 << 20
    assert window.size == 8 << 20


def test_eighths_that_come_fast_are_no_reason_to_grow_when_half_the_window_takes_long() -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    now = grow_to(8 << 20, window, budget)
    for _ in range(16):
        now += 0.3 * SLOW_S
        assert consume(window, 1 << 20, now, budget) == 1 << 20
    assert window.size == 8 << 20


@pytest.mark.parametrize(
    ("between_s", "rtt_s", "grows"),
    [(FAST_S, RTT_S, True), (SLOW_S, RTT_S, False), (10.0, RTT_S, False), (0.0, None, False)],
)
def test_the_window_doubles_when_two_top_ups_fall_within_four_round_trips(
    between_s: float, rtt_s: float | None, grows: bool
) -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    half = INITIAL_WINDOW_BYTES // 2
    deltas: list[int] = []
    for now in (100.0, 100.0 + between_s):
        window.credit -= half
        assert window.due(half)
        deltas.append(window.top_up(now, rtt_s, budget))
    assert deltas[0] == half, "nothing is known before the second"
    assert deltas[1] == half + (INITIAL_WINDOW_BYTES if grows else 0)
    assert window.size == INITIAL_WINDOW_BYTES * (2 if grows else 1) == window.credit


@pytest.mark.parametrize(
    ("round_trips", "is_circuit", "times"),
    [(1.99, False, 4), (0.0, False, 4), (2.01, False, 2), (0.0, True, 2)],
)
def test_a_window_doubles_twice_where_two_round_trips_used_half_of_it_but_a_circuits_does_not(
    round_trips: float, is_circuit: bool, times: int
) -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    window.kind = Kind.CIRCUIT if is_circuit else Kind.PLAIN
    half = INITIAL_WINDOW_BYTES // 2
    consume(window, half, 100.0, budget)
    granted = consume(window, half, 100.0 + round_trips * RTT_S, budget)
    assert window.size == window.credit == times * INITIAL_WINDOW_BYTES
    assert granted == half + (times - 1) * INITIAL_WINDOW_BYTES
    assert (budget.left, budget.growers) == (SESSION_BUDGET_BYTES - window.size + INITIAL_WINDOW_BYTES, 1)


@pytest.mark.parametrize("is_circuit", [False, True])
def test_a_circuits_window_counts_with_a_round_trip_that_programs_make(is_circuit: bool) -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    window.kind = Kind.CIRCUIT if is_circuit else Kind.PLAIN
    half = INITIAL_WINDOW_BYTES // 2
    for now in (100.0, 100.0 + 0.9 * GROWTH_ROUND_TRIPS * CIRCUIT_RTT_S):
        window.credit -= half
        assert window.due(half)
        window.top_up(now, 0.0002, budget)
    assert (window.size > INITIAL_WINDOW_BYTES) == is_circuit


def test_a_circuits_window_that_takes_long_to_use_is_halved_and_gives_its_growth_back() -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    window.kind = Kind.CIRCUIT  # one doubling a mark, however soon it comes
    now, long_s = 100.0, 1.001 * SHRINK_ROUND_TRIPS * RTT_S
    for _ in range(4):
        consume(window, window.size // 2, now, budget)
    assert window.size == 8 * INITIAL_WINDOW_BYTES
    for size in (4, 2, 1, 1):
        now += long_s
        half = window.size // 2
        granted = consume(window, half, now, budget)
        assert window.size == size * INITIAL_WINDOW_BYTES == window.credit
        assert granted == (0 if half >= INITIAL_WINDOW_BYTES else half)
    assert (budget.left, budget.growers) == (SESSION_BUDGET_BYTES, 0)
    assert budget.ledger.growth_left == NODE_GROWTH_BYTES


def test_what_waits_to_be_consumed_is_within_a_window_that_has_shrunk() -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    window.kind = Kind.CIRCUIT
    for _ in range(3):
        consume(window, window.size // 2, 100.0, budget)
    size = window.size
    window.credit -= size  # all of it comes, half is taken late
    assert window.due(size // 2)
    assert window.top_up(200.0, RTT_S, budget) == 0
    assert (window.size, window.credit, window.unconsumed) == (size // 2, 0, size // 2)


QUEUE_BYTES_PER_S = 200_000_000


class Queue:
    """Circuits whose windows wait in one queue, served at one rate: all of them wait equally long."""

    def __init__(self, *, sessions: bool) -> None:
        self.ledger = Ledger()
        self.windows: list[tuple[ReceiveWindow, WindowBudget]] = []
        self.now = 100.0
        self._shared = None if sessions else WindowBudget(ledger=self.ledger)

    def join(self, count: int) -> None:
        for _ in range(count):
            window = ReceiveWindow()
            window.kind = Kind.CIRCUIT
            self.windows.append((window, self._shared or WindowBudget(ledger=self.ledger)))

    def pass_on(self, seconds: float, rtt_s: float = 0.0004) -> list[int]:
        """What waits is passed on, and more comes, for so long; the windows' sizes in KiB."""
        end = self.now + seconds
        while self.now < end:
            self.now += sum(window.size // 2 for window, _ in self.windows) / QUEUE_BYTES_PER_S
            for window, budget in self.windows:
                window.credit -= window.size // 2
                if window.due(window.size // 2):
                    window.top_up(self.now, rtt_s, budget)
        return [window.size >> 10 for window, _ in self.windows]


@pytest.mark.parametrize("sessions", [False, True], ids=["one session", "a session each"])
def test_circuits_that_come_later_have_as_large_a_window_as_the_one_that_grew_alone(sessions: bool) -> None:
    queue = Queue(sessions=sessions)
    queue.join(1)
    (alone,) = queue.pass_on(1.0)
    assert alone >= 1024
    queue.join(7)
    assert queue.pass_on(1.0) == [256] * 8


def test_a_circuit_has_its_window_back_once_the_others_are_idle() -> None:
    queue = Queue(sessions=True)
    queue.join(1)
    alone = queue.pass_on(1.0)
    queue.join(7)
    queue.pass_on(1.0)
    del queue.windows[1:]
    assert queue.pass_on(1.0) == alone


def test_circuits_over_a_long_way_share_what_passes_in_a_round_trip() -> None:
    queue = Queue(sessions=True)
    queue.join(4)
    (size,) = set(queue.pass_on(10.0, rtt_s=0.2))
    assert 4 * size << 10 > CIRCUITS_BYTES


def test_a_stream_over_a_circuit_grows_until_its_window_covers_both_of_the_circuits() -> None:
    queue = Queue(sessions=True)
    queue.join(8)
    queue.pass_on(1.0)
    window, budget = ReceiveWindow(), WindowBudget(ledger=queue.ledger)
    window.kind = Kind.OVER_CIRCUIT
    for turn in range(5):  # half of it each 13 ms, as 20 MB/s use it: many round trips of this short way
        window.credit -= window.size // 2
        assert window.due(window.size // 2)
        window.top_up(queue.now + turn * 0.013, 0.0003, budget)
    assert window.size == OVER_CIRCUIT * INITIAL_WINDOW_BYTES >= 2 * 256 << 10


def test_a_window_over_a_circuit_that_is_large_enough_stays() -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    window.kind = Kind.OVER_CIRCUIT
    for turn in range(20):
        consume(window, window.size // 2, turn * 0.001, budget)
    assert window.size > CIRCUITS_BYTES
    size = window.size
    for turn in range(5):
        consume(window, size // 2, 10.0 + turn, budget)
    assert window.size == size, "it holds no queue: there is no need to shrink"


def test_idle_circuits_take_no_share() -> None:
    circuits = BusyCircuits()
    first = circuits.note(0, 100.0)
    for _ in range(7):
        circuits.note(0, 100.0)
    assert circuits.share(0.0) == CIRCUITS_BYTES // 8
    second = circuits.note(first, 100.0 + BUSY_S)
    assert circuits.share(0.0) == CIRCUITS_BYTES // 8, "they were busy just before"
    circuits.note(second, 100.0 + 2 * BUSY_S)
    assert circuits.share(0.0) == ONE_CIRCUIT_BYTES


def test_another_windows_size_stays() -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    consume(window, window.size // 2, 100.0, budget)
    consume(window, window.size // 2, 100.0, budget)
    size = window.size
    assert consume(window, size // 2, 500.0, budget) == size // 2 and window.size == size


def grow(window: ReceiveWindow, budget: WindowBudget) -> None:
    for turn in range(20):
        consume(window, window.size // 2, turn * 0.001, budget)


def grow_to(size: int, window: ReceiveWindow, budget: WindowBudget) -> float:
    """Doubling by doubling; the time of the last mark."""
    now = 0.0
    while window.size < size:
        now += FAST_S
        consume(window, window.size // 2, now, budget)
    return now


def test_a_window_stops_growing_at_thirty_two_mebibytes() -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    grow(window, budget)
    assert window.size == MAX_WINDOW_BYTES == 32 << 20
    assert budget.left == SESSION_BUDGET_BYTES - MAX_WINDOW_BYTES + INITIAL_WINDOW_BYTES


@pytest.mark.parametrize("count", [1, 2, 20, 300])
def test_windows_that_grow_together_share_the_sessions_budget(count: int) -> None:
    budget = WindowBudget()
    windows = [ReceiveWindow() for _ in range(count)]
    for turn in range(20):
        for window in windows:
            consume(window, window.size // 2, turn * 0.001, budget)
    sizes = [window.size for window in windows]
    assert sum(sizes) - count * INITIAL_WINDOW_BYTES + budget.left == SESSION_BUDGET_BYTES
    assert budget.left >= 0
    assert max(sizes) <= 2 * min(sizes), "none is much faster than another for good"


def test_streams_that_come_when_the_budget_is_taken_keep_the_initial_window() -> None:
    budget = WindowBudget()
    for _ in range(100):
        grow(ReceiveWindow(), budget)
    assert 0 <= budget.left < SESSION_BUDGET_BYTES
    late = ReceiveWindow()
    for turn in range(3):
        assert consume(late, late.size // 2, turn * 0.001, budget) >= INITIAL_WINDOW_BYTES // 2


@pytest.mark.parametrize("late", [1, 3, 15, 40])
def test_streams_that_come_late_get_their_share_of_what_a_large_window_holds(late: int) -> None:
    budget = WindowBudget()
    windows = [ReceiveWindow()]
    grow(windows[0], budget)
    windows += [ReceiveWindow() for _ in range(late)]
    for turn in range(60):
        for window in windows:
            consume(window, window.size // 2, turn * 0.001, budget)
    sizes = [window.size for window in windows]
    assert max(sizes) <= 2 * min(sizes)
    assert sum(sizes) - len(sizes) * INITIAL_WINDOW_BYTES + budget.left == SESSION_BUDGET_BYTES
    assert budget.ledger.growth_left == NODE_GROWTH_BYTES - SESSION_BUDGET_BYTES + budget.left


def test_a_large_window_shrinks_when_the_peer_has_spent_the_credit_that_is_taken_back() -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    grow(window, budget)
    budget.growers += 1  # somebody else came
    eighth, left, seen = window.size // 8, budget.left, []
    for _ in range(9):
        seen.append((consume(window, eighth, 1.0, budget) // eighth, window.size >> 20))
        assert window.unconsumed == 0 and window.credit <= window.size
        assert budget.left - left == (32 << 20) - window.size, "given back when it is free, and not before"
    assert seen == [(1, 32)] * 3 + [(0, 32)] * 3 + [(0, 16)] + [(1, 16)] * 2


def test_a_window_that_need_not_shrink_after_all_gets_what_was_withheld() -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    grow(window, budget)
    budget.growers += 1
    eighth = window.size // 8
    assert [consume(window, eighth, 1.0, budget) // eighth for _ in range(6)] == [1, 1, 1, 0, 0, 0]
    budget.growers -= 1
    assert consume(window, eighth, 9.0, budget) == 4 * eighth
    assert window.size == window.credit == 32 << 20


def test_beyond_sixteen_mebibytes_a_window_is_lent_while_the_node_has_as_much_for_others() -> None:
    ledger = Ledger()
    first, second, third, fourth = ((ReceiveWindow(), WindowBudget(ledger=ledger)) for _ in range(4))
    for window, budget in (first, second):
        grow(window, budget)
    assert [window.size for window, _ in (first, second)] == [MAX_WINDOW_BYTES, COMMON_WINDOW_BYTES]
    for turn in range(40):
        for window, budget in (first, second, third, fourth):
            consume(window, window.size // 2, turn * 0.001, budget)
    assert [w.size for w, _ in (first, second, third, fourth)] == [COMMON_WINDOW_BYTES] * 4
    assert ledger.growth_left == NODE_GROWTH_BYTES - 4 * (COMMON_WINDOW_BYTES - INITIAL_WINDOW_BYTES)


def test_release_gives_the_growth_back_once() -> None:
    window, budget = ReceiveWindow(), WindowBudget()
    grow(window, budget)
    window.release(budget)
    window.release(budget)
    assert budget.left == SESSION_BUDGET_BYTES
