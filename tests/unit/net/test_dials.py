"""Pins how many strangers are dialed at once, in all and in one network, who is next, how long who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import DialFailed, DialTimeout
from p2pfwd.net.connections import Connections
from p2pfwd.net.dial_slots import DIALS, NAMES, WAIT_S, dialed
from p2pfwd.net.dialer import Dialer
from p2pfwd.net.dials import Dials
from p2pfwd.net.link.contract import Link
from p2pfwd.peers.store import TYPED_TTL_S, Peerstore
from p2pfwd.policy.networks import networks_of_host
from p2pfwd.policy.provenance import Provenance
from tests.support.loops import on_loop, turns
from tests.support.peers import peer
from tests.support.virtual_time import in_virtual_time

HERE = "/ip4/12.0.0.1/tcp/1"
NETWORK = DIALS.network
RELAY = peer(9999)
SECURITY = Path(__file__).parents[3] / "SECURITY.md"


class FakeDialer:
    """Dials that go on until they are told to fail; of QUIC addresses none can be dialed."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ends: dict[PeerId, asyncio.Event] = {}
        self.arrived = lambda *_args: False
        self.join: Callable[[PeerId, Any], bool] = lambda *_args: False

    async def dial(self, peer_id: PeerId, *_args: object, **_options: object) -> Any:
        self.begun.append(int.from_bytes(peer_id.to_bytes()[-4:], "big"))
        end = self.ends[peer_id] = asyncio.Event()
        await end.wait()
        raise DialFailed("told to")

    def why_not(self, addr: Multiaddr) -> str | None:
        return "it is QUIC" if addr.has("quic-v1") else None


class FakeLink:
    def __init__(self, number: int) -> None:
        self.remote_peer = peer(number)


class FakeConnections:
    closing = False

    def __init__(self) -> None:
        self.there: dict[PeerId, FakeLink] = {}

    def usable(self, peer_id: PeerId) -> FakeLink | None:
        return self.there.get(peer_id)


class Node:
    """Its dials of peers by number, at addresses that others told."""

    def __init__(self) -> None:
        self.dialer, self.connections, self.store = FakeDialer(), FakeConnections(), Peerstore()
        self.dials = Dials(
            peer(0),
            cast("Dialer", self.dialer),
            cast("Connections", self.connections),
            self.store,
            lambda: [],
        )
        self.tasks: list[asyncio.Task[Link]] = []

    def want(self, number: int, *addrs: str, force: bool = False) -> asyncio.Task[Link]:
        told = [Multiaddr.parse(addr) for addr in addrs]
        self.store.add_addrs(peer(number), told, TYPED_TTL_S, Provenance.HEARSAY)
        options = {"timeout_s": None, "force": force, "only": False, "route": False}
        task = asyncio.ensure_future(self.dials.connect(peer(number), (), **options))  # type: ignore[arg-type]
        self.tasks.append(task)
        return task

    async def begun(self) -> list[int]:
        """Who has been dialed since this was last asked."""
        await turns(10)
        begun, self.dialer.begun = self.dialer.begun, []
        return begun

    async def fail(self, *numbers: int) -> None:
        for number in numbers:
            self.dialer.ends[peer(number)].set()
        await turns(10)

    async def close(self) -> None:
        await self.dials.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@on_loop
async def test_strangers_are_dialed_few_at_a_time_and_the_owners_at_once() -> None:
    node = Node()
    node.dials.is_own = lambda one: one == peer(1000)
    for number in range(1, DIALS.all + 11):
        node.want(number)
    assert len(await node.begun()) == DIALS.all
    node.want(1000)
    node.want(1001, force=True)
    assert await node.begun() == [1000, 1001]
    await node.fail(*range(1, 11))
    assert await node.begun() == list(range(DIALS.all + 1, DIALS.all + 11)), "and the others in the end"
    await node.close()


