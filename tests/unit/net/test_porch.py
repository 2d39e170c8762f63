"""Who is turned away stays for a moment; where many do, the next goes at once."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest

from p2pfwd.net.transport.porch import ROOM, STAY_S, Porch
from tests.support.virtual_time import in_virtual_time


class Socket:
    def __init__(self) -> None:
        self.closed_at: float | None = None
        self.options: list[tuple[int, int, int]] = []

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options.append((level, option, value))

    def close(self) -> None:
        assert self.closed_at is None, "once"
        self.closed_at = asyncio.get_running_loop().time()


def come(porch: Porch, count: int = 1) -> list[Socket]:
    socks = [Socket() for _ in range(count)]
    for sock in socks:
        porch.keep(cast("Any", sock))
    return socks


@in_virtual_time
async def test_each_stays_for_a_moment_and_is_closed() -> None:
    loop = asyncio.get_running_loop()
    porch, began = Porch(loop, 8), loop.time()
    (first,) = come(porch)
    await asyncio.sleep(STAY_S / 20)
    (second,) = come(porch)
    await asyncio.sleep(STAY_S / 2)
    (third,) = come(porch)
    assert first.closed_at is None and len(porch) == 3
    await asyncio.sleep(10 * STAY_S)
    stays = [sock.closed_at - began for sock in (first, second, third) if sock.closed_at is not None]
    assert stays == pytest.approx([STAY_S, STAY_S, STAY_S * 1.55]), "those that are nearly due go together"
    assert not len(porch)


@in_virtual_time
async def test_one_too_many_is_closed_at_once_and_the_end_closes_all() -> None:
    loop = asyncio.get_running_loop()
    porch = Porch(loop, 8)
    staying = come(porch, 8)
    (late,) = come(porch)
    assert late.closed_at == loop.time() and len(porch) == 8
    assert all(sock.options == [(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)] for sock in staying)
    await asyncio.sleep(STAY_S)
    assert not len(porch), "their places are free again"
    staying += come(porch, 2)
    porch.close()
    porch.close()
    assert all(sock.closed_at == loop.time() for sock in staying)
    await asyncio.sleep(2 * STAY_S)
