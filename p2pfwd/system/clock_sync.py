"""Whether something keeps this machine's clock right, by what the kernel knows: adjtimex(2), read only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

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
