"""A question on a stream of its own: the stream is closed when it has been asked, and reset otherwise."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.net.exchange import exchange
from p2pfwd.net.link.contract import Link
from tests.support.virtual_time import in_virtual_time


class FakeStream:
    def __init__(self) -> None:
        self.ends: list[str] = []

    async def close(self) -> None:
        self.ends.append("closed")

    def reset(self, code: int = 0) -> None:
        self.ends.append("reset")


class FakeConn:
    def __init__(self, opens_after_s: float = 0.0) -> None:
        self.stream = FakeStream()
        self._opens_after_s = opens_after_s

    async def open_stream(self, protocols: list[str], timeout_s: float, *, known: bool) -> FakeStream:
        await asyncio.sleep(self._opens_after_s)
        return self.stream


async def asked(conn: FakeConn, takes_s: float = 0.0, error: Exception | None = None) -> str:
    async with exchange(cast(Link, conn), "/q", 5.0):
        await asyncio.sleep(takes_s)
        if error is not None:
            raise error
        return "the answer"


@in_virtual_time
async def test_it_is_closed_when_the_answer_is_there() -> None:
    conn = FakeConn()
    assert await asked(conn) == "the answer" and conn.stream.ends == ["closed"]


@in_virtual_time
async def test_it_is_reset_when_the_answer_is_wrong_or_late() -> None:
    for takes_s, error, kind in (
        (0.0, RemoteProtocolError("nonsense"), RemoteProtocolError),
        (6.0, None, TimeoutError),
    ):
        conn = FakeConn()
        with pytest.raises(kind):
            await asked(conn, takes_s, error)
        assert conn.stream.ends == ["reset"]


@in_virtual_time
async def test_the_opening_counts_and_a_cancelled_asker_leaves_no_stream() -> None:
    conn = FakeConn(opens_after_s=3.0)
    with pytest.raises(TimeoutError):
        await asked(conn, 3.0)
    assert conn.stream.ends == ["reset"]
    conn = FakeConn()
    task = asyncio.create_task(asked(conn, 3.0))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert conn.stream.ends == ["reset"]
