"""Whoever wants a place gets it: each state in which there is none has an end, by a time or by an event.

Hosts in a network in memory, in virtual time; in each test one thing comes at an awkward moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.daemon.networks import profile
from p2pfwd.daemon.relaying import Relaying
from p2pfwd.daemon.relays import FIRST_PLACE_S, Relays
from p2pfwd.daemon.settings import Settings
from p2pfwd.errors import InvalidPeerId
from p2pfwd.host.host import Host
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.contract import DuplexStream, Link
from p2pfwd.net.services import Service
from p2pfwd.policy.shares import Most
from p2pfwd.protocols import identify, relay_service
from p2pfwd.protocols.relay_client import ANSWER_S, REASK_S, REASK_WITHIN_S, REST_S, RelayClient
from p2pfwd.protocols.relay_service import RelayService
from p2pfwd.rpc.paths import Paths
from p2pfwd.wire.circuit import HOP, Status
from p2pfwd.wire.identify import ID
from tests.net.relay_rig import reserve
from tests.support.memory_network import MemoryNetwork, Meter
from tests.support.mini_relay import MiniRelay
from tests.support.virtual_time import in_virtual_time

SOON_S = 0.5
"""Some round trips of this network."""


@pytest.fixture(autouse=True)
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's clock is its loop's."""
    clock = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time(), time=time.time)
    monkeypatch.setattr("p2pfwd.protocols.relay_client.time", clock)


@dataclass
class World:
    """A node that wants places, and relays that it may name."""

    network: MemoryNetwork
    node: Host
    client: RelayClient
    is_public: list[bool]
    hosts: list[Host] = field(default_factory=list)

    async def host(self) -> Host:
        """One more."""
        self.hosts.append(await start(self.network, 2 + len(self.hosts)))
        return self.hosts[-1]

    async def relay(self) -> MiniRelay:
        """One that gives everybody a place; not connected yet."""
        return MiniRelay(await self.host())

    async def meet(self, *relays: MiniRelay, named: bool = True) -> None:
        """Connect to these; the node's owner names them, or has them among his peers."""
        for relay in relays:
            if named:
                self.client.name(relay.host.peer_id)
            else:
                self.node.swarm.peerstore.pin(relay.host.peer_id, (), "test")
            conn = await self.node.swarm.connect(relay.host.peer_id, relay.host.swarm.listen_addrs())
            await conn.identified

    def held(self) -> set[PeerId]:
        """Where it has places."""
        return {place.relay for place in self.client.places()}

    def asked(self, relay: MiniRelay) -> int:
        """How often it has asked there."""
        return relay.reserved.get(self.node.peer_id, 0)


async def start(network: MemoryNetwork, number: int) -> Host:
    ip = f"{20 + number}.7.7.7"
    addr = Multiaddr.parse(f"/ip4/{ip}/tcp/4011")
    return await Host.start(PrivateKey.generate(), [addr], make_transports=network.node(ip, Meter()))


@asynccontextmanager
async def world(*, strangers: bool = False) -> AsyncIterator[World]:
    network, is_public = MemoryNetwork(), [False]
    node = await start(network, 1)
    client = RelayClient(node.swarm, strangers=strangers, is_public=lambda: is_public[0])
    client.start()
    made = World(network, node, client, is_public)
    try:
        yield made
    finally:
        await client.close()
        for host in (node, *made.hosts):
            await host.close()


