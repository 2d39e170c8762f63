"""Durations, typed and shown."""

from __future__ import annotations

import tomllib

import pytest

from p2pfwd.core.durations import MAX_TIME, duration_text, parse_duration, time_left_text, utc_text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("1d12h", 129_600),
        ("1w", 604_800),
        ("1h0m5s", 3605),
        (" 5m ", 300),
        ("36500d", 36_500 * 86_400),
    ],
)
def test_is_read_in_units_of_falling_size(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no duration"),
        ("90", "write it as 90s, 30m, 2h or 1d12h"),
        ("h", "is no duration"),
        ("2h2h", "is no duration"),
        ("5m2h", "is no duration"),
        ("-2h", "is no duration"),
        ("1.5h", "is no duration"),
        ("2H", "is no duration"),
        ("2h later", "is no duration"),
        ("\u0662h", "is no duration"),
        ("1e3s", "is no duration"),
        ("9999999999s", "is no duration"),
        ("0s", "is no time at all: write it as 90s"),
        ("0h0m", "is no time at all"),
        ("36501d", "longer than 100 years"),
    ],
)
def test_what_is_no_duration_is_named(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value) or text in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (4320, "1 h 12 min"),
        (3600, "1 h"),
        (3605, "1 h"),
        (86_400 + 300, "1 d"),
        (86_400 * 4 + 3 * 3600 + 59, "4 d 3 h"),
    ],
)
def test_is_shown_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("unix_s", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_796_148_000.0, "2026-12-01T18:00:00Z"),
        (1_796_148_000.25, "2026-12-01T18:00:00.25Z"),
        (MAX_TIME, "9999-12-31T23:59:59Z"),
    ],
)
def test_a_time_as_toml_has_it(unix_s: float, text: str) -> None:
    assert utc_text(unix_s) == text
    assert tomllib.loads(f"at = {text}")["at"].timestamp() == unix_s


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (7199.9, "2 h"),
        (7200, "2 h"),
        (86_399, "1 d"),
        (4330, "1 h 13 min"),
        (61, "2 min"),
        (60, "1 min"),
        (59, "59 s"),
        (5.9, "6 s"),
        (0.1, "1 s"),
        (0, "0 s"),
    ],
)
def test_what_is_left_counts_the_minute_that_has_begun(seconds: float, text: str) -> None:
    assert time_left_text(seconds) == text
