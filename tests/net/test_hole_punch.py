"""From a relay to a direct connection, on loopback: relayed first, direct afterwards, nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from math import inf
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import NoDirectPath, P2PForwardError, PeerNotFound, TimedOut
from p2pfwd.forwarding.check import check_peer
from p2pfwd.host.host import Host
from p2pfwd.net import needless, own_addresses
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.contract import DuplexStream, Link
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.transport.contract import Meeting
from p2pfwd.net.visits import Visit
from p2pfwd.peers.store import SERVED_PROOF_S
from p2pfwd.policy import punching, visible
from p2pfwd.policy.paths import PathCode, Way
from p2pfwd.policy.provenance import Provenance
from p2pfwd.policy.service_bounds import DCUTR
from p2pfwd.protocols import hole_punch, identify
from p2pfwd.protocols.identify import Identify
from p2pfwd.protocols.relay_client import RelayClient
from p2pfwd.wire import dcutr
from p2pfwd.wire.circuit import Limit
from p2pfwd.wire.dcutr import HolePunch, Kind
from tests.net.swarm_rig import ECHO, echo, host, next_conn, stranger, swarm
from tests.support.loops import on_both_loops, on_loop, turns, until
from tests.support.mini_relay import MiniRelay

LIMIT = Limit(120, 1 << 17)
Before = Callable[["Rig"], None]


@pytest.fixture(autouse=True)
def public_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback stands for the internet: holes are punched at public addresses only."""

    def classes(addr: Multiaddr) -> AddressClass:
        found = address_class(addr)
        return AddressClass.PUBLIC if found is AddressClass.LOOPBACK else found

    monkeypatch.setattr(punching, "address_class", classes)
    monkeypatch.setattr(own_addresses, "address_class", classes)
    monkeypatch.setattr(visible, "address_class", classes)


@pytest.fixture
def no_plain_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind routers: B cannot simply dial A."""

    async def fails(*_args: object) -> bool:
        return False

    monkeypatch.setattr(hole_punch._Effort, "_plain", fails)


@dataclass
class Rig:
    """A relay, B with a place at it, and A who reaches B by it."""

    relay: MiniRelay
    a: Host
    b: Host
    codes: list[PathCode] = field(default_factory=list)
    """What A was told of its way to B."""

    async def reach(self) -> Link:
        """From A to B, over the relay alone."""
        circuit = self.b.swarm.listen_addrs()[-1]
        return await self.a.swarm.connect(self.b.peer_id, [circuit], only=True)

    async def say(self, text: bytes, way: Way | None = None) -> tuple[bytes, bool]:
        """To B's echo and back: (the answer, whether it came over the relay)."""
        stream = await self.a.swarm.open_stream(self.b.peer_id, [ECHO], way=way)
        await stream.write(text)
        answer = await stream.read_exactly(len(text))
        await stream.close()
        return answer, stream.conn.is_relayed


@asynccontextmanager
async def rig(limit: Limit | None = None) -> AsyncIterator[Rig]:
    async with host() as relay_host, host() as b, host() as a:
        relay = MiniRelay(relay_host)
        relay.limit = limit
        client = RelayClient(b.swarm, strangers=False, is_public=lambda: False)
        client.start()
        client.name(relay_host.peer_id)
        b.swarm.services.serve(Service(name=ECHO, handler=echo))
        for node in (a, b):
            await node.swarm.connect(relay_host.peer_id, relay_host.swarm.listen_addrs())
        await until(client.places)
        await until(lambda: a.swarm.own_addresses.seen() and b.swarm.own_addresses.seen())
        it = Rig(relay, a, b)
        a.swarm.paths.on_change(lambda _peer, code: it.codes.append(code))
        try:
            yield it
        finally:
            await client.close()


async def direct(node: Host, other: Host) -> Link:
    """Once there is one."""
    await until(lambda: node.swarm.conns(other.peer_id))
    return await node.swarm.paths.wait_direct(other.peer_id, 10.0)


