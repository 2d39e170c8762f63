"""Pins who may come: nobody gives way to a connection that has ended before it was taken."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from p2pfwd.net.connections import Connections
from p2pfwd.net.refusals import Refusals
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.tasks import Tasks
from tests.support.loops import on_loop
from tests.support.peers import peer


class Conn(SimpleNamespace):
    """A connection to peer 1; `ended`: it has come up and ended at once."""

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
