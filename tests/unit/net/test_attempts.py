"""Who wants an address that another has just begun to dial shares the dial; nothing is left of the losers."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.attempts import YOUNG_S, Attempts
from tests.support.loops import turns
from tests.support.peers import peer
from tests.support.virtual_time import in_virtual_time

HUB, ADDR = peer(1), Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")


class FakeLink:
    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self.closed = True


class Dials:
    """Each goes on until the test ends it."""

    def __init__(self) -> None:
        self.begun: list[asyncio.Future[Any]] = []
        self.cancelled = 0
        self.ends_s = 0.0
        """How long one takes to end that is cancelled."""
        self.attempts = Attempts()

    async def _dial(self, _peer: PeerId, _addr: Multiaddr) -> Any:
        self.begun.append(asyncio.get_running_loop().create_future())
        try:
            return await self.begun[-1]
        except asyncio.CancelledError:
            self.cancelled += 1
            await asyncio.sleep(self.ends_s)
            raise

    async def share(self, addr: Multiaddr = ADDR) -> asyncio.Task[Any]:
        task = asyncio.create_task(self.attempts.share(HUB, addr, self._dial))
        await turns(3)
        return task


@in_virtual_time
async def test_all_who_come_meanwhile_have_the_same_connection() -> None:
    dials, link = Dials(), FakeLink()
    tasks = [await dials.share(), await dials.share(), await dials.share(ADDR.with_peer_id(HUB))]
    assert len(dials.begun) == 1
    dials.begun[0].set_result(link)
    assert set(await asyncio.gather(*tasks)) == {link}
    await dials.attempts.let_go(link)  # type: ignore[arg-type]
    await dials.attempts.let_go(link)  # type: ignore[arg-type]
    assert not link.closed, "the third has it"
    await dials.attempts.let_go(link)  # type: ignore[arg-type]
    assert link.closed
    later = await dials.share()
    assert len(dials.begun) == 2, "what is over is not shared"
    later.cancel()
    await asyncio.wait([later])


@in_virtual_time
async def test_a_failure_is_everybodys() -> None:
    dials = Dials()
    tasks = [await dials.share(), await dials.share()]
    dials.begun[0].set_exception(ConnectionRefusedError("no"))
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [ConnectionRefusedError] * 2


@in_virtual_time
async def test_a_dial_is_shared_while_it_is_young_and_another_address_never() -> None:
    dials = Dials()
    tasks = [await dials.share(), await dials.share(Multiaddr.parse("/ip4/192.0.2.2/tcp/4001"))]
    await asyncio.sleep(YOUNG_S)
    tasks += [await dials.share(), await dials.share()]
    assert len(dials.begun) == 3
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert dials.cancelled == 3


@in_virtual_time
@pytest.mark.parametrize("connected", [False, True])
async def test_it_ends_with_the_last_who_waits(connected: bool) -> None:
    dials, link = Dials(), FakeLink()
    first, second = await dials.share(), await dials.share()
    first.cancel()
    await turns()
    assert first.cancelled() and not dials.cancelled
    if connected:
        dials.begun[0].set_result(link)
        await asyncio.sleep(0)  # it is there, and the second does not know yet
    second.cancel()
    await asyncio.wait([second])
    assert (dials.cancelled, link.closed) == ((0, True) if connected else (1, False))
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_virtual_time
async def test_who_comes_while_a_dial_that_nobody_wants_ends_has_one_of_its_own() -> None:
    dials, link = Dials(), FakeLink()
    dials.ends_s = 0.5
    first = await dials.share()
    first.cancel()
    await turns(3)
    second = await dials.share()
    assert len(dials.begun) == 2
    dials.begun[1].set_result(link)
    assert await second is link and not link.closed
    await asyncio.wait([first])


@in_virtual_time
async def test_a_connection_is_not_kept_for_having_been_dialed() -> None:
    dials, link = Dials(), FakeLink()
    task = await dials.share()
    dials.begun[0].set_result(link)
    await task
    gone = weakref.ref(link)
    del link, task
    dials.begun.clear()
    await turns()
    gc.collect()
    assert gone() is None
