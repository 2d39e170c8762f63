"""A time limit of `Swarm.open_stream` is one limit, whatever it is spent on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.swarm import IDENTIFY_WAIT_S, Swarm
from tests.support.virtual_time import in_virtual_time

DIAL_S = 10.0


PING_S = 1.0


class SlowConn:
    """A connection whose peer never says who it is; notes what limit a stream is opened with.

    `is_stale`: nothing is known of its line, and its peer answers a ping after `PING_S`.
    """

    def __init__(self, is_stale: bool = False) -> None:
        self.identified: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.limit_s = -1.0
        self.proved_within_s: float | None = -1.0
        self.liveness = SimpleNamespace(is_stale=is_stale, prove=self._prove)

    async def _prove(self, within_s: float | None = None) -> bool:
        self.proved_within_s = within_s
        await asyncio.sleep(PING_S)
        return True

    async def open_stream(self, _protocols: Sequence[str], timeout_s: float, **_options: Any) -> None:
        self.limit_s = timeout_s


@pytest.mark.parametrize(
    ("limit_s", "left_s"),
    [
        (30.0, 30.0 - DIAL_S - IDENTIFY_WAIT_S),
        (DIAL_S + 2, 0.0),
        (None, SwarmSettings().stream_timeout_s - IDENTIFY_WAIT_S),
    ],
)
@in_virtual_time
async def test_what_the_dial_and_identify_took_is_not_given_again(
    monkeypatch: pytest.MonkeyPatch, limit_s: float | None, left_s: float
) -> None:
    """Without a limit the dial has its own, and the rest one together."""
    conn = await _opened(monkeypatch, SlowConn(), limit_s)
    assert conn.limit_s == pytest.approx(left_s)


@pytest.mark.parametrize("limit_s", [30.0, None])
@in_virtual_time
async def test_a_stale_connection_is_proved_within_the_same_limit(
    monkeypatch: pytest.MonkeyPatch, limit_s: float | None
) -> None:
    conn = await _opened(monkeypatch, SlowConn(is_stale=True), limit_s)
    assert conn.proved_within_s == (None if limit_s is None else pytest.approx(limit_s - DIAL_S))
    if limit_s is not None:
        assert conn.limit_s == pytest.approx(limit_s - DIAL_S - PING_S - IDENTIFY_WAIT_S)


async def _opened(monkeypatch: pytest.MonkeyPatch, conn: SlowConn, limit_s: float | None) -> SlowConn:
    """The connection after a dial that took `DIAL_S`, and a stream over it."""
    swarm = Swarm(PrivateKey.generate())

    async def connect(*_args: Any, **_options: Any) -> SlowConn:
        await asyncio.sleep(DIAL_S)
        return conn

    monkeypatch.setattr(swarm, "connect", connect)
    somebody = PeerId.from_public_key(PrivateKey.generate().public_key)
    await swarm.open_stream(somebody, ["/x/web"], timeout_s=limit_s)
    await swarm.close()
    return conn
