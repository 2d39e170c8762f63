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
class _Users:
    """Who wait for a dial, and then who have its connection: kept with that, so it must not lead there."""

    count: int = 0


@dataclass(slots=True, eq=False)
class _UnderWay:
    """One dial."""

    task: asyncio.Task[Link]
    began: float
    users: _Users


class Attempts:
    """Of one dialer."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[PeerId, Multiaddr], _UnderWay] = {}
        self._made: WeakKeyDictionary[Link, _Users] = WeakKeyDictionary()

    async def share(self, peer_id: PeerId, addr: Multiaddr, dial: Dial) -> Link:
        """The connection of a dial of it that has just begun, or of a new one. Raises as `dial`."""
        loop, key = asyncio.get_running_loop(), (peer_id, addr.without_peer_id())
        one = self._under_way.get(key)
        if one is None or loop.time() - one.began >= YOUNG_S:
            one = _UnderWay(loop.create_task(dial(peer_id, addr)), loop.time(), _Users())
            self._under_way[key] = one
            one.task.add_done_callback(lambda _: self._over(key, one))
        one.users.count += 1
        try:
            link = await asyncio.shield(one.task)
        except asyncio.CancelledError:
            one.users.count -= 1
            if not one.users.count:
                self._forget(key, one)  # whoever comes now has a dial of its own
                if not one.task.cancel():
                    _drop(one.task)
                await asyncio.wait([one.task])
            raise
        self._made[link] = one.users
        return link

    async def let_go(self, link: Link) -> None:
        """Close a connection, unless another has use for it."""
        users = self._made[link]
        users.count -= 1
        if not users.count:
            await link.close()

    def _over(self, key: tuple[PeerId, Multiaddr], one: _UnderWay) -> None:
        self._forget(key, one)
        if not one.users.count:
            _drop(one.task)

    def _forget(self, key: tuple[PeerId, Multiaddr], one: _UnderWay) -> None:
        if self._under_way.get(key) is one:
            del self._under_way[key]


def _drop(task: asyncio.Task[Link]) -> None:
    """End the connection of a dial that nobody waits for any more, if it has come to one."""
    if not task.cancelled() and task.exception() is None:
        task.result().abort()
