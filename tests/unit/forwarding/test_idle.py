"""Pins the idle timeout: never early, a look late at most, and no timer where there is none."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfwd.forwarding.idle import IdleWatch
from p2pfwd.wire.yamux.reset_codes import IDLE
from tests.support.virtual_time import in_virtual_time


class Tunnel:
    """With a splice that says when, and with which code, it was reset."""

    def __init__(self, entries: list[Any], number: int, timeout_s: int) -> None:
        self.id = number
        self.listener = SimpleNamespace(idle_timeout_s=timeout_s)
        self.splice: Any = SimpleNamespace(bytes_in=0, bytes_out=0, reset=self._reset)
        self.resets: list[tuple[float, int]] = []
        self._entries = entries
        entries.append(self)

    def _reset(self, code: int) -> None:
        self.resets.append((asyncio.get_running_loop().time(), code))
        self._entries.remove(self)

    def describe(self) -> str:
        return f"stream {self.id}"


@pytest.mark.parametrize("timeout_s", [1, 30, 7200])
@in_virtual_time
async def test_an_idle_stream_is_reset_at_most_a_look_late(timeout_s: int) -> None:
    loop = asyncio.get_running_loop()
    entries: list[Any] = []
    watch = IdleWatch(loop, lambda: entries)
    tunnel = Tunnel(entries, 1, timeout_s)
    watch.watch(timeout_s)
    for _ in range(5):
        await asyncio.sleep(timeout_s * 0.9)
        assert not tunnel.resets
        tunnel.splice.bytes_in += 1
    moved = loop.time()
    await asyncio.sleep(timeout_s * 2 + 1)
    ((at, code),) = tunnel.resets
    assert code == IDLE
    assert timeout_s <= at - moved <= timeout_s * 1.1 + 1
    assert watch._timer is None, "nobody is left to be looked at"


@in_virtual_time
async def test_either_way_counts_and_others_are_left_alone() -> None:
    entries: list[Any] = []
    watch = IdleWatch(asyncio.get_running_loop(), lambda: entries)
    one, other = Tunnel(entries, 1, 10), Tunnel(entries, 2, 0)
    dialing = Tunnel(entries, 3, 10)
    dialing.splice = None
    watch.watch(10)
    for _ in range(20):
        await asyncio.sleep(5)
        one.splice.bytes_out += 1
    assert not one.resets and not other.resets
    one.listener.idle_timeout_s = dialing.listener.idle_timeout_s = 0
    await asyncio.sleep(100)
    assert not one.resets and watch._timer is None, "the timeout was taken away"
    watch.close()


@in_virtual_time
async def test_a_shorter_timeout_is_looked_at_sooner() -> None:
    entries: list[Any] = []
    watch = IdleWatch(asyncio.get_running_loop(), lambda: entries)
    slow = Tunnel(entries, 1, 7200)
    watch.watch(7200)
    await asyncio.sleep(1)
    quick = Tunnel(entries, 2, 2)
    watch.watch(2)
    await asyncio.sleep(3)
    assert quick.resets and not slow.resets
    watch.close()
