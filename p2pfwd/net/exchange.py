"""One question of ours on a stream of its own: opened, closed at the end, reset when anything goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from p2pfwd.net.link.contract import DuplexStream, Link


@asynccontextmanager
async def exchange(
    conn: Link, protocol: str, timeout_s: float, *, known: bool = False
) -> AsyncIterator[DuplexStream]:
    """The stream for a question and its answer; `timeout_s` bounds all of it.

    `known`: the peer lists the protocol. Raises TimeoutError, and what the stream raises.
    """
    async with asyncio.timeout(timeout_s):
        stream = await conn.open_stream([protocol], timeout_s, known=known)
        try:
            yield stream
            await stream.close()
        except BaseException:
            stream.reset()
            raise
