"""A circuit that carries bulk changes over to legs, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

import pytest

from p2pfwd.core.multiaddrs import tcp_endpoint
from p2pfwd.errors import NegotiationFailed, P2PForwardError, PeerBlocked
from p2pfwd.host.host import Host
from p2pfwd.net.conduit import tcp
from p2pfwd.net.link.contract import Link
from p2pfwd.net.relayed import Circuit
from p2pfwd.net.transport import circuit, leg_door, relay_transport
from p2pfwd.net.transport import legs as legs_module
from p2pfwd.net.transport.circuit import CircuitConduit
from p2pfwd.net.transport.leg import NEAR_BYTES, Stage
from p2pfwd.net.transport.legs import MOST_RELAYS, REST_S, SHORT_S
from p2pfwd.policy.blocks import Blocks
from p2pfwd.policy.relay_bounds import LEGS
from p2pfwd.protocols.relay_service import RelayService
from p2pfwd.wire.circuit import leg_name
from tests.net.program import Program
from tests.net.relay_rig import placed
from tests.net.swarm_rig import Taken, host, next_conn, stranger
from tests.support.loops import on_both_loops, on_loop, until

BULK = random.Random(2).randbytes(9_000_000)
SOME = BULK[:100_000]


@dataclass
class Relayed:
    """Two hosts, connected over a relay of their owner's."""

    relay: Host
    service: RelayService
    near: Host
    far: Host
    taken: Taken
    link: Link
    far_link: Link

    @property
    def conduits(self) -> tuple[CircuitConduit, CircuitConduit]:
        """Both ends of the circuit."""
        found = []
        for link in (self.link, self.far_link):
            conduit = link._channel.conduit  # type: ignore[attr-defined]
            conduit = getattr(conduit, "_below", conduit)  # in a private network
            assert isinstance(conduit, CircuitConduit)
            found.append(conduit)
        return found[0], found[1]

    async def bulk(self, there: bytes = BULK, back: bytes = BULK[::-1]) -> None:
        """Both ways at once over one stream, to the end of both."""
        stream = await self.near.swarm.open_stream(self.far.peer_id, [self.taken.protocol])
        ends = Program(stream, there), Program(await self.taken.get(), back)
        await asyncio.gather(*(end.over for end in ends))
        assert bytes(ends[1].got) == there and bytes(ends[0].got) == back

    @property
    def stages(self) -> list[Stage]:
        """Of both ends' legs."""
        return [conduit._stage for conduit in self.conduits]

    @property
    def one(self) -> Circuit:
        """The circuit, as the relay has it."""
        (one,) = self.service.circuits()
        return one


@asynccontextmanager
async def relayed(*, own: bool = True, most_legs: int = LEGS, **settings: Any) -> AsyncIterator[Relayed]:
    async with host(**settings) as relay, host(**settings) as far, host(**settings) as near:
        service = RelayService(relay.swarm, most_legs=most_legs)
        service.serve("anyone")
        service.is_own = lambda _peer: own
        client, taken = await placed(far, relay), Taken(far.swarm)
        arrived = next_conn(far.swarm)
        link = await near.swarm.connect(far.peer_id, [far.swarm.listen_addrs()[-1]], only=True)
        try:
            yield Relayed(relay, service, near, far, taken, link, await arrived)
        finally:
            await client.close()
            service.close()


def stands(it: Relayed) -> bool:
    """Whether both ends send and receive by their legs."""
    return all(end._reads_leg and end._leg_out is not None for end in it.conduits)


def carried(it: Relayed) -> tuple[int, int]:
    """By the legs, there and back."""
    assert it.one.legs is not None
    return it.one.legs.passed


@pytest.mark.parametrize("psk", [None, bytes(range(32))])
@on_both_loops
async def test_bulk_goes_on_by_legs_both_ways_at_once_and_all_of_it_arrives(psk: bytes | None) -> None:
    async with relayed(psk=psk) as it:
        assert it.stages == [Stage.PROMISED] * 2
        await it.bulk()
        await until(lambda: stands(it))
        before, total = carried(it), (it.one.bytes_out, it.one.bytes_in)
        await it.bulk(BULK, BULK[:1])
        await it.bulk(BULK[:1], BULK)
        assert it.one.bridge is not None and it.one.bridge.is_whole
        for way in (0, 1):
            passed = (it.one.bytes_out, it.one.bytes_in)[way] - total[way]
            assert passed == carried(it)[way] - before[way] >= len(BULK), "nothing by the streams any more"
        assert all(link._channel.kept_bytes == 0 for link in (it.link, it.far_link))  # type: ignore[attr-defined]
        assert await it.link.measure_rtt(5.0) >= 0


