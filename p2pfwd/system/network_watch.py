"""Notices that this machine is in another network, or was asleep.

Rules: nothing runs while nobody listens. Otherwise the interfaces' addresses are read every 15 s (for 0.3 ms)
and compared: a new one is a change, a vanished one alone is not, since there is nothing to do about it. The
wall clock running away from the monotonic one, which stands still in sleep, is one too (a clock that was set
looks the same, and costs a few dials).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger("p2pfwd.net")

INTERVAL_S: Final = 15.0
SLEPT_S: Final = 10.0
"""The two clocks apart by more since the last look: asleep, and every connection doubtful."""

Read = Callable[[], frozenset[str]]


def interface_addresses() -> frozenset[str]:
    """The addresses of this machine that others could reach it at, as text."""
    import ifaddr

    texts = (
        ip.ip if isinstance(ip.ip, str) else ip.ip[0]
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
    )
    return frozenset(text for text in texts if _is_of_a_network(text))


def _is_of_a_network(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not (address.is_loopback or address.is_link_local)


class NetworkWatch:
    """Calls back on a change; `on_change` begins, `close` ends. Needs a running loop from then on."""

    def __init__(
        self,
        interval_s: float = INTERVAL_S,
        read: Read = interface_addresses,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s = interval_s
        self._read = read
        self._wall = wall
        self._monotonic = monotonic
        self._callbacks: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._addresses: frozenset[str] = frozenset()
        self._offset = 0.0

    def on_change(self, callback: Callable[[], None]) -> None:
        """Be told of every change from now on."""
        self._callbacks.append(callback)
        if self._timer is None:
            self.look()
            self._set_timer()

    def close(self) -> None:
        """Look no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._callbacks.clear()

    def look(self) -> str | None:
        """What has changed since the last look, in words; None: nothing."""
        try:
            addresses = self._read()
        except OSError as exc:  # out of descriptors, or of memory: the next look may do
            log.debug("the interfaces cannot be read: %s", exc)
            addresses = self._addresses
        offset = self._wall() - self._monotonic()
        new, slept_s = addresses - self._addresses, offset - self._offset
        self._addresses, self._offset = addresses, offset
        if new:
            return f"new addresses: {', '.join(sorted(new))}"
        if abs(slept_s) > SLEPT_S:
            return f"the clock jumped by {slept_s:+.0f} s: asleep, or set"
        return None

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)

    def _tick(self) -> None:
        self._set_timer()
        if (change := self.look()) is not None:
            log.info("the network has changed (%s)", change)
            for callback in list(self._callbacks):
                callback()