async def within(seconds: float, condition: Callable[[], object]) -> float:
    """Virtual seconds until it holds; AssertionError where that is longer."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    while not condition():
        assert loop.time() - begin <= seconds
        await asyncio.sleep(0.01)
    return loop.time() - begin


def silence(*conns: Link) -> None:
    """Have these be in doubt, until somebody says otherwise."""
    for conn in conns:
        assert isinstance(conn, Conn)
        conn.liveness._timer.cancel()
        conn.liveness._ended = True  # it looks no more
        conn.liveness.doubtful = True


def refuse(relay: MiniRelay, status: Status | None = Status.PERMISSION_DENIED) -> None:
    relay.refuses = status


@in_virtual_time
async def test_a_rest_that_ends_between_two_looks_at_the_clock_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A timer may end a little early (uvloop's do), and the clock goes on while it is looked who rests."""
    async with world() as it:
        relay = await it.relay()
        refuse(relay)
        await it.meet(relay)
        await within(SOON_S, it.client.refusals)
        await asyncio.sleep(0.1)  # it waits by now
        refuse(relay, None)
        end = it.client._rests[relay.host.peer_id].until
        looks: Iterator[float] = chain([end - 1e-6], repeat(end + 1e-6))
        clock = SimpleNamespace(monotonic=lambda: next(looks), time=time.time)
        monkeypatch.setattr("p2pfwd.protocols.relay_client.time", clock)
        it.client._news.set()
        await within(SOON_S, it.held)


@in_virtual_time
async def test_a_rest_that_ends_while_another_relay_is_asked_has_ended() -> None:
    async with world() as it:
        one, two = await it.relay(), await it.relay()
        refuse(one)
        gives = asyncio.Event()
        real = two._hop

        async def slow(stream: DuplexStream) -> None:
            await gives.wait()
            await real(stream)

        two.host.swarm.services.withdraw(HOP)
        two.host.swarm.services.serve(Service(name=HOP, handler=slow))
        await it.meet(one, two)
        await within(SOON_S, lambda: it.client.refusals() and it.client.asked() == {two.host.peer_id})
        refuse(one, None)
        await asyncio.sleep(2 * REST_S)
        assert it.held() == {one.host.peer_id}
        gives.set()
        await within(SOON_S, lambda: len(it.held()) == 2)


@in_virtual_time
async def test_a_relay_that_does_not_answer_holds_up_no_other() -> None:
    async with world() as it:
        silent, other = await it.relay(), await it.relay()
        silent.host.swarm.services.withdraw(HOP)
        silent.host.swarm.services.serve(Service(name=HOP, handler=lambda stream: None))
        await it.meet(silent)
        await within(SOON_S, it.client.asked)
        await it.meet(other)
        await within(SOON_S, it.held)
        await within(SOON_S, lambda: it.client.asked() == {silent.host.peer_id})
        await within(ANSWER_S, lambda: "did not answer" in str(it.client.refusals()))


@in_virtual_time
async def test_a_named_relay_that_has_refused_is_asked_again_though_others_gave_places() -> None:
    async with world() as it:
        named, one, two = await it.relay(), await it.relay(), await it.relay()
        await it.meet(one, two, named=False)
        await within(SOON_S, lambda: len(it.held()) == 2)
        refuse(named)
        await it.meet(named)
        await within(SOON_S, it.client.refusals)
        refuse(named, None)
        await within(2 * REST_S, lambda: named.host.peer_id in it.held())


@in_virtual_time
async def test_a_refusal_is_followed_by_questions_soon_and_then_ever_more_seldom() -> None:
    """Of a relay of the owner's: he may be about to name this node there."""
    async with world() as it:
        relay = await it.relay()
        refuse(relay)
        await it.meet(relay)
        await asyncio.sleep(10.0)
        assert it.asked(relay) == 4  # after 0, 1, 3 and 7 s, and up to a quarter more
        await asyncio.sleep(3600.0)
        assert 12 <= it.asked(relay) <= 17


def answer_all_but_the_first(relay: MiniRelay) -> list[DuplexStream]:
    """The questions that have come to it."""
    asked: list[DuplexStream] = []

    async def hop(stream: DuplexStream) -> None:
        asked.append(stream)
        if len(asked) > 1:
            await relay._hop(stream)

    relay.host.swarm.services.withdraw(HOP)
    relay.host.swarm.services.serve(Service(name=HOP, handler=hop))
    return asked


@in_virtual_time
async def test_a_question_whose_connection_is_lost_is_asked_over_the_other_one_at_once() -> None:
    """Both have dialed at the same time, and one of the two is closed again."""
    async with world() as it:
        relay = await it.relay()
        asked = answer_all_but_the_first(relay)
        await it.meet(relay)
        await within(SOON_S, lambda: asked)
        second = await it.node.swarm.dials.beside(relay.host.peer_id)
        (first,) = (conn for conn in it.node.swarm.conns() if conn is not second)
        await first.close()
        await within(SOON_S, it.held)
        assert [place.link for place in it.client.places()] == [second] and not it.client.refusals()


