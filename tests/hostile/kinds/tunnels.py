"""Tunnels: opened without end, never read, read slowly, to services that do not answer."""

from __future__ import annotations

import asyncio
from typing import Final

from p2pfwd.wire.yamux import frame as f
from tests.hostile.kinds import EVERY, each, whole
from tests.hostile.stage import NET24, ONE, Credit, Stage, draining, filled, reset
from tests.hostile.victim import BULK, DEAD, ECHO, SINK
from tests.support.raw_peer import hello, opened

MANY: Final = 1000
"""Tunnels of one peer that reads nothing."""


@each("tunnel-open-reset", "tunnels opened, used and reset", fault="F9", spreads=EVERY)
async def tunnel_open_reset(stage: Stage) -> None:
    """200 at a time; each makes a connection to the service."""
    async with await stage.peer() as peer, draining(peer):
        for start in range(1, 1 << 31, 400):
            ids = range(start, start + 400, 2)
            await stage.send(peer, b"".join(opened(n, hello(ECHO) + b"x") for n in ids), 200)
            await asyncio.sleep(0.01)
            await stage.send(peer, b"".join(map(reset, ids)), 0)


@each("tunnel-open-fin", "tunnels opened and ended at once", fault="F9")
async def tunnel_open_fin(stage: Stage) -> None:
    """As an honest client that has nothing to say, but as fast as it goes."""
    async with await stage.peer() as peer, draining(peer):
        for start in range(1, 1 << 31, 400):
            ids = range(start, start + 400, 2)
            await stage.send(peer, b"".join(opened(n, hello(ECHO), f.SYN | f.FIN) for n in ids), 200)


async def _hold(stage: Stage, protocol: str, count: int, *, read: bool) -> None:
    """Open `count` tunnels with a large window and hold them; resets are answered by opening again."""
    async with await stage.peer(receive_buffer=None if read else 4096) as peer, asyncio.TaskGroup() as group:
        for stream_id in range(1, 2 * count, 2):
            await stage.send(peer, opened(stream_id, hello(protocol)))
        if read:
            group.create_task(Credit(peer).run())
        await asyncio.Event().wait()


@each(
    "tunnels-unread",
    "1,000 downloads, never read: no credit after the first window",
    fault="F6",
    spreads=(ONE, NET24),
)
async def tunnels_unread(stage: Stage) -> None:
    """The connection is read, the streams are not: each service fills what buffers there are."""
    await _hold(stage, BULK, MANY, read=True)


@each("connection-unread", "1,000 downloads on a connection that is not read", fault="F6", spreads=EVERY)
async def connection_unread(stage: Stage) -> None:
    """Nothing is read at all."""
    await _hold(stage, BULK, MANY, read=False)


@each("slow-readers", "1,000 downloads read at a byte a second each", fault="F6")
async def slow_readers(stage: Stage) -> None:
    """Credit of one byte a second keeps each alive."""
    ids = range(1, 2 * MANY, 2)
    async with await stage.peer() as peer, draining(peer):
        for stream_id in ids:
            await stage.send(peer, opened(stream_id, hello(BULK)))
        while True:
            await asyncio.sleep(1)
            await stage.send(peer, b"".join(f.encode_header(f.WINDOW_UPDATE, 0, n, 1) for n in ids), MANY)


@each(
    "uploads-unread",
    "1,000 tunnels into a service that never reads, a window each",
    fault="F5",
    spreads=EVERY,
)
async def uploads_unread(stage: Stage) -> None:
    """What the service does not take stays in the victim, or in the kernel."""
    async with await stage.peer() as peer, draining(peer):
        for stream_id in range(1, 2 * MANY, 2):
            await stage.send(peer, filled(stream_id, SINK, f.INITIAL_WINDOW_BYTES))
        await asyncio.Event().wait()


@each(
    "dead-target",
    "280 tunnels to a service that does not answer, again every 3 s",
    fault="F9a",
    spreads=EVERY,
)
async def dead_target(stage: Stage) -> None:
    """Each is a dial of the victim's that hangs."""
    async with await stage.peer() as peer, draining(peer):
        for start in range(1, 1 << 31, 560):
            await stage.send(
                peer, b"".join(opened(n, hello(DEAD)) for n in range(start, start + 560, 2)), 280
            )
            await asyncio.sleep(3)


@each(
    "dead-target-reset",
    "tunnels to a service that does not answer, reset at once",
    fault="F9a",
    spreads=(ONE, NET24),
)
async def dead_target_reset(stage: Stage) -> None:
    """Does the victim go on dialing for a stream that is over?"""
    async with await stage.peer() as peer, draining(peer):
        for start in range(1, 1 << 31, 200):
            ids = range(start, start + 200, 2)
            await stage.send(peer, b"".join(opened(n, hello(DEAD)) + reset(n) for n in ids), 100)
            await asyncio.sleep(0.05)


@each("tunnel-hoard", "4,096 tunnels on one service, held", fault="F9b", spreads=(ONE, NET24))
async def tunnel_hoard(stage: Stage) -> None:
    """All the streams a listen has."""
    await _hold(stage, ECHO, 4096, read=True)


@whole("descriptors", "tunnels without end at a limit of 1,024 descriptors", fault="F10", files=1024)
async def descriptors(stage: Stage) -> None:
    """Four peers with 1,000 tunnels each."""
    await stage.lines(lambda: _hold(stage, ECHO, MANY, read=True), count=4)
