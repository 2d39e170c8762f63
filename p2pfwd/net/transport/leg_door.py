"""Legs, at the relay: connections that two ends of a circuit make for it alone (see `net.transport.legs`).

A leg is known by its ticket: it was given to one end of one circuit, over a connection that says who that is.
There are tickets for circuits without limits alone, which are those between the owner's peers; to everybody
else a leg is one more protocol that this node does not speak.

    OFFERED ──one leg comes──▶ ONE WAITS ──the other──▶ JOINED: READY on both, and bytes move
                               ONE WAITS ──`WAIT_S`, or it is lost──▶ over: the circuit stays a stream
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.net.conduit.contract import Conduit
from p2pfwd.net.conduit.pair import Pair
from p2pfwd.net.transport.leg import room_of
from p2pfwd.wire.circuit import READY, TICKET_BYTES, leg_name

log = logging.getLogger("p2pfwd.relay")

WAIT_S: Final = 15.0
"""For the second leg, once one is there: both ends see the circuit get busy at about the same time."""


class Door:
    """Of one relay."""

    def __init__(self, most: int) -> None:
        """`most`: circuits that may have legs, those with one included."""
        self._most = most
        self._offers: dict[str, Offer] = {}
        self._held = 0

    @property
    def is_open(self) -> bool:
        """Whether there is any use in a ticket."""
        return self._most > 0

    def offer(self, on_over: Callable[[], None]) -> Offer:
        """Two tickets for a circuit; `on_over` is told once when legs that were joined have ended."""
        offer = Offer(self, on_over)
        self._offers.update(dict.fromkeys(offer.names, offer))
        return offer

    def knows(self, name: str) -> bool:
        """See `LegDoor`."""
        offer = self._offers.get(name)
        return offer is not None and (offer.is_held or self._held < self._most)

    def arrived(self, name: str, conduit: Conduit) -> None:
        """See `LegDoor`. Its ticket is used up."""
        offer = self._offers.pop(name, None)
        if offer is None:  # two have come with it
            conduit.abort()
        else:
            conduit.squeeze(room_of(conduit))
            offer.arrived(name, conduit)

    def take(self) -> None:
        """From an offer: its first leg is here."""
        self._held += 1

    def forget(self, offer: Offer) -> None:
        """From an offer that is over."""
        self._held -= offer.is_held
        for name in offer.names:
            self._offers.pop(name, None)


class Offer:
    """The two legs of one circuit, from their tickets on."""

    def __init__(self, door: Door, on_over: Callable[[], None]) -> None:
        self.tickets = os.urandom(TICKET_BYTES), os.urandom(TICKET_BYTES)
        """For the end that asked for the circuit, and for the other."""
        self.names = leg_name(self.tickets[0]), leg_name(self.tickets[1])
        self.pair: Pair | None = None
        """Once both have come."""
        self.is_held = False
        """Whether it takes one of the places that there are for legs."""
        self._door = door
        self._on_over = on_over
        self._waiting: tuple[str, Conduit] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def passed(self) -> tuple[int, int]:
        """Bytes from the end that asked for the circuit, and from the other."""
        return (0, 0) if self.pair is None else (self.pair.one.passed, self.pair.other.passed)

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        """Where they come from, once both have come."""
        pair = self.pair
        return () if pair is None else (pair.one.conduit.remote_addr, pair.other.conduit.remote_addr)

    def arrived(self, name: str, conduit: Conduit) -> None:
        """One of them is here."""
        loop = asyncio.get_running_loop()
        if self._waiting is None:
            self.is_held = True
            self._door.take()
            self._waiting = name, conduit
            self._timer = loop.call_later(WAIT_S, self.close)
            conduit.start(_Waiting(self))
            return
        (first, waiting), self._waiting = self._waiting, None
        self._stop_waiting()
        one, other = (waiting, conduit) if first == self.names[0] else (conduit, waiting)
        self.pair = Pair(one, other, loop, self._over)
        log.debug("a circuit has its legs, from %s and %s", one.remote_addr, other.remote_addr)
        self.pair.start(READY)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self) -> None:
        self._door.forget(self)
        self._on_over()

    def close(self) -> None:
        """The circuit is over, or its second leg does not come. Idempotent."""
        self._stop_waiting()
        if self.pair is not None:
            self.pair.abort()
            return
        self._door.forget(self)
        self.is_held = False
        if self._waiting is not None:
            (_, waiting), self._waiting = self._waiting, None
            waiting.abort()


class _Waiting:
    """What receives from the first leg: an end has nothing to say before READY."""

    missing = 0

    def __init__(self, offer: Offer) -> None:
        self._offer = offer

    def data_received(self, view: memoryview) -> int:
        self._offer.close()
        return len(view)

    def eof_received(self) -> None:
        self._offer.close()

    def conduit_lost(self, exc: Exception | None) -> None:
        self._offer.close()

    def drained(self) -> None:
        pass  # nothing was sent