@on_both_loops
async def test_relayed_first_direct_afterwards_and_an_open_stream_goes_on(no_plain_dial: None) -> None:
    async with rig() as it:
        circuit = await it.reach()
        stream = await circuit.open_stream([ECHO])
        await stream.write(b"before ")
        for node, other in ((it.a, it.b), (it.b, it.a)):
            conn = await direct(node, other)
            assert node.swarm.paths.code(conn) is PathCode.PUNCHED
        await stream.write(b"and after")
        assert await stream.read_exactly(16) == b"before and after" and stream.conn is circuit
        assert await it.say(b"new") == (b"new", False)
        assert it.codes[-1] is PathCode.PUNCHED and PathCode.PUNCHING in it.codes


@pytest.mark.parametrize(("a_proposes", "times"), [(True, 0), (False, 1), (None, 1)])
@on_loop
async def test_what_an_old_go_will_propose_is_loaded_while_it_measures_the_round_trip(
    no_plain_dial: None, monkeypatch: pytest.MonkeyPatch, a_proposes: bool | None, times: int
) -> None:
    loaded: list[None] = []
    monkeypatch.setattr(hole_punch, "a_proposes", lambda _agent: a_proposes)
    monkeypatch.setattr(hole_punch, "load_tls", lambda: loaded.append(None))
    ask = hole_punch._Effort._ask
    async with rig() as it:

        async def asks(self: hole_punch._Effort, circuit: Link) -> object:
            await until(lambda: it.a.swarm.peerstore.agent(it.b.peer_id))
            return await ask(self, circuit)

        monkeypatch.setattr(hole_punch._Effort, "_ask", asks)
        await it.reach()
        await direct(it.a, it.b)
        await asyncio.sleep(2 * hole_punch.ANSWERED_S)
        assert len(loaded) == times


