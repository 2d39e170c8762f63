"""Proof that a connection's peer lives: round trips by yamux pings, and how the connection stands.

`policy.doubt` judges; this gathers what it judges by, and asks the peer. One ping is out at a time (rust and
js are strict about pongs), shared by all who ask meanwhile. The data path only notes two times. A look that
comes late means that this process stood still: that time is nobody's silence.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Final, Protocol

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, TimedOut
from p2pfwd.net.conduit.contract import Conduit
from p2pfwd.net.link.contract import Link
from p2pfwd.policy import doubt
from p2pfwd.policy.doubt import Line, Standing
from p2pfwd.wire.yamux.session import Session

LATE_S: Final = 2.0
"""A look later than this was not late for want of processor time alone."""

_values = itertools.count(1)


class Living(Link, Protocol):
    """The connection: what its liveness asks of it."""

    def flush(self) -> None:
        """Send what the session has queued."""

    def rest(self) -> None:
        """No stream is open, and nothing waits: hold little."""


def _doubted(_conn: Link, _doubtful: bool) -> None:
    pass


def _suspected(_conn: Link) -> None:
    pass


def _is_urgent(_peer: PeerId) -> bool:
    return True


class Liveness:
    """Of one connection. Whom it tells are functions that all connections share."""

    __slots__ = (
        "_challenged",
        "_conduit",
        "_conn",
        "_ended",
        "_is_hurried",
        "_is_suspect",
        "_look_at",
        "_loop",
        "_monotonic",
        "_pinged_at",
        "_pong",
        "_replaced_at",
        "_session",
        "_settled_at",
        "_timer",
        "_waited_s",
        "_waited_until",
        "_waiting_since",
        "address_gone",
        "doubtful",
        "heard_at",
        "is_urgent",
        "on_doubt",
        "on_suspicion",
        "spoke_at",
    )

    def __init__(
        self,
        session: Session,
        conduit: Conduit,
        conn: Living,
        loop: asyncio.AbstractEventLoop,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        now = monotonic()
        self.heard_at = now
        """When the peer last sent anything; set by the connection."""
        self.spoke_at = now
        """When something of a stream was last sent; set by the connection."""
        self.doubtful = False
        """Whether streams are better opened elsewhere."""
        self.on_doubt: Callable[[Link, bool], None] = _doubted
        """Told when `doubtful` changes."""
        self.on_suspicion: Callable[[Link], None] = _suspected
        """Told, some time before a doubt, when something waits for longer than it should."""
        self.is_urgent: Callable[[PeerId], bool] = _is_urgent
        """Whether the loss of the peer must be noticed soon; set by the table of connections."""
        self.address_gone = False
        """This machine has the local address of the connection no more; set by the swarm."""
        self._monotonic = monotonic
        self._session = session
        self._conduit = conduit
        self._conn = conn
        self._loop = loop
        self._waiting_since: float | None = None
        self._challenged = False
        self._replaced_at: float | None = None
        self._waited_s, self._waited_until = 0.0, 0.0
        self._settled_at = now  # the peer had acknowledged all; what is stuck in TCP is no older
        self._is_hurried = False
        self._is_suspect = False
        self._pinged_at: float | None = None
        self._pong: asyncio.Future[float] | None = None
        self._ended = False
        self._look_at = now + doubt.LOOK_IDLE_S
        self._timer = loop.call_later(doubt.LOOK_IDLE_S, self._tick)

    # --- asking the peer --------------------------------------------------------------------------

    def ping(self) -> None:
        """Queue a ping, where none is out."""
        if self._pinged_at is None:
            self._pinged_at = self._monotonic()
            self._session.ping(next(_values) & 0xFFFF_FFFF)

    def ponged(self) -> None:
        """The answer has come."""
        assert self._pinged_at is not None
        rtt = self._monotonic() - self._pinged_at
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
        self._conn.flush()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._pong)
        except TimeoutError:
            raise TimedOut(f"{self._conn.remote_peer} did not answer a ping within {timeout_s:g} s") from None

    def challenge(self) -> None:
        """The network has changed: the peer is asked at once, and has little time to answer."""
        if self._ended:
            return
        self._challenged = True
        self._waiting_since = self._monotonic()
        self.ping()
        self._conn.flush()
        self._look_soon(0.0 if self.address_gone else doubt.LOOK_WAITING_S)

    @property
    def is_challenged(self) -> bool:
        """Whether it was, and has not answered yet: again would only give it more time."""
        return self._challenged

    async def prove(self, within_s: float | None = None) -> bool:
        """Whether the peer answers a ping in little time; None: as long as that is.

        Raises TimedOut where `within_s` was too short to tell.
        """
        if self._waiting_since is None:
            self._waiting_since = self._monotonic()
        limit_s = max(doubt.CHALLENGED_S, 3 * (self._session.rtt_s or 0.0))
        wait_s = limit_s if within_s is None else min(limit_s, within_s)
        try:
            await self.measure_rtt(wait_s)
        except P2PForwardError:
            if self._ended:
                return False
            if wait_s < limit_s:
                raise
            self._stand(Standing.DOUBTFUL)
            return False
        return True

    # --- judging ----------------------------------------------------------------------------------

    @property
    def is_stale(self) -> bool:
        """Whether the peer was silent for so long that nothing is known of the line."""
        return self._monotonic() - self.heard_at > doubt.STALE_S

    @property
    def silent_s(self) -> float:
        """Since the peer last sent anything."""
        return self._monotonic() - self.heard_at

    def opening(self) -> None:
        """A stream is opened: its peer has to answer."""
        self.spoke_at = self._monotonic()
        self._look_soon(doubt.LOOK_WAITING_S)

    def opened(self) -> None:
        """The peer has opened a stream."""
        self._look_soon(doubt.LOOK_BUSY_S)

    def replaced(self) -> None:
        """Another connection to the peer answers; what is doubtful has less time from now on."""
        if self._replaced_at is None:
            self._replaced_at = self._monotonic()
            self._look_soon(doubt.LOOK_WAITING_S)

    def _look_soon(self, delay_s: float) -> None:
        now = self._monotonic()
        if self._ended or self._look_at <= now + delay_s:
            return
        self._timer.cancel()
        self._look_at = now + delay_s
        self._timer = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        now = self._monotonic()
        if now - self._look_at > LATE_S:
            self._stood_still(now - self._look_at)
        line = self._line(now)
        standing = doubt.judge(line)
        if standing is Standing.DEAD:
            self._conn.abort(TimedOut(self._epitaph(line)))
            return
        self._hurry(line)
        was_suspect, self._is_suspect = self._is_suspect, doubt.is_suspect(line)
        if self._is_suspect and not was_suspect:
            self.on_suspicion(self._conn)
        if doubt.wants_ping(line):
            self.ping()
            self._conn.flush()
            line = self._line(now)
        delay_s = doubt.next_look_s(line)
        if delay_s == doubt.LOOK_IDLE_S:
            self._conn.rest()
        self._look_at = now + delay_s
        self._timer = self._loop.call_later(delay_s, self._tick)
        self._stand(standing)

    def _hurry(self, line: Line) -> None:
        """Keep TCP from pausing for as long as the silence has lasted."""
        retry_s = doubt.retry_s(line)
        if retry_s is not None:
            self._is_hurried = True
            self._conduit.retry_within(self._monotonic() - self._settled_at + retry_s)
        elif self._is_hurried:
            self._is_hurried = False
            self._conduit.retry_within(None)

    def _stand(self, standing: Standing) -> None:
        doubtful = standing is Standing.DOUBTFUL
        if doubtful != self.doubtful:
            self.doubtful = doubtful
            self.on_doubt(self._conn, doubtful)

    def _stood_still(self, seconds: float) -> None:
        """Time in which this process did not run is taken out of every account."""
        self.heard_at += seconds
        self.spoke_at += seconds
        if self._waiting_since is not None:
            self._waiting_since += seconds
        if self._pinged_at is not None:
            self._pinged_at += seconds

    def _line(self, now: float) -> Line:
        kernel_at = self._update_waiting(now)
        stalled = self._conduit.congested
        return Line(
            silent_s=now - self.heard_at,
            waiting_s=None if self._waiting_since is None else now - self._waiting_since,
            spoke_s=now - self.spoke_at,
            pinged_s=None if self._pinged_at is None else now - self._pinged_at,
            stalled_s=now - self._conduit.progressed_at if stalled else None,
            replaced_s=None if self._replaced_at is None else now - self._replaced_at,
            stuck_s=0.0 if kernel_at is None else now - max(kernel_at, self._settled_at),
            waited_s=self._waited_s if now < self._waited_until else 0.0,
            rtt_s=self._session.rtt_s,
            kernel_tells=kernel_at is not None,
            challenged=self._challenged,
            address_gone=self.address_gone,
            streams=bool(self._session.streams),
            urgent=self.is_urgent(self._conn.remote_peer),
        )

    def _update_waiting(self, now: float) -> float | None:
        """Since when something waits; when the peer's kernel was last heard, if the system tells."""
        spoke_at = self.spoke_at if self._pinged_at is None else max(self.spoke_at, self._pinged_at)
        heard_s = self._conduit.acknowledged_s()
        if heard_s == 0.0:
            self._settled_at = now
        kernel_at = None if heard_s is None else now - heard_s
        proved_at = self.heard_at if kernel_at is None else max(self.heard_at, kernel_at)
        if self._waiting_since is not None and proved_at >= self._waiting_since:
            waited_s = now - self._waiting_since
            if waited_s >= doubt.DOUBT_S and (waited_s >= self._waited_s or now > self._waited_until):
                self._waited_s, self._waited_until = waited_s, now + 2 * waited_s
            self._waiting_since = self._replaced_at = None
            self._challenged = False
        if self._waiting_since is None and spoke_at > proved_at:
            self._waiting_since = spoke_at
        return kernel_at

    def _epitaph(self, line: Line) -> str:
        if line.stalled_s is not None and line.stalled_s > doubt.STALL_S:
            return f"the peer took no data for {doubt.STALL_S:g} s"
        if line.replaced_s is not None:
            return f"no sign of life for {line.silent_s:.0f} s, and another connection answers"
        if line.address_gone:
            return "the network has changed: this machine has that address no more"
        return f"no sign of life for {line.silent_s:.0f} s"

    def end(self, error: P2PForwardError) -> None:
        """The connection is over; who waits for a pong is told so."""
        self._ended = True
        self._timer.cancel()
        if self._pong is not None:
            self._pong.set_exception(error)
            self._pong.exception()  # mark as retrieved: nobody may be waiting any more
