"""Pins the relay: who gets a place, the order of its refusals, and a circuit that tells the truth."""

from __future__ import annotations

import asyncio
import random
import time
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import StreamReset
from p2pfwd.net.connmgr import RELAY_TAG, TUNNEL_TAG
from p2pfwd.net.link.contract import DuplexStream
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.services import Service
from p2pfwd.net.transport.circuit import CircuitConduit
from p2pfwd.net.transport.relay_transport import connect, through
from p2pfwd.peers.store import SERVED_PROOF_S
from p2pfwd.policy import relay_bounds
from p2pfwd.policy.networks import networks
from p2pfwd.policy.provenance import Provenance
from p2pfwd.policy.relay_bounds import LIMIT
from p2pfwd.policy.shares import Party, Rank
from p2pfwd.protocols import relay_service
from p2pfwd.protocols.relay_service import RelayService
from p2pfwd.wire import circuit as wire
from p2pfwd.wire.circuit import Limit, Status, Voucher
from p2pfwd.wire.yamux import frame as f
from p2pfwd.wire.yamux.frame import INITIAL_WINDOW_BYTES
from p2pfwd.wire.yamux.reset_codes import RESOURCE_LIMIT_EXCEEDED
from p2pfwd.wire.yamux.window import Kind
from tests.net.relay_rig import Target, call, joined, relay, reserve
from tests.net.relay_rig import ask as ask_relay
from tests.net.swarm_rig import ECHO, echo, read_all, stranger, swarm
from tests.support.loops import on_both_loops, on_loop, turns, until
from tests.support.raw_peer import RawPeer, delimited

BULK = random.Random(8).randbytes(5 << 20)
SOME = 1000


# --- places -----------------------------------------------------------------------------------------


@on_loop
async def test_an_own_peer_gets_a_place_with_voucher_and_addresses_and_without_limit() -> None:
    async with swarm() as client, relay("peers", client) as made:
        answer = await reserve(await made.link(client))
        assert answer.status is Status.OK and answer.limit is None and answer.reservation is not None
        assert 3500 < answer.reservation.expires_at - time.time() <= 3600
        own = made.swarm.peer_id
        assert answer.reservation.addrs == tuple(a.with_peer_id(own) for a in made.swarm.listen_addrs())
        voucher = Voucher.from_signed(answer.reservation.voucher)
        assert (voucher.relay, voucher.peer) == (own, client.peer_id)
        assert voucher.expires_at == answer.reservation.expires_at
        assert [place.peer for place in made.service.places()] == [client.peer_id]


@on_loop
async def test_a_stranger_gets_no_place_or_where_anyone_does_a_limited_one() -> None:
    async with swarm() as client, relay("peers") as made:
        link = await made.link(client)
        assert (await reserve(link)).status is Status.PERMISSION_DENIED
        assert made.swarm.refusals.counts["relay-stranger"] == 1
        made.service.serve("anyone")
        answer = await reserve(link)
        assert answer.status is Status.OK and answer.limit == relay_bounds.LIMIT


@on_loop
async def test_who_has_used_a_listen_for_an_hour_is_a_stranger_to_the_relay_all_the_same() -> None:
    async with swarm() as home, swarm() as client:
        service, now = RelayService(home), [100.0]
        service.serve("peers")
        link = await client.connect(home.peer_id, home.listen_addrs())
        home.peerstore.clock = lambda: now[0]
        home.peerstore.note_served(client.peer_id)
        now[0] += SERVED_PROOF_S
        (conn,) = home.conns(client.peer_id)
        ranks = home.peerstore.rank(client.peer_id), home.connmgr.rank_of(client.peer_id)
        assert ranks == (Rank.SERVED, Rank.SERVED) and home.services.rank_of(client.peer_id) is Rank.SERVED
        owners = [home.limits.is_own, home.handshakes.is_own, home.dials.is_own, home.connmgr.is_urgent]
        assert not any(is_own(client.peer_id) for is_own in owners), "slowed, dropped and shed as any other"
        home.peerstore.add_addrs(client.peer_id, [conn.remote_addr], 1e6, Provenance.ITSELF)
        assert not home.handshakes.own_hosts(), "nor does it hold the door open for its network"
        assert (await reserve(link)).status is Status.PERMISSION_DENIED
        service.serve("anyone")
        assert (await reserve(link)).limit == LIMIT
        assert not home.own_addresses.is_own(client.peer_id), "nor is his word alone enough for an address"
        service.close()


