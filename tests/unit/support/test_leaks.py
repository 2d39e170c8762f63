"""The leak proof itself: each kind of leak is found and named, and a clean test passes."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from tests.support.leaks import LeakError, watch


def test_a_clean_block_passes() -> None:
    """A socket closed, a thread joined and a task awaited are no leaks."""

    async def main() -> None:
        await asyncio.create_task(asyncio.sleep(0))

    with watch():
        asyncio.run(main())
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        socket.socket().close()


def test_a_task_left_is_named() -> None:
    """A task nobody cancelled is reported though asyncio.run cancels it in the end."""

    async def main() -> asyncio.Task[bool]:
        return asyncio.create_task(asyncio.Event().wait(), name="forgotten")

    with pytest.raises(LeakError, match="task forgotten"), watch():
        assert asyncio.run(main()).cancelled()


def test_a_task_that_is_ending_is_no_leak() -> None:
    """A task that needs a few more turns of the loop has them."""

    async def main() -> None:
        asyncio.create_task(_turns(3))  # noqa: RUF006 (held by the loop for these turns)

    with watch():
        asyncio.run(main())


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_descriptor_left_is_named() -> None:
    """An open socket is reported with its number."""
    kept = []
    with pytest.raises(LeakError, match=r"descriptor \d+ -> socket:"), watch():
        kept.append(socket.socket())
    kept[0].close()


def test_a_thread_left_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that does not end is reported."""
    monkeypatch.setattr("tests.support.leaks.GRACE_S", 0.01)
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="stuck")
    with pytest.raises(LeakError, match="thread stuck"), watch():
        thread.start()
    release.set()
    thread.join()
