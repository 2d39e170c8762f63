"""state.file_thread: a job is let go of when it is done."""

from __future__ import annotations

import weakref

from p2pfwd.state.file_thread import FileThread
from tests.support.loops import on_loop, until


class Batch:
    """What a job works on."""


@on_loop
async def test_a_thread_that_waits_keeps_nothing_of_its_last_job() -> None:
    """The last batch of the address book lay in a flood's memory until the next was written."""
    thread = FileThread("file", lambda: None)
    batch = Batch()
    there = weakref.ref(batch)
    await thread.submit(lambda held=batch: None)  # type: ignore[misc]
    del batch
    await until(lambda: there() is None)
    await thread.close()