@on_loop
async def test_a_place_dies_with_its_connection_and_is_one_however_often_it_is_asked_for() -> None:
    async with swarm() as client, relay("anyone") as made:
        link = await made.link(client)
        for _ in range(3):
            assert (await reserve(link)).status is Status.OK
        assert len(made.service.places()) == 1
        assert made.swarm.connmgr.is_protected(client.peer_id)
        await link.close()
        await until(lambda: not made.service.places())
        assert not made.swarm.connmgr.is_protected(client.peer_id)


@on_loop
async def test_who_only_has_a_place_here_is_not_dialed_when_it_falls_silent() -> None:
    """It comes back by itself; a relay that dials all its peers, by other relays, too, is in their way."""
    async with swarm() as client, relay("anyone") as made:
        await reserve(await made.link(client))
        (conn,) = made.swarm.conns(client.peer_id)
        searches = made.swarm.recovery._searches
        for is_kept in (False, True):
            if is_kept:
                made.swarm.connmgr.protect(client.peer_id, "static")
            conn.liveness.doubtful = True
            conn.liveness.on_doubt(conn, True)
            assert (client.peer_id in searches) is is_kept
            conn.liveness.doubtful = False
            conn.liveness.on_doubt(conn, False)


@on_loop
async def test_a_place_lasts_while_its_peer_has_another_connection() -> None:
    async with swarm() as client, swarm() as dialer, relay("anyone") as made:
        taking = Target(client)
        first = await made.link(client)
        assert (await reserve(first)).status is Status.OK
        await client.dials.beside(made.swarm.peer_id, made.swarm.listen_addrs())
        await until(lambda: len(made.swarm.conns(client.peer_id)) == 2)
        await first.close()
        await until(lambda: len(made.swarm.conns(client.peer_id)) == 1)
        assert (await call(await made.link(dialer), client.peer_id)).status is Status.OK
        assert (await taking.next())[0].peer == dialer.peer_id
        await client.disconnect(made.swarm.peer_id)
        await until(lambda: not made.service.places())
        assert made.service._places_held.total == 0


@on_loop
async def test_who_waits_for_a_target_that_was_cut_off_reaches_it_when_it_is_back() -> None:
    """Its old connection takes all and answers nothing, as a line does that a router has forgotten."""
    async with (
        swarm() as client,
        swarm() as dialer,
        relay("anyone") as made,
        await RawPeer.dial(made.swarm.listen_addrs()[0], identity=client.identity) as dead,
    ):
        await dead.open(1, wire.HOP)
        await dead.frame(f.DATA, 0, 1, body=delimited(wire.encode_hop_request(wire.HopRequest())))
        await until(made.service.places)
        calling = asyncio.create_task(call(await made.link(dialer), client.peer_id))
        await until(lambda: made.service._moved)
        taking = Target(client)
        assert (await reserve(await made.link(client))).status is Status.OK
        assert (await calling).status is Status.OK
        assert (await taking.next())[0].peer == dialer.peer_id
        assert not made.service._moved


@on_loop
async def test_a_place_ends_when_its_time_is_over() -> None:
    async with swarm() as client, swarm() as dialer, relay("anyone") as made:
        now = [time.monotonic()]
        made.service._clock = lambda: now[0]
        Target(client)
        await reserve(await made.link(client))
        now[0] += relay_bounds.RESERVATION_S
        assert (await call(await made.link(dialer), client.peer_id)).status is Status.NO_RESERVATION
        assert not made.swarm.connmgr.is_protected(client.peer_id)


