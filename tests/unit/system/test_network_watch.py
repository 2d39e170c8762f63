"""system.network_watch: what counts as a change, told once; and that nothing runs while nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from p2pfwd.system.interfaces import Interface, Interfaces, Listing
from p2pfwd.system.netlink import ADDRESSES
from p2pfwd.system.network_watch import LATE_S, NetworkWatch, News, reachable_hosts, slept
from tests.support.virtual_time import in_virtual_time

HOME = (Interface("eth0", 2, frozenset({"192.168.1.7", "fe80::7"})),)
CAFE = (Interface("eth0", 2, frozenset({"10.0.0.7"})),)


class Source:
    closed = False

    def close(self) -> None:
        self.closed = True


class World:
    """A machine, its clocks those of the loop; `says` is the kernel's voice, if it has one."""

    def __init__(self, *, kernel: bool = True) -> None:
        self.loop = asyncio.get_running_loop()
        self.has: Listing = HOME
        self.walks = 0
        self.slept_s = 0.0
        self.stopped_s = 0.0
        self.kernel = kernel
        self.says: Callable[[str], None] = lambda _news: None
        self.source = Source()
        self.told: list[float] = []
        self.watch = NetworkWatch(
            Interfaces(self._walk, self._now),
            open_news=self._open,
            slept=lambda: self.slept_s,
            monotonic=self._now,
        )

    def _now(self) -> float:
        return self.loop.time() + self.stopped_s

    def _walk(self) -> Listing:
        self.walks += 1
        return self.has

    def _open(self, told: Callable[[str], None]) -> News:
        if not self.kernel:
            raise OSError(97, "Address family not supported by protocol")
        self.says = told
        return self.source

    def begin(self) -> None:
        self.watch.on_change(lambda: self.told.append(self.loop.time()))


@in_virtual_time
async def test_what_the_kernel_says_is_told_when_it_is_quiet_again_and_once() -> None:
    world = World()
    world.begin()
    world.has = CAFE
    for _ in range(5):
        world.says(ADDRESSES)
        world.says("a default route came")
        await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    assert len(world.told) == 1
    world.watch.close()
    world.watch.close()
    assert world.source.closed


@in_virtual_time
async def test_a_network_that_is_never_quiet_is_told_of_all_the_same() -> None:
    world = World()
    world.begin()
    for _ in range(60):
        world.says("a line is up again")
        await asyncio.sleep(0.05)
    assert 2 <= len(world.told) <= 4
    world.watch.close()


@in_virtual_time
async def test_addresses_that_are_only_prolonged_are_no_change() -> None:
    world = World()
    world.begin()
    world.says(ADDRESSES)
    await asyncio.sleep(2)
    assert not world.told
    world.watch.close()


@in_virtual_time
async def test_nothing_is_listed_while_the_kernel_tells() -> None:
    world = World()
    world.begin()
    walks = world.walks
    await asyncio.sleep(100)
    assert world.walks == walks and not world.told
    world.watch.close()


@in_virtual_time
async def test_where_nobody_tells_new_and_vanished_addresses_are_found_in_about_two_seconds() -> None:
    world = World(kernel=False)
    world.begin()
    await asyncio.sleep(10)
    assert not world.told
    for has in (CAFE, (), HOME):
        world.has, since = has, world.loop.time()
        await asyncio.sleep(5)
        assert since < world.told.pop() < since + 3.2 and not world.told
    world.watch.close()


@in_virtual_time
async def test_a_sleep_and_a_stop_are_changes_and_the_passing_of_time_is_not() -> None:
    world = World()
    world.begin()
    await asyncio.sleep(60)
    assert not world.told
    world.slept_s += 600
    await asyncio.sleep(1.2)
    assert len(world.told) == 1
    world.stopped_s += LATE_S + 1
    await asyncio.sleep(1.2)
    assert len(world.told) == 2
    await asyncio.sleep(60)
    assert len(world.told) == 2
    world.watch.close()


@in_virtual_time
async def test_nothing_runs_before_the_first_listener_or_after_the_end() -> None:
    world = World()
    await asyncio.sleep(10)
    assert not world.walks
    world.begin()
    world.says("a line is up again")
    world.watch.close()
    await asyncio.sleep(10)
    assert not world.told


def test_loopback_and_link_local_are_not_reachable_and_the_clock_can_be_read() -> None:
    listing = (Interface("lo", 1, frozenset({"127.0.0.1", "::1"})), *HOME)
    assert reachable_hosts(listing) == {"192.168.1.7"}
    assert isinstance(slept(), float)
