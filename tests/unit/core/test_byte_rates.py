"""Rates, as they are typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfwd.core.byte_rates import MAX_RATE, parse_rate, rate_text


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("0", 0),
        ("1", 1),
        ("500k", 500_000),
        ("500K", 500_000),
        ("500kB/s", 500_000),
        ("2M", 2_000_000),
        ("1MiB/s", 1 << 20),
        ("64Ki", 65_536),
        ("1.5M", 1_500_000),
        ("1 GB/s", 1_000_000_000),
        ("1048576B/s", 1_048_576),
    ],
)
def test_is_read_with_its_unit(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no rate: write bytes a second, as 500k, 2M or 1MiB/s"),
        ("fast", "is no rate"),
        ("-1", "is no rate"),
        ("1m", "is no rate"),
        ("1Mb", "is no rate"),
        ("1i", "is no rate"),
        ("1M/min", "is no rate"),
        ("1e6", "is no rate"),
        ("\u0661M", "is no rate"),
        ("2T", "more than a terabyte a second"),
        ("0.5", "less than a byte a second"),
    ],
)
def test_what_is_no_rate_is_named(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_rate(text)


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (999, "999B/s"),
        (1000, "1kB/s"),
        (1024, "1.024kB/s"),
        (65_536, "65.536kB/s"),
        (500_000, "500kB/s"),
        (1 << 20, "1MiB/s"),
        (3 << 19, "1.5MiB/s"),
        (1_500_000, "1.5MB/s"),
        (1_234_567, "1234.567kB/s"),
        (1 << 40, "1TiB/s"),
    ],
)
def test_is_told_exactly(rate: int, text: str) -> None:
    assert rate_text(rate) == text


@given(st.integers(min_value=1, max_value=MAX_RATE))
def test_what_is_told_is_read_as_the_same(rate: int) -> None:
    assert parse_rate(rate_text(rate)) == rate
