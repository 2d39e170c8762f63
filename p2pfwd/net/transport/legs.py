"""Legs, at the ends of a circuit: a connection to the relay that carries it, and nothing else.

A circuit begins as a stream of the connection to the relay: each byte is sealed twice, opened and sealed
again by the relay, and counted in three windows. Once a circuit has carried bulk, each end that was given a
ticket dials the relay again and proposes the ticket there; when both have come, the relay moves the bytes
from one socket to the other. `net.transport.circuit` changes over. What goes over a leg is sealed between the
two ends, as all of a circuit is: the relay sees no more than before.

Where a leg does not come up, the circuit stays what it is. Where legs come up and are lost again and again,
no more are asked for at that relay for an hour.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Final

from p2pfwd.core.multiaddrs import tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError
from p2pfwd.net.conduit import tcp
from p2pfwd.net.link.contract import Link
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.transport.circuit import CircuitConduit
from p2pfwd.net.transport.tcp_transport import Spawn
from p2pfwd.net.upgrader import LegDoor, Upgrader, describe
from p2pfwd.system.loop_io import LoopIo
from p2pfwd.wire import circuit as wire

log = logging.getLogger("p2pfwd.net")

STAND_S: Final = 30.0
"""For the other end's leg to come to the relay, once ours is there."""

SHORT_S: Final = 60.0
"""A leg that is lost sooner has lived short."""

SHORT_LIVED: Final = 3
"""So many in a row at one relay: something on the way ends them. Each takes its circuit with it, so there are
none for `REST_S`."""

REST_S: Final = 3600.0

MOST_RELAYS: Final = 64
"""Whose legs are remembered."""


class Legs:
    """Of one swarm: how its circuits get theirs."""

    def __init__(self, upgrader: Upgrader, io: LoopIo, settings: SwarmSettings, spawn: Spawn) -> None:
        self._upgrader = upgrader
        self._io = io
        self._settings = settings
        self._spawn = spawn
        self._short: dict[PeerId, tuple[int, float]] = {}
        """How many short-lived legs there were in a row at a relay, and when the last one ended."""

    def take(self, door: LegDoor) -> None:
        """Have `door` take those that come to a listening socket: this node is a relay."""
        self._upgrader.legs = door

    def can_dial(self, link: Link) -> bool:
        """Whether this node can come to the relay a second time: it knows where, for it has dialed it."""
        count, at = self._short.get(link.remote_peer, (0, 0.0))
        if count >= SHORT_LIVED and time.monotonic() - at < REST_S:
            return False
        return link.direction == "outbound" and tcp_endpoint(link.remote_addr) is not None

    def _ended(self, relay: PeerId, began_at: float) -> None:
        """A leg that was in use is lost."""
        now = time.monotonic()
        count, _ = self._short.pop(relay, (0, 0.0))
        if now - began_at < SHORT_S:
            while len(self._short) >= MOST_RELAYS:
                del self._short[next(iter(self._short))]
            self._short[relay] = count % SHORT_LIVED + 1, now

    def promise(self, conduit: CircuitConduit, link: Link, ticket: bytes | None) -> None:
        """Have the circuit over `link` get a leg when it has carried bulk, if there is a ticket for one."""
        if ticket is not None and self.can_dial(link):
            name = wire.leg_name(ticket)
            conduit.when_busy(lambda: self._spawn(self._dial(conduit, link, name), "a circuit's leg"))

    async def _dial(self, conduit: CircuitConduit, link: Link, name: str) -> None:
        endpoint = tcp_endpoint(link.remote_addr)
        assert endpoint is not None
        try:
            below = await tcp.connect(endpoint, self._io, self._settings.connect_timeout_s)
            async with asyncio.timeout(self._settings.upgrade_timeout_s):
                leg, leftover = await self._upgrader.propose_leg(below, name)
        except (P2PForwardError, TimeoutError, OSError) as exc:
            log.debug("no leg of the circuit over %s: %s", link.remote_peer, describe(exc))
            conduit.leg_failed()
            return
        except BaseException:
            conduit.leg_failed()
            raise
        conduit.take_leg(leg, leftover, partial(self._ended, link.remote_peer, time.monotonic()))
        await asyncio.sleep(STAND_S)
        conduit.stand_or_fall()
