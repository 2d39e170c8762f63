"""host.port_mapping: one router after the other, as the test invents them; hours pass at once."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.host.port_mapping import MAX_PORTS, NO_PORT, NO_PROTOCOL_BUT, PortMapping
from p2pfwd.net.own_addresses import Change, OwnAddresses
from p2pfwd.net.port_mapping import datagrams, upnp, upnp_child
from p2pfwd.net.port_mapping.contract import No, Sign
from p2pfwd.policy.port_mapping import CHECK_S, HEARD_S, HINT_S, LEASE_S, RENEW_LEAST_S, Grant, Protocol
from p2pfwd.system.gateway import Gateway
from p2pfwd.system.interfaces import Interface, Interfaces, Listing
from p2pfwd.wire import port_mapping as wire
from p2pfwd.wire import ssdp
from tests.support.virtual_time import in_virtual_time

PCP, PMP, UPNP = Protocol
PEER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(32))
HOME = Gateway("10.1.0.1", "10.1.0.2")
WAN = "11.1.0.1"


def at(host: str, port: int = 4011) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/{host}/tcp/{port}")


class Seen(NamedTuple):
    """A connection over which a peer sees us."""

    remote_peer: PeerId = PEER
    remote_addr: Multiaddr = at("9.9.9.9")
    local_addr: Multiaddr = at("10.1.0.2")
    direction: str = "outbound"
    is_relayed: bool = False


BY_PEER: Any = Seen()


class FakeWay:
    """A protocol that answers what the test sets; None: silence."""

    def __init__(self, protocol: Protocol, said: Grant | No | None = None) -> None:
        self.protocol = protocol
        self.said = said
        self.sign: Sign | None = Sign()
        self.asked: list[str] = []
        self.takes_s = 0.0

    def grants(self, host: str = WAN, port: int = 4011, lease_s: int = LEASE_S) -> None:
        self.said = Grant(self.protocol, host, port, lease_s, 1000)

    async def map(self, gateway: Gateway, port: int, external_port: int, lease_s: int) -> Grant | No | None:
        self.asked.append(f"map {port} as {external_port} at {gateway.host}")
        await asyncio.sleep(self.takes_s)
        return self.said

    async def check(self, gateway: Gateway, port: int, grant: Grant) -> Sign | None:
        self.asked.append(f"check {port}")
        return self.sign

    async def unmap(self, gateway: Gateway, port: int, grant: Grant) -> None:
        self.asked.append(f"unmap {port}")
        await asyncio.sleep(self.takes_s)


class FakeGroup:
    def __init__(self, group: str, heard: Callable[[bytes, str], None]) -> None:
        self.group, self.heard, self.closed = group, heard, False

    def close(self) -> None:
        self.closed = True


class Node:
    """Own addresses and a port mapping, behind routers that the test sets."""

    def __init__(self, *protocols: Protocol, ports: tuple[int, ...] = (4011,)) -> None:
        loop = asyncio.get_running_loop()
        self.hosts = {"127.0.0.1", HOME.own_host}
        self.own_addresses = OwnAddresses(Interfaces(self._walk, loop.time), loop.time)
        for port in ports:
            self.own_addresses.bind(at("0.0.0.0", port))
        self.changes: list[Change] = []
        self.own_addresses.on_changed(self.changes.append)
        self.gateway: Gateway | None = HOME
        self.ways = {protocol: FakeWay(protocol) for protocol in protocols or tuple(Protocol)}
        self.groups: list[FakeGroup] = []
        self.mapping = PortMapping(
            self,  # type: ignore[arg-type]
            ways=self.ways,
            find_gateway=lambda: self.gateway,
            hear_group=self._hear,  # type: ignore[arg-type]
            rng=random.Random(1),
        )

    def _walk(self) -> Listing:
        return (Interface("eth0", 2, frozenset(self.hosts)),)

    def _hear(self, interface: Interface, group: str, port: int, size: int, heard: Any) -> FakeGroup:
        assert interface.name == "eth0"
        self.groups.append(FakeGroup(group, heard))
        return self.groups[-1]

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def hear(self, data: bytes, sender: str = HOME.host) -> None:
        self.groups[-1].heard(data, sender)

    @property
    def states(self) -> list[str]:
        return [one.state for one in self.mapping.statuses()]

    def asked(self, protocol: Protocol) -> list[str]:
        """Since the last time."""
        asked, self.ways[protocol].asked = self.ways[protocol].asked, []
        return asked


@in_virtual_time
async def test_a_mapped_address_is_a_candidate_and_is_given_back() -> None:
    node = Node()
    node.ways[PMP].grants(port=4012)
    node.mapping.start()
    assert node.states == ["searching"]
    await asyncio.sleep(1)
    (status,) = node.mapping.statuses()
    assert (status.state, status.addr, status.protocol) == ("mapped", at(WAN, 4012), PMP)
    assert status.left_s is not None and LEASE_S - 5 < status.left_s <= LEASE_S
    assert node.own_addresses.mapped() == (at(WAN, 4012),) and Change.MAPPED in node.changes
    assert at(WAN, 4012) not in node.own_addresses.all(), "it is not proved"
    assert [one.kind for one in node.own_addresses.statuses()].count("mapped") == 1
    node.own_addresses.prove(at(WAN, 4012), PEER)
    await node.mapping.close()
    await node.mapping.close()
    assert node.asked(PMP)[-1] == "unmap 4011" and node.own_addresses.mapped() == ()
    assert at(WAN, 4012) not in node.own_addresses.all(), "what proved it is gone"
    assert all(group.closed for group in node.groups)


@in_virtual_time
async def test_what_is_being_asked_for_at_the_end_is_undone_too() -> None:
    """The router may have agreed, and nobody heard it: by UPnP perhaps for ever."""
    node = Node(UPNP)
    node.ways[UPNP].grants()
    node.ways[UPNP].takes_s = 1.0
    node.mapping.start()
    await asyncio.sleep(0.5)
    await node.mapping.close()
    assert node.asked(UPNP) == ["map 4011 as 4011 at 10.1.0.1", "unmap 4011"]


@in_virtual_time
async def test_what_a_router_has_refused_is_not_undone() -> None:
    node = Node(UPNP)
    node.ways[UPNP].said = No("no")
    node.mapping.start()
    await asyncio.sleep(1)
    await node.mapping.close()
    assert node.asked(UPNP) == ["map 4011 as 4011 at 10.1.0.1"]


@in_virtual_time
async def test_hours_of_renewals_and_checks_ask_nothing_else() -> None:
    node = Node(PCP)
    node.ways[PCP].grants()
    node.mapping.start()
    await asyncio.sleep(2 * LEASE_S + 1)
    asked = node.asked(PCP)
    assert asked.count("map 4011 as 4011 at 10.1.0.1") == 5
    assert abs(asked.count("check 4011") - 2 * LEASE_S / CHECK_S[PCP]) <= 5
    assert node.states == ["mapped"]
    await node.mapping.close()


@in_virtual_time
async def test_another_router_is_asked_at_once_whatever_is_waited_for() -> None:
    node = Node(PCP)
    node.ways[PCP].takes_s = 1000.0
    node.mapping.start()
    await asyncio.sleep(1)
    node.gateway = Gateway("10.2.0.1", "10.2.0.2")
    node.hosts = {"127.0.0.1", "10.2.0.2"}
    node.ways[PCP].takes_s = 0.0
    node.ways[PCP].grants()
    node.own_addresses.network_changed()
    await asyncio.sleep(0.01)
    assert node.asked(PCP)[-1] == "map 4011 as 4011 at 10.2.0.1" and node.states == ["mapped"]
    node.gateway = None
    node.own_addresses.network_changed()
    await asyncio.sleep(0.01)
    assert node.states == ["no-router"] and node.own_addresses.mapped() == ()
    await node.mapping.close()


@in_virtual_time
async def test_the_same_router_after_a_stir_is_looked_at_and_not_asked_anew() -> None:
    node = Node(PCP)
    node.ways[PCP].grants()
    node.mapping.start()
    await asyncio.sleep(1)
    node.asked(PCP)
    node.own_addresses.network_changed()
    await asyncio.sleep(0.01)
    assert node.asked(PCP) == ["check 4011"]
    node.own_addresses.note_observed(BY_PEER, at("11.9.0.1"))
    await asyncio.sleep(HINT_S)
    assert node.asked(PCP) == ["check 4011"], "a peer sees us elsewhere"
    await node.mapping.close()


@in_virtual_time
async def test_announcements_count_from_the_router_alone() -> None:
    node = Node(PCP)
    node.ways[PCP].grants()
    node.mapping.start()
    await asyncio.sleep(10)
    node.asked(PCP)
    restarted = struct.pack(">BBHI4s", 0, 0x80, 0, 0, bytes(4))
    node.hear(restarted, "10.1.0.77")
    node.hear(b"noise")
    await asyncio.sleep(1)
    assert node.asked(PCP) == []
    node.hear(restarted)
    await asyncio.sleep(0.01)
    assert node.asked(PCP) == ["map 4011 as 4011 at 10.1.0.1"]
    await node.mapping.close()


@in_virtual_time
async def test_a_upnp_router_that_says_it_restarted_is_looked_at_and_asked_again() -> None:
    node = Node(UPNP)
    node.ways[UPNP].grants()
    node.mapping.start()
    await asyncio.sleep(HINT_S)
    alive = b"NOTIFY * HTTP/1.1\r\nNTS: ssdp:alive\r\nBOOTID.UPNP.ORG: %d\r\n\r\n"
    node.hear(alive % 1)
    await asyncio.sleep(HINT_S)
    node.asked(UPNP)
    for _ in range(20):
        node.hear(alive % 1)
    await asyncio.sleep(1)
    assert node.asked(UPNP) == [], "it only says that it is there"
    node.ways[UPNP].sign = Sign(has_mapping=False)
    node.hear(alive % 2)
    await asyncio.sleep(0.01)
    assert node.asked(UPNP) == ["check 4011", "map 4011 as 4011 at 10.1.0.1"]
    await node.mapping.close()


@in_virtual_time
async def test_a_mapping_is_useless_where_nobody_gets_in_by_it() -> None:
    node = Node(PCP)
    node.ways[PCP].grants()
    node.mapping.start()
    await asyncio.sleep(1)
    node.own_addresses.note_observed(BY_PEER, at("10.1.0.2", 5))
    assert node.states == ["mapped"], "a peer of the same network sees another address"
    node.own_addresses.note_observed(BY_PEER, at("11.9.0.1", 5))
    (status,) = node.mapping.statuses()
    assert status.state == "useless" and "peers see 11.9.0.1" in str(status.reason)
    node.own_addresses.note_observed(BY_PEER, at(WAN, 5))
    assert node.states == ["mapped"]
    await node.mapping.close()


@in_virtual_time
async def test_who_follows_is_told_of_every_change() -> None:
    """A grant, what peers see, another router, and none."""
    node, seen = Node(PCP), []
    node.mapping.on_changed = lambda: seen.append(node.states[0])
    node.ways[PCP].grants()
    node.mapping.start()
    await asyncio.sleep(1)
    assert set(seen) == {"mapped"}
    node.own_addresses.note_observed(BY_PEER, at("11.9.0.1", 5))
    await asyncio.sleep(0.01)
    assert seen[-1] == "useless"
    node.ways[PCP].said = None
    node.ways[PCP].takes_s = 1000.0
    node.gateway = Gateway("10.2.0.1", "10.2.0.2")
    node.hosts = {"127.0.0.1", "10.2.0.2"}
    node.own_addresses.network_changed()
    await asyncio.sleep(0.01)
    assert seen[-1] == "searching"
    node.gateway = None
    node.own_addresses.network_changed()
    await asyncio.sleep(0.01)
    assert seen[-1] == "no-router"
    count = len(seen)
    await node.mapping.close()
    assert len(seen) == count, "the end is no news"


@in_virtual_time
async def test_what_becomes_of_a_search_is_said() -> None:
    node = Node()
    node.ways[PMP].said = No("it has no room")
    node.mapping.start()
    await asyncio.sleep(1)
    (status,) = node.mapping.statuses()
    assert (status.state, status.reason) == ("refused", "the router refuses by NAT-PMP: it has no room")
    await node.mapping.close()
    without = Node(PCP, PMP)
    without.mapping.start()
    await asyncio.sleep(1)
    assert [one.reason for one in without.mapping.statuses()] == [NO_PROTOCOL_BUT]
    assert {group.group for group in without.groups} == {"224.0.0.1"}, "no UPnP, so no SSDP"
    await without.mapping.close()


@in_virtual_time
async def test_a_port_that_is_taken_is_another_port() -> None:
    node = Node(UPNP)
    way = node.ways[UPNP]
    way.said = No("taken", taken=True)
    node.mapping.start()
    await asyncio.sleep(1)
    asked = node.asked(UPNP)
    assert len(set(asked)) == len(asked) == 4 and node.states == ["refused"]
    await node.mapping.close()


@pytest.mark.parametrize(
    ("gateway", "bound", "state", "reason"),
    [
        pytest.param(HOME, "127.0.0.1", "not-needed", NO_PORT, id="on loopback"),
        pytest.param(Gateway("11.0.0.1", "11.0.0.2"), "0.0.0.0", "not-needed", None, id="public already"),
        pytest.param(None, "0.0.0.0", "no-router", None, id="no router"),
    ],
)
def test_nothing_is_asked_where_nothing_can_be_mapped(
    gateway: Gateway | None, bound: str, state: str, reason: str | None
) -> None:
    @in_virtual_time
    async def story() -> None:
        node = Node(ports=())
        node.own_addresses.bind(at(bound))
        node.gateway = gateway
        node.hosts.add("11.0.0.2")
        node.mapping.start()
        await asyncio.sleep(3600)
        (status,) = node.mapping.statuses()
        assert status.state == state and status.port is None and status.reason
        assert reason is None or status.reason == reason
        assert not any(way.asked for way in node.ways.values()) and node.groups == []
        await node.mapping.close()

    # A timer that jumps needs one to jump to.
    story()


@in_virtual_time
async def test_several_ports_are_mapped_and_no_more_than_some() -> None:
    node = Node(PMP, ports=tuple(range(4011, 4011 + 2 * MAX_PORTS)))
    node.ways[PMP].grants()
    node.mapping.start()
    await asyncio.sleep(1)
    assert node.states == ["mapped"] * MAX_PORTS
    await node.mapping.close()
    assert sum(asked.startswith("unmap") for asked in node.asked(PMP)) == MAX_PORTS


@in_virtual_time
async def test_the_end_does_not_wait_for_a_router_that_is_gone() -> None:
    node = Node(PCP)
    node.ways[PCP].grants()
    node.mapping.start()
    await asyncio.sleep(1)
    node.ways[PCP].takes_s = 1000.0
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            await node.mapping.close()
            return
    raise AssertionError("it waits")


def test_security_md_says_what_a_router_can_make_us_do() -> None:
    """With the numbers of the code."""
    page = (Path(__file__).parents[3] / "SECURITY.md").read_text(encoding="utf-8")
    text = " ".join(page.partition("## The router on the local network")[2].partition("\n## ")[0].split())
    for said in (
        f"one question within {HEARD_S:g} s; other hints one in {HINT_S:g} s",
        f"is {('no', 'one', 'two', 'three')[len(datagrams.PAUSES_S)]} datagrams",
        f"hears {datagrams.MAX_STRAY} answers",
        f"answers of {wire.MAX_PCP_BYTES:,} bytes",
        f"{upnp.MAX_STRAY} answers of {ssdp.MAX_BYTES >> 10} KiB to a search",
        f"{upnp_child.MEMORY_BYTES >> 20} MiB, {upnp_child.CPU_S} s of processor time, {upnp.QUESTION_S:g} s",
        f"{upnp.MAX_ANSWER_BYTES >> 10} KiB of answer",
    ):
        assert said in text, said
    assert RENEW_LEAST_S == 60.0 and "one a minute" in text
