"""What the kernel says of its clock, and what `doctor` makes of it."""

from __future__ import annotations

import pytest

from p2pfwd.daemon.methods.doctor import clock
from p2pfwd.system.clock_sync import EARLIEST, LATE, is_kept

NOW = 1_800_000_000.0


@pytest.mark.parametrize(("answer", "kept"), [(0, True), (1, True), (5, False), (-1, None)])
def test_what_the_kernel_answers(answer: int, kept: bool | None) -> None:
    assert is_kept(lambda _struct: answer) is kept


def test_this_machine_is_asked_and_nothing_fails() -> None:
    assert is_kept() in (True, False, None)


@pytest.mark.parametrize(
    ("now", "kept", "state", "words"),
    [
        (NOW, True, "good", "kept right by a time service"),
        (NOW, False, "note", "no time service keeps it right"),
        (NOW, None, "good", "checked was only that it is neither before 2026 nor after 2035"),
        (LATE - 1, None, "good", "2035-12-31"),
        (LATE, None, "note", "believes that it is 2036-01-01"),
        (LATE, False, "note", "believes that it is 2036-01-01"),
        (LATE, True, "good", "kept right by a time service"),
        (EARLIEST - 1, None, "bad", "believes that it is 2025-12-31"),
        (0.0, True, "bad", "believes that it is 1970-01-01"),
    ],
)
def test_the_finding(now: float, kept: bool | None, state: str, words: str) -> None:
    found = clock(now, kept)
    assert found[0] == state and words in found[1]
    assert (found[2] is None) is (state == "good")