@on_loop
async def test_a_strangers_place_that_nobody_asks_about_ends_with_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its connection may be trimmed again."""
    async with swarm() as client, relay("anyone") as made:
        monkeypatch.setattr(relay_service, "ENDING_S", 0.01)
        monkeypatch.setattr(relay_service, "RESERVATION_S", 0)
        await reserve(await made.link(client))
        await until(lambda: not made.swarm.connmgr.is_protected(client.peer_id))
        assert not made.service._places and made.service._ending is None
        monkeypatch.setattr(relay_service, "RESERVATION_S", 3600)
        await reserve(await made.link(client))
        assert made.service._ending is not None
        made.service.close()
        assert made.service._ending is None


@on_loop
async def test_strangers_have_so_many_places_and_own_peers_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_service, "RESERVATIONS", relay_bounds.Most(all=1, peer=1, network=1))
    async with swarm() as one, swarm() as two, swarm() as own, relay("anyone", own) as made:
        assert (await reserve(await made.link(one))).status is Status.OK
        assert (await reserve(await made.link(two))).status is Status.RESERVATION_REFUSED
        assert made.swarm.refusals.counts["relay-reservations"] == 1
        assert (await reserve(await made.link(own))).status is Status.OK
        assert (await reserve(await made.link(one))).status is Status.OK, "it has one already"


@on_loop
async def test_a_stranger_whose_renewal_is_refused_keeps_what_it_was_promised() -> None:
    """It comes from another network now, which has as many as it may; its client believes the place."""
    async with swarm() as client, relay("anyone") as made:
        await made.link(client)
        await until(lambda: made.swarm.conns(client.peer_id))
        there = networks(Multiaddr.parse("/ip4/11.0.0.1/tcp/1"))
        held = made.service._places_held
        others = [Party(stranger(), there) for _ in range(relay_bounds.RESERVATIONS.network or 0)]
        for one in others:
            held.take(one)
        stream: Any = SimpleNamespace(conn=made.swarm.conns(client.peer_id)[0])
        here = Party(client.peer_id), Party(client.peer_id, there)
        answers = [made.service._reserve(stream, party).status for party in here]
        assert answers == [Status.OK, Status.RESERVATION_REFUSED]
        (place,) = made.service.places()
        assert place.party is here[0] and held.total == len(others) + 1
        made.service.cut(client.peer_id)
        assert held.total == len(others)


@on_loop
async def test_a_place_of_no_use_goes_to_a_newcomer_and_its_connection_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However the peer's program keeps account of its places: it asks elsewhere at once."""
    monkeypatch.setattr(relay_service, "RESERVATIONS", relay_bounds.Most(all=1, peer=1, network=1))
    async with swarm() as one, swarm() as two, relay("anyone") as made:
        now = [time.monotonic()]
        made.service._clock = lambda: now[0]
        first, second = await made.link(one), await made.link(two)
        assert (await reserve(first)).status is Status.OK
        told: list[object] = []
        made.service.on_room = told.append
        now[0] += relay_bounds.QUIET_S - 1
        assert (await reserve(second)).status is Status.RESERVATION_REFUSED, "it was given a moment ago"
        assert (await reserve(first)).status is Status.OK, "to ask again is no use of it"
        now[0] += 1
        assert (await reserve(second)).status is Status.OK
        await asyncio.wait([first.closed])
        assert [place.peer for place in made.service.places()] == [two.peer_id]
        assert not told and not made.swarm.connmgr.is_protected(one.peer_id)
        assert made.swarm.refusals.counts["relay-gave-way"] == 1
        now[0] += relay_bounds.QUIET_S - 1
        assert (await reserve(await made.link(one))).status is Status.RESERVATION_REFUSED
        assert made.service._places_held.total == 1 and second.can_open


@on_loop
async def test_a_place_that_is_of_use_gives_way_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has carried a circuit of late, or whose connection has tunnels; or an own peer's."""
    monkeypatch.setattr(relay_service, "RESERVATIONS", relay_bounds.Most(all=1, peer=1, network=1))
    async with swarm() as one, swarm() as two, swarm() as own, relay("anyone", own) as made:
        now = [time.monotonic()]
        made.service._clock = lambda: now[0]
        target = Target(one)
        second, protect = await made.link(two), made.swarm.connmgr.protect
        for client in (one, own):
            assert (await reserve(await made.link(client))).status is Status.OK

        async def newcomer(after_s: float) -> Status:
            now[0] += after_s
            return (await reserve(second)).status

        near, _ = await connect(second, one.peer_id)
        _, far = await target.next()
        assert await newcomer(relay_bounds.QUIET_S) is Status.RESERVATION_REFUSED
        near.reset()
        far.reset()
        await until(lambda: not made.service.circuits())
        assert await newcomer(relay_bounds.QUIET_S - 1) is Status.RESERVATION_REFUSED
        protect(one.peer_id, TUNNEL_TAG)
        assert await newcomer(1) is Status.RESERVATION_REFUSED
        made.swarm.connmgr.unprotect(one.peer_id, TUNNEL_TAG)
        assert await newcomer(0) is Status.OK
        assert {place.peer for place in made.service.places()} == {two.peer_id, own.peer_id}


