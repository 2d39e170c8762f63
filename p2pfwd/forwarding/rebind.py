"""Forwards whose local address cannot be had at the moment: they wait for it, and are bound when it is free.

Rules: one timer for all of them, with a growing delay, and none while nobody waits; a change of network
tries them at once, and finds the addresses that this machine has lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from p2pfwd.errors import AddressInUse, BindFailed

if TYPE_CHECKING:
    from p2pfwd.forwarding.forward import LocalListener

FIRST_S: Final = 1.0
MOST_S: Final = 30.0
"""From one try to the next, twice as long each time; a try is a few system calls for each forward."""


class Rebinding:
    """Of one Forwarding; `close` ends it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, forwards: Callable[[], Iterable[LocalListener]]
    ) -> None:
        self._loop = loop
        self._forwards = forwards
        self._timer: asyncio.TimerHandle | None = None
        self._delay_s = FIRST_S
        self._closed = False

    def begin(self) -> None:
        """A forward waits from now on."""
        self._delay_s = FIRST_S
        self._set_timer()

    def network_changed(self) -> None:
        """This machine may have other addresses."""
        for forward in self._forwards():
            forward.let_go_of_lost_address()
        self._delay_s = FIRST_S
        self._try_all()

    def close(self) -> None:
        """Try no more. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if self._closed else self._loop.call_later(self._delay_s, self._try_later)

    def _try_later(self) -> None:
        self._delay_s = min(self._delay_s * 2, MOST_S)
        self._try_all()

    def _try_all(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for forward in self._forwards():
            if not forward.is_bound and not try_to_bind(forward):
                self._set_timer()


def try_to_bind(forward: LocalListener) -> bool:
    """Bind it if it can be; else it says why not."""
    try:
        forward.bind()
    except (AddressInUse, BindFailed) as exc:
        forward.cannot_bind(exc)
        return False
    return True
