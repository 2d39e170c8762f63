"""Whether this machine's clock can be right, and whether something keeps it so, by what the kernel knows.

That is asked of adjtimex(2), read only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

EARLIEST: Final = 1_767_225_600
"""2026-01-01 in Unix time: this program is younger, so no clock that is earlier can be right."""

LATE: Final = 2_082_758_400
"""2036-01-01: a clock that is later may be right, in ten years; a wrong one is likelier till then."""

UNSYNCHRONISED: Final = 5
"""TIME_ERROR: nobody has told the kernel the time, or not for hours."""

ROOM_BYTES: Final = 512
"""More than a struct timex takes on any machine; all zero it asks, and changes nothing."""


def is_kept(ask: Callable[[Any], int] | None = None) -> bool | None:
    """None where the system does not tell; `ask`: in the place of the C library's adjtimex."""
    import ctypes  # here: an idle daemon does without it

    if ask is None:
        ask = getattr(ctypes.CDLL(None), "adjtimex", None)
    state = -1 if ask is None else ask(ctypes.create_string_buffer(ROOM_BYTES))
    return None if state < 0 else state != UNSYNCHRONISED
