"""Streams that wait for their target (`listen --wait-target`): it is dialed by one of them, for all.

Rules: while the target is down one dial at a time is made for a listen, with a growing pause, however many
wait; when one gets through the others dial at once. Each has its own time. How many may wait is the
admission's bound on dials under way.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from p2pfwd.errors import TargetRefused
from p2pfwd.forwarding.target import Target

FIRST_S: Final = 0.1
MOST_S: Final = 1.0
"""From one dial to the next, twice as long each time."""


class TargetWait:
    """Of one listen."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._turn = asyncio.Lock()
        self._came = 0  # how often a dial got through
        self._pause_s = FIRST_S

    async def connect(self, error: TargetRefused, wait_s: float, timeout_s: float) -> socket.socket:
        """A connected socket, of a target that has just failed with `error`; `timeout_s`: for one dial.

        Raises the latest error when `wait_s` are over, and ResourceLimitExceeded.
        """
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    try:
                        return await self._try(timeout_s)
                    except TargetRefused as exc:
                        error = exc
        except TimeoutError:
            raise error from None

    async def _try(self, timeout_s: float) -> socket.socket:
        came = self._came
        async with self._turn:
            if self._came == came:
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(self._pause_s * 2, MOST_S)
                sock = await self._target.connect(timeout_s)
                self._came += 1
                self._pause_s = FIRST_S
                return sock
        return await self._target.connect(timeout_s)