@in_virtual_time
async def test_a_question_over_a_connection_that_falls_silent_is_asked_over_a_new_one() -> None:
    async with world() as it:
        relay = await it.relay()
        asked = answer_all_but_the_first(relay)
        await it.meet(relay)
        await within(SOON_S, lambda: asked)
        silence(*it.node.swarm.conns())
        second = await it.node.swarm.dials.beside(relay.host.peer_id)
        await within(SOON_S, it.held)
        assert [place.link for place in it.client.places()] == [second] and not it.client.refusals()


@in_virtual_time
async def test_a_relay_that_was_silent_when_it_was_looked_for_is_asked_when_it_answers_again() -> None:
    async with world() as it:
        relay = await it.relay()
        there = relay.host.swarm.listen_addrs()
        conn = await it.node.swarm.connect(relay.host.peer_id, there, only=True)  # it is a stranger's so far
        await conn.identified
        silence(conn)
        it.client.name(relay.host.peer_id)
        await asyncio.sleep(SOON_S)
        assert not it.held() and not it.client.asked()
        conn.liveness.doubtful = False
        conn.liveness.on_doubt(conn, False)
        await within(SOON_S, it.held)


@in_virtual_time
async def test_a_named_relay_that_does_not_tell_what_it_serves_is_asked_all_the_same() -> None:
    """It was too busy to answer in time, or the answer was lost with a stream."""
    async with world() as it:
        relay = await it.relay()
        relay.host.swarm.services.withdraw(ID)
        await it.meet(relay)
        assert not it.node.swarm.peerstore.protocols(relay.host.peer_id)
        await within(SOON_S, it.held)


@in_virtual_time
async def test_a_relay_that_is_back_and_does_not_tell_anew_is_asked_by_what_it_told_before() -> None:
    async with world() as it:
        relay = await it.relay()
        await it.meet(relay)
        await within(SOON_S, it.held)
        await it.node.swarm.disconnect(relay.host.peer_id)
        await within(SOON_S, lambda: not it.held())
        relay.host.swarm.services.withdraw(ID)
        await it.meet(relay)
        await within(SOON_S, it.held)


@in_virtual_time
async def test_a_node_that_is_public_has_no_refusal_to_show() -> None:
    async with world() as it:
        relay = await it.relay()
        refuse(relay)
        await it.meet(relay)
        await within(SOON_S, it.client.refusals)
        told: list[int] = []
        it.client.on_change(lambda: told.append(len(it.client.refusals())))
        it.is_public[0] = True
        it.client.look_again()
        await within(SOON_S, lambda: not it.client.refusals())
        assert told == [0]


@pytest.mark.parametrize("status", [None, Status.RESERVATION_REFUSED])
@in_virtual_time
async def test_an_answer_that_comes_when_none_is_wanted_any_more_changes_nothing(
    status: Status | None,
) -> None:
    async with world() as it:
        relay = await it.relay()
        refuse(relay, status)
        told: list[int] = []
        it.client.on_change(lambda: told.append(1))
        await it.meet(relay)
        await within(SOON_S, it.client.asked)
        it.is_public[0] = True
        it.client.look_again()
        await within(SOON_S, lambda: not it.client.asked())
        assert not it.held() and not it.client.refusals() and not told


@in_virtual_time
async def test_a_relay_that_relays_no_more_by_the_time_it_would_answer_has_refused_nothing() -> None:
    async with world() as it:
        relay = await it.relay()
        asked: list[DuplexStream] = []
        relay.host.swarm.services.withdraw(HOP)
        relay.host.swarm.services.serve(Service(name=HOP, handler=asked.append))
        await it.meet(relay)
        await within(SOON_S, lambda: asked)
        relay.host.swarm.services.withdraw(HOP)
        relay.host.identify.push()
        store = it.node.swarm.peerstore
        await within(SOON_S, lambda: HOP not in store.protocols(relay.host.peer_id))
        asked[0].reset()
        await within(SOON_S, lambda: not it.client.asked())
        assert not it.client.refusals()


