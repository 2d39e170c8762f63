"""The saved tunnels of a running daemon: the state file, off the event loop.

Rules: the loop never waits for the disk. One thread reads and writes, started when there is something to do;
it does one change after the other, and a call returns when its change is on the disk, or has failed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from p2pfwd.state.tunnel_file import Key, SavedTunnel, TunnelFile

log = logging.getLogger("p2pfwd.state")

CLOSE_S: Final = 5.0
"""How long `close` waits for the disk."""

T = TypeVar("T")


class SavedTunnels:
    """What the state file has. Needs a running loop."""

    def __init__(self, path: Path) -> None:
        self._file = TunnelFile(path)
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = asyncio.Event()

    async def load(self) -> list[SavedTunnel]:
        """Every saved tunnel, in the order in which they were saved. Raises StorageFailed."""
        if not self._file.path.exists():
            return []
        return await self._do(self._file.load)

    async def save(self, tunnel: SavedTunnel) -> None:
        """Save it, in the place of one with its key. Raises StorageFailed, ResourceLimitExceeded."""
        await self._do(lambda: self._file.change(put=[tunnel]))

    async def forget(self, keys: Iterable[Key]) -> None:
        """Forget those with these keys. Raises StorageFailed: then all of them are still saved."""
        await self.change((), keys)

    async def change(self, put: Iterable[SavedTunnel], drop: Iterable[Key]) -> None:
        """Both at once, or neither. Raises as `save`."""
        saved, dropped = list(put), list(drop)
        await self._do(lambda: self._file.change(put=saved, drop=dropped))

    async def close(self) -> None:
        """End the thread; gives up on a disk that hangs. Idempotent."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._jobs.put(None)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._ended.wait()
        except TimeoutError:
            log.warning("the state file was not closed: the disk did not answer")
        else:
            thread.join()

    async def _do(self, job: Callable[[], T]) -> T:
        """Have the thread do it. Its caller is not to be cancelled meanwhile: the change would be made."""
        done: asyncio.Future[T] = self._loop.create_future()

        def work() -> None:
            try:
                result = job()
            except Exception as exc:  # noqa: BLE001 - the caller's: it is raised there
                self._tell(done.set_exception, exc)
            else:
                self._tell(done.set_result, result)

        if self._thread is None:
            # A daemon thread: the process can end though the disk hangs, and loses nothing committed.
            self._thread = threading.Thread(target=self._work, name="state-file", daemon=True)
            self._thread.start()
        self._jobs.put(work)
        return await done

    def _work(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                job()
        finally:
            self._file.close()
            self._tell(self._ended.set)

    def _tell(self, callback: Callable[..., object], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop was closed: `close` had given up
            log.debug("the state file was written after its time")
