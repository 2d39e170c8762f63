"""Forwards whose local address cannot be had at the moment: they wait for it, and are bound when it is free.

Rules: one timer for all of them, with a growing delay, and none while nobody waits; a change of network
tries them at once, and finds the addresses that this machine has lost. Nobody tells of a socket file that was
removed, so forwards at Unix sockets are looked at now and then.
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

LOOK_S: Final = 10.0
"""Between two looks at whether the socket files of forwards are there: a system call for each."""


class Rebinding:
    """Of one Forwarding; `close` ends it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, forwards: Callable[[], Iterable[LocalListener]]
    ) -> None:
        self._loop = loop
        self._forwards = forwards
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._delay_s = FIRST_S
        self._closed = False

    def begin(self) -> None:
        """A forward waits from now on."""
        self._delay_s = FIRST_S
        self._set_timer()

    def watch_files(self) -> None:
        """A forward has a socket file from now on."""
        if self._looking is None and not self._closed:
            self._looking = self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._looking = None
        for forward in self._forwards():
            if not forward.has_file:
                continue
            self.watch_files()
            if forward.is_bound:
                forward.let_go_of_lost_address()
                if not forward.is_bound and not try_to_bind(forward):
                    self.begin()

    def network_changed(self) -> None:
        """This machine may have other addresses."""
        for forward in self._forwards():
            forward.let_go_of_lost_address()
        self._delay_s = FIRST_S
        self._try_all()

    def close(self) -> None:
        """Try no more. Idempotent."""
        self._closed = True
        for timer in (self._timer, self._looking):
            if timer is not None:
                timer.cancel()

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
