"""Keeps connections to chosen peers: static peers, those of saved forwards, and others with less urgency.

The policy is `policy.dial_schedule`; this is the mechanism on the swarm. Rules: one task sleeps until the
schedule has something to do, and each dial is a task of its own, ended with the keeper. A kept peer's
connections are protected from trimming, its given addresses pinned. Whether a peer that seems connected is
there, `net.recovery` finds out. With nobody kept nothing runs.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import DialFailed, P2PForwardError, PeerNotFound, SelfDial
from p2pfwd.net.dialer import attempts_of
from p2pfwd.net.link.contract import Link
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.upgrader import describe
from p2pfwd.peers.store import LISTED
from p2pfwd.policy.dial_schedule import Dial, DialLimits, DialSchedule, KeptStatus, Known, Priority
from p2pfwd.policy.provenance import Provenance
from p2pfwd.system.network_watch import NetworkWatch

log = logging.getLogger("p2pfwd.peers")

Resolve = Callable[[PeerId], Awaitable[Sequence[Multiaddr]]]

RESOLVE_TIMEOUT_S: Final = 60.0
"""One look-up, as long as a DHT query may take."""

FOUND_TTL_S: Final = 900.0
"""Addresses that a look-up found: longer than other hearsay, or each try would ask again."""

TAGS: Final = {
    Priority.STATIC: "static",
    Priority.RELAY: "relay kept",
    Priority.FORWARD: "saved forward",
    Priority.BOOTSTRAP: "bootstrap",
    Priority.LISTED: LISTED,
}
"""Names of the protections and pins."""


class PeerKeeper:
    """The service; `keep` and `release` say for whom, `close` ends it."""

    def __init__(self, swarm: Swarm, network: NetworkWatch, limits: DialLimits | None = None) -> None:
        self._swarm = swarm
        self._network = network
        self._clock = time.monotonic
        self._schedule = DialSchedule(self._addresses, random.random, limits)
        self._resolve: Resolve | None = None
        self._reasons: dict[PeerId, set[Priority]] = {}
        self._causes: dict[PeerId, frozenset[str]] = {}
        self._missed: set[PeerId] = set()  # those whose absence the log has
        self._wake = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._dials: set[asyncio.Task[Any]] = set()
        self._closing = False
        swarm.on_connected(self._connected)
        swarm.on_disconnected(self._disconnected)
        swarm.peerstore.on_change(self._learned)

    # --- who is kept ------------------------------------------------------------------------------

    def keep(
        self, peer_id: PeerId, addrs: Iterable[Multiaddr] = (), priority: Priority = Priority.STATIC
    ) -> None:
        """Keep a connection to the peer, at `addrs` and whatever else is known; again, to change `addrs`.

        Raises SelfDial.
        """
        if peer_id == self._swarm.peer_id:
            raise SelfDial("the peer is this node itself", hint="keep the peer ID of another machine")
        tag = TAGS[priority]
        self._reasons.setdefault(peer_id, set()).add(priority)
        self._schedule.keep(peer_id, min(self._reasons[peer_id]), self._clock())
        if self._swarm.conns(peer_id):
            self._schedule.connected(peer_id, self._clock())
        self._swarm.connmgr.protect(peer_id, tag)
        self._swarm.peerstore.pin(peer_id, addrs, tag)
        self._poke()

    def release(self, peer_id: PeerId, priority: Priority = Priority.STATIC) -> None:
        """Keep it no more for this reason; its connections stay. Nothing if it was not kept."""
        reasons = self._reasons.get(peer_id, set())
        reasons.discard(priority)
        self._swarm.connmgr.unprotect(peer_id, TAGS[priority])
        self._swarm.peerstore.unpin(peer_id, TAGS[priority])
        if reasons:
            self._schedule.keep(peer_id, min(reasons), self._clock())
        else:
            self._reasons.pop(peer_id, None)
            self._causes.pop(peer_id, None)
            self._missed.discard(peer_id)
            self._schedule.release(peer_id)

    def set_resolve(self, resolve: Resolve | None) -> None:
        """Who looks peers up whose addresses are stale: the DHT, mDNS."""
        self._resolve = resolve
        self._schedule.resolvable = resolve is not None
        self._poke()

    def network_changed(self) -> None:
        """Dial whoever is missing at once."""
        self._schedule.network_changed(self._clock())
        self._poke()

    def statuses(self) -> list[KeptStatus]:
        """How it stands with every kept peer, in the order they came; times are the keeper's clock's."""
        found = (self.status(peer_id) for peer_id in self._schedule.kept())
        return [status for status in found if status is not None]

    def status(self, peer_id: PeerId) -> KeptStatus | None:
        """How it stands with one; None if it is not kept."""
        return self._schedule.status(peer_id, self._clock())

    def causes(self, peer_id: PeerId) -> frozenset[str]:
        """Codes of what the last dial of a kept peer failed with, address by address; none if it did not."""
        return self._causes.get(peer_id, frozenset())

    async def close(self) -> None:
        """End the task and every dial. Idempotent."""
        self._closing = True
        tasks = [*self._dials, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the task ---------------------------------------------------------------------------------

    def _poke(self) -> None:
        if self._task is None and not self._closing and self._reasons:
            self._task = self._swarm.spawn(self._run(), "keep peers")
            self._network.on_change(self.network_changed)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            now = self._clock()
            for dial in self._schedule.plan(now):
                self._schedule.started(dial, now)
                self._spawn(self._dial(dial), f"dial {dial.peer_id}")
            wakeup = self._schedule.next_wakeup(now)
            try:
                async with asyncio.timeout(None if wakeup is None else wakeup - now):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._swarm.spawn(work, name)
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dial(self, dial: Dial) -> None:
        peer_id, reason = dial.peer_id, "the dial was broken off"
        try:
            await self._attempt(dial)
            reason = ""
        except P2PForwardError as exc:
            reason = exc.message
            if peer_id in self._reasons:
                codes = frozenset(one.code for one in attempts_of(exc))
                self._causes[peer_id] = codes or frozenset({exc.code})
            self._log_failure(peer_id, reason)
        finally:
            now = self._clock()
            if reason:
                self._schedule.failed(peer_id, now, reason)
            else:
                self._schedule.succeeded(peer_id, now)
            self._wake.set()

    def _log_failure(self, peer_id: PeerId, reason: str) -> None:
        """Once, until the peer was there again; the status has the latest."""
        wanted = self._reasons.get(peer_id, set()) - {Priority.BOOTSTRAP, Priority.LISTED}
        first = bool(wanted) and peer_id not in self._missed
        log.log(logging.WARNING if first else logging.DEBUG, "a kept peer is not connected: %s", reason)
        if first:
            self._missed.add(peer_id)

    async def _attempt(self, dial: Dial) -> None:
        """Try what is known, then what a look-up finds. Raises why neither worked."""
        failure: P2PForwardError = PeerNotFound(f"no address is known for {dial.peer_id}")
        if dial.addrs:
            try:
                await self._swarm.connect(dial.peer_id, dial.addrs, force=True, only=True)
                return
            except (DialFailed, PeerNotFound) as exc:
                failure = exc
        found = await self._look_up(dial.peer_id) if dial.resolve else ()
        if not found:
            raise failure
        await self._swarm.connect(dial.peer_id, found, force=True, only=True)

    async def _look_up(self, peer_id: PeerId) -> Sequence[Multiaddr]:
        """Addresses found for the peer that may be dialed now; none if the look-up fails."""
        found: Sequence[Multiaddr] = ()
        try:
            if self._resolve is not None:
                async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                    found = await self._resolve(peer_id)
        except (P2PForwardError, TimeoutError) as exc:
            log.debug("kept peer %s could not be looked up: %s", peer_id, describe(exc))
        fresh = self._schedule.resolved(peer_id, [addr.without_peer_id() for addr in found], self._clock())
        self._swarm.peerstore.add_addrs(peer_id, found, FOUND_TTL_S, Provenance.HEARSAY)
        return fresh

    # --- what the schedule is told ----------------------------------------------------------------

    def _addresses(self, peer_id: PeerId) -> list[Known]:
        """The best founded first. Pinned ones never grow old; the others, stale ones too, have their age."""
        store = self._swarm.peerstore
        found = {addr: Known(addr, 0.0, True) for addr in store.pinned(peer_id)}
        for each in store.known(peer_id):
            is_founded = each.provenance <= Provenance.PROVED
            found.setdefault(each.addr, Known(each.addr, each.age_s, is_founded))
        return list(found.values())

    def _connected(self, conn: Link) -> None:
        self._missed.discard(conn.remote_peer)
        self._causes.pop(conn.remote_peer, None)
        self._schedule.connected(conn.remote_peer, self._clock())

    def _disconnected(self, conn: Link) -> None:
        if conn.remote_peer in self._reasons and not self._swarm.conns(conn.remote_peer):
            cause = conn.closed.result()
            reason = (
                f"connection lost: {describe(cause)}" if cause is not None else "the connection was closed"
            )
            was_limited = conn.limit is not None
            self._schedule.disconnected(conn.remote_peer, self._clock(), reason, was_limited=was_limited)
            self._wake.set()

    def _learned(self, peer_id: PeerId) -> None:
        if peer_id in self._reasons:
            self._schedule.learned(peer_id, self._clock())
            self._wake.set()
