"""A DHT's timers: refresh and revalidation (Ethereum's node table in libp2p's form).

Refresh: a lookup of ourselves, which connects to the nearest servers and so makes us findable, at start, on
an address change and every hour, then random targets too where the table has room. A client is found by the
servers near its key that it is connected to: `NEAREST` of them are kept, and every ten minutes it looks
whether half of the nearest are still connected. A server is found by the tables it is in, and keeps nobody.
Revalidation: now and then the least recently seen entry of a random bucket that was not seen for an hour is
dialed; a dead one is replaced at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError
from p2pfwd.net.connmgr import FOUND_BY
from p2pfwd.net.swarm import Swarm
from p2pfwd.protocols.kad.service import Dht
from p2pfwd.wire.kad.keys import SEED_BYTES, TargetSearch, key_of_peer
from p2pfwd.wire.kad.messages import K

log = logging.getLogger("p2pfwd.kad")

JITTER: Final = 0.25
SETTLE_S: Final = 1.0
"""After the first newcomer at start: the others come at the same time, and one lookup serves all."""

RETRY_FIRST_S: Final = 2.0
RETRY_MOST_S: Final = 60.0
"""Until the next try when nobody answered a refresh, twice as long each time: this machine's own network may
be down, and nothing tells when it is back."""


NEAREST: Final = K // 2
"""Servers nearest to itself that a client stays connected to: a lookup of it asks all `K` of them."""


class Upkeep:
    """The two tasks of one DHT; `close` ends them."""

    def __init__(self, swarm: Swarm, dht: Dht, rng: random.Random | None = None) -> None:
        self._swarm = swarm
        self._dht = dht
        self._rng = rng or random.Random()
        self._wanted = asyncio.Event()
        self._thorough_at = 0.0
        self._found_by: set[PeerId] = set()
        self.is_answered = True
        """Whether somebody answered the last lookup of ourselves."""
        self.on_answered: Callable[[], None] = lambda: None
        """Called when that has changed."""
        self._tasks = [
            swarm.spawn(self._refresh_for_ever(), f"kad refresh {dht.protocol}"),
            swarm.spawn(self._revalidate_for_ever(), f"kad revalidation {dht.protocol}"),
        ]

    def refresh(self, *, thorough: bool = True) -> None:
        """Refresh soon; `thorough`: sparing nothing, because the addresses changed, or somebody asks."""
        if thorough:
            self._thorough_at = 0.0
        self._wanted.set()

    async def close(self) -> None:
        """End. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._keep(set())

    def _jittered(self, seconds: float) -> float:
        return seconds * self._rng.uniform(1 - JITTER, 1 + JITTER)

    async def _refresh_for_ever(self) -> None:
        dht, settings = self._dht, self._dht.settings
        retry_s = RETRY_FIRST_S
        while True:
            if not len(dht.table):
                dht.changed.clear()
                await dht.changed.wait()
                await asyncio.sleep(min(SETTLE_S, settings.refresh_s))
            self._wanted.clear()
            answered = False
            try:
                answered = await self._refresh()
            except P2PForwardError as exc:
                log.debug("refresh of %s: %s", dht.protocol, exc)
            pause_s = settings.refresh_s if answered else min(retry_s, settings.refresh_s)
            retry_s = RETRY_FIRST_S if answered else min(2 * retry_s, RETRY_MOST_S)
            try:
                async with asyncio.timeout(self._jittered(pause_s)):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _refresh(self) -> bool:
        """False when nobody answered: then only the next try tells more."""
        dht, now = self._dht, time.monotonic()
        thorough = now >= self._thorough_at
        if thorough or not self._is_known_nearby():
            result = await dht.closest(self._swarm.peer_id.to_bytes())
            if self.is_answered != bool(result.answered):
                self.is_answered = bool(result.answered)
                self.on_answered()
            if not result.answered:
                return False
        if thorough:
            self._thorough_at = now + self._jittered(dht.settings.thorough_refresh_s)
            cpls = dht.table.cpls_to_refresh()
            if not dht.is_server:
                self._rng.shuffle(cpls)
                cpls = cpls[: dht.settings.refresh_targets]
            for cpl in cpls:
                await dht.closest(await self._target(cpl))
        nearest = () if dht.is_server else dht.table.closest(key_of_peer(self._swarm.peer_id), NEAREST)
        self._keep(set(nearest))
        dht.refreshed_at = time.monotonic()
        return True

    def _keep(self, wanted: set[PeerId]) -> None:
        """Stay connected to these servers, and no longer to those before."""
        tag = FOUND_BY + self._dht.protocol
        for peer in self._found_by - wanted:
            self._swarm.connmgr.unprotect(peer, tag)
        for peer in wanted - self._found_by:
            self._swarm.connmgr.protect(peer, tag)
        self._found_by = wanted

    def _is_known_nearby(self) -> bool:
        """Whether others are told of us: by half of the nearest servers, or, of a server, by their tables."""
        if self._dht.is_server and len(self._dht.table) >= K:
            return True
        nearest: list[PeerId] = self._dht.table.closest(key_of_peer(self._swarm.peer_id))
        connected = sum(bool(self._swarm.conns(peer)) for peer in nearest)
        return connected * 2 >= len(nearest) > 0

    async def _target(self, cpl: int) -> bytes:
        search = TargetSearch(key_of_peer(self._swarm.peer_id), cpl, self._rng.randbytes(SEED_BYTES))
        while True:
            if (target := search.step()) is not None:
                return target
            await asyncio.sleep(0)  # the loop's turn: a deep prefix takes 65,536 hashes

    async def _revalidate_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._jittered(self._dht.settings.revalidate_s))
            seen_before = time.monotonic() - self._dht.settings.fresh_s
            peer = self._dht.table.to_revalidate(self._rng, seen_before)
            if peer is not None:
                await self._dht.revalidate(peer)