@pytest.mark.parametrize(
    ("addr", "share"),
    [
        ("/ip4/12.0.0.1/tcp/{}", NETWORK),
        ("/ip4/12.0.0.{}/tcp/1", 2 * NETWORK),
        ("/ip6/2600::{:x}/tcp/1", NETWORK),
        ("/ip6/2600:0:0:{:x}::1/tcp/1", 2 * NETWORK),
        ("/ip6/2600:0:0:{:x}00::1/tcp/1", 4 * NETWORK),
        (f"/ip4/12.0.0.1/tcp/{{}}/p2p/{RELAY}/p2p-circuit", NETWORK),
        (f"/ip4/{{}}.0.0.1/tcp/1/p2p/{RELAY}/p2p-circuit", NETWORK),
        (f"/p2p/{RELAY}/p2p-circuit", NETWORK),
        ("/dns4/peer{}.example.com/tcp/1", NETWORK),
        ("/dnsaddr/peer{}.example.com", NETWORK),
        ("/ip4/127.0.0.1/tcp/{}", DIALS.all),
    ],
)
@on_loop
async def test_one_dead_network_has_its_share_of_the_dials_and_keeps_nobody_else_waiting(
    addr: str, share: int
) -> None:
    node = Node()
    for number in range(1, 100):
        node.want(number, addr.format(number))
    assert await node.begun() == list(range(1, share + 1))
    node.want(200, "/ip4/99.9.9.9/tcp/1")
    assert await node.begun() == ([200] if share < DIALS.all else [])
    await node.fail(1)
    assert await node.begun() == [share + 1]
    await node.close()


@on_loop
async def test_a_dial_counts_for_each_network_that_it_may_hang_in() -> None:
    """Or whoever makes up addresses puts another one before the dead one."""
    node = Node()
    for number in range(1, 20):
        node.want(number, f"/ip4/{number}.0.0.1/tcp/1", HERE)
    assert await node.begun() == list(range(1, NETWORK + 1))
    node.want(200, "/ip4/1.0.0.1/tcp/2")
    assert await node.begun() == [200]
    await node.close()


@on_loop
async def test_what_cannot_hang_does_not_count() -> None:
    """Loopback answers at once; what cannot be dialed is not."""
    loopback, quic = "/ip4/127.0.0.1/tcp/1", "/dns4/example.com/udp/1/quic-v1"
    addrs = [Multiaddr.parse(addr) for addr in (loopback, quic, HERE, HERE)]
    assert Node().dials._whose(peer(1), addrs).networks == networks_of_host("12.0.0.1")
    assert dialed(peer(1), addrs).networks == (NAMES, *networks_of_host("12.0.0.1"))


@on_loop
async def test_the_next_slot_goes_to_whose_network_has_least_of_its_share() -> None:
    """Not to who came first: a few dead networks fill all slots, and there are hundreds in their queue."""
    node = Node()
    for number in range(1, 401):
        node.want(number, f"/ip4/12.0.{number % 4}.{number % 200}/tcp/1")
    assert len(await node.begun()) == DIALS.all
    node.want(500, "/ip4/99.9.9.9/tcp/1")
    node.want(501, "/ip4/99.9.9.10/tcp/1")
    assert await node.begun() == []
    await node.fail(1)
    assert await node.begun() == [500]
    await node.fail(2)
    (next_one,) = await node.begun()
    assert next_one == 501
    await node.fail(500, 501)
    assert [number % 4 for number in await node.begun()] == [1, 2], "whose network had made room"
    await node.close()


@on_loop
async def test_who_waits_to_be_dialed_is_dialed_at_once_where_the_owner_asks_for_it() -> None:
    node = Node()
    for number in range(1, 20):
        node.want(number, HERE)
    await node.begun()
    node.want(15, force=True)
    assert await node.begun() == [15]
    node.dials.is_own = lambda one: one == peer(16)
    node.want(16)
    assert await node.begun() == [16]
    await node.fail(1, 2)
    assert await node.begun() == [], "there are as many as may be"
    await node.fail(3)
    assert await node.begun() == [NETWORK + 1]
    await node.close()


