"""Bytes a second, as people type them, and are told what they typed: `500k`, `2M`, `1MiB/s`."""

from __future__ import annotations

import re
from typing import Final

from p2pfwd.core.quoting import quoted

_WRITTEN: Final = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))? ?([kKMGT]?)(i?)B?(?:/s)?", re.ASCII)
_UNITS: Final = tuple(
    (base**power, f"{letter}{'i' if base == 1024 else ''}B/s")
    for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "k"))
    for base in (1000, 1024)
)
_POWERS: Final = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}

MAX_RATE: Final = 1 << 40
"""A terabyte a second: beyond every machine."""


def parse_rate(text: str) -> int:
    """Bytes a second; 0 where `text` is 0: no bound. Raises ValueError with a sentence for people.

    k, M, G and T are powers of 1000, Ki, Mi, Gi and Ti of 1024; `B` and `/s` may follow.
    """
    found = _WRITTEN.fullmatch(text.strip())
    if found is None or (found[4] and not found[3]):
        raise ValueError(f"{quoted(text)} is no rate: write bytes a second, as 500k, 2M or 1MiB/s")
    fraction = found[2] or ""
    rate = int(found[1] + fraction) * int((1024 if found[4] else 1000) ** _POWERS[found[3]])
    rate //= int(10 ** len(fraction))
    if rate > MAX_RATE:
        raise ValueError(f"{quoted(text)} is more than a terabyte a second")
    if not rate and int(found[1] + fraction):
        raise ValueError(f"{quoted(text)} is less than a byte a second")
    return rate


def rate_text(rate: int) -> str:
    """A bound in the largest unit that says it exactly, as `parse_rate` reads it: `1MiB/s`, `1.5MB/s`."""
    for size, unit in _UNITS:
        if rate >= size and rate * 1000 % size == 0:
            return f"{rate * 1000 // size / 1000:.15g}{unit}"
    return f"{rate}B/s"