@in_virtual_time
async def test_a_refusal_is_forgotten_where_its_relay_is_named_no_more_or_relays_no_more() -> None:
    async with world() as it:
        one, two = await it.relay(), await it.relay()
        refuse(one)
        refuse(two)
        await it.meet(one, two)
        await within(SOON_S, lambda: len(it.client.refusals()) == 2)
        it.client.unname(one.host.peer_id)
        two.host.swarm.services.withdraw(HOP)
        two.host.identify.push()
        await within(SOON_S, lambda: not it.client.refusals())


@in_virtual_time
async def test_a_relay_that_tells_of_itself_is_asked_again_soon_however_long_it_would_rest() -> None:
    async with world() as it:
        relay = await it.relay()
        refuse(relay)
        await it.meet(relay)
        await asyncio.sleep(1000.0)
        before = it.asked(relay)
        for _ in range(4):
            relay.host.identify.push()
            await asyncio.sleep(0.4)
        assert it.asked(relay) - before <= 2, "and not each time"
        refuse(relay, None)
        relay.host.identify.push()
        await within(REST_S + REASK_WITHIN_S + SOON_S, it.held)


@asynccontextmanager
async def late_relay(it: World) -> AsyncIterator[tuple[Host, RelayService]]:
    """A host that may relay for its owner's peers; named and connected, and not relaying yet."""
    host = await it.host()
    service = RelayService(host.swarm)
    it.client.name(host.peer_id)
    try:
        yield host, service
    finally:
        service.close()


@in_virtual_time
async def test_a_relay_that_begins_to_relay_while_it_is_asked_who_it_is_tells_so() -> None:
    """It has answered, and does not know yet that the other one takes pushes."""
    async with world() as it, late_relay(it) as (host, service):
        conn = await it.node.swarm.connect(host.peer_id, host.swarm.listen_addrs())
        service.is_own = it.node.peer_id.__eq__
        waits = asyncio.Event()
        real = it.node.identify._answer

        async def late(visit: object) -> None:
            await waits.wait()
            await real(visit)  # type: ignore[arg-type]

        it.node.swarm.services.withdraw(ID)
        it.node.swarm.services.serve(Service(name=ID, talk=late, bounds=identify.IDENTIFY))
        await conn.identified
        assert not it.held()
        service.serve("peers")
        host.identify.push()
        await asyncio.sleep(SOON_S)
        waits.set()
        await within(SOON_S, it.held)


@in_virtual_time
async def test_who_is_named_at_the_relay_long_after_it_was_refused_has_its_place_soon(tmp_path: Path) -> None:
    async with world() as it:
        host, settings = await it.host(), Settings(network="public")
        paths = Paths.resolve(str(tmp_path), {})
        relaying = Relaying(host, paths, settings, profile(settings), lambda: True)
        relaying.start()
        it.client.name(host.peer_id)
        conn = await it.node.swarm.connect(host.peer_id, host.swarm.listen_addrs())
        await conn.identified
        await asyncio.sleep(1000.0)
        assert it.client.refusals() and not it.held()
        host.swarm.peerstore.pin(it.node.peer_id, (), "named")
        await within(REASK_WITHIN_S + SOON_S, it.held)
        relaying.close()


@dataclass
class Named:
    """A node whose settings name relays by names that it knows."""

    node: Host
    hosts: list[Host]
    relays: Relays
    names: dict[str, tuple[PeerId, tuple[Multiaddr, ...]]]

    def says(self, name: str, relay: Host | None, *addrs: Multiaddr) -> None:
        """From now on it means this one, or nobody."""
        self.names.pop(name, None)
        if relay is not None:
            self.names[name] = relay.peer_id, addrs or tuple(relay.swarm.listen_addrs())
        self.relays.names_changed()

    def held(self) -> set[PeerId]:
        return {place.relay for place in self.relays.client.places()}


