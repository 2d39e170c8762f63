"""The history of a running daemon: events are recorded, written down in the background, told and found.

Rules: `record` costs microseconds and never waits, for a disk least of all. What is recorded is written
within `EVERY_S`: a daemon that is killed loses no more than that. While the file cannot be written that is
said once, and the newest `MAX_WAITING` events wait for it; how many were lost is an event itself.
An id is given once, and later ones are greater, whatever was lost: a daemon gives none below the microseconds
of its clock at its start, nor below what the file has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from p2pfwd.errors import StorageFailed
from p2pfwd.history.digest import Digest
from p2pfwd.history.file import HistoryFile, Loaded, Query
from p2pfwd.history.folding import MAX_OPEN, Event, Folding, Value
from p2pfwd.policy.shares import Party
from p2pfwd.state.database import DamagedFile
from p2pfwd.state.file_thread import FileThread

log = logging.getLogger("p2pfwd.history")

FIRST_S: Final = 0.5
"""From an event to its writing, after a quiet time."""

EVERY_S: Final = 1.5
"""Between two writings; with what `daemon.feed` holds back, all is written within two seconds."""

RETRY_S: Final = 60.0
"""After one that failed."""

ANSWER_S: Final = 5.0
"""For the disk, where somebody asks; after it only what is in memory is told."""

CLOSE_S: Final = 2.0
"""... and at the end: a daemon that stops holds up nobody for its history."""

SKIPPED_IDS: Final = 1_000_000
"""After a daemon that was lost, where the clock is no help: more than it can have told and not written."""

MAX_WAITING: Final = 2000
"""Events that wait to be written: a megabyte of them."""

Told = Callable[[Event], None]

T = TypeVar("T")


class History:
    """Of one daemon; `start` reads what there is, `close` writes the rest. Needs a running loop."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.failure: StorageFailed | None = None
        """Why the file cannot be written, or read, at present."""
        self.digest = Digest()
        self.folding = Folding()
        self._clock = clock
        self._wall = wall
        self._file = HistoryFile(path)
        self._loop = asyncio.get_running_loop()
        self._thread = FileThread("history", self._file.close)
        self._began_at = wall()
        self.last_id = max(0, int(self._began_at * 1e6))
        """Of the newest event there ever was, or more."""
        self._first_id = self.last_id
        self._waiting: dict[int, Event] = {}  # by id: new, or changed since they were written
        self._in_flight: dict[int, Event] = {}
        self._lost = 0
        self._told: dict[int, int] = {}  # of events that stand for several: with which count last
        self._loading: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._written_at = float("-inf")
        self._callbacks: list[Told] = []
        self._has_begun = False
        self._is_loaded = False
        self._closed = False

    def start(self) -> None:
        """Read in the background what the file has."""
        self._has_begun = True
        self._loading = self._loop.create_task(self._load())

    def on_event(self, callback: Told) -> None:
        """Be told of every event; of one that stands for several, again as their number has doubled."""
        self._callbacks.append(callback)

    def record(
        self,
        code: str,
        *,
        peer: str | None = None,
        protocol: str | None = None,
        stranger: Party | bool = False,
        times: int = 1,
        **data: Value,
    ) -> None:
        """Something happened: `code` is one of `kinds.KINDS`, with the fields that its words name.

        `stranger`: see `Folding.note`. `times`: how often, where that is more than once.
        """
        if self._closed:
            return
        wall = self._wall()
        event, is_new = self.folding.note(
            code, peer, protocol, data, stranger=stranger, times=times, now=self._clock(), wall=wall
        )
        self.digest.note(event, times, wall)
        if is_new:
            self.last_id += 1
            event.id = self.last_id
        self._wait(event)
        if is_new:
            self._tell(event)

    async def find(self, query: Query) -> tuple[list[Event], StorageFailed | None]:
        """Those that are wanted, the oldest first; and why it is from memory alone, or not written, if so."""
        await self._loaded()
        recent = (*self._in_flight.values(), *self._waiting.values())
        newer = {event.id: event for event in recent if query.fits(event)}
        found: list[Event] = []
        failure = self.failure
        try:
            async with asyncio.timeout(ANSWER_S):
                found = await self._thread.submit(partial(self._file.find, query))
        except TimeoutError:
            failure = StorageFailed(f"history {self._file.path}: the disk does not answer")
        except StorageFailed as exc:
            failure = exc
        all_ = {event.id: event for event in found} | newer
        return [all_[number] for number in sorted(all_)][-query.limit :], failure

    async def close(self) -> None:
        """Write what waits, and end the thread; gives up on a disk that hangs. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = [task for task in (self._loading, self._writing) if task is not None]
        try:
            async with asyncio.timeout(CLOSE_S):
                if tasks:
                    await asyncio.wait(tasks)
                if self._waiting and self._has_begun:
                    await self._write()
        except TimeoutError:
            log.warning("the last events were not written: the disk did not answer")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._thread.close(CLOSE_S)

    # --- beginning --------------------------------------------------------------------------------

    async def _load(self) -> None:
        try:
            await self._read()
        except StorageFailed as exc:
            self._failed(exc)
        self._loading = None
        self._set_timer()

    async def _read(self) -> None:
        """Take over what the file has; what was recorded meanwhile comes after it, and is written first.

        So the file knows of this daemon before anybody is told an id that counts: where it is lost, the next
        one finds that, and gives none of its ids again.
        """
        loaded = await self._undamaged(partial(self._file.load, self._wall()))
        if loaded.lost_at is not None:
            at = self._began_at
            lost = Event("daemon-lost", "own", at, at, data={"last": loaded.lost_at}, id=self._first_id)
            self._waiting = {lost.id: lost, **self._waiting}
        shift = _shift(loaded, self._first_id)
        try:
            await self._save(replace(event, id=event.id + shift) for event in self._waiting.values())
        except StorageFailed as exc:
            self._failed(exc)
        self._take_over(loaded, shift)

    def _take_over(self, loaded: Loaded, shift: int) -> None:
        since = list(self._waiting.values())
        for event in since:
            event.id += shift
        self._waiting = {event.id: event for event in since}
        self.last_id += shift
        self._told.clear()
        if loaded.digest is not None:
            self.digest = loaded.digest
            for event in since:
                self.digest.note(event, event.count, event.until)
        self._is_loaded = True

    async def _loaded(self) -> None:
        if self._loading is not None:
            await asyncio.wait([self._loading], timeout=ANSWER_S)

    # --- writing ----------------------------------------------------------------------------------

    def _wait(self, event: Event) -> None:
        if event.id not in self._waiting and len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
            self._lost += 1
        self._waiting[event.id] = event
        if self._timer is None:
            self._set_timer()

    def _set_timer(self) -> None:
        busy = self._loading is not None or self._writing is not None
        if self._timer is not None or busy or not self._waiting or not self._has_begun or self._closed:
            return
        pause_s = EVERY_S if self.failure is None else RETRY_S
        delay_s = max(FIRST_S, self._written_at + pause_s - self._clock())
        self._timer = self._loop.call_later(delay_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._writing = self._loop.create_task(self._write())
        self._writing.add_done_callback(self._wrote)

    def _wrote(self, task: asyncio.Task[None]) -> None:
        self._writing = None
        if not task.cancelled() and task.exception() is not None:
            log.error("a defect while writing the history", exc_info=task.exception())
        self._set_timer()

    async def _write(self) -> None:
        """Write what waits; what the disk does not take goes on waiting.

        What could not be read is read first: the file's events have ids that no other may get.
        """
        try:
            if not self._is_loaded:
                await self._read()
            await self._write_waiting()
        except StorageFailed as exc:
            self._failed(exc)
        else:
            self._mended()
        finally:
            self._written_at = self._clock()

    async def _write_waiting(self) -> None:
        batch = self._in_flight = self._waiting
        self._waiting = {}
        self._tell_counts()
        try:
            await self._save(batch.values())
        except StorageFailed:
            newer, self._waiting = self._waiting, batch
            for event in newer.values():
                self._wait(event)
            raise
        finally:
            self._in_flight = {}

    async def _save(self, events: Iterable[Event]) -> None:
        copies = [replace(event, data=dict(event.data)) for event in events]
        await self._undamaged(partial(self._file.save, copies))

    async def _undamaged(self, work: Callable[[], T]) -> T:
        """The result of `work` on the file; on a new one, if the old one turns out to be damaged."""

        moved: list[Path] = []

        def undamaged() -> T:
            try:
                return work()
            except DamagedFile as exc:
                moved.append(self._file.set_aside())
                log.warning("%s; it was moved to %s, and a new one begun", exc.message, moved[0])
                return work()

        try:
            return await self._thread.submit(undamaged)
        finally:
            for aside in moved:
                self.record("file-damaged", what="the events before", file=str(aside))

    def _failed(self, error: StorageFailed) -> None:
        if self.failure is None:
            log.warning("%s; what happens is kept in memory only, and not all of it", error.message)
        self.failure = error

    def _mended(self) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            log.info("the history is written again")
        if self._lost:
            lost, self._lost = self._lost, 0
            reason = "the disk was too slow" if failure is None else failure.message
            self.record("events-lost", events=lost, reason=reason)

    # --- telling ----------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        for callback in self._callbacks:
            callback(event)

    def _tell_counts(self) -> None:
        """Of the events that wait, those whose number has doubled."""
        for event in self._in_flight.values():
            if event.count < 2 * self._told.get(event.id, 1):
                continue
            if len(self._told) >= MAX_OPEN and event.id not in self._told:
                del self._told[next(iter(self._told))]
            self._told[event.id] = event.count
            self._tell(event)


def _shift(loaded: Loaded, first_id: int) -> int:
    """What a wrong clock makes the ids of this daemon, which begin at `first_id`, too low for the file."""
    skipped = 0 if loaded.lost_at is None else SKIPPED_IDS
    return max(0, loaded.last_id + skipped + 1 - first_id)
