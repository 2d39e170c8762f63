"""Pins how many strangers are dialed at once, and that what the owner wants does not wait behind them."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import DialFailed
from p2pfwd.net.connections import Connections
from p2pfwd.net.dialer import Dialer
from p2pfwd.net.dials import MAX_DIALS, Dials
from p2pfwd.peers.store import Peerstore
from tests.support.loops import on_loop, turns
from tests.support.peers import peer


class FakeDialer:
    """Dials that go on until they are told to fail."""

    def __init__(self) -> None:
        self.begun: list[PeerId] = []
        self.over = asyncio.Event()

    async def dial(self, peer_id: PeerId, *_args: object, **_options: object) -> Any:
        self.begun.append(peer_id)
        await self.over.wait()
        raise DialFailed("told to")


class NoConnections:
    closing = False

    def usable(self, _peer: PeerId) -> None:
        return None


@on_loop
async def test_strangers_are_dialed_few_at_a_time_and_the_owners_at_once() -> None:
    dialer = FakeDialer()
    made = Dials(
        peer(0), cast("Dialer", dialer), cast("Connections", NoConnections()), Peerstore(), lambda: []
    )
    made.is_own = lambda one: one == peer(1000)

    async def connect(number: int, force: bool = False) -> None:
        await made.connect(
            peer(number), (), timeout_s=None, force=force, only=False, route=False
        )

    tasks = [asyncio.ensure_future(connect(number)) for number in range(1, MAX_DIALS + 11)]
    await turns(5)
    assert len(dialer.begun) == MAX_DIALS
    tasks += [asyncio.ensure_future(connect(1000)), asyncio.ensure_future(connect(1001, force=True))]
    await turns(5)
    assert set(dialer.begun[MAX_DIALS:]) == {peer(1000), peer(1001)}
    dialer.over.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} == {DialFailed}
    assert len(dialer.begun) == MAX_DIALS + 12, "and the others in the end"
