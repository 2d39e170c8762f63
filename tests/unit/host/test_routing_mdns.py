"""The local network as a source of a look-up, on a segment in memory and a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import DialFailed, PeerNotFound
from p2pfwd.host.routing import (
    ANSWER_WAIT_S,
    MAX_TRIED,
    MOST_NEAR_S,
    START_WAIT_S,
    Finding,
    MdnsSource,
    Progress,
    Routing,
    Try,
)
from p2pfwd.net.swarm import Swarm
from p2pfwd.policy.dial_plan import MAX_DIALS
from tests.support.virtual_time import in_virtual_time
from tests.unit.protocols.mdns_ether import Ether, Node


class Attempts:
    """Stands for the race's dialing: what was tried, and whether the last one works."""

    def __init__(self, *outcomes: bool) -> None:
        self.tried: list[tuple[Multiaddr, ...]] = []
        self._outcomes = list(outcomes)

    async def __call__(self, addrs: Sequence[Multiaddr]) -> bool:
        self.tried.append(tuple(addrs))
        await asyncio.sleep(10)  # a dial may take longer than answers are awaited
        return self._outcomes.pop(0)


async def neighbours() -> tuple[Node, Node]:
    """Two that have heard each other."""
    ether = Ether()
    a, b = Node(ether, 1), Node(ether, 2)
    a.mdns.start()
    b.mdns.start()
    await asyncio.sleep(5)
    return a, b


@in_virtual_time
async def test_who_is_there_is_found_though_just_asked() -> None:
    """Known already: tried at once. Not yet known: asked for, and tried when it answers."""
    ether = Ether()
    a, b = Node(ether, 1), Node(ether, 2)
    a.mdns.start()
    source, loop = MdnsSource(a.mdns), asyncio.get_running_loop()
    await source.wait_ready()
    assert source.is_ready()
    await asyncio.sleep(100)
    b.mdns.start()
    first, began = Attempts(True), loop.time()
    assert await source.find(b.peer_id, first) == Finding(True, 1)
    assert first.tried == [(b.addr,)] and loop.time() - began < 10.5
    again, began = Attempts(True), loop.time()
    assert await source.find(b.peer_id, again) == Finding(True, 1)
    assert loop.time() - began == 10.0
    a.mdns.close()
    b.mdns.close()


@in_virtual_time
async def test_who_is_not_there_is_given_up_soon() -> None:
    """After what an answer takes; those who were heard count as asked."""
    a, b = await neighbours()
    attempts, began = Attempts(), asyncio.get_running_loop().time()
    assert await MdnsSource(a.mdns).find(Node(Ether(), 3).peer_id, attempts) == Finding(False, 1)
    assert asyncio.get_running_loop().time() - began == pytest.approx(ANSWER_WAIT_S)
    assert attempts.tried == []
    a.mdns.close()
    b.mdns.close()


@in_virtual_time
async def test_a_wrong_address_is_not_the_end() -> None:
    """The dial fails; an address told a moment later is tried as well."""
    a, b = await neighbours()
    attempts = Attempts(False, True)
    search = asyncio.create_task(MdnsSource(a.mdns).find(b.peer_id, attempts))
    await asyncio.sleep(10.5)
    b.swarm.listen[0] = Multiaddr.parse(f"/ip4/{b.host}/tcp/9999")
    b.mdns.ask()
    assert await search == Finding(True, 1)
    assert [len(addrs) for addrs in attempts.tried] == [1, 2]
    a.mdns.close()
    b.mdns.close()


@in_virtual_time
async def test_neighbours_that_tell_ever_new_addresses_do_not_hold_a_look_up() -> None:
    a, b = await neighbours()
    attempts, loop = Attempts(*[False] * 100), asyncio.get_running_loop()

    async def lie() -> None:
        for port in range(1, 1000):
            b.swarm.listen[0] = Multiaddr.parse(f"/ip4/{b.host}/tcp/{port}")
            b.mdns.ask()
            await asyncio.sleep(1.1)

    lies, began = asyncio.create_task(lie()), loop.time()
    assert not (await MdnsSource(a.mdns).find(b.peer_id, attempts)).connected
    lies.cancel()
    assert loop.time() - began < MOST_NEAR_S + 11, "and the dial that was under way"
    a.mdns.close()
    b.mdns.close()


class FakeSource:
    """Ready after a while, or never; then it finds, or does not."""

    starts_slowly = True

    def __init__(self, name: str, ready_after_s: float | None, finds: bool) -> None:
        self.name = name
        self.searched = False
        self._finds = finds
        self._ready = asyncio.Event()
        if ready_after_s is not None:
            asyncio.get_running_loop().call_later(ready_after_s, self._ready.set)

    def is_ready(self) -> bool:
        return self._ready.is_set()

    async def wait_ready(self) -> None:
        await self._ready.wait()

    async def find(self, peer_id: PeerId, attempt: Try) -> Finding:
        self.searched = True
        return Finding(self._finds, 1)


class RoutedSwarm:
    """As much of a swarm as a look-up that dials nobody needs."""

    def set_router(self, router: object) -> None:
        self.router = router


def routing(*sources: FakeSource) -> tuple[Routing, list[str]]:
    made, said = Routing(cast("Swarm", RoutedSwarm())), list[str]()

    def note(progress: Progress) -> None:
        said.append(progress.text)

    made.on_progress(note)
    for source in sources:
        made.add(source)
    return made, said


