"""Pins that many strangers of one network, who share a lane, bring what they have to the end."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack

import pytest

from p2pfwd.net.lanes import FEW, Lane
from p2pfwd.net.link.contract import DuplexStream
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from tests.net.swarm_rig import swarm
from tests.support.loops import on_loop

UP = "/test/up/1.0.0"
UPLOAD = bytes(range(256)) * (16 * 1024)
"""4 MiB: whole windows, many wide messages, and parts of them left at the end of a read."""

PATIENCE_S = 60.0


async def _take(stream: DuplexStream) -> None:
    """Handler: everything is taken, its digest comes back."""
    digest = hashlib.sha256()
    while data := await stream.read():
        digest.update(data)
    await stream.write(digest.digest())
    stream.close_write()


async def _upload(near: Swarm, far: Swarm) -> bytes:
    await near.connect(far.peer_id, far.listen_addrs())
    stream = await near.open_stream(far.peer_id, [UP])
    await stream.write(UPLOAD)
    stream.close_write()
    return await stream.read()


@on_loop
async def test_a_crowd_that_has_used_up_its_share_uploads_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a message that was left of a read made its connection wait anew in each slice, for ever."""
    monkeypatch.setattr(Lane, "is_short", property(lambda _: True))
    async with AsyncExitStack() as stack:
        victim, *crowd = [await stack.enter_async_context(swarm()) for _ in range(FEW + 3)]
        victim.services.serve(Service(name=UP, handler=_take))
        async with asyncio.timeout(PATIENCE_S):
            digests = await asyncio.gather(*(_upload(near, victim) for near in crowd))
        assert set(digests) == {hashlib.sha256(UPLOAD).digest()}
        assert list(victim.limits.lanes.crowds.values()) == [len(crowd)]
