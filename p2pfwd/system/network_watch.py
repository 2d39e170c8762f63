"""Notices that this machine is in another network, was asleep, or was stopped.

Rules: nothing runs while nobody listens. The kernel tells of interfaces (`netlink`); where it does not, they
are listed every `POLL_S`. A look each second at two clocks finds a sleep, during which the boot-time clock
runs and the monotonic one stands still, and a stop, after which the look itself is late. What comes close
together is one change: it is told when the network has been quiet for `QUIET_S`, or after `MOST_QUIET_S`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from p2pfwd.system.interfaces import Interfaces, Listing
from p2pfwd.system.netlink import ADDRESSES, Netlink

log = logging.getLogger("p2pfwd.net")

LOOK_S: Final = 1.0
POLL_S: Final = 2.0
"""Between two listings where nobody tells; 0.3 to 0.9 ms each."""

QUIET_S: Final = 0.1
MOST_QUIET_S: Final = 1.0
LATE_S: Final = 3.0
"""A look later than this: the process was stopped, or the machine had no time for it."""

_BOOTTIME: Final = getattr(time, "CLOCK_BOOTTIME", None)

SLEPT_S: Final = 2.0 if _BOOTTIME is not None else 10.0
"""The two clocks apart by more since the last look: asleep. Without a boot-time clock the wall clock has to
do, which is corrected now and then."""


def slept() -> float:
    """How long this machine has slept in all, seconds, from an unknown beginning."""
    if _BOOTTIME is None:
        return time.time() - time.monotonic()
    return time.clock_gettime(_BOOTTIME) - time.monotonic()


class News(Protocol):
    """An open source of news of the network."""

    def close(self) -> None:
        """End it."""


def reachable_hosts(listing: Listing) -> frozenset[str]:
    """The addresses at which others could reach this machine."""
    hosts = (host for interface in listing for host in interface.hosts)
    return frozenset(host for host in hosts if _is_of_a_network(host))


def _is_of_a_network(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not (address.is_loopback or address.is_link_local)


class NetworkWatch:
    """Calls back on a change; `on_change` begins, `close` ends. Needs a running loop from then on."""

    def __init__(
        self,
        interfaces: Interfaces,
        *,
        open_news: Callable[[Callable[[str], None]], News] = Netlink,
        slept: Callable[[], float] = slept,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interfaces = interfaces
        self._open_news = open_news
        self._slept = slept
        self._monotonic = monotonic
        self._callbacks: list[Callable[[], None]] = []
        self._source: News | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.TimerHandle | None = None
        self._tell_by = 0.0
        self._why: dict[str, None] = {}
        self._hosts: frozenset[str] = frozenset()
        self._slept_s = 0.0
        self._looked_at = 0.0
        self._listed_at = 0.0

    def on_change(self, callback: Callable[[], None]) -> None:
        """Be told of every change from now on."""
        self._callbacks.append(callback)
        if self._timer is not None:
            return
        try:
            self._source = self._open_news(self._noticed)
        except OSError as exc:
            log.info("the system does not tell of network changes (%s): looking every %g s", exc, POLL_S)
        self._hosts = reachable_hosts(self._interfaces.refresh())
        self._slept_s, self._looked_at = self._slept(), self._monotonic()
        self._listed_at = self._looked_at
        self._set_timer()

    def close(self) -> None:
        """Look no more. Idempotent."""
        for timer in (self._timer, self._telling):
            if timer is not None:
                timer.cancel()
        self._timer = self._telling = None
        if self._source is not None:
            self._source.close()
            self._source = None
        self._callbacks.clear()

    def look(self) -> str | None:
        """Whether the machine slept or stood still since the last look, or has other addresses; in words."""
        now, slept_s = self._monotonic(), self._slept()
        late_s, jumped_s = now - self._looked_at - LOOK_S, slept_s - self._slept_s
        self._looked_at, self._slept_s = now, slept_s
        if self._source is None and now - self._listed_at >= POLL_S:
            self._listed_at = now
            if reachable_hosts(self._interfaces.refresh()) != self._hosts:
                return ADDRESSES
        if abs(jumped_s) > SLEPT_S:
            return f"asleep for {jumped_s:.0f} s"
        if late_s > LATE_S:
            return f"stopped for {late_s:.0f} s"
        return None

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._tick)

    def _tick(self) -> None:
        self._set_timer()
        if (change := self.look()) is not None:
            self._noticed(change)

    def _noticed(self, why: str) -> None:
        """Tell of it soon: one change of network is a dozen pieces of news."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._telling is None:
            self._tell_by = now + MOST_QUIET_S
        else:
            self._telling.cancel()
        self._why[why] = None
        self._telling = loop.call_at(min(now + QUIET_S, self._tell_by), self._tell)

    def _tell(self) -> None:
        self._telling = None
        why, self._why = list(self._why), {}
        before, self._hosts = self._hosts, reachable_hosts(self._interfaces.refresh())
        if why == [ADDRESSES] and before == self._hosts:
            return
        log.info("the network has changed (%s)", ", ".join(why))
        for callback in list(self._callbacks):
            callback()
