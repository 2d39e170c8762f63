"""host.listening: what is taken, what cannot be bound, and the one port all addresses keep."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.errors import AddressInUse, BindFailed
from p2pfwd.host import listening
from p2pfwd.net.swarm import Swarm

V4, V6 = "/ip4/0.0.0.0/tcp/{}", "/ip6/::/tcp/{}"


class FakeSwarm:
    """`taken` are (family, port) that others have, `lacking` families this machine has not.

    `absent` are addresses that it does not have now.
    """

    def __init__(self, taken: Sequence[tuple[str, int]] = (), lacking: str = "", free: int = 50000) -> None:
        self.absent: set[str] = set()
        self.told = 0
        self.own_addresses = SimpleNamespace(told_anew=self._told_anew)
        self.taken, self.lacking, self._free = set(taken), lacking, free
        self.bound: list[str] = []

    def _told_anew(self) -> None:
        self.told += 1

    async def listen(self, addr: Multiaddr) -> Multiaddr:
        if str(addr) in self.absent:
            raise BindFailed(f"cannot listen on {addr}: not here", absent=True)
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        family, port = endpoint.family, endpoint.port
        if family == self.lacking:
            raise BindFailed(f"cannot listen on {addr}: no such family")
        if not port:
            port, self._free = self._free, self._free + 1
        if (family, port) in self.taken:
            raise AddressInUse(f"cannot listen on {addr}: taken")
        got = Multiaddr.parse(str(addr).rpartition("/")[0] + f"/{port}")
        self.bound.append(str(got))
        return got

    def unlisten(self, bound: Multiaddr) -> None:
        self.bound.remove(str(bound))


def listen(swarm: FakeSwarm, *addrs: str, fall_back: bool = True) -> tuple[int, ...]:
    found = [Multiaddr.parse(text) for text in addrs]
    outcome = asyncio.run(listening.listen(cast("Swarm", swarm), found, fall_back_to_free_port=fall_back))
    assert {str(addr) for addr in outcome.absent} == swarm.absent
    return outcome.taken_ports


BOTH = (V4.format(4011), V6.format(4011))


@pytest.mark.parametrize(
    ("taken", "port"),
    [
        ([], 4011),
        ([("ip4", 4011)], 50000),
        ([("ip6", 4011)], 50000),
        ([("ip4", 4011), ("ip6", 4011)], 50000),
        ([("ip4", 4011), ("ip6", 50000), ("ip6", 50001)], 50002),  # free for one family only: another
    ],
)
def test_both_families_keep_one_port(taken: list[tuple[str, int]], port: int) -> None:
    swarm = FakeSwarm(taken)
    assert listen(swarm, *BOTH) == (() if port == 4011 else (4011,))
    assert swarm.bound == [V4.format(port), V6.format(port)]


def test_only_the_addresses_of_a_taken_port_move(caplog: pytest.LogCaptureFixture) -> None:
    swarm = FakeSwarm([("ip4", 4011)])
    with caplog.at_level(logging.WARNING):
        assert listen(swarm, V4.format(4011), V4.format(5000), V6.format(4011)) == (4011,)
    assert swarm.bound == [V4.format(50000), V6.format(50000), V4.format(5000)]
    assert [r.getMessage() for r in caplog.records] == [
        f"cannot listen on {V4.format(4011)}: taken; listening on another port instead"
    ]


def test_without_the_fall_back_a_taken_port_is_an_error_and_nothing_is_left_of_its_group() -> None:
    swarm = FakeSwarm([("ip6", 4011)])
    with pytest.raises(AddressInUse):
        listen(swarm, *BOTH, fall_back=False)
    assert swarm.bound == []


@pytest.mark.parametrize("lacking", ["ip4", "ip6"])
def test_a_family_that_is_not_there_is_left_out(lacking: str, caplog: pytest.LogCaptureFixture) -> None:
    swarm = FakeSwarm([("ip4", 4011), ("ip6", 4011)], lacking)
    with caplog.at_level(logging.WARNING):
        assert listen(swarm, *BOTH) == (4011,)
    assert swarm.bound == [(V6 if lacking == "ip4" else V4).format(50000)]
    assert caplog.text.count("no such family") == 1


VPN, OTHER = "/ip4/10.8.0.2/tcp/4011", "/ip4/10.8.0.2/tcp/4012"


@pytest.mark.parametrize("others", [(), BOTH])
def test_an_address_that_is_not_here_now_is_no_failure(
    others: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    swarm = FakeSwarm()
    swarm.absent = {VPN}
    assert listen(swarm, VPN, *others) == ()
    assert swarm.bound == list(others)
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == f"cannot listen on {VPN}: not here; it is listened on as soon as this machine has it"


def test_it_is_listened_on_when_it_is_here_and_others_are_told() -> None:
    swarm = FakeSwarm([("ip4", 4012)])
    swarm.absent = {VPN}
    addrs = [Multiaddr.parse(VPN), Multiaddr.parse(OTHER)]

    def again() -> list[str]:
        left = asyncio.run(listening.listen_again(cast("Swarm", swarm), addrs))
        return [str(addr) for addr in left]

    assert again() == [VPN, OTHER] and swarm.told == 0  # the second one's port is somebody else's by now
    swarm.absent.clear()
    assert again() == [OTHER] and swarm.told == 1 and swarm.bound == [VPN]


def test_with_no_family_at_all_the_first_reason_is_told() -> None:
    with pytest.raises(BindFailed, match="no such family"):
        listen(FakeSwarm(lacking="ip4"), V4.format(4011), V4.format(4012))


def test_ports_free_to_choose_are_chosen_one_by_one() -> None:
    swarm = FakeSwarm()
    assert listen(swarm, V4.format(0), V4.format(0)) == ()
    assert swarm.bound == [V4.format(50000), V4.format(50001)]


def test_a_machine_whose_free_ports_are_all_half_taken_is_an_error_in_the_end() -> None:
    swarm = FakeSwarm([("ip4", 4011), *(("ip6", port) for port in range(50000, 51000))])
    with pytest.raises(AddressInUse):
        listen(swarm, *BOTH)
    assert swarm.bound == []


def test_a_zone_stays_with_its_address() -> None:
    swarm = FakeSwarm([("ip6", 4011)])
    assert listen(swarm, "/ip6zone/eth0/ip6/fe80::1/tcp/4011") == (4011,)
    assert swarm.bound == ["/ip6zone/eth0/ip6/fe80::1/tcp/50000"]
