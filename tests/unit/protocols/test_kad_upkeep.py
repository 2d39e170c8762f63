"""When the DHT's refresh is tried again: virtual hours, a table and lookups by hand."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.connmgr import ConnMgr
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.protocols.kad import upkeep as upkeep_module
from p2pfwd.protocols.kad.service import DhtSettings
from p2pfwd.protocols.kad.upkeep import JITTER, RETRY_FIRST_S, RETRY_MOST_S, Upkeep
from tests.support.virtual_time import in_virtual_time

SELF = PeerId.from_bytes(b"\x12\x20" + bytes(32))
NEAR = PeerId.from_bytes(b"\x12\x20" + bytes(31) + b"\x01")


class Table:
    """One entry, whatever becomes of it."""

    def __len__(self) -> int:
        return 1

    def closest(self, _key: int, _n: int = 20) -> list[PeerId]:
        return [NEAR]

    def cpls_to_refresh(self) -> list[int]:
        return []

    def to_revalidate(self, _rng: random.Random, _seen_before: float) -> None:
        return None


class Dht:
    """Notes when it was asked; `answers` is how many peers answer from then on."""

    def __init__(self) -> None:
        self.protocol, self.is_server, self.settings = "/test/kad", False, DhtSettings()
        self.table, self.changed = Table(), asyncio.Event()
        self.refreshed_at: float | None = None
        self.answers = 0
        self.asked_at: list[float] = []

    async def closest(self, _target: bytes) -> Any:
        self.asked_at.append(asyncio.get_running_loop().time())
        return SimpleNamespace(answered=self.answers)


class Swarm:
    """No connections."""

    peer_id = SELF

    def __init__(self) -> None:
        self.connmgr = ConnMgr(SwarmSettings())

    def spawn(self, work: Any, _what: str) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work)

    def conns(self, _peer: PeerId) -> list[Any]:
        return []


@in_virtual_time
async def test_a_refresh_that_nobody_answers_is_tried_again_soon_and_then_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    clock = SimpleNamespace(monotonic=loop.time, time=loop.time)
    monkeypatch.setattr(upkeep_module, "time", clock)
    dht, swarm = Dht(), Swarm()
    upkeep = Upkeep(swarm, dht, random.Random(1))  # type: ignore[arg-type]
    await asyncio.sleep(400)
    pauses = [later - earlier for earlier, later in zip(dht.asked_at, dht.asked_at[1:], strict=False)]
    assert pauses[0] <= RETRY_FIRST_S * (1 + JITTER)
    assert RETRY_MOST_S * (1 - JITTER) <= pauses[-1] <= RETRY_MOST_S * (1 + JITTER)
    assert dht.refreshed_at is None
    dht.answers = 20
    await asyncio.sleep(RETRY_MOST_S * (1 + JITTER))
    assert dht.refreshed_at is not None
    asked = len(dht.asked_at)
    await asyncio.sleep(dht.settings.refresh_s * (1 - JITTER) - RETRY_MOST_S * (1 + JITTER))
    assert len(dht.asked_at) == asked, "an answered one holds for long"
    dht.answers = 0
    await asyncio.sleep(dht.settings.refresh_s + 2)
    first, second = dht.asked_at[asked : asked + 2]
    assert second - first <= RETRY_FIRST_S * (1 + JITTER), "the next outage begins anew"
    await upkeep.close()


@in_virtual_time
async def test_a_client_stays_connected_to_the_servers_by_which_it_is_found() -> None:
    """They are protected after each refresh, though nobody waits for them; a server protects nobody."""
    dht, swarm = Dht(), Swarm()
    dht.answers = 20
    upkeep = Upkeep(swarm, dht, random.Random(1))  # type: ignore[arg-type]
    await asyncio.sleep(10)
    assert swarm.connmgr.is_protected(NEAR) and not swarm.connmgr.is_urgent(NEAR)
    dht.is_server = True
    upkeep.refresh()
    await asyncio.sleep(10)
    assert not swarm.connmgr.is_protected(NEAR)
    await upkeep.close()