@on_loop
async def test_the_owner_waits_for_no_dial_that_was_made_in_the_same_moment() -> None:
    """Such a dial does not wait yet as the owner's command joins it."""
    node = Node()
    for number in range(1, NETWORK + 2):
        node.want(number, HERE)
    node.want(NETWORK + 1, force=True)
    assert await node.begun() == list(range(1, NETWORK + 2))
    await node.close()


@on_loop
async def test_a_dial_that_has_waited_takes_the_addresses_that_the_owners_command_has() -> None:
    """Or it would try the dead one alone, for as long as a dial may last, before the next one."""
    node = Node()
    for number in range(1, 20):
        node.want(number, HERE)
    await node.begun()
    joined: list[PeerId] = []

    def join(peer_id: PeerId, _addrs: object) -> bool:
        joined.extend([peer_id] * (peer_id in node.dialer.ends))
        return peer_id in node.dialer.ends

    node.dialer.join = join
    node.want(15, "/ip4/99.9.9.9/tcp/1", force=True)
    assert await node.begun() == [15] and joined == [peer(15)]
    await node.close()


@in_virtual_time
async def test_nobody_waits_longer_than_a_dial_may_last() -> None:
    """Who asked has given up by then: the dials of a dead network would queue without end."""
    node = Node()
    for number in range(1, 100):
        node.want(number, HERE)
    assert await node.begun() == list(range(1, NETWORK + 1))
    waiting = node.tasks[NETWORK:]
    await asyncio.sleep(WAIT_S / 2)
    node.want(100, HERE)
    await asyncio.sleep(WAIT_S * 0.6)
    assert all(isinstance(task.exception(), DialTimeout) for task in waiting)
    assert len(node.dials._slots._waiting) == 1
    await node.fail(1)
    assert await node.begun() == [100], "and whose time is not over yet is next"
    await node.close()


@on_loop
async def test_who_comes_and_goes_at_once_gets_no_dial_beyond_its_share() -> None:
    node = Node()
    for number in range(1, 20):
        node.want(number, HERE)
    await node.begun()
    node.dials.arrived(cast("Link", FakeLink(15)))  # not usable: it has said that it ends
    assert await node.begun() == []
    await node.close()


@on_loop
async def test_who_comes_by_itself_is_waited_for_no_more() -> None:
    node = Node()
    for number in range(1, 20):
        node.want(number, HERE)
    await node.begun()
    link = node.connections.there[peer(15)] = FakeLink(15)
    node.dials.arrived(cast("Link", link))
    await turns(10)
    assert node.tasks[14].result() is link and await node.begun() == []
    await node.close()


@on_loop
async def test_who_gives_up_takes_no_slot_and_leaves_none_taken() -> None:
    node = Node()
    for number in range(1, NETWORK + 4):
        node.want(number, HERE)
    await node.begun()
    begun, waiting = (node.dials._dialing[peer(number)] for number in (1, NETWORK + 1))
    begun.cancel()
    waiting.cancel()
    assert await node.begun() == [NETWORK + 2] and begun.cancelled() and waiting.cancelled()
    await node.fail(*range(2, NETWORK + 1))
    assert await node.begun() == [NETWORK + 3]
    await node.fail(NETWORK + 2, NETWORK + 3)
    assert node.dials._slots._held.total == 0 and not node.dials._slots._waiting
    await node.close()


def test_security_md_says_the_same() -> None:
    one = DIALS.network
    networks = f"{one} a /32 or /64, {2 * one} a /24 or /56, {4 * one} a /48, of all its addresses"
    others = f"{one} through a relay; {one} by names"
    beyond = f"wait, for {WAIT_S:g} s at most"
    assert f"| {DIALS.peer} | {networks}; {others} | {DIALS.all} | {beyond};" in SECURITY.read_text("utf-8")
