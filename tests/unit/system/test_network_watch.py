"""net.network_watch: what counts as another network, and that nothing runs while nobody listens."""

from __future__ import annotations

import asyncio

import pytest

from p2pfwd.system.network_watch import NetworkWatch, interface_addresses

HOME, CAFE = frozenset({"192.168.1.7", "2001:db8::7"}), frozenset({"10.0.0.7"})
NOWHERE: frozenset[str] = frozenset()


class World:
    """The interfaces and clocks of a machine."""

    def __init__(self) -> None:
        self.addresses: frozenset[str] | OSError = HOME
        self.wall, self.mono = 1_700_000_000.0, 100.0
        self.looks = 0

    def read(self) -> frozenset[str]:
        self.looks += 1
        if isinstance(self.addresses, OSError):
            raise self.addresses
        return self.addresses

    def sleep(self, seconds: float) -> None:
        self.wall += seconds

    def watch(self, interval_s: float = 3600.0) -> NetworkWatch:
        return NetworkWatch(interval_s, self.read, lambda: self.wall, lambda: self.mono)


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        (HOME, HOME, False),
        (HOME, CAFE, True),
        (HOME, HOME | CAFE, True),
        (HOME, NOWHERE, False),
        (NOWHERE, HOME, True),
        (NOWHERE, NOWHERE, False),
    ],
)
def test_a_new_address_is_a_change(before: frozenset[str], after: frozenset[str], changed: bool) -> None:
    world = World()
    watch = world.watch()
    world.addresses = before
    watch.look()
    world.addresses = after
    assert (watch.look() is not None) == changed
    assert watch.look() is None


def test_sleep_is_a_change_and_the_passing_of_time_is_not() -> None:
    world = World()
    watch = world.watch()
    watch.look()
    world.wall += 15.1
    world.mono += 15.0
    assert watch.look() is None
    world.sleep(600.0)
    assert watch.look() == "the clock jumped by +600 s: asleep, or set"
    world.sleep(-600.0)
    assert watch.look() is not None
    assert watch.look() is None


def test_interfaces_that_cannot_be_read_are_no_change() -> None:
    world = World()
    watch = world.watch()
    watch.look()
    world.addresses = OSError(24, "Too many open files")
    assert watch.look() is None
    world.addresses = HOME
    assert watch.look() is None


def test_listeners_are_told_and_nothing_runs_before_the_first_or_after_the_end() -> None:
    async def main() -> None:
        world = World()
        watch = world.watch(interval_s=0.001)
        assert world.looks == 0
        told: list[int] = []
        changed = asyncio.Event()
        watch.on_change(lambda: told.append(1))
        watch.on_change(changed.set)
        world.addresses = CAFE
        await asyncio.wait_for(changed.wait(), 5)
        assert told == [1]
        watch.close()
        watch.close()
        assert watch._timer is None

    asyncio.run(main())


def test_the_real_interfaces_can_be_read() -> None:
    assert not any(text.startswith(("127.", "fe80", "::1")) for text in interface_addresses())
