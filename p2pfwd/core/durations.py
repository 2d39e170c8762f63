"""How long, as people type it: `90s`, `10m`, `1h`, `1h30m`, `2d`, `1w`; a bare number is seconds."""

from __future__ import annotations

import re
from typing import Final

from p2pfwd.core.quoting import quoted
from p2pfwd.errors import UsageError

_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_FORM: Final = re.compile(r"(?:[0-9]{1,9}[smhdw])+|[0-9]{1,9}")


def parse_duration(text: str) -> float:
    """Seconds. Raises UsageError."""
    written = text.strip().lower()
    if _FORM.fullmatch(written) is None:
        raise UsageError(f"{quoted(text)} is no duration", hint="write it as 30m, 1h, 1h30m or 2d")
    parts = re.findall(r"(\d+)([smhdw]?)", written)
    return float(sum(int(number) * _UNIT_S[unit or "s"] for number, unit in parts))
