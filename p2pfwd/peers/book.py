"""The address book: what the peerstore knows of peers, kept across restarts in an `AddressFile`.

Rules: the event loop never waits for the disk. One thread reads and writes, started when there is something
to read or write; changes are collected and written together, soon after a quiet time and seldom in a busy
one. A damaged file is moved aside with a warning; while the file cannot be written that is said once, the
peerstore works on, and what changed is written when the disk is well again.

Ages are those of the steady clock; the wall clock, which may be years off, makes nobody young or forgotten:
- The time that the daemon was not running counts from the latest time in the file, and for a day at most.
- A wall clock behind that time says nothing: then a day is assumed, and no address is taken for fresh.
- When the wall clock was set, and after a start like these, everything is written anew with its times.
- Old peers are forgotten by their ages in memory and by the file's bounds, never by a date.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import inf
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import StorageFailed
from p2pfwd.peers.book_file import AddressFile, StoredAddress, StoredPeer
from p2pfwd.peers.claims import KnownAddress
from p2pfwd.peers.store import GRACE_S, Peerstore
from p2pfwd.state.database import DamagedFile

log = logging.getLogger("p2pfwd.peers")

MAX_DIRTY: Final = 4096
"""Changed peers that wait to be written; changes of more are not."""

AT_ONCE: Final = 64
"""Peers given to the peerstore, or taken from it, in one turn of the event loop: 2 ms if all are full."""

MAX_TTL_S: Final = 86_400.0
"""Longest life of an address that is believed."""

OFF_MOST_S: Final = 86_400.0
"""How long the daemon counts as not running, at most: an address is no worse for a machine's holidays."""

CLOCK_STEP_S: Final = 60.0
"""By how much the two clocks may drift apart until the wall clock counts as set."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How soon and how often is written; seconds."""

    first_s: float = 2.0
    """From a change to its writing, after a quiet time."""
    every_s: float = 60.0
    """Between two writings."""
    retry_s: float = 300.0
    """After one that failed."""
    close_s: float = 5.0
    """How long `close` waits for the disk."""


