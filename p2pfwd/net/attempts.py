"""Dials of one address of a peer: whoever wants the same while one has just begun shares it.

Searches, look-ups, the keeper and who goes by a relay dial for reasons of their own, each in its own time: a
hub that comes back would have a connection from each. Rules: the dial ends with the last who waits for it,
and a connection that nobody has use for is closed. One that is older than `YOUNG_S` is not shared: TCP knocks
ever less often, and where the line was cut a new dial is sooner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.link.contract import Link

YOUNG_S: Final = 1.0

Dial = Callable[[PeerId, Multiaddr], Coroutine[Any, Any, Link]]


@dataclass(slots=True, eq=False)
class _UnderWay:
    """One dial."""

    task: asyncio.Task[Link]
    began: float
    users: int = 0
    """Who wait for it, and then who have its connection."""


class Attempts:
    """Of one dialer."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[PeerId, Multiaddr], _UnderWay] = {}
        self._made: WeakKeyDictionary[Link, _UnderWay] = WeakKeyDictionary()

    async def share(self, peer_id: PeerId, addr: Multiaddr, dial: Dial) -> Link:
        """The connection of a dial of it that has just begun, or of a new one. Raises as `dial`."""
        loop, key = asyncio.get_running_loop(), (peer_id, addr.without_peer_id())
        one = self._under_way.get(key)
        if one is None or loop.time() - one.began >= YOUNG_S:
            one = _UnderWay(loop.create_task(dial(peer_id, addr)), loop.time())
            self._under_way[key] = one
            one.task.add_done_callback(lambda _: self._over(key, one))
        one.users += 1
        try:
            link = await asyncio.shield(one.task)
        except asyncio.CancelledError:
            one.users -= 1
            if not one.users:
                one.task.cancel()
                await asyncio.wait([one.task])
                if not one.task.cancelled() and one.task.exception() is None:
                    await one.task.result().close()
            raise
        self._made[link] = one
        return link

    async def let_go(self, link: Link) -> None:
        """Close a connection, unless another has use for it."""
        one = self._made[link]
        one.users -= 1
        if not one.users:
            await link.close()

    def _over(self, key: tuple[PeerId, Multiaddr], one: _UnderWay) -> None:
        if self._under_way.get(key) is one:
            del self._under_way[key]
        if not one.task.cancelled():
            one.task.exception()  # retrieved, also where everybody has gone
