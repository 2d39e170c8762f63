"""The thread that works on one file of this node, so that the event loop never waits for the disk.

Rules: started when there is something to do; it does one job after the other. A job's caller waits until it
is done, or has failed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

log = logging.getLogger("p2pfwd.state")

CLOSE_S: Final = 5.0
"""How long `close` waits for the disk."""

T = TypeVar("T")


class FileThread:
    """Of one file, `what` in the log; `close_file` is called in it at the end. Needs a running loop."""

    def __init__(self, what: str, close_file: Callable[[], None]) -> None:
        self._what = what
        self._close_file = close_file
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = asyncio.Event()

    def submit(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Have the thread do it after what it was given before, though the future be cancelled meanwhile."""
        done: asyncio.Future[T] = self._loop.create_future()

        def work() -> None:
            try:
                result = job()
            except Exception as exc:  # noqa: BLE001 - the caller's: it is raised there
                self._tell(_settle, done, done.set_exception, exc)
            else:
                self._tell(_settle, done, done.set_result, result)

        if self._thread is None:
            # A daemon thread: the process can end though the disk hangs, and loses nothing committed.
            name = self._what.replace(" ", "-")
            self._thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._thread.start()
        self._jobs.put(work)
        return done

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """End the thread; gives up on a disk that hangs. Idempotent."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._jobs.put(None)
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            log.warning("the %s was not closed: the disk did not answer", self._what)
        else:
            thread.join()

    def _work(self) -> None:
        try:
            while self._do_next():
                continue
        finally:
            self._close_file()
            self._tell(self._ended.set)

    def _do_next(self) -> bool:
        """Do one job; False at the end. In a frame of its own: while the thread waits it keeps no job."""
        job = self._jobs.get()
        if job is not None:
            job()
        return job is not None

    def _tell(self, callback: Callable[..., object], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop was closed: `close` had given up
            log.debug("the %s was written after its time", self._what)


def _settle(done: asyncio.Future[Any], settle: Callable[[Any], None], value: object) -> None:
    if not done.done():  # its caller may have given up
        settle(value)
