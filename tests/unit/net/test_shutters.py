"""Pins when listening sockets have a filter: while somebody is turned away, and no longer."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from p2pfwd.net.transport import shutters as module
from p2pfwd.net.transport.shutters import LOOK_S, Shutters
from tests.support.virtual_time import in_virtual_time


class Filters:
    """What `syn_filter` was told, by socket."""

    IS_HERE = True

    def __init__(self) -> None:
        self.told: list[tuple[object, frozenset[str]]] = []
        self.opened: list[object] = []
        self.fails = False

    def keep_out(self, sock: object, networks: frozenset[str]) -> None:
        if self.fails:
            raise OSError("no memory")
        self.told.append((sock, networks))

    def take_all(self, sock: object) -> None:
        self.opened.append(sock)


@pytest.fixture
def filters(monkeypatch: pytest.MonkeyPatch) -> Filters:
    found = Filters()
    monkeypatch.setattr(module, "syn_filter", found)
    return found


def made(*socks: str) -> Shutters:
    shutters = Shutters(asyncio.get_running_loop())
    for sock in socks:
        shutters.add(cast("Any", sock))
    return shutters


A, AB = frozenset({"a"}), frozenset({"a", "b"})


@in_virtual_time
async def test_all_sockets_are_shut_while_somebody_is_and_open_then(filters: Filters) -> None:
    shutters, out, asked = made("v4", "v6"), A, 0

    def shut_out() -> frozenset[str]:
        nonlocal asked
        asked += 1
        return out

    for _ in range(100):
        shutters.look(shut_out)
    assert filters.told == [("v4", A), ("v6", A)] and asked == 1, "once for a look's time, however many come"
    await asyncio.sleep(5.5 * LOOK_S)
    assert len(filters.told) == 2 and asked == 6, "nothing has changed"
    out = AB
    await asyncio.sleep(LOOK_S)
    assert filters.told[2:] == [("v4", AB), ("v6", AB)]
    out = frozenset()
    await asyncio.sleep(LOOK_S)
    assert filters.told[4:] == [("v4", frozenset()), ("v6", frozenset())]
    await asyncio.sleep(10 * LOOK_S)
    assert asked == 8, "nobody is looked after when nobody is shut out"
    shutters.remove(cast("Any", "v4"))
    out = A
    shutters.look(shut_out)
    assert filters.told[6:] == [("v6", A)]
    shutters.remove(cast("Any", "v6"))
    shutters.remove(cast("Any", "v6"))
    await asyncio.sleep(10 * LOOK_S)
    assert asked == 9, "nothing listens"


@in_virtual_time
async def test_a_socket_that_comes_later_is_shut_as_the_others_are(filters: Filters) -> None:
    """By an open one a flood had its network named at every look, so that nothing changed."""
    shutters = made("v4")
    shutters.look(lambda: A)
    await asyncio.sleep(LOOK_S / 2)
    shutters.add(cast("Any", "later"))
    assert ("later", A) in filters.told
    for sock in ("v4", "later"):
        shutters.remove(cast("Any", sock))


@in_virtual_time
async def test_where_the_system_refuses_it_is_done_without(filters: Filters) -> None:
    shutters, asked = made("v4", "v6"), 0

    def shut_out() -> frozenset[str]:
        nonlocal asked
        asked += 1
        return frozenset({str(asked)})

    shutters.look(shut_out)
    filters.fails = True
    await asyncio.sleep(1.5 * LOOK_S)
    assert filters.opened == ["v4", "v6"], "what was said before does not stay for ever"
    told = len(filters.told)
    shutters.look(shut_out)
    filters.fails = False
    shutters.add(cast("Any", "later"))
    await asyncio.sleep(10 * LOOK_S)
    assert asked == 2 and len(filters.told) == told