@on_loop
async def test_the_protocol_is_told_of_only_while_it_is_served() -> None:
    async with swarm() as client, relay("peers", client) as made:
        assert wire.HOP in made.swarm.services.names()
        assert not made.service.serve("anyone")
        await reserve(await made.link(client))
        assert made.service.serve("off")
        assert wire.HOP not in made.swarm.services.names()
        assert made.service.places() == []


# --- refusals ---------------------------------------------------------------------------------------


@on_loop
async def test_what_is_no_request_is_malformed() -> None:
    async with swarm() as client, relay("anyone") as made:
        link = await made.link(client)
        status = wire.encode_hop_answer(wire.HopAnswer(Status.OK))
        for message in (b"", b"\xff" * 9, status, b"\x08\x01\x12\x03\x0a\x01\x00"):
            assert (await ask_relay(link, message)).status is Status.MALFORMED_MESSAGE


@on_loop
async def test_a_circuit_needs_a_place_at_its_end_and_another_peer() -> None:
    async with swarm() as dialer, relay("anyone", dialer) as made:
        link = await made.link(dialer)
        assert (await call(link, stranger())).status is Status.NO_RESERVATION
        assert (await call(link, dialer.peer_id)).status is Status.PERMISSION_DENIED


@pytest.mark.parametrize("refusal", [Status.RESOURCE_LIMIT_EXCEEDED, Status.PERMISSION_DENIED])
@on_loop
async def test_a_target_that_does_not_take_it_fails_the_circuit(refusal: Status) -> None:
    async with swarm() as dialer, swarm() as target, relay("anyone") as made:
        Target(target, refusal)
        await reserve(await made.link(target))
        assert (await call(await made.link(dialer), target.peer_id)).status is Status.CONNECTION_FAILED
        assert made.service.circuits() == []


@on_loop
async def test_a_target_that_serves_no_stop_fails_the_circuit() -> None:
    async with swarm() as dialer, swarm() as target, relay("anyone") as made:
        await reserve(await made.link(target))
        assert (await call(await made.link(dialer), target.peer_id)).status is Status.CONNECTION_FAILED


@on_loop
async def test_strangers_have_so_many_circuits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_service, "CIRCUITS", relay_bounds.Most(all=9, peer=1, network=9))
    async with joined("anyone", own=False) as it, swarm() as other:
        link = await it.relay.link(it.dialer)
        assert (await call(link, it.target.peer_id)).status is Status.RESOURCE_LIMIT_EXCEEDED
        link = await it.relay.link(other)
        assert (await call(link, it.target.peer_id)).status is Status.RESOURCE_LIMIT_EXCEEDED
        assert it.refused["relay-circuits"] == 2
        it.near.reset()
        await until(lambda: not it.relay.service.circuits())
        assert it.relay.service._circuits_held.total == 0


@on_loop
async def test_over_a_relay_there_is_neither_place_nor_circuit() -> None:
    """The far end of a circuit is a relay itself; who came over the circuit gets nothing of it."""
    async with swarm() as dialer, swarm() as far, relay("anyone", dialer, far) as made:
        taking = Target(far)
        inner = relay_service.RelayService(far)
        inner.serve("anyone")
        await reserve(await made.link(far))

        async def adopt() -> None:
            _, stream = await taking.next()
            (link,) = far.conns(made.swarm.peer_id)
            conduit = CircuitConduit(stream, far.io.pool, link.local_addr, through(link), None)
            await far.adopt(conduit, "inbound")

        adopting = asyncio.ensure_future(adopt())
        link = await made.link(dialer)
        stream, answer = await connect(link, far.peer_id)
        conduit = CircuitConduit(stream, dialer.io.pool, link.local_addr, through(link), answer.limit)
        over = await dialer.adopt(conduit, "outbound", far.peer_id)
        await adopting
        assert (await reserve(over)).status is Status.PERMISSION_DENIED
        assert (await call(over, made.swarm.peer_id)).status is Status.PERMISSION_DENIED
        far.services.serve(Service(name=ECHO, handler=echo))
        stream = await over.open_stream([ECHO])
        writing = asyncio.ensure_future(stream.write(BULK))
        got = bytearray()
        while len(got) < len(BULK):
            got += await stream.read()
        await writing
        assert got == BULK
        inner.close()


# --- circuits ---------------------------------------------------------------------------------------


