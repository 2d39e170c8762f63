"""The proof that a test leaves nothing behind: no task, no thread, no socket or other descriptor.

`watch()` surrounds every test (autouse fixture in `tests/conftest.py`). Tasks are counted where every
event loop of a test ends, in `asyncio.Runner.close` (`asyncio.run` goes through it), before the runner
cancels what is left and so hides it. What ends by itself within a few turns of the loop is no leak.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRACE_TURNS = 10
"""Loop turns a task has to end by itself once the test's main coroutine is done."""

GRACE_S = 2.0
"""Seconds a thread has to end by itself: long enough for a busy machine's scheduler."""


_outliving: set[int] = set()


def outlive(*descriptors: int) -> None:
    """Name descriptors opened within a test that a longer-lived fixture owns and closes."""
    _outliving.update(descriptors)


class LeakError(AssertionError):
    """A test left something behind; the message lists it."""


@contextmanager
def watch() -> Iterator[None]:
    """Raise LeakError at the end of the block if a task, thread or descriptor opened in it is left."""
    threads, descriptors = set(threading.enumerate()), _descriptors()
    tasks: list[str] = []
    original = asyncio.Runner.close
    setattr(asyncio.Runner, "close", _closing(original, tasks))  # noqa: B010 (mypy forbids the assignment)
    try:
        yield
    finally:
        setattr(asyncio.Runner, "close", original)  # noqa: B010
    left = tasks + _threads_left(threads) + _descriptors_left(descriptors)
    if left:
        raise LeakError("left behind: " + "; ".join(left))


def _closing(
    original: Callable[[asyncio.Runner], None], tasks: list[str]
) -> Callable[[asyncio.Runner], None]:
    def close(runner: asyncio.Runner) -> None:
        try:
            loop = runner.get_loop()
        except RuntimeError:  # closed already
            return original(runner)
        if not loop.is_closed() and not loop.is_running():
            tasks.extend(loop.run_until_complete(_tasks_left()))
        return original(runner)

    return close


async def _tasks_left() -> list[str]:
    mine = asyncio.current_task()
    for _ in range(GRACE_TURNS):
        if asyncio.all_tasks() == {mine}:
            return []
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if task is not mine]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    return [f"task {task.get_name()}: {task.get_coro()}" for task in left]


def _threads_left(before: set[threading.Thread]) -> list[str]:
    deadline = time.monotonic() + GRACE_S
    new = set(threading.enumerate()) - before
    for thread in new:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [f"thread {thread.name}" for thread in new if thread.is_alive()]


def _descriptors() -> dict[int, str]:
    """Open descriptors and what they are, e.g. `socket:[1234]`; none where there is no /proc."""
    found: dict[int, str] = {}
    try:
        names = os.listdir("/proc/self/fd")
    except FileNotFoundError:
        return found
    for name in names:
        if int(name) in _outliving:
            continue
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


def _descriptors_left(before: dict[int, str]) -> list[str]:
    if not _new(before):
        return []
    gc.collect()  # an object in a cycle is no leak, and says so itself with a ResourceWarning
    return [f"descriptor {number} -> {what}" for number, what in sorted(_new(before).items())]


def _new(before: dict[int, str]) -> dict[int, str]:
    now = _descriptors()
    return {number: now[number] for number in now if before.get(number) != now[number]}
