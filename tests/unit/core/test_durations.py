"""Durations as people type them."""

from __future__ import annotations

import pytest

from p2pfwd.core.durations import parse_duration
from p2pfwd.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("10m", 600),
        ("1h", 3600),
        (" 1H30m ", 5400),
        ("2d", 172_800),
        ("1w", 604_800),
        ("0s", 0),
    ],
)
def test_what_is_understood(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1 h", "-1h", "1.5h", "1y", "1h30", "tomorrow", "9" * 10, "٣h"])
def test_what_is_not_is_told_with_the_form(text: str) -> None:
    with pytest.raises(UsageError, match="no duration") as caught:
        parse_duration(text)
    assert "1h30m" in (caught.value.hint or "")
