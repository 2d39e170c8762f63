"""What the sockets of one event loop share: who watches them, their buffers, how long it stays awake."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from p2pfwd.system.buffers import BufferPool
from p2pfwd.system.busy_poll import BusyPoll, Judge
from p2pfwd.system.poller import LoopPoller, Poller, make_poller


@dataclass(frozen=True, slots=True)
class LoopIo:
    """Made by `of`, inside its loop; end with `close`."""

    loop: asyncio.AbstractEventLoop
    poller: Poller | LoopPoller
    pool: BufferPool
    busy_poll: BusyPoll

    @classmethod
    def of(
        cls, loop: asyncio.AbstractEventLoop, judge: Judge | None = None, run_messages: int = 1
    ) -> LoopIo:
        """`judge`, `run_messages`: see `busy_poll`; without one the loop always sleeps."""
        poller = make_poller(loop)
        return cls(loop, poller, BufferPool(), BusyPoll(loop, judge, run_messages, poller.run_ready))

    def close(self) -> None:
        """Watch nothing any more. Idempotent."""
        self.busy_poll.close()
        self.poller.close()