class AddressBook:
    """The book of one peerstore; `start` makes it work, `close` writes the rest. Needs a running loop."""

    def __init__(
        self, path: Path, store: Peerstore, pace: Pace | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        self.loaded = asyncio.Event()
        """Set when the peerstore has what the file had, or cannot have it."""
        self.failure: str | None = None
        """Why the file cannot be written at present, in one sentence."""
        self._store = store
        self._pace = pace or Pace()
        self._wall = wall
        self._offset = wall() - store.clock()  # of the wall clock from the steady one
        self._loop = asyncio.get_running_loop()
        self._file = AddressFile(path)
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = asyncio.Event()
        self._dirty: set[PeerId] = set()
        self._saving: frozenset[PeerId] = frozenset()
        self._saved_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._backlog = 0  # peers still to be written on this occasion
        self._restoring = False
        self._has_begun = False
        self._closing = False

    def start(self) -> None:
        """Read the file in the background, and follow the peerstore from now on."""
        self._has_begun = True
        self._store.on_change(self._changed)
        if self._file.path.exists():
            self._submit(self._load)
        else:
            self.loaded.set()

    async def close(self) -> None:
        """Write what has changed, and end the thread; gives up on a disk that hangs. Idempotent."""
        if self._closing or not self._has_begun:
            return
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        try:
            async with asyncio.timeout(self._pace.close_s):
                await self.loaded.wait()
                while self._dirty:
                    self._flush()
                if self._thread is not None:
                    self._jobs.put(None)
                    await self._ended.wait()
                    self._thread.join()
        except TimeoutError:
            log.warning("the address book was not written: the disk did not answer")

    async def write(self, peer_id: PeerId) -> None:
        """Put what is known of a peer on the disk now; gives up as `close` does. A failure is tried again."""
        if self._closing or not self._has_begun:
            return
        written = asyncio.Event()
        self._submit(partial(self._write, [self._stored(peer_id, self._wall())], written))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.close_s):
                await written.wait()

    # --- in the event loop ------------------------------------------------------------------------

    def _changed(self, peer_id: PeerId) -> None:
        if not self._restoring and not self._closing and len(self._dirty) < MAX_DIRTY:
            self._dirty.add(peer_id)
            self._set_timer()

    def _set_timer(self) -> None:
        idle = not self._dirty or self._saving or not self.loaded.is_set()
        if idle or self._closing or self._timer is not None:
            return
        if self._backlog > 0:
            self._timer = self._loop.call_later(0.0, self._flush)
            return
        pause_s = self._pace.every_s if self.failure is None else self._pace.retry_s
        delay_s = max(self._pace.first_s, self._saved_at + pause_s - self._loop.time())
        self._timer = self._loop.call_later(delay_s, self._begin)

    def _begin(self) -> None:
        self._backlog = len(self._dirty)
        self._flush()

    def _flush(self) -> None:
        """Have some of what has changed written; `_has_saved` goes on with the rest."""
        self._timer = None
        now = self._wall()
        if abs(now - self._store.clock() - self._offset) > CLOCK_STEP_S:
            self._offset = now - self._store.clock()
            self._dirty.update(self._store.peers())
            self._backlog = len(self._dirty)
        self._saving = frozenset(islice(self._dirty, AT_ONCE))
        self._dirty -= self._saving
        self._backlog -= len(self._saving)
        batch = [self._stored(peer_id, now) for peer_id in self._saving]
        self._submit(partial(self._save, batch))

    def _stored(self, peer_id: PeerId, now: float) -> StoredPeer:
        addrs = tuple(
            StoredAddress(
                claim.addr,
                claim.provenance,
                now - claim.age_s,
                now + (claim.ttl_s if claim.ttl_s < inf else GRACE_S),
            )
            for claim in self._store.best_claims(peer_id)
        )
        dhts = tuple(sorted(self._store.dhts(peer_id)))
        return StoredPeer(peer_id, self._store.agent(peer_id), self._store.standing(peer_id), addrs, dhts)

    def _restore(self, peers: Sequence[StoredPeer], latest: float, off_s: float) -> None:
        """Take over peers of the file, whose latest time is `latest`, `off_s` before now."""
        self._restoring = True
        for peer in peers:
            # A time after the latest one is from a clock that was wrong, and as good as none.
            ages = [max(0.0, latest - a.seen) + off_s if a.seen <= latest else OFF_MOST_S for a in peer.addrs]
            known = [_at_age(stored, age_s) for stored, age_s in zip(peer.addrs, ages, strict=True)]
            self._store.restore(peer.peer_id, known, peer.agent, peer.standing, peer.dhts)
        self._restoring = False

    def _has_loaded(self, clock_was_wrong: bool) -> None:
        if clock_was_wrong:
            self._dirty.update(self._store.peers())
        self.loaded.set()
        self._set_timer()

    def _has_saved(self, error: StorageFailed | None) -> None:
        if error is not None:
            self._dirty |= self._saving
            self._backlog = 0
            if self.failure is None:
                log.warning("%s; what is learned of peers is kept in memory only", error.message)
        elif self.failure is not None:
            log.info("the address book is written again")
        self.failure = error.message if error is not None else None
        self._saving, self._saved_at = frozenset(), self._loop.time()
        self._set_timer()

    def _has_been_damaged(self, error: DamagedFile, aside: Path) -> None:
        log.warning("%s; it was moved to %s, and a new one begun", error.message, aside)

    # --- in the thread ----------------------------------------------------------------------------

    def _submit(self, job: Callable[[], None]) -> None:
        if self._thread is None:
            # A daemon thread: the process can end though the disk hangs, and loses nothing committed.
            self._thread = threading.Thread(target=self._work, name="address-book", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _work(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                job()
        except Exception:  # the thread's root; without it the peerstore works on
            log.exception("the address book has failed")
        finally:
            self._file.close()
            self._tell(self.loaded.set)
            self._tell(self._ended.set)

    def _tell(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop was closed: `close` had given up
            log.debug("the address book was written after its time")

    def _load(self) -> None:
        peers: list[StoredPeer] = []
        try:
            peers = self._undamaged(self._file.load)
        except StorageFailed as exc:
            log.warning("%s; nothing is known of peers met before", exc.message)
        now = self._wall()
        seen = [stored.seen for peer in peers for stored in peer.addrs] or [now]
        past = [at for at in seen if at <= now + CLOCK_STEP_S]
        latest = max(past or seen)
        off_s = min(max(0.0, now - latest), OFF_MOST_S) if past else OFF_MOST_S
        clock_was_wrong = len(past) < len(seen) or now - latest > OFF_MOST_S
        for start in range(0, len(peers), AT_ONCE):
            self._tell(self._restore, peers[start : start + AT_ONCE], latest, off_s)
        self._tell(self._has_loaded, clock_was_wrong)

    def _save(self, batch: Sequence[StoredPeer]) -> None:
        error = None
        try:
            self._undamaged(partial(self._file.save, batch))
        except StorageFailed as exc:
            error = exc
        self._tell(self._has_saved, error)

    def _write(self, batch: Sequence[StoredPeer], written: asyncio.Event) -> None:
        with suppress(StorageFailed):  # it is one of those that have changed, and written with them
            self._undamaged(partial(self._file.save, batch))
        self._tell(written.set)

    def _undamaged(self, work: Callable[[], Any]) -> Any:
        """The result of `work` on the file; on a new one, if the old one turns out to be damaged."""
        try:
            return work()
        except DamagedFile as exc:
            aside = self._file.set_aside()
            self._tell(self._has_been_damaged, exc, aside)
            return work()


def _at_age(stored: StoredAddress, age_s: float) -> KnownAddress:
    life_s = min(stored.expires - stored.seen, MAX_TTL_S)
    return KnownAddress(stored.addr, stored.provenance, age_s, life_s - age_s)