@on_both_loops
async def test_it_changes_over_wherever_it_is_in_what_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Legs at other moments, and ends that stop and go on: every byte arrives, in order."""
    chance = random.Random(3)
    for _ in range(8):
        monkeypatch.setattr(circuit, "BUSY_BYTES", chance.choice([1, 1000, 70_000, 400_000, 2_000_000]))
        async with relayed() as it:

            async def stop_and_go(it: Relayed = it) -> None:
                while not stands(it):
                    for link in (it.link, it.far_link):
                        link._channel.pause()  # type: ignore[attr-defined]
                    await asyncio.sleep(0)
                    for link in (it.link, it.far_link):
                        link._channel.resume()  # type: ignore[attr-defined]
                    await asyncio.sleep(chance.choice([0, 0, 0.001]))

            stopping = asyncio.ensure_future(stop_and_go())
            await it.bulk(BULK[: chance.randrange(10, len(BULK))], BULK[chance.randrange(len(BULK)) :])
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)


async def nobody(*_: object) -> None:
    """Nobody dials."""


@on_both_loops
async def test_a_circuit_whose_other_end_has_no_leg_stays_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leg_door, "WAIT_S", 0.05)
    async with relayed() as it:
        monkeypatch.setattr(it.far.swarm.legs, "_dial", nobody)
        await it.bulk()
        await until(lambda: it.stages == [Stage.NONE, Stage.COMING])
        assert it.service._door._held == 0
        await it.bulk()
        assert carried(it) == (0, 0) and it.one.bytes_out > 2 * len(BULK)


@on_loop
async def test_a_relay_that_has_as_many_legs_as_it_may_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async with relayed() as it:
        it.service._door._most = 0
        await it.bulk()
        await until(lambda: it.stages == [Stage.NONE] * 2)
        await it.bulk()
        assert it.one.bytes_out > 2 * len(BULK)


@on_loop
async def test_nobody_dials_in_vain_a_relay_that_takes_no_legs() -> None:
    async with relayed(most_legs=0) as it:
        assert it.stages == [Stage.NONE] * 2 and it.one.legs is None


@pytest.mark.parametrize("which", [0, 1])
@on_both_loops
async def test_a_leg_that_is_lost_is_an_error_at_both_ends_and_never_an_end(which: int) -> None:
    async with relayed() as it:
        await it.bulk()
        await until(lambda: stands(it))
        stream = await it.near.swarm.open_stream(it.far.peer_id, [it.taken.protocol])
        other = await it.taken.get()
        await stream.write(SOME)
        assert await other.read_exactly(len(SOME)) == SOME
        assert it.one.legs is not None and it.one.legs.pair is not None
        (it.one.legs.pair.one, it.one.legs.pair.other)[which].conduit.abort()
        for end in (stream, other):
            with pytest.raises(P2PForwardError):
                await end.read()
        await until(lambda: not it.service.circuits())
        assert it.service._door._held == 0 and not it.service._door._offers
        assert it.link.closed.done() and it.far_link.closed.done()


@on_both_loops
async def test_who_loses_its_rights_at_the_relay_loses_its_legs_at_once() -> None:
    async with relayed() as it:
        await it.bulk()
        await until(lambda: stands(it))
        assert it.service.cut(it.near.peer_id) == 1
        await until(lambda: it.link.closed.done() and it.far_link.closed.done())
        assert not it.service.circuits()


LOOPBACK = Blocks(networks=[IPv4Network("127.0.0.0/8")])


@pytest.mark.parametrize("what", ["dialer", "target", "address"])
@on_both_loops
async def test_who_is_blocked_at_the_relay_loses_its_legs_at_once(what: str) -> None:
    async with relayed() as it:
        await it.bulk()
        await until(lambda: stands(it))
        for host in (it.near, it.far):  # the circuit outlives these
            await it.relay.swarm.disconnect(host.peer_id)
        assert len(it.service.circuits()) == 1
        peer = it.near.peer_id if what == "dialer" else it.far.peer_id
        it.relay.swarm.block(LOOPBACK if what == "address" else Blocks([peer]))
        await until(lambda: it.link.closed.done() and it.far_link.closed.done())
        assert not it.service.circuits()


@pytest.mark.parametrize("what", ["peer", "address"])
@on_both_loops
async def test_nothing_goes_on_through_a_relay_that_an_end_has_blocked(what: str) -> None:
    async with relayed() as it:
        await it.bulk()
        await until(lambda: stands(it))
        it.near.swarm.block(LOOPBACK if what == "address" else Blocks([it.relay.peer_id]))
        await until(lambda: it.link.closed.done() and it.far_link.closed.done())
        assert isinstance(it.link.closed.result(), PeerBlocked)


@on_both_loops
async def test_a_close_is_seen_at_the_other_end() -> None:
    async with relayed() as it:
        await it.bulk()
        await until(lambda: stands(it))
        await it.link.close()
        await until(lambda: it.far_link.closed.done() and not it.service.circuits())
        assert it.far_link.ended_by_peer


@on_both_loops
async def test_legs_outlive_the_connections_that_they_were_agreed_over() -> None:
    async with relayed() as it:
        await it.bulk()
        await until(lambda: stands(it))
        await it.near.swarm.disconnect(it.relay.peer_id)
        await it.bulk()
        assert len(it.service.circuits()) == 1


@on_loop
async def test_no_stranger_is_given_a_ticket() -> None:
    async with relayed(own=False) as it:
        assert it.stages == [Stage.NONE] * 2 and it.one.legs is None
        (link,) = it.near.swarm.conns(it.relay.peer_id)
        stream, answer = await relay_transport.connect(link, it.far.peer_id, can_leg=True)
        assert answer.ticket is None
        stream.reset()


@on_loop
async def test_a_ticket_that_was_not_given_or_was_used_opens_nothing() -> None:
    async with relayed() as it:
        upgrader = it.near.swarm.legs._upgrader
        (link,) = it.near.swarm.conns(it.relay.peer_id)
        endpoint = tcp_endpoint(link.remote_addr)
        assert endpoint is not None and it.one.legs is not None

        async def propose(name: str) -> tcp.TcpConduit:
            conduit = await tcp.connect(endpoint, it.near.swarm.io, 5.0)
            await upgrader.propose_leg(conduit, name)
            return conduit

        with pytest.raises(NegotiationFailed, match=r"takes no leg for this ticket$"):
            await propose(leg_name(bytes(16)))
        first = await propose(it.one.legs.names[0])
        with pytest.raises(NegotiationFailed):
            await propose(it.one.legs.names[0])
        first.send(memoryview(b"x"))  # before READY
        await until(lambda: first.kept_bytes == 0 and it.service._door._held == 0)
        first.abort()
        await it.bulk()
        assert it.one.bytes_out > len(BULK)


@on_loop
async def test_only_who_has_dialed_the_relay_knows_where_to_come_a_second_time() -> None:
    async with relayed() as it:
        (there,) = it.near.swarm.conns(it.relay.peer_id)
        (here,) = it.relay.swarm.conns(it.near.peer_id)
        assert it.near.swarm.legs.can_dial(there) and not it.near.swarm.legs.can_dial(here)


@on_loop
async def test_legs_that_are_lost_again_and_again_are_asked_for_no_more_for_a_while() -> None:
    async with relayed() as it:
        legs, (link,) = it.near.swarm.legs, it.near.swarm.conns(it.relay.peer_id)
        for long in (0.0, 0.0, SHORT_S + 1, 0.0, 0.0):
            legs._ended(it.relay.peer_id, time.monotonic() - long)
            assert legs.can_dial(link)
        legs._ended(it.relay.peer_id, time.monotonic())
        assert not legs.can_dial(link)
        count, at = legs._short[it.relay.peer_id]
        legs._short[it.relay.peer_id] = count, at - REST_S
        assert legs.can_dial(link)
        for _ in range(MOST_RELAYS + 5):
            legs._ended(stranger(), time.monotonic())
        assert len(legs._short) == MOST_RELAYS


@pytest.mark.parametrize("which", [0, 1])
@on_loop
async def test_a_leg_that_is_lost_in_use_counts_and_one_that_ends_does_not(which: int) -> None:
    async with relayed() as it:
        await it.bulk()
        await until(lambda: stands(it))
        legs = (it.near, it.far)[which].swarm.legs
        conduit = it.conduits[which]
        assert conduit._leg is not None
        if which:
            await it.link.close()
        else:
            conduit._leg.conduit_lost(ConnectionResetError())
        await until(lambda: it.link.closed.done() and it.far_link.closed.done())
        assert list(legs._short) == ([] if which else [it.relay.peer_id])


@on_both_loops
async def test_a_leg_for_which_the_relay_has_no_word_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legs_module, "STAND_S", 0.05)
    async with relayed() as it:
        monkeypatch.setattr(it.far.swarm.legs, "_dial", nobody)
        await it.bulk()
        await until(lambda: it.stages[0] is Stage.NONE and it.service._door._held == 0)
        await it.bulk()


@on_loop
async def test_a_doubt_of_the_other_end_does_not_hurry_the_system_about_the_relay() -> None:
    """It would give up a leg that the relay does not read, for the other end's sake."""
    async with relayed() as it:
        await it.bulk()
        await until(lambda: stands(it))
        leg = it.conduits[0]._leg_out
        assert isinstance(leg, tcp.TcpConduit)
        it.conduits[0].retry_within(0.1)
        limit_ms = leg._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert limit_ms == tcp.USER_TIMEOUT_MS and it.conduits[0].acknowledged_s() is None


@on_loop
async def test_what_the_system_holds_of_a_leg_is_little_where_the_way_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for limit_s, is_short in ((60.0, True), (0.0, False)):
        monkeypatch.setattr(tcp, "NEAR_S", limit_s)
        async with relayed() as it:
            await it.bulk()
            await until(lambda: stands(it))
            assert it.one.legs is not None and it.one.legs.pair is not None
            ends = [end.conduit for end in (it.one.legs.pair.one, it.one.legs.pair.other)]
            for leg in [*ends, *(end._leg_out for end in it.conduits)]:
                assert isinstance(leg, tcp.TcpConduit)
                assert leg.is_near is is_short
                room = leg._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
                assert room <= 2 * NEAR_BYTES or not is_short
                with suppress(OSError):  # before Linux 5.15
                    lock = leg._sock.getsockopt(socket.SOL_SOCKET, tcp.SO_BUF_LOCK)
                    assert bool(lock & 2) is is_short