@on_both_loops
async def test_bytes_pass_both_ways_and_each_way_ends_by_itself() -> None:
    async with joined() as it:
        writing = asyncio.ensure_future(it.near.write(BULK))
        back = asyncio.ensure_future(it.far.write(BULK[::-1]))
        got = asyncio.ensure_future(_read(it.near, len(BULK)))
        assert await _read(it.far, len(BULK)) == BULK and await got == BULK[::-1]
        await asyncio.gather(writing, back)
        it.near.close_write()
        assert await it.far.read() == b""
        await it.far.write(BULK[:SOME])
        assert await _read(it.near, SOME) == BULK[:SOME], "the other way is still open"
        it.far.close_write()
        assert await it.near.read() == b""
        await until(lambda: not it.relay.service.circuits())
        assert it.relay.service.totals.bytes == 2 * len(BULK) + SOME


async def _read(stream: DuplexStream, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        got += await stream.read()
    return bytes(got)


@on_both_loops
async def test_what_was_sent_before_the_fin_arrives_before_it() -> None:
    async with joined() as it:
        writing = asyncio.ensure_future(_write_all(it.near, BULK))
        assert await read_all(it.far, lambda: turns(2)) == BULK
        await writing


async def _write_all(stream: DuplexStream, data: bytes) -> None:
    await stream.write(data)
    stream.close_write()


@pytest.mark.parametrize("which", ["near", "far"])
@on_loop
async def test_a_reset_of_one_side_resets_the_other(which: str) -> None:
    async with joined() as it:
        broken, other = (it.near, it.far) if which == "near" else (it.far, it.near)
        await broken.write(BULK[:SOME])
        await _read(other, SOME)
        broken.reset()
        with pytest.raises(StreamReset):
            await other.read()
        await until(lambda: not it.relay.service.circuits())


@pytest.mark.parametrize("which", ["dialer", "target"])
@on_loop
async def test_a_lost_connection_resets_the_other_side(which: str) -> None:
    async with joined() as it:
        (link,) = getattr(it, which).conns(it.relay.swarm.peer_id)
        other = it.far if which == "dialer" else it.near
        link.abort()
        with pytest.raises(StreamReset):
            await other.read()
        assert it.relay.service.circuits() == []


@on_loop
async def test_who_does_not_read_holds_a_window_of_the_relay_and_no_more() -> None:
    async with joined() as it:
        writing = asyncio.ensure_future(it.near.write(BULK))
        ledger = it.relay.swarm.limits.ledger
        (circuit,) = it.relay.service.circuits()
        assert circuit.bridge is not None and isinstance(circuit.bridge.one.stream, Stream)
        window = circuit.bridge.one.stream.core.receive_window
        assert window.kind is Kind.CIRCUIT
        await until(lambda: it.near.is_stalled and ledger.used > 0)
        await turns(200)
        assert it.near.is_stalled and INITIAL_WINDOW_BYTES // 2 <= ledger.used <= window.size
        assert await _read(it.far, len(BULK)) == BULK
        await writing
        await until(lambda: ledger.used == 0)


@on_loop
async def test_a_strangers_circuit_carries_its_limit_and_is_reset() -> None:
    async with joined("anyone", own=False) as it:
        assert it.limit == relay_bounds.LIMIT
        most = relay_bounds.LIMIT.data_bytes
        writing = asyncio.ensure_future(it.near.write(BULK))
        got = bytearray()
        with pytest.raises(StreamReset) as at_the_target:
            while True:
                got += await it.far.read()
        assert got == BULK[: len(got)] and len(got) <= most
        with pytest.raises(StreamReset) as at_the_dialer:
            await writing
        for reset in (at_the_target, at_the_dialer):
            assert reset.value.details["reset_code"] == RESOURCE_LIMIT_EXCEEDED, "it is told why"
        assert it.refused["relay-limit"] == 1
        assert it.relay.service.circuits() == []


@on_loop
async def test_exactly_the_limit_passes() -> None:
    async with joined("anyone", own=False) as it:
        most = relay_bounds.LIMIT.data_bytes
        await it.near.write(BULK[:most])
        it.near.close_write()
        assert await read_all(it.far) == BULK[:most]
        assert "relay-limit" not in it.refused


@on_loop
async def test_a_strangers_circuit_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_bounds, "LIMIT", Limit(duration_s=1, data_bytes=1 << 20))
    async with joined("anyone", own=False) as it:
        (circuit,) = it.relay.service.circuits()
        assert circuit.timer is not None
        circuit.timer.cancel()
        it.relay.service._time_is_up(circuit)
        for stream in (it.near, it.far):
            with pytest.raises(StreamReset) as reset:
                await stream.read()
            assert reset.value.details["reset_code"] == RESOURCE_LIMIT_EXCEEDED
        assert it.refused["relay-limit"] == 1


