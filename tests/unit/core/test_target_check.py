"""core.target_check: what people write for a check, and what they should."""

from __future__ import annotations

import math

import pytest

from p2pfwd.core.target_check import MAX_PATH, check_wait, read_check
from p2pfwd.errors import UsageError


@pytest.mark.parametrize(
    ("text", "path"),
    [("tcp", None), ("http:/", "/"), ("http:/health?full=1&x=%20", "/health?full=1&x=%20")],
)
def test_a_check(text: str, path: str | None) -> None:
    assert read_check(text).path == path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no check"),
        ("TCP", "is no check"),
        ("http", "is no check"),
        ("http:", "is no check"),
        ("http:health", "is no check"),
        ("https:/health", "is no check"),
        ("http://127.0.0.1/health", "is no check"),
        ("http:/a b", "cannot be asked for"),
        ("http:/a\r\nX: y", "cannot be asked for"),
        ("http:/ä", "cannot be asked for"),
        ("http:/" + "a" * MAX_PATH, "cannot be asked for"),
    ],
)
def test_what_is_none_is_told_with_what_to_write(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        read_check(text)
    assert caught.value.hint and caught.value.message.isprintable()


@pytest.mark.parametrize("wait_s", [-1.0, 601.0, math.inf, math.nan])
def test_no_time_to_wait(wait_s: float) -> None:
    with pytest.raises(UsageError, match="no time to wait") as caught:
        check_wait(wait_s)
    assert caught.value.hint == "give 0 to 600 seconds"
    check_wait(0.0)
    check_wait(600.0)