PEER = PeerId.from_bytes(b"\x00\x24\x08\x01\x12\x20" + bytes(32))
FAILURE = PeerNotFound("nothing is known")


@in_virtual_time
async def test_a_source_that_is_ready_later_is_asked_too() -> None:
    """The local network is there at once; the DHT's first peer is not, and it is the DHT that knows."""
    near = FakeSource("the local network", 0.0, finds=False)
    dht = FakeSource("the public DHT", 2.0, finds=True)
    made, said = routing(near, dht)
    await made.route(PEER, FAILURE)
    assert said == ["asking the local network and the public DHT", "found in the public DHT"]


@in_virtual_time
async def test_a_source_that_is_never_ready_is_not_waited_for_long() -> None:
    here, there = FakeSource("A", 0.0, finds=False), FakeSource("C", 0.0, finds=False)
    made, said = routing(here, FakeSource("B", None, finds=True), there)
    began = asyncio.get_running_loop().time()
    with pytest.raises(PeerNotFound, match="was not found: 2 peers were asked"):
        await made.route(PEER, FAILURE)
    assert START_WAIT_S - 1 < asyncio.get_running_loop().time() - began <= START_WAIT_S
    assert said[0] == "asking A, B and C"


@in_virtual_time
async def test_a_network_that_is_not_there_is_not_waited_for() -> None:
    """mDNS on no interface: who is in the DHT alone is told absent as soon as the DHT says so."""
    off = MdnsSource(Node(Ether(), 1).mdns)
    made, said = routing(FakeSource("the public DHT", 0.0, finds=False))
    made.add(off)
    began = asyncio.get_running_loop().time()
    with pytest.raises(PeerNotFound, match="was not found: 1 peer was asked"):
        await made.route(PEER, FAILURE)
    assert asyncio.get_running_loop().time() == began
    assert said[0] == "asking the public DHT and the local network"


@in_virtual_time
async def test_nobody_to_ask_is_told_as_that() -> None:
    """Unless more is known: why the peer could not be reached where it was."""
    made, _ = routing(FakeSource("A", None, finds=True))
    with pytest.raises(PeerNotFound, match="no peer is there to ask"):
        await made.route(PEER, FAILURE)
    with pytest.raises(DialFailed, match="refused"):
        await made.route(PEER, DialFailed("refused"))


@in_virtual_time
async def test_who_gives_up_while_nobody_is_ready_leaves_nothing_behind() -> None:
    made, _ = routing(FakeSource("B", None, finds=True), FakeSource("C", None, finds=True))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await made.route(PEER, FAILURE)
    assert asyncio.all_tasks() == {asyncio.current_task()}


TRUE = Multiaddr.parse("/ip4/192.0.2.2/tcp/1")


class Dialing(RoutedSwarm):
    """The peer sought is at TRUE; elsewhere all refuse."""

    def __init__(self) -> None:
        self.dials: list[list[Multiaddr]] = []

    def conns(self, _peer: PeerId) -> tuple[()]:
        return ()

    async def connect(self, _peer: PeerId, addrs: Sequence[Multiaddr], **_how: bool) -> None:
        self.dials.append(list(addrs))
        if TRUE not in addrs:
            raise DialFailed("refused")

    @property
    def dialed(self) -> list[Multiaddr]:
        return [addr for addrs in self.dials for addr in addrs]


class Telling(FakeSource):
    """Tells these addresses, `at_once` of them in each answer."""

    def __init__(self, name: str, addrs: Sequence[Multiaddr], at_once: int, after_s: float = 0.0) -> None:
        super().__init__(name, 0.0, finds=False)
        self._addrs, self._at_once, self._after_s = addrs, at_once, after_s

    async def find(self, peer_id: PeerId, attempt: Try) -> Finding:
        await asyncio.sleep(self._after_s)
        for first in range(0, len(self._addrs), self._at_once):
            if await attempt(self._addrs[first : first + self._at_once]):
                return Finding(True, 1)
        return Finding(False, 1)


LIES = [Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{port}") for port in range(1, 2 * MAX_TRIED)]


@pytest.mark.parametrize("at_once", [1, 100])
@in_virtual_time
async def test_a_look_up_dials_so_many_addresses_and_no_more(at_once: int) -> None:
    swarm = Dialing()
    made = Routing(cast("Swarm", swarm))
    made.add(Telling("the DHT", LIES, at_once))
    with pytest.raises(DialFailed):
        await made.route(PEER, FAILURE)
    assert swarm.dialed == LIES[:MAX_TRIED], "each once, and none is left out in between"
    assert max(map(len, swarm.dials)) <= MAX_DIALS, "what a dial would cut was not tried"


@in_virtual_time
async def test_what_one_source_tells_uses_up_no_others_part() -> None:
    """A neighbour, or liars of one DHT, had all 256 addresses, and who was right elsewhere was not dialed."""
    swarm = Dialing()
    made = Routing(cast("Swarm", swarm))
    made.add(Telling("the local network", LIES, 16))
    made.add(Telling("the DHT", [LIES[-1], TRUE], 1, after_s=1.0))
    await made.route(PEER, FAILURE)
    assert swarm.dialed == [*LIES[: MAX_TRIED // 2], LIES[-1], TRUE]
