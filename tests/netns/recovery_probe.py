"""What an application sees of a forward: a new connection every so often, and one that is always there.

All in one thread in the client's namespace. Times are `time.monotonic()`.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import Final

from tests.netns.two_machines import Machine

INTERVAL_S: Final = 0.2
TICK_S: Final = 0.5
ANSWER_S: Final = 90.0
PROBE: Final = b"are you there"


@dataclass(slots=True)
class Attempt:
    """One new connection."""

    began_at: float
    answered_at: float | None = None
    failed_at: float | None = None
    why: str = ""


@dataclass(slots=True)
class Lasting:
    """The connection that is always there: a byte every half second."""

    answers: list[float] = field(default_factory=list)
    lost_at: float | None = None
    was_clean: bool = False
    """Lost by an end of what the peer had to say, which is a lie: the peer had not ended."""

    def longest_stall_s(self, now: float) -> float:
        """Without an answer."""
        end = self.lost_at or now
        times = [*self.answers, end]
        return max((late - early for early, late in itertools.pairwise(times)), default=0.0)


class Probe:
    """Runs from `start` to `stop`; `asking` says whether new connections are made."""

    def __init__(self, machine: Machine, port: int) -> None:
        self.attempts: list[Attempt] = []
        self.lasting = Lasting()
        self._machine = machine
        self._port = port
        self._asking = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: machine.call(lambda: asyncio.run(self._main())))

    def start(self) -> None:
        """Begin, asking."""
        self._asking.set()
        self._thread.start()

    def ask(self, on: bool) -> None:
        """Make new connections, and send on the lasting one, or do neither."""
        if on:
            self._asking.set()
        else:
            self._asking.clear()

    def stop(self) -> None:
        """End. Idempotent."""
        self._stopping.set()
        self._thread.join()

    def first_answered_s(self, since: float) -> float | None:
        """From `since` to the first answer on a connection begun after it."""
        times = [a.answered_at for a in self.attempts if a.began_at >= since and a.answered_at is not None]
        return min(times) - since if times else None

    def refused(self, since: float, until: float) -> int:
        """Connections begun in this time that failed."""
        return sum(since <= a.began_at < until and a.failed_at is not None for a in list(self.attempts))

    def wait_answered(self, since: float, timeout_s: float) -> float | None:
        """As `first_answered_s`, waiting for it."""
        deadline = time.monotonic() + timeout_s
        while (found := self.first_answered_s(since)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    async def _main(self) -> None:
        tasks: set[asyncio.Task[None]] = {asyncio.create_task(self._last())}
        while not self._stopping.is_set():
            if self._asking.is_set():
                tasks.add(asyncio.create_task(self._try()))
            tasks = {task for task in tasks if not task.done()}
            await asyncio.sleep(INTERVAL_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _try(self) -> None:
        attempt = Attempt(time.monotonic())
        self.attempts.append(attempt)
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    writer.write(PROBE)
                    await reader.readexactly(len(PROBE))
                    attempt.answered_at = time.monotonic()
                finally:
                    writer.close()
        except (OSError, EOFError, TimeoutError) as exc:
            attempt.failed_at, attempt.why = time.monotonic(), type(exc).__name__

    async def _last(self) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                while True:
                    if self._asking.is_set():
                        writer.write(b"x")
                        await reader.readexactly(1)
                        self.lasting.answers.append(time.monotonic())
                    await asyncio.sleep(TICK_S)
            finally:
                writer.close()
        except (OSError, EOFError) as exc:
            self.lasting.lost_at, self.lasting.was_clean = time.monotonic(), isinstance(exc, EOFError)