@asynccontextmanager
async def named(*texts: str) -> AsyncIterator[Named]:
    """Two relays are there."""
    network = MemoryNetwork()
    node, one, two = [await start(network, number) for number in (1, 2, 3)]
    names: dict[str, tuple[PeerId, tuple[Multiaddr, ...]]] = {}
    for host in (one, two):
        MiniRelay(host)

    async def read(texts: Sequence[str]) -> tuple[PeerId, tuple[Multiaddr, ...]]:
        if texts[0] not in names:
            raise InvalidPeerId("nobody has this name")
        return names[texts[0]]

    relays = Relays(node, texts, read, strangers=False, is_public=lambda: False)
    relays.start()
    try:
        yield Named(node, [one, two], relays, names)
    finally:
        await relays.close()
        for host in (node, one, two):
            await host.close()


@in_virtual_time
async def test_a_relay_of_the_settings_whose_name_is_given_later_is_dialed_at_once() -> None:
    async with named("hub") as it:
        await asyncio.sleep(SOON_S)
        it.says("hub", it.hosts[0])
        await within(2 * SOON_S, it.held)


@in_virtual_time
async def test_a_place_is_waited_for_just_after_relays_were_named_and_no_longer() -> None:
    loop = asyncio.get_running_loop()
    async with named("hub", "nobody") as it:
        it.says("hub", it.hosts[0])
        await it.relays.first_place()
        assert it.held() == {it.hosts[0].peer_id}
    async with named("hub") as it:
        begin = loop.time()
        for _ in range(2):
            await it.relays.first_place()
            assert loop.time() - begin == pytest.approx(FIRST_PLACE_S)
        it.says("other", it.hosts[1])
        it.relays.change(["hub", "other"])
        await it.relays.first_place()
        assert it.held() == {it.hosts[1].peer_id}
    async with named() as it:
        begin = loop.time()
        await it.relays.first_place()
        assert loop.time() == begin, "nothing to wait for"


@in_virtual_time
async def test_a_name_that_is_anothers_now_means_that_relay_and_one_that_is_nobodys_none() -> None:
    async with named("hub") as it:
        one, two = it.hosts
        it.says("hub", one)
        await within(2 * SOON_S, it.held)
        it.says("hub", two)
        await within(2 * SOON_S, lambda: it.held() == {two.peer_id})
        assert not it.relays.is_named(one.peer_id) and it.node.keeper.status(one.peer_id) is None
        it.says("hub", None)
        await within(2 * SOON_S, lambda: not it.held())
        assert it.relays.missing() == {"hub": "nobody has this name"}


@in_virtual_time
async def test_a_name_that_is_given_while_it_is_looked_up_is_looked_up_again_at_once() -> None:
    async with named("hub") as it:
        real = it.relays._read

        async def slowly(texts: Sequence[str]) -> tuple[PeerId, tuple[Multiaddr, ...]]:
            it.relays._read = real
            try:
                return await real(texts)
            finally:
                await asyncio.sleep(0.1)

        it.relays._read = slowly
        it.relays.names_changed()
        await asyncio.sleep(0.05)
        it.says("hub", it.hosts[0])
        await within(2 * SOON_S, it.held)


@in_virtual_time
async def test_a_relay_that_the_settings_name_at_two_addresses_is_dialed_at_both_until_none_does() -> None:
    """Of IPv4 and IPv6, say: only what came last was known."""
    async with named("v4", "v6") as it:
        one, here = it.hosts[0], tuple(it.hosts[0].swarm.listen_addrs())
        there = Multiaddr.parse("/ip6/2001:db8::1/tcp/4011")
        it.says("v4", one, *here)
        it.says("v6", one, there)
        await within(2 * SOON_S, it.held)
        assert set(it.node.swarm.peerstore.pinned(one.peer_id)) == {*here, there}
        it.relays.change(["v4"])
        assert it.node.swarm.peerstore.pinned(one.peer_id) == list(here) and it.held()
        it.relays.change([])
        assert not it.held() and it.node.keeper.status(one.peer_id) is None


