"""Pins who may come, and when it is looked who must go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfwd.net.connections import LOOK_EVERY_S, TRIM_EVERY_S, Connections
from p2pfwd.net.refusals import Refusals
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.tasks import Tasks
from tests.support.loops import on_loop
from tests.support.peers import peer
from tests.support.virtual_time import in_virtual_time


class Conn(SimpleNamespace):
    """A connection to peer 1; `ended`: it has come up and ended at once."""

    __hash__ = object.__hash__

    def __init__(self, ended: bool = False) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            loop=loop,
            remote_peer=peer(1),
            remote_addr="/ip4/192.0.2.1/tcp/1",
            crowd="192.0.2.0/24",
            direction="inbound",
            security="/noise",
            is_relayed=False,
            opened_at=0.0,
            streams={},
            closed=loop.create_future(),
            liveness=SimpleNamespace(doubtful=False),
            aborted=False,
        )
        if ended:
            self.closed.set_result(None)

    def abort(self, *_cause: object) -> None:
        self.aborted = True

    async def close(self) -> None:
        self.closed.set_result(None)


@on_loop
async def test_no_connection_gives_way_to_one_that_has_ended() -> None:
    asked: list[object] = []

    def to_replace(*args: object) -> None:
        asked.append(args)

    manager = SimpleNamespace(is_urgent=lambda _peer: False, to_replace=to_replace, to_close=lambda *_: [])
    tasks = Tasks(asyncio.get_running_loop())
    settings = replace(SwarmSettings(), max_connections_per_peer=3)
    connections = Connections(peer(0), settings, cast("Any", manager), tasks, Refusals())
    live, ended = Conn(), Conn(ended=True)
    connections.add(cast("Any", live))
    asked.clear()
    connections.add(cast("Any", ended))
    assert asked == [] and ended.aborted and not live.aborted
    assert connections.of(peer(1)) == [live]
    connections.closing = True
    live.closed.set_result(None)


@on_loop
async def test_newcomers_beyond_the_high_water_mark_are_not_a_look_at_all_each() -> None:
    looks: list[int] = []

    def to_trim(conns: Sequence[object], _now: float) -> list[object]:
        looks.append(len(conns))
        return []

    manager = SimpleNamespace(
        is_urgent=lambda _peer: False, to_replace=lambda *_: None, to_let_go=lambda *_: [], to_trim=to_trim
    )
    tasks = Tasks(asyncio.get_running_loop())
    settings = replace(SwarmSettings(), max_connections_per_peer=100, high_water=2)
    connections = Connections(peer(0), settings, cast("Any", manager), tasks, Refusals())
    made = [Conn() for _ in range(100)]
    for conn in made:
        connections.add(cast("Any", conn))
    assert looks[0] == 3 and len(looks) < 5, "one at once, then one a second"
    connections.close()
    for conn in made:
        conn.closed.set_result(None)


@pytest.mark.parametrize(
    ("count", "looks_at"),
    [
        (2, [LOOK_EVERY_S, 2 * LOOK_EVERY_S]),
        (3, [0.0, LOOK_EVERY_S, LOOK_EVERY_S + TRIM_EVERY_S, LOOK_EVERY_S + 2 * TRIM_EVERY_S]),
    ],
)
@in_virtual_time
async def test_it_is_looked_again_who_is_idle_sooner_where_there_are_too_many(
    count: int, looks_at: list[float]
) -> None:
    """A connection that nobody needs any more goes at the next look, without a newcomer."""
    loop = asyncio.get_running_loop()
    begin, looks, idle = loop.time(), list[float](), list[object]()

    def to_let_go(_conns: Sequence[object], _now: float) -> list[object]:
        looks.append(loop.time() - begin)
        return idle

    manager = SimpleNamespace(
        is_urgent=lambda _peer: False, to_replace=lambda *_: None, to_let_go=to_let_go, to_trim=lambda *_: []
    )
    tasks = Tasks(loop)
    settings = replace(SwarmSettings(), max_connections_per_peer=3, high_water=2)
    connections = Connections(peer(0), settings, cast("Any", manager), tasks, Refusals())
    made = [Conn() for _ in range(count)]
    for conn in made:
        connections.add(cast("Any", conn))
    await asyncio.sleep(looks_at[-1] + 1)
    assert looks == pytest.approx(looks_at)
    idle += made
    await asyncio.sleep(LOOK_EVERY_S)
    assert connections.all() == [], "all were let go"
    looks.clear()
    idle.clear()
    await asyncio.sleep(10 * LOOK_EVERY_S)
    assert looks == [], "nobody is there to be looked at"
    connections.add(cast("Any", Conn()))
    await asyncio.sleep(LOOK_EVERY_S + 1)
    assert len(looks) == 1, "until somebody comes"
    connections.close()
    await tasks.close()
