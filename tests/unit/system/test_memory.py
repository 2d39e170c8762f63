"""Pins when memory is given back: some time after things ended, seldom, and not for ever in vain."""

from __future__ import annotations

import asyncio
import gc
import sys

import pytest

from p2pfwd.system.memory import BUSY_S, REST_S, SLACK_BYTES, MemoryKeeper, give_back, rss_bytes
from tests.support.virtual_time import in_virtual_time

MB = 1 << 20


class Rig:
    """A process that had so many resident bytes when it started, and has `full` now.

    `release` leaves `left` of them.
    """

    def __init__(self, quiet: int, full: int, left: int) -> None:
        self.resident, self.left = quiet, left
        self.releases = self.spared = 0
        self.keeper = MemoryKeeper(asyncio.get_running_loop(), lambda: self.resident, self.release)
        self.keeper.on_spare(self.spare)
        self.keeper.started()
        self.resident = full

    def spare(self) -> None:
        self.spared += 1

    def release(self) -> None:
        self.releases += 1
        assert self.spared == self.releases, "what is let go of first is given back, too"
        self.resident = self.left


@in_virtual_time
async def test_after_a_flood_it_is_given_back_once_and_within_half_a_minute() -> None:
    rig = Rig(40 * MB, 150 * MB, 42 * MB)
    for _ in range(100):  # 20 s
        rig.keeper.stir()
        await asyncio.sleep(0.2)
    assert not rig.releases, "it goes on"
    await asyncio.sleep(30)
    assert rig.releases == 1
    await asyncio.sleep(600)
    assert rig.releases == 1
    rig.keeper.close()


@in_virtual_time
async def test_what_little_can_be_given_back_is_given_back_twice_and_then_left() -> None:
    """What is kept for some time of who has gone goes in between, and its pages with it."""
    rig = Rig(40 * MB, 150 * MB, 50 * MB)
    rig.keeper.stir()
    await asyncio.sleep(30 + REST_S)
    assert rig.releases == 2
    await asyncio.sleep(600)
    assert rig.releases == 2
    rig.keeper.stir()
    await asyncio.sleep(600)
    assert rig.releases == 2 + 3, "at once, for it has long not been; and twice when nothing more ends"
    rig.keeper.close()


@in_virtual_time
async def test_in_quiet_times_nothing_is_done() -> None:
    rig = Rig(40 * MB, 40 * MB + SLACK_BYTES, 40 * MB)
    rig.keeper.stir()
    await asyncio.sleep(600)
    assert not rig.releases
    rig.keeper.close()


@in_virtual_time
async def test_a_flood_that_lasts_is_given_back_when_it_ends_all_the_same() -> None:
    """However often it was in vain meanwhile: that much was in use then, and is not now."""
    rig = Rig(40 * MB, 100 * MB, 100 * MB)
    for _ in range(600):
        rig.keeper.stir()
        await asyncio.sleep(1)
    during = rig.releases
    assert 1 <= during <= 600 / BUSY_S
    rig.left = 42 * MB
    await asyncio.sleep(30)
    assert rig.resident == 42 * MB
    rig.keeper.close()


@in_virtual_time
async def test_what_is_in_use_is_asked_for_only_when_something_has_ended() -> None:
    rig = Rig(40 * MB, 100 * MB, 100 * MB)
    rig.keeper.stir()
    await asyncio.sleep(600)
    assert rig.releases == 2
    for _ in range(30):
        rig.keeper.stir()
        await asyncio.sleep(11)  # two looks: the second finds that nothing more has ended
    assert rig.releases <= 2 + 330 / REST_S
    rig.keeper.close()


@in_virtual_time
async def test_after_close_nothing_is_done() -> None:
    rig = Rig(40 * MB, 100 * MB, 40 * MB)
    rig.keeper.stir()
    rig.keeper.close()
    rig.keeper.close()
    rig.keeper.stir()
    await asyncio.sleep(600)
    assert not rig.releases


def test_free_memory_really_goes_back() -> None:
    blocks = [bytes(100_000) for _ in range(600)]  # below glibc's mmap threshold: from its heap
    keep = bytes(50_000)
    full = rss_bytes()
    del blocks
    give_back()
    assert full - rss_bytes() > 30 * MB and keep
    assert gc.isenabled()


@pytest.mark.parametrize("lacks", ["_ctypes", "dlopen", "dlsym", "call_function"])
def test_where_pythons_own_module_is_another_garbage_is_collected_all_the_same(
    monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    if lacks == "_ctypes":
        monkeypatch.setitem(sys.modules, "_ctypes", None)
    else:
        monkeypatch.delattr(pytest.importorskip("_ctypes"), lacks, raising=False)
    collected: list[bool] = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(True))
    give_back()
    assert collected == [True]
