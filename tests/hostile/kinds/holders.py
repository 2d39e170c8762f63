"""Sybils: connections of made-up peers that are good for nothing, and stay."""

from __future__ import annotations

import asyncio
from typing import Final

from p2pfwd.wire import identify, ping
from p2pfwd.wire.yamux import frame as f
from tests.hostile.kinds import EVERY, MANY, whole
from tests.hostile.kinds.identify import ADDRESSES
from tests.hostile.stage import NET24, NET48, ONE, Credit, Stage
from tests.hostile.victim import ECHO
from tests.support.raw_peer import RawPeer, hello, opened

SYBILS: Final = 600
"""More than a node takes by default."""


async def _alive(peer: RawPeer, group: asyncio.TaskGroup) -> None:
    """Answer pings for as long as it lasts."""
    group.create_task(Credit(peer).run())


@whole("sybils-idle", "600 made-up peers that stay and do nothing", fault="F4", spreads=(*MANY, ONE))
async def sybils_idle(stage: Stage) -> None:
    """They only answer pings."""

    async def body() -> None:
        async with await stage.peer() as peer, asyncio.TaskGroup() as group:
            await _alive(peer, group)

    await stage.lines(body, count=SYBILS)


@whole("sybils-pushing", "600 made-up peers with an identify push that never comes", fault="F4", spreads=MANY)
async def sybils_pushing(stage: Stage) -> None:
    """A stream makes a connection look busy; it is opened anew every 4 s."""

    async def body() -> None:
        async with await stage.peer() as peer, asyncio.TaskGroup() as group:
            await _alive(peer, group)
            for stream_id in range(1, 1 << 31, 2):
                await stage.send(peer, opened(stream_id, hello(identify.PUSH)))
                await asyncio.sleep(4)

    await stage.lines(body, count=SYBILS)


@whole("sybils-pinging", "600 made-up peers with a silent ping stream each", fault="F4", spreads=MANY)
async def sybils_pinging(stage: Stage) -> None:
    """As the last, with the protocol that is held open by right."""

    async def body() -> None:
        async with await stage.peer() as peer, asyncio.TaskGroup() as group:
            await _alive(peer, group)
            await stage.send(peer, opened(1, hello(ping.ID)))
            await asyncio.Event().wait()

    await stage.lines(body, count=SYBILS)


@whole("sybils-tunnelling", "600 made-up peers with a silent tunnel each", fault="F4", spreads=(NET24, NET48))
async def sybils_tunnelling(stage: Stage) -> None:
    """They know a service's name: as good as an honest user, but for their number."""

    async def body() -> None:
        async with await stage.peer() as peer, asyncio.TaskGroup() as group:
            await _alive(peer, group)
            await stage.send(peer, opened(1, hello(ECHO)))
            await asyncio.Event().wait()

    await stage.lines(body, count=SYBILS)


@whole("sybils-changing", "made-up peers that come, are remembered, and go", fault="F16", spreads=EVERY)
async def sybils_changing(stage: Stage) -> None:
    """Each pushes its addresses: the victim's memory of peers fills."""
    push = opened(1, hello(identify.PUSH) + ADDRESSES, f.SYN | f.FIN)

    async def body() -> None:
        async with await stage.peer() as peer:
            await stage.send(peer, push)
            await peer.until(f.WINDOW_UPDATE, f.FIN, 1)

    await stage.lines(body, count=16)


@whole("one-peer-many-connections", "one identity that connects without end and keeps all", fault="F4")
async def one_peer(stage: Stage) -> None:
    """The limit of connections of one peer."""
    identity = stage.identity()

    async def body() -> None:
        async with await stage.peer(identity=identity) as peer, asyncio.TaskGroup() as group:
            await _alive(peer, group)

    await stage.lines(body, count=64)
