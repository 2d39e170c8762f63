"""Proof that a connection's peer lives: round trips by yamux pings, and the verdict that it is dead.

A connection that is silent is pinged; one that stays silent, or takes no byte of what waits, is over.
One ping is out at a time (rust and js are strict about pongs), shared by all who ask meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, TimedOut
from p2pfwd.net.conduit.contract import Conduit
from p2pfwd.wire.yamux.session import Session

KEEPALIVE_IDLE_S: Final = 20.0
"""Silence after which the peer is pinged."""

KEEPALIVE_TIMEOUT_S: Final = 15.0
"""Silence after that ping which means a dead peer: found within 20 + 15 + two ticks of 4 s < 45 s."""

TICK_S: Final = 4.0
WRITE_STALL_S: Final = 30.0
"""A peer that takes no byte for this long while some wait is dead."""

_values = itertools.count(1)


class Liveness:
    """Of one connection. `flush` sends what the session has queued, `dead(why)` ends the connection."""

    def __init__(
        self,
        session: Session,
        conduit: Conduit,
        remote_peer: PeerId,
        loop: asyncio.AbstractEventLoop,
        flush: Callable[[], None],
        dead: Callable[[Exception], None],
    ) -> None:
        self.heard_at = time.monotonic()
        """When the peer last sent anything; set by the connection."""
        self._session = session
        self._conduit = conduit
        self._remote_peer = remote_peer
        self._loop = loop
        self._flush = flush
        self._dead = dead
        self._pinged_at: float | None = None
        self._pong: asyncio.Future[float] | None = None
        self._timer = loop.call_later(TICK_S, self._tick)

    def ping(self) -> None:
        """Queue a ping, where none is out."""
        if self._pinged_at is None:
            self._pinged_at = time.monotonic()
            self._session.ping(next(_values) & 0xFFFF_FFFF)

    def ponged(self) -> None:
        """The answer has come."""
        assert self._pinged_at is not None
        rtt = time.monotonic() - self._pinged_at
        self._pinged_at = None
        old = self._session.rtt_s
        # The first sample includes the handshake's tail, so a better one replaces it at once.
        self._session.rtt_s = rtt if old is None or rtt < old else (3 * old + rtt) / 4
        if self._pong is not None:
            self._pong.set_result(rtt)
            self._pong = None

    async def measure_rtt(self, timeout_s: float) -> float:
        """One ping, shared by those who ask meanwhile; seconds. Raises TimedOut, or what `end` was given."""
        if self._pong is None:
            self._pong = self._loop.create_future()
        self.ping()
        self._flush()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._pong)
        except TimeoutError:
            raise TimedOut(f"{self._remote_peer} did not answer a ping within {timeout_s:g} s") from None

    def _tick(self) -> None:
        now = time.monotonic()
        silent = now - self.heard_at
        if self._pinged_at is not None and min(silent, now - self._pinged_at) > KEEPALIVE_TIMEOUT_S:
            self._dead(TimedOut(f"no sign of life for {silent:.0f} s"))
            return
        if self._conduit.congested and now - self._conduit.progressed_at > WRITE_STALL_S:
            self._dead(TimedOut(f"the peer took no data for {WRITE_STALL_S:g} s"))
            return
        if silent > KEEPALIVE_IDLE_S:
            self.ping()
            self._flush()
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def end(self, error: P2PForwardError) -> None:
        """The connection is over; who waits for a pong is told so."""
        self._timer.cancel()
        if self._pong is not None:
            self._pong.set_exception(error)
            self._pong.exception()  # mark as retrieved: nobody may be waiting any more