@in_virtual_time
async def test_a_connected_relay_that_becomes_the_owners_is_asked_at_once() -> None:
    """Where strangers' relays are not asked it was passed over when it told of itself."""
    async with world() as it:
        relay = await it.relay()
        there = relay.host.swarm.listen_addrs()
        conn = await it.node.swarm.connect(relay.host.peer_id, there, only=True)
        await conn.identified
        await asyncio.sleep(SOON_S)
        assert not it.asked(relay)
        it.node.swarm.peerstore.pin(relay.host.peer_id, (), "named")
        await within(SOON_S, it.held)


@in_virtual_time
async def test_a_strangers_relay_that_refused_and_becomes_the_owners_is_asked_at_once() -> None:
    async with world(strangers=True) as it:
        relay = await it.relay()
        refuse(relay)
        there = relay.host.swarm.listen_addrs()
        await it.node.swarm.connect(relay.host.peer_id, there, only=True)
        await within(3.0, it.client.refusals)
        await asyncio.sleep(60.0)
        assert it.asked(relay) == 1
        refuse(relay, None)
        it.node.swarm.peerstore.pin(relay.host.peer_id, (), "named")
        await within(SOON_S, it.held)


@in_virtual_time
async def test_a_place_at_a_relay_that_is_the_owners_no_more_is_given_up_and_not_asked_for() -> None:
    """It was asked for anew all the time, as soon as it was to be renewed."""
    async with world() as it:
        relay = await it.relay()
        it.node.swarm.peerstore.pin(relay.host.peer_id, (), "named")
        await it.node.swarm.connect(relay.host.peer_id, relay.host.swarm.listen_addrs(), only=True)
        await within(SOON_S, it.held)
        it.node.swarm.peerstore.unpin(relay.host.peer_id, "named")
        await within(SOON_S, lambda: not it.held())
        await asyncio.sleep(3600.0)
        assert it.asked(relay) == 1


@in_virtual_time
async def test_a_place_is_renewed_within_the_hour_though_it_seems_longer_by_a_clock_that_is_behind() -> None:
    async with world() as it:
        relay = await it.relay()
        relay.ttl_s = 400 * 24 * 3600.0  # an hour, to a node that is in last year
        await it.meet(relay)
        await within(SOON_S, it.held)
        await asyncio.sleep(3600.0)
        assert it.asked(relay) == 2


@pytest.mark.parametrize(("strangers", "pause_s"), [(False, REST_S), (True, REASK_S)])
@in_virtual_time
async def test_who_found_no_room_at_a_relay_has_its_place_soon_after_another_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strangers: bool, pause_s: float
) -> None:
    """However long it would rest: a stranger's relay is not asked for an hour."""
    monkeypatch.setattr(relay_service, "RESERVATIONS", Most(all=1, peer=1, network=1))
    async with world(strangers=strangers) as it:
        host, other, settings = await it.host(), await it.host(), Settings(relay_serve="anyone")
        relaying = Relaying(
            host, Paths.resolve(str(tmp_path), {}), settings, profile(settings), lambda: True
        )
        relaying.start()
        conn = await other.swarm.connect(host.peer_id, host.swarm.listen_addrs())
        assert (await reserve(conn)).status is Status.OK
        if not strangers:
            it.client.name(host.peer_id)
        await it.node.swarm.connect(host.peer_id, host.swarm.listen_addrs(), only=True)
        await within(4.0, it.client.refusals)
        await asyncio.sleep(0.0 if strangers else 1000.0)
        await conn.close()
        await within(pause_s + REASK_WITHIN_S + SOON_S, it.held)
        relaying.close()


@in_virtual_time
async def test_what_a_relay_refused_is_no_news_any_more_where_it_is_not_asked_again() -> None:
    async with world() as it:
        full, one, two = await it.relay(), await it.relay(), await it.relay()
        refuse(full, Status.RESERVATION_REFUSED)
        await it.meet(full)
        await within(SOON_S, it.client.refusals)
        await it.meet(one, two)
        await within(SOON_S, lambda: len(it.held()) == 2)
        assert it.client.refusals()
        await asyncio.sleep(2 * REST_S)
        assert not it.client.refusals() and it.asked(full) == 1
