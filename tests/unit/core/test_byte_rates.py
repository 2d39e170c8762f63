"""Rates, as they are typed."""

from __future__ import annotations

import pytest

from p2pfwd.core.byte_rates import parse_rate


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