@on_loop
async def test_the_first_connect_does_not_wait_for_identify(
    no_plain_dial: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A says who she is only when she has been asked for her addresses."""
    asked = asyncio.Event()
    answer, follow = Identify._answer, hole_punch.HolePunch._follow

    async def answers(self: Identify, visit: Visit) -> None:
        if visit.stream.conn.is_relayed and visit.stream.conn.direction == "outbound":
            await asked.wait()
        await answer(self, visit)

    async def follows(self: hole_punch.HolePunch, visit: Visit) -> None:
        asked.set()
        await follow(self, visit)

    monkeypatch.setattr(identify, "TIMEOUT_S", 60.0)
    monkeypatch.setattr(hole_punch, "ANSWER_S", 60.0)
    monkeypatch.setattr(Identify, "_answer", answers)
    monkeypatch.setattr(hole_punch.HolePunch, "_follow", follows)
    async with rig() as it:
        await it.reach()
        assert await direct(it.b, it.a)


@on_loop
async def test_who_had_an_answer_in_the_handshake_asks_for_no_other(
    no_plain_dial: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener has; the dialer does not know whether its last word arrived."""
    asking: list[Conn] = []
    measure = Conn.measure_rtt

    async def measured(self: Conn, timeout_s: float) -> float:
        asking.append(self)
        return await measure(self, timeout_s)

    monkeypatch.setattr(Conn, "measure_rtt", measured)
    async with rig() as it:
        await it.reach()
        for node, other in ((it.a, it.b), (it.b, it.a)):
            await direct(node, other)
        assert asking and {conn.direction for conn in asking if not conn.is_relayed} == {"outbound"}


@on_loop
async def test_who_is_public_is_dialed_without_a_hole() -> None:
    async with rig() as it:
        await it.reach()
        conn = await direct(it.b, it.a)
        assert conn.direction == "outbound" and it.b.swarm.paths.code(conn) is PathCode.DIRECT


@on_loop
async def test_the_relayed_connection_goes_when_nothing_is_on_it(
    no_plain_dial: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needless, "GRACE_S", 0.2)
    async with rig() as it:
        circuit = await it.reach()
        stream = await circuit.open_stream([ECHO])
        await direct(it.a, it.b)
        await asyncio.sleep(0.6)
        assert circuit.can_open, "a stream is on it"
        stream.reset()
        await asyncio.wait_for(circuit.closed, 5.0)
        assert await it.say(b"still here") == (b"still here", False)


@on_loop
async def test_a_lost_direct_connection_is_made_again_from_the_relayed_one(no_plain_dial: None) -> None:
    async with rig() as it:
        await it.reach()
        first = await direct(it.a, it.b)
        first.abort()
        assert (await it.say(b"at once"))[0] == b"at once"
        assert await direct(it.b, it.a)
        assert (await direct(it.a, it.b)) is not first


@on_loop
async def test_a_direct_connection_that_is_lost_as_soon_as_it_is_there_is_made_again(
    no_plain_dial: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The effort was about to end, and took the news for itself: nobody tried again."""
    monkeypatch.setattr(hole_punch, "NEWS_PAUSE_S", 0.05)
    forget, lost = hole_punch._Effort._forget_early, list[Link]()

    async def loses(self: hole_punch._Effort) -> None:
        if not lost and (conn := self._swarm.paths.direct(self.peer_id)) is not None:
            lost.append(conn)
            conn.abort()
            await until(lambda: self._swarm.paths.direct(self.peer_id) is None)
        await forget(self)

    monkeypatch.setattr(hole_punch._Effort, "_forget_early", loses)
    async with rig() as it:
        await it.reach()
        await until(lambda: lost)
        await until(lambda: it.b.swarm.paths.direct(it.a.peer_id) is not None)


@on_loop
async def test_who_found_no_room_among_those_that_are_punched_has_his_turn_when_another_has_had_it(
    no_plain_dial: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hole_punch, "MAX_PUNCHED", 1)
    async with rig() as it, host() as third:
        assert it.b.hole_punch is not None
        began: list[PeerId] = []
        real, goes_on = hole_punch._Effort._round, asyncio.Event()

        async def waits(self: hole_punch._Effort, circuit: Link) -> None:
            began.append(self.peer_id)
            await goes_on.wait()
            await real(self, circuit)

        monkeypatch.setattr(hole_punch._Effort, "_round", waits)
        await it.reach()
        await until(lambda: it.a.peer_id in began)
        circuit = await third.swarm.connect(it.b.peer_id, [it.b.swarm.listen_addrs()[-1]], only=True)
        await until(lambda: it.b.swarm.refusals.counts.get("dcutr-dials"))
        assert third.peer_id not in began and circuit.is_relayed
        goes_on.set()
        await until(lambda: it.b.swarm.paths.direct(third.peer_id))


@on_loop
async def test_an_address_that_took_a_hole_is_no_proved_one(no_plain_dial: None) -> None:
    """A dial of it alone would only spoil the next hole; a dial that worked alone proves its address."""
    async with rig() as it:
        await it.reach()
        for node, other in ((it.a, it.b), (it.b, it.a)):
            await direct(node, other)
            found = [known.provenance for known in node.swarm.peerstore.known(other.peer_id)]
            assert found and Provenance.PROVED not in found[1:], "the circuit alone"
            assert (found[0] is Provenance.PROVED) is (node is it.a)
    async with rig() as it:
        await it.a.swarm.connect(it.b.peer_id, it.b.swarm.listen_addrs()[:1], only=True)
        (first, *_) = it.a.swarm.peerstore.known(it.b.peer_id)
        assert first.provenance is Provenance.PROVED


@on_loop
async def test_over_a_limited_relay_a_tunnel_waits_for_the_direct_connection(no_plain_dial: None) -> None:
    async with rig(LIMIT) as it:
        circuit = await it.reach()
        assert circuit.limit == LIMIT
        assert await it.say(b"a tunnel", Way()) == (b"a tunnel", False)


@on_loop
async def test_over_an_unlimited_relay_it_does_not_wait(no_plain_dial: None) -> None:
    async with rig() as it:
        await it.reach()
        assert it.a.swarm.open_stream_at_once(it.b.peer_id, ECHO, Way("direct")) is None
        assert await it.say(b"a tunnel", Way()) in [(b"a tunnel", True), (b"a tunnel", False)]
        assert await it.say(b"a tunnel", Way("direct")) == (b"a tunnel", False)


def deaf(it: Rig) -> None:
    """B cannot punch."""
    it.b.swarm.services.withdraw(dcutr.PROTOCOL)
    assert it.b.hole_punch is not None
    it.b.hole_punch._begin = lambda _peer: None  # type: ignore[method-assign]


@on_loop
async def test_a_check_tells_the_way_that_the_next_stream_has(no_plain_dial: None) -> None:
    """While a hole is being punched it waits a moment; not with `--path relay`, and where none can be."""
    async with rig() as it:
        await it.reach()
        assert (await check_peer(it.a.swarm, it.b.peer_id, ECHO, 10.0, Way())).path == "direct"
    async with rig() as it:
        deaf(it)
        await it.reach()
        assert (await check_peer(it.a.swarm, it.b.peer_id, ECHO, 10.0, Way())).path == "relayed"
        it.a.swarm.paths.wait_direct = None  # type: ignore[assignment,method-assign]
        assert (await check_peer(it.a.swarm, it.b.peer_id, ECHO, 10.0, Way("relay"))).path == "relayed"


@on_loop
async def test_where_a_peer_punches_no_holes_nobody_waits_for_one_when_a_direct_connection_is_lost() -> None:
    async with rig() as it:
        deaf(it)
        circuit = await it.reach()
        await until(lambda: it.a.swarm.paths.code(circuit) is PathCode.NOT_SPOKEN)
        conn = await it.a.swarm.dials.beside(it.b.peer_id, it.b.swarm.listen_addrs()[:1])
        conn.abort()
        await until(lambda: it.a.swarm.paths.direct(it.b.peer_id) is None)
        with pytest.raises(NoDirectPath, match="no /libp2p/dcutr"):
            await asyncio.wait_for(it.a.swarm.paths.wait_direct(it.b.peer_id, 20.0), 2.0)
        assert it.codes[-1] is PathCode.NOT_SPOKEN


@on_loop
async def test_a_check_goes_the_way_of_the_tunnel_and_none_there_is_what_it_finds() -> None:
    """It said that the peer answers, over a relay that no tunnel may go over: each connection failed."""
    async with rig(LIMIT) as it:
        deaf(it)
        await it.reach()
        for way in (Way(), Way("direct", limited=True)):
            outcome = await check_peer(it.a.swarm, it.b.peer_id, ECHO, 10.0, way)
            assert not outcome.ok and outcome.state == "no-direct-path", way
            assert "no /libp2p/dcutr" in (outcome.reason or "")
        outcome = await check_peer(it.a.swarm, it.b.peer_id, ECHO, 10.0, Way(limited=True))
        assert outcome.ok and outcome.path == "relayed"
    async with rig() as it:
        await it.reach()
        await direct(it.a, it.b)
        assert (await check_peer(it.a.swarm, it.b.peer_id, ECHO, 10.0, Way("relay"))).path == "relayed"


@on_loop
async def test_where_no_hole_can_be_punched_the_reason_is_told_and_a_limited_relay_taken_on_demand() -> None:
    async with rig(LIMIT) as it:
        deaf(it)
        await it.reach()
        with pytest.raises(NoDirectPath, match="no /libp2p/dcutr") as caught:
            await asyncio.wait_for(it.say(b"", Way()), 5.0)
        assert caught.value.details["path"] == "relayed-not-spoken"
        assert caught.value.hint is not None and "--allow-limited-relay" in caught.value.hint
        assert await it.say(b"anyway", Way(limited=True)) == (b"anyway", True)
        with pytest.raises(NoDirectPath):
            await it.say(b"", Way("direct", limited=True))


@on_loop
async def test_path_relay_uses_one_though_there_is_a_direct_connection() -> None:
    async with rig() as it:
        await it.reach()
        await direct(it.a, it.b)
        assert await it.say(b"over the relay", Way("relay")) == (b"over the relay", True)


@on_loop
async def test_path_relay_says_so_where_the_peer_has_no_relay() -> None:
    """It said that no address of the peer is known, to which there was a connection."""
    async with host() as a, host() as b:
        await a.swarm.connect(b.peer_id, b.swarm.listen_addrs())
        with pytest.raises(PeerNotFound, match="told no address over a relay") as caught:
            await a.swarm.open_stream(b.peer_id, [ECHO], way=Way("relay"))
        assert "shows its relays" in (caught.value.hint or "")


@on_loop
async def test_both_symmetric_is_said_without_a_dial(
    no_plain_dial: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ports of one host say that the router gives every connection another one."""
    many = tuple(Multiaddr.parse(f"/ip4/11.0.0.1/tcp/{port}") for port in (5, 9000))

    async def never(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("dialed")

    async with rig(LIMIT) as it:
        for node in (it.a, it.b):
            assert node.hole_punch is not None
            monkeypatch.setattr(node.hole_punch, "offer", lambda: many)
            monkeypatch.setattr(node.hole_punch, "meet", never)
            monkeypatch.setattr(node.swarm.own_addresses, "nat", punching.NatKind.SYMMETRIC)
        await it.reach()
        with pytest.raises(NoDirectPath, match="both routers give every connection another port"):
            await it.say(b"", Way())
        circuit = it.b.swarm.conns(it.a.peer_id)[0]
        await until(lambda: it.b.swarm.paths.code(circuit) is PathCode.SYMMETRIC_BOTH)


@on_loop
async def test_who_is_heard_near_is_dialed_there_and_needs_no_relay_any_more() -> None:
    async with rig() as it:
        deaf(it)
        await it.reach()
        assert it.a.hole_punch is not None
        it.a.hole_punch.nearby(stranger(), it.b.swarm.listen_addrs()[:1])
        it.a.hole_punch.nearby(it.b.peer_id, it.b.swarm.listen_addrs()[:1])
        await until(lambda: it.a.swarm.paths.direct(it.b.peer_id))


@on_loop
async def test_neighbours_that_tell_much_make_one_dial_of_a_peer_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rig() as it:
        deaf(it)
        await it.reach()
        punch = it.a.hole_punch
        assert punch is not None
        dialed: list[Sequence[Multiaddr]] = []
        over = asyncio.Event()

        async def dial(_peer: PeerId, addrs: Sequence[Multiaddr], _limit_s: float) -> bool:
            dialed.append(addrs)
            await over.wait()
            return False

        monkeypatch.setattr(punch, "dial", dial)
        told = [[Multiaddr.parse(f"/ip4/192.0.2.{n}/tcp/1")] for n in range(1, 100)]
        for addrs in told:
            punch.nearby(it.b.peer_id, addrs)
            await turns(2)
        assert dialed == told[:1]
        over.set()
        await until(lambda: dialed == [told[0], told[-1]])


@on_loop
async def test_a_stranger_s_word_is_taken_on_a_circuit_that_was_dialed_and_nowhere_else() -> None:
    """On a direct connection, and on a circuit that the asker has dialed."""
    async with rig() as it:
        deaf(it)
        circuit = await it.reach()
        plain = await it.a.swarm.dials.beside(it.b.peer_id, it.b.swarm.listen_addrs()[:1])
        assert it.b.hole_punch is not None
        it.b.swarm.services.serve(Service(name=dcutr.PROTOCOL, talk=it.b.hole_punch._follow))
        for conn in (circuit, plain):
            with pytest.raises(P2PForwardError):  # where it is met first, the reset ends any of these
                stream = await conn.open_stream([dcutr.PROTOCOL])
                await stream.write_delimited(dcutr.encode(HolePunch(Kind.CONNECT, ())))
                await stream.read_delimited(4096)


async def led_by_hand(it: Rig, idle_s: float) -> tuple[Link, asyncio.Future[Any]]:
    """B leaves its part to the test: its connection to A, and a tunnel of A's that waits for a direct one."""
    assert it.a.hole_punch is not None and it.b.hole_punch is not None
    it.b.hole_punch._begin = lambda _peer: None  # type: ignore[method-assign]
    bounds = replace(DCUTR, label="short", idle_s=idle_s)
    service = Service(name=dcutr.PROTOCOL, talk=it.a.hole_punch._follow, bounds=bounds)
    it.a.swarm.services.withdraw(dcutr.PROTOCOL)
    it.a.swarm.services.serve(service)
    circuit = await it.reach()
    await until(lambda: it.b.swarm.conns(it.a.peer_id))
    conn = it.b.swarm.conns(it.a.peer_id)[0]
    await asyncio.wait([conn.identified, circuit.identified])
    return conn, asyncio.ensure_future(it.a.swarm.paths.wait_direct(it.b.peer_id, 20.0))


async def asked_to_punch(conn: Link) -> DuplexStream:
    """After A's answer to a CONNECT, at an address where nobody is."""
    stream = await conn.open_stream([dcutr.PROTOCOL])
    nobody = (Multiaddr.parse("/ip4/127.0.0.1/tcp/9"),)
    await stream.write_delimited(dcutr.encode(HolePunch(Kind.CONNECT, nobody)))
    dcutr.decode(await stream.read_delimited(4096), Kind.CONNECT)
    return stream


@pytest.mark.parametrize(
    ("end", "path"),
    [("fin", "broken-off"), ("reset", "broken-off"), ("nothing", "broken-off"), ("one try", "failed")],
)
@on_loop
async def test_who_leads_and_does_not_go_through_with_it_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, end: str, path: str
) -> None:
    """B ends a try, or makes fewer than A would: a tunnel that waits is told why there is no direct way."""
    monkeypatch.setattr(hole_punch, "NEXT_S", 0.05)
    monkeypatch.setattr(hole_punch, "WINDOW_S", 0.2)
    async with rig(LIMIT) as it:
        conn, waits = await led_by_hand(it, idle_s=0.5)
        stream = await asked_to_punch(conn)
        if end == "fin":
            await stream.close()
        elif end == "reset":
            stream.reset()
        elif end == "one try":
            await stream.write_delimited(dcutr.encode(HolePunch(Kind.SYNC)))
        with pytest.raises(NoDirectPath) as caught:
            await asyncio.wait_for(waits, 10.0)
        assert caught.value.details["path"] == f"relayed-{path}"


@on_loop
async def test_a_try_that_begins_before_the_last_is_over_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hole_punch, "NEXT_S", 0.05)
    async with rig(LIMIT) as it:
        conn, waits = await led_by_hand(it, idle_s=10.0)
        first, second = await asked_to_punch(conn), await asked_to_punch(conn)
        await first.close()
        await asyncio.sleep(0.3)
        assert not waits.done(), "the second goes on"
        await second.close()
        with pytest.raises(NoDirectPath):
            await asyncio.wait_for(waits, 10.0)


@on_loop
async def test_strangers_that_were_tried_in_vain_give_way_to_a_newcomer_and_none_that_is_being_tried(
    monkeypatch: pytest.MonkeyPatch, no_plain_dial: None
) -> None:
    """Sixty-four that held their circuits and could not be met kept everybody else on the relay."""
    monkeypatch.setattr(hole_punch, "MAX_PUNCHED", 1)
    going_on = asyncio.Event()

    async def in_vain(*_args: object, **_options: object) -> bool:
        await going_on.wait()
        return False

    monkeypatch.setattr(hole_punch._Effort, "_round", in_vain)
    async with rig() as it, host() as second, host() as third:
        punch, circuit = it.b.hole_punch, it.b.swarm.listen_addrs()[-1]
        assert punch is not None
        await it.reach()
        await until(lambda: it.a.peer_id in punch._efforts)
        first = punch._efforts[it.a.peer_id]
        await second.swarm.connect(it.b.peer_id, [circuit], only=True)
        await until(lambda: it.b.swarm.refusals.counts["dcutr-dials"] == 1)
        assert list(punch._efforts) == [it.a.peer_id]
        going_on.set()
        await until(lambda: first.rests_since < inf)
        going_on.clear()
        await third.swarm.connect(it.b.peer_id, [circuit], only=True)
        await until(lambda: list(punch._efforts) == [third.peer_id])
        assert first.task is not None and first.task.cancelling()
        it.b.swarm.peerstore.pin(second.peer_id, (), "named")
        punch._begin(second.peer_id)
        assert list(punch._efforts) == [third.peer_id, second.peer_id], "the owner's come on top"


@on_loop
async def test_a_stranger_s_dials_are_bounded_and_counted() -> None:
    async with rig() as it:
        punch, addrs = it.b.hole_punch, (Multiaddr.parse("/ip4/11.0.0.1/tcp/1"),)
        assert punch is not None
        asked = [punch.may_dial(stranger(), addrs) for _ in range(14)]
        assert asked == [True] * 12 + [False] * 2, "what is dialed has a share, whoever asks"
        victim = Multiaddr.parse("/ip6/2a11::1/tcp/1")
        others = [Multiaddr.parse(f"/ip4/11.{n}.0.1/tcp/1") for n in range(1, 15)]
        asked = [punch.may_dial(stranger(), (other, victim)) for other in others]
        assert asked == [True] * 12 + [False] * 2, "wherever among the addresses it stands"
        addrs = (Multiaddr.parse("/ip4/11.0.1.1/tcp/1"),)
        store = it.b.swarm.peerstore
        store.note_served(it.a.peer_id)
        hour_later = store.clock() + SERVED_PROOF_S
        store.clock = lambda: hour_later
        assert store.rank(it.a.peer_id), "who has used a listen for long is bounded all the same"
        asked = [punch.may_dial(it.a.peer_id, addrs) for _ in range(10)]
        assert asked == [True] * 6 + [False] * 4
        assert it.b.swarm.refusals.counts["dcutr-dials"] == 8
        assert all(punch.may_dial(it.relay.host.peer_id, addrs) for _ in range(20)), "the owner's own"


async def meet(one: Swarm, other: Swarm, peer: PeerId, listens_s: float) -> Link:
    now = asyncio.get_running_loop().time()
    meeting = Meeting(peer, listens_s, 0.15, now, now + 5.0)
    return await one.paths.meet(other.listen_addrs()[:1], meeting)


@pytest.mark.parametrize(("a_listens", "b_listens"), [(0.0, 1.0), (0.1, 1.0), (1.0, 0.1)])
@on_both_loops
async def test_two_swarms_that_knock_at_once_meet(a_listens: float, b_listens: float) -> None:
    """Whoever's connect arrives, accepted or crossed, who listens for less time proposes."""
    async with swarm() as a, swarm() as b:
        arrived = next_conn(b)
        first, _ = await asyncio.gather(
            meet(a, b, b.peer_id, a_listens), meet(b, a, a.peer_id, b_listens)
        )
        assert first.remote_peer == b.peer_id and (await arrived).remote_peer == a.peer_id
        assert first.direction == ("outbound" if a_listens < b_listens else "inbound")
        assert a.paths.code(first) is PathCode.PUNCHED


@on_loop
async def test_the_end_of_one_meeting_is_not_that_of_another_with_the_same_peer() -> None:
    async with swarm() as made:
        peer, loop = stranger(), asyncio.get_running_loop()
        there = Multiaddr.parse("/ip4/8.8.4.4/tcp/1")
        come = cast("Link", SimpleNamespace(remote_peer=peer, remote_addr=there))

        def meet(for_s: float) -> asyncio.Future[Link]:
            meeting = Meeting(peer, 0.0, 0.0, loop.time(), loop.time() + for_s)
            return asyncio.ensure_future(made.paths.meet((), meeting))

        longer, shorter = meet(10.0), meet(0.0)
        with pytest.raises(TimedOut):
            await shorter
        assert made.paths.is_by_a_hole(come)
        longer.cancel()
        await asyncio.gather(longer, return_exceptions=True)
        assert not made.paths.is_by_a_hole(come)


@on_loop
async def test_who_is_not_expected_is_served_as_ever() -> None:
    """While a meeting is under way, from the very host of the peer."""
    async with swarm() as a, swarm() as b, swarm() as other:
        meeting = asyncio.create_task(meet(a, b, b.peer_id, 0.0))
        await asyncio.sleep(0)
        conn = await other.connect(a.peer_id, a.listen_addrs())
        await until(lambda: a.paths.direct(other.peer_id))
        assert conn.direction == "outbound"
        meeting.cancel()
        await asyncio.gather(meeting, return_exceptions=True)