@on_loop
async def test_who_sends_faster_than_a_stranger_may_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 KiB at once, 40 a second: 80 KiB take a second of the relay's clock."""
    kib = 1024
    rate = relay_bounds.Rate(40 * kib, 40 * kib)
    rates = relay_bounds.Rates(peer=rate, network=rate, all=rate)
    monkeypatch.setattr(relay_service, "BYTES", rates)
    async with joined("anyone", own=False) as it:
        (circuit,) = it.relay.service.circuits()
        assert circuit.bridge is not None
        said: list[float] = []
        debt_s = circuit.bridge.debt_s
        assert debt_s is not None

        def told(n: int) -> float:
            said.append(debt_s(n))
            return min(said[-1], 0.01)

        circuit.bridge.debt_s = told
        await it.near.write(BULK[: 80 * kib])
        it.near.close_write()
        assert await read_all(it.far) == BULK[: 80 * kib]
        assert 0.5 < max(said) <= 1.0


@on_loop
async def test_two_dialers_that_pour_into_one_stranger_use_up_its_share() -> None:
    kib = 1024
    async with swarm() as one, swarm() as other, swarm() as target, relay("anyone") as made:
        taking = Target(target)
        await reserve(await made.link(target))
        for dialer in (one, other):
            await connect(await made.link(dialer), target.peer_id)
            await taking.next()
        made.service._clock = lambda: 0.0
        first, second = (circuit.bridge for circuit in made.service.circuits())
        assert first is not None and first.debt_s is not None
        assert second is not None and second.debt_s is not None
        assert first.debt_s(256 * kib) == 0.0, "so much may come at once"
        assert second.debt_s(64 * kib) == 1.0, "the target's share, not the dialer's, is in debt"


@on_loop
async def test_both_ends_are_kept_as_long_as_they_have_a_circuit() -> None:
    async with joined() as it:
        kept = it.relay.swarm.connmgr.is_protected
        other, _ = await connect(await it.relay.link(it.dialer), it.target.peer_id)
        it.near.reset()
        await until(lambda: len(it.relay.service.circuits()) == 1)
        assert kept(it.dialer.peer_id) and kept(it.target.peer_id)
        other.reset()
        await until(lambda: not it.relay.service.circuits())
        assert not kept(it.dialer.peer_id) and kept(it.target.peer_id), "who has a place"


@on_loop
async def test_cut_takes_the_place_and_resets_the_circuits() -> None:
    async with joined() as it:
        assert it.relay.service.cut(it.target.peer_id) == 1
        for stream in (it.near, it.far):
            with pytest.raises(StreamReset):
                await stream.read()
        assert it.relay.service.places() == [] and it.relay.service.circuits() == []


@on_loop
async def test_whoever_has_something_as_an_own_peer_and_is_none_any_more_is_known() -> None:
    async with joined() as it, swarm() as stranger_:
        service, own = it.relay.service, it.relay.own
        service.serve("anyone")
        assert (await reserve(await it.relay.link(stranger_))).limit == LIMIT
        assert service.disowned() == []
        own.remove(it.dialer.peer_id)
        assert service.disowned() == [it.dialer.peer_id], "by a circuit"
        own.remove(it.target.peer_id)
        assert set(service.disowned()) == {it.dialer.peer_id, it.target.peer_id}
        for peer in service.disowned():
            service.cut(peer)
        assert service.disowned() == [] and [one.peer for one in service.places()] == [stranger_.peer_id]


@on_loop
async def test_a_dialer_that_leaves_meanwhile_leaves_nothing() -> None:
    async with swarm() as dialer, swarm() as target, relay("anyone") as made:
        asked = asyncio.Event()

        async def never(stream: DuplexStream) -> None:
            asked.set()
            await stream.read()

        target.services.serve(Service(name=wire.STOP, handler=never))
        await reserve(await made.link(target))
        link = await made.link(dialer)
        calling = asyncio.ensure_future(call(link, target.peer_id))
        await asked.wait()
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        await made.swarm.disconnect(target.peer_id)
        await until(lambda: not made.service.circuits())
        assert made.service._circuits_held.total == 0
        assert RELAY_TAG not in made.swarm.connmgr._protected.get(target.peer_id, ())
