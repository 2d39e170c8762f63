"""system.interfaces: listed once, kept, and what is told where they cannot be listed."""

from __future__ import annotations

import logging
import sys

import pytest

from p2pfwd.system import interfaces
from p2pfwd.system.interfaces import MAX_AGE_S, Interface, Interfaces, Listing, by_getsockname, walk

HOME = (Interface("eth0", 2, frozenset({"192.168.1.7", "fe80::7"})),)
CAFE = (Interface("eth0", 2, frozenset({"10.0.0.7"})),)


class Machine:
    """Its interfaces and its clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.has: Listing | OSError = HOME
        self.walks = 0
        self.interfaces = Interfaces(self._walk, lambda: self.now)

    def _walk(self) -> Listing:
        self.walks += 1
        if isinstance(self.has, OSError):
            raise self.has
        return self.has


def test_a_listing_is_kept_for_all_who_ask_and_read_anew_when_old_or_asked_to() -> None:
    machine = Machine()
    for _ in range(100):
        assert machine.interfaces.listing() is HOME
    assert machine.walks == 1
    machine.has = CAFE
    assert machine.interfaces.refresh() == CAFE and machine.walks == 2
    machine.has = HOME
    machine.now += MAX_AGE_S + 0.1
    assert machine.interfaces.listing() == HOME


def test_the_same_listing_stays_the_same_object() -> None:
    machine = Machine()
    first = machine.interfaces.listing()
    machine.has = (Interface("eth0", 2, frozenset({"fe80::7", "192.168.1.7"})),)
    assert machine.interfaces.refresh() is first


def test_out_of_descriptors_the_last_listing_stands() -> None:
    machine = Machine()
    machine.interfaces.listing()
    machine.has = OSError(24, "Too many open files")
    assert machine.interfaces.refresh() is HOME


def test_without_netlink_it_is_what_sockets_tell_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    machine.has = OSError(97, "Address family not supported by protocol")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert "127.0.0.1" in machine.interfaces.hosts()
            machine.interfaces.refresh()
    (said,) = caplog.messages
    assert "allow AF_NETLINK" in said and "not supported" in said


def test_sockets_tell_loopback_without_zones() -> None:
    (told,) = by_getsockname()
    assert "127.0.0.1" in told.hosts and not any("%" in host for host in told.hosts)


def test_the_real_interfaces_can_be_walked() -> None:
    listing = walk()
    assert any("127.0.0.1" in each.hosts for each in listing)
    assert not any("%" in host for each in listing for host in each.hosts)


@pytest.mark.skipif(sys.platform != "linux", reason="there is one way only")
def test_both_ways_to_walk_find_the_same() -> None:
    """Seen by their index: one names an address's label, the other its interface."""
    kernel, library = interfaces._by_netlink(), interfaces._by_getifaddrs()
    assert hosts_of(kernel) == hosts_of(library)


def hosts_of(listing: Listing) -> set[tuple[int, str]]:
    return {(each.index, host) for each in listing for host in each.hosts}
