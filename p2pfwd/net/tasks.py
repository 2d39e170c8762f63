"""The tasks of one swarm: each has this owner, which logs what escapes and cancels what is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from p2pfwd.errors import P2PForwardError

log = logging.getLogger("p2pfwd.net")


class Tasks:
    """Runs coroutines until they end, or until `close`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], what: str) -> asyncio.Task[Any]:
        """Run `work`: a known error is logged at debug, any other with its trace."""

        async def wall() -> None:
            try:
                await work
            except P2PForwardError as exc:
                log.debug("%s: %s", what, exc)
            except Exception:
                log.exception("%s failed", what)

        task = self._loop.create_task(wall(), name=what)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled before it began
        return task

    async def close(self) -> None:
        """Cancel and await all but the caller. Idempotent."""
        left = [task for task in self._running if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
