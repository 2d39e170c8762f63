"""Places at relays, circuits over them, and what is made of relays that lie."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from math import inf

import pytest

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr
from p2pfwd.errors import CircuitLimitReached, ConnectionLost, DialFailed, P2PForwardError
from p2pfwd.host.host import Host
from p2pfwd.net import brought, upgrader
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.contract import DuplexStream, Link
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.services import Service
from p2pfwd.policy import service_bounds
from p2pfwd.policy.pace import Rate
from p2pfwd.policy.shares import Most, Rates, a_stranger
from p2pfwd.protocols.relay_client import RelayClient
from p2pfwd.protocols.relay_service import RelayService
from p2pfwd.wire.circuit import (
    HOP,
    STOP,
    Limit,
    Status,
    StopRequest,
    Voucher,
    decode_stop_answer,
    encode_stop_request,
)
from p2pfwd.wire.yamux.window import Kind
from tests.net.swarm_rig import ECHO, echo, host, next_conn, stranger
from tests.support.loops import on_loop, until
from tests.support.mini_relay import MiniRelay


@dataclass(frozen=True, slots=True)
class Rig:
    """A relay, a node with a place at it, and one that wants to reach that node."""

    relay: MiniRelay
    target: Host
    client: RelayClient
    dialer: Host

    @property
    def circuit(self) -> Multiaddr:
        """The target's address over the relay."""
        (addr,) = self.target.swarm.listen_addrs()[-1:]
        return addr

    async def connect(self) -> Link:
        """From the dialer to the target, over the relay alone."""
        return await self.dialer.swarm.connect(self.target.peer_id, [self.circuit], only=True)


@asynccontextmanager
async def rig(set_up: Callable[[MiniRelay], None] = lambda _relay: None) -> AsyncIterator[Rig]:
    async with host() as relay_host, host() as target, host() as dialer:
        relay = MiniRelay(relay_host)
        set_up(relay)
        client = RelayClient(target.swarm, strangers=False, is_public=lambda: False)
        client.start()
        client.name(relay_host.peer_id)
        target.swarm.services.serve(Service(name=ECHO, handler=echo))
        await target.swarm.connect(relay_host.peer_id, relay_host.swarm.listen_addrs())
        try:
            yield Rig(relay, target, client, dialer)
        finally:
            await client.close()


async def ask(conn: Link, data: bytes) -> bytes:
    """`data` to the echo and back, with both ends' FIN."""
    stream = await conn.open_stream([ECHO])

    async def send() -> None:
        await stream.write(data)
        stream.close_write()

    async def receive() -> bytes:
        parts = []
        while part := await stream.read(1 << 20):
            parts.append(part)
        return b"".join(parts)

    _, back = await asyncio.gather(send(), receive())
    return back


@on_loop
async def test_a_peer_is_reached_over_a_relay_end_to_end_and_all_bytes_are_right() -> None:
    async with rig() as it:
        await until(it.client.places)
        arrived = next_conn(it.target.swarm)
        conn = await it.connect()
        assert conn.is_relayed and conn.limit is None and conn.remote_peer == it.target.peer_id
        assert (await arrived).remote_peer == it.dialer.peer_id
        assert str(conn.remote_addr).endswith(f"/p2p/{it.relay.host.peer_id}/p2p-circuit")
        data = os.urandom(3_000_000)
        assert hashlib.sha256(await ask(conn, data)).digest() == hashlib.sha256(data).digest()
        assert it.relay.bytes > 2 * len(data)


@on_loop
async def test_only_the_circuit_counts_as_one_for_its_window_and_not_what_is_over_it() -> None:
    async with rig() as it:
        await until(it.client.places)
        over = await (await it.connect()).open_stream([ECHO])
        (way,) = it.dialer.swarm.connections.of(it.relay.host.peer_id)
        assert isinstance(way, Conn) and isinstance(over, Stream)
        kinds = [stream.core.receive_window.kind for stream in way.streams.values()]
        assert Kind.CIRCUIT in kinds and Kind.OVER_CIRCUIT not in kinds
        assert over.core.receive_window.kind is Kind.OVER_CIRCUIT
        over.reset()


@on_loop
async def test_a_circuit_is_sealed_end_to_end_by_what_its_ends_agree_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for fast, cipher in ((True, "aes-256-gcm"), (False, "chacha20-poly1305")):
        monkeypatch.setattr(upgrader, "has_fast_aes", lambda fast=fast: fast)
        async with rig() as it:
            await until(it.client.places)
            arrived = next_conn(it.target.swarm)
            conn = await it.connect()
            there = await arrived
            assert conn.is_relayed and conn.cipher == there.cipher == cipher
            assert await ask(conn, bytes(300_000)) == bytes(300_000)


@on_loop
async def test_many_streams_share_a_circuit_and_half_close_is_kept() -> None:
    async with rig() as it:
        await until(it.client.places)
        conn = await it.connect()
        sent = [os.urandom(size) for size in (0, 1, 70_000, 300_000, 1_000_000)]
        assert await asyncio.gather(*(ask(conn, data) for data in sent)) == sent


@on_loop
async def test_a_reader_that_waits_holds_the_writer_back_and_gets_every_byte() -> None:
    async with rig() as it:
        await until(it.client.places)
        begun: asyncio.Future[DuplexStream] = asyncio.get_running_loop().create_future()
        it.target.swarm.services.serve(Service(name="/test/slow", handler=begun.set_result))
        conn = await it.connect()
        stream, data = await conn.open_stream(["/test/slow"]), os.urandom(5_000_000)
        sending = asyncio.create_task(stream.write(data))
        slow = await begun
        await asyncio.sleep(0.3)
        assert not sending.done()
        got = bytearray()
        while len(got) < len(data):
            got += await slow.read(1 << 20)
        await sending
        assert bytes(got) == data


@on_loop
async def test_the_address_is_told_while_the_place_is_held() -> None:
    async with rig() as it:
        told: list[int] = []
        it.client.on_change(lambda: told.append(len(it.client.places())))
        await until(it.client.places)
        assert "/p2p-circuit" in str(it.circuit)
        await it.target.swarm.disconnect(it.relay.host.peer_id)
        await until(lambda: not it.client.places())
        assert not any("/p2p-circuit" in str(addr) for addr in it.target.swarm.listen_addrs())
        await it.target.swarm.connect(it.relay.host.peer_id, it.relay.host.swarm.listen_addrs())
        await until(it.client.places)
        assert told == [1, 0, 1]
        assert it.relay.reserved == {it.target.peer_id: 2}


@on_loop
async def test_a_named_relay_is_asked_though_others_were_sooner() -> None:
    """Others are told the address over it: it is the one that the owner has chosen."""
    async with host() as one, host() as two, host() as named, host() as third, host() as target:
        relays = [MiniRelay(each) for each in (one, two, named, third)]
        client = RelayClient(target.swarm, strangers=False, is_public=lambda: False)
        client.start()
        client.name(named.peer_id)
        for each in (one, two):
            await target.swarm.connect(each.peer_id, each.swarm.listen_addrs())
        await until(lambda: len(client.places()) == 2)
        for each in (third, named):
            await target.swarm.connect(each.peer_id, each.swarm.listen_addrs())
        await until(lambda: len(client.places()) == 3)
        assert [relay.reserved.get(target.peer_id) for relay in relays] == [1, 1, 1, None]
        await client.close()


@on_loop
async def test_a_place_is_asked_for_anew_when_its_connection_is_over_and_another_is_there() -> None:
    async with rig() as it:
        await until(it.client.places)
        (first,) = it.client.places()
        relay = it.relay.host
        second = await it.target.swarm.dials.beside(relay.peer_id, relay.swarm.listen_addrs())
        await first.link.close()
        await until(lambda: it.relay.reserved == {it.target.peer_id: 2})
        await until(lambda: [place.link for place in it.client.places()] == [second])
        assert (await ask(await it.connect(), b"there")) == b"there"


@on_loop
async def test_a_node_that_strangers_reach_holds_no_place() -> None:
    async with rig() as it:
        await until(it.client.places)
        it.client._is_public = lambda: True
        it.client.look_again()
        await until(lambda: not it.client.places())


@on_loop
async def test_a_relay_that_is_named_no_more_gives_no_place_again() -> None:
    async with rig() as it:
        await until(it.client.places)
        it.client.unname(it.relay.host.peer_id)
        assert it.client.places() == []
        assert not any(addr.has("p2p-circuit") for addr in it.target.swarm.listen_addrs())
        it.client.look_again()
        await it.target.swarm.connect(it.relay.host.peer_id)
        assert it.client.places() == []
        it.client.name(it.relay.host.peer_id)
        await until(it.client.places)


@on_loop
async def test_a_place_is_renewed_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfwd.protocols.relay_client.SHORTEST_S", 0.2)

    def short(relay: MiniRelay) -> None:
        relay.ttl_s = 0.3

    async with rig(short) as it:
        await until(lambda: it.relay.reserved.get(it.target.peer_id, 0) >= 3)
        assert len(it.client.places()) == 1


@on_loop
async def test_a_relay_that_refuses_to_renew_is_left_alone_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The place is held until its end, as it was promised."""
    monkeypatch.setattr("p2pfwd.protocols.relay_client.SHORTEST_S", 0.4)

    def short(relay: MiniRelay) -> None:
        relay.ttl_s = 0.4

    async with rig(short) as it:
        await until(it.client.places)
        it.relay.refuses = Status.RESERVATION_REFUSED
        await until(it.client.refusals)
        assert it.client.places()
        await until(lambda: not it.client.places())
        assert it.relay.reserved[it.target.peer_id] == 3  # the first, one renewal, and one at its end


@on_loop
async def test_when_one_refuses_the_next_is_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfwd.protocols.relay_client.CHOOSE_S", 0.0)
    async with host() as target, host() as one, host() as two, host() as three, host() as four:
        relays = [MiniRelay(each) for each in (one, two, three, four)]
        client = RelayClient(target.swarm, strangers=True, is_public=lambda: False)
        for relay in relays:
            relay.refuses = Status.RESERVATION_REFUSED
            await target.swarm.connect(relay.host.peer_id, relay.host.swarm.listen_addrs())
        await until(lambda: all(target.swarm.peerstore.protocols(it.host.peer_id) for it in relays))
        client.start()
        await until(lambda: [relay.reserved for relay in relays] == 4 * [{target.peer_id: 1}], 3.0)
        await client.close()


@on_loop
async def test_strangers_that_give_a_place_and_leave_are_asked_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2pfwd.protocols.relay_client.CHOOSE_S", 0.0)
    monkeypatch.setattr("p2pfwd.protocols.relay_client.STRANGERS_ASKED", Rate(per_s=1e-6, burst=2))
    async with host() as relay_host, host() as target:
        relay = MiniRelay(relay_host)
        client = RelayClient(target.swarm, strangers=True, is_public=lambda: False)
        client.start()
        for _ in range(3):
            arrived = next_conn(target.swarm)
            await relay_host.swarm.connect(target.peer_id, target.swarm.listen_addrs())
            conn = await arrived
            await conn.identified
            with suppress(TimeoutError):
                await until(client.places, 0.5)
            await conn.close()
            await until(lambda: not target.swarm.conns())
        assert relay.reserved == {target.peer_id: 2}
        client.name(relay_host.peer_id)
        await relay_host.swarm.connect(target.peer_id)
        await until(client.places)
        await client.close()


@on_loop
async def test_nothing_is_kept_of_a_relay_that_leaves_when_it_is_asked() -> None:
    async with host() as relay_host, host() as target:

        async def leave(_stream: DuplexStream) -> None:
            for conn in relay_host.swarm.conns():
                await conn.close()

        relay_host.swarm.services.serve(Service(name=HOP, handler=leave))
        client = RelayClient(target.swarm, strangers=False, is_public=lambda: False)
        client.start()
        client.name(relay_host.peer_id)
        await target.swarm.connect(relay_host.peer_id, relay_host.swarm.listen_addrs())
        await until(lambda: not target.swarm.conns())
        await asyncio.sleep(0.1)
        assert (client.refusals(), client._rests) == ({}, {})
        await client.close()


@on_loop
async def test_who_is_no_relay_any_more_wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfwd.protocols.relay_client.REST_S", 0.05)
    async with rig(lambda relay: setattr(relay, "refuses", Status.RESERVATION_REFUSED)) as it:
        await until(it.client.refusals)
        it.relay.host.swarm.services.withdraw(HOP)
        it.relay.host.swarm.own_addresses.told_anew()
        protocols = it.target.swarm.peerstore.protocols
        await until(lambda: HOP not in protocols(it.relay.host.peer_id))
        await until(lambda: it.client._look(time.monotonic()) == inf)


@asynccontextmanager
async def places(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Host, RelayService, RelayClient]]:
    """A node that relays for its own peers, and one of these with a place there."""
    monkeypatch.setattr("p2pfwd.protocols.relay_client.REASK_S", 0.0)
    monkeypatch.setattr("p2pfwd.protocols.relay_client.REASK_WITHIN_S", 0.0)
    async with host() as relay_host, host() as target:
        service = RelayService(relay_host.swarm)
        service.is_own = target.peer_id.__eq__
        service.serve("peers")
        client = RelayClient(target.swarm, strangers=False, is_public=lambda: False)
        client.start()
        client.name(relay_host.peer_id)
        await target.swarm.connect(relay_host.peer_id, relay_host.swarm.listen_addrs())
        await until(client.places)
        try:
            yield relay_host, service, client
        finally:
            await client.close()
            service.close()


@on_loop
async def test_a_relay_that_relays_no_more_leaves_no_place_and_again_gives_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with places(monkeypatch) as (relay_host, service, client):
        service.serve("off")
        relay_host.identify.push()
        await until(lambda: not client.places())
        service.serve("peers")
        relay_host.identify.push()
        await until(lambda: client.places() and service.places())


@on_loop
async def test_a_place_that_is_gone_without_a_word_is_asked_for_when_its_relay_tells_of_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where it stopped relaying and began again before it told of either."""
    async with places(monkeypatch) as (relay_host, service, client):
        service.serve("off")
        service.serve("peers")
        assert not service.places()
        relay_host.identify.push()
        await until(service.places)
        assert client.places()


@on_loop
async def test_who_has_no_right_to_a_place_any_more_gives_it_up_when_it_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with places(monkeypatch) as (relay_host, service, client):
        (place,) = service.places()
        service.is_own = lambda _peer: False
        service.cut(place.peer)
        relay_host.identify.push(place.peer)
        await until(lambda: not client.places())
        assert "peers of its owner alone" in client.refusals()[relay_host.peer_id]


@on_loop
async def test_a_relay_that_tells_of_itself_all_the_time_is_asked_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with places(monkeypatch) as (relay_host, _service, client):
        monkeypatch.setattr("p2pfwd.protocols.relay_client.REASK_S", 30.0)
        (before,) = client.places()
        client._identified(relay_host.peer_id)
        (after,) = client.places()
        assert after.renew_at == before.given_at + 30.0
        monkeypatch.setattr("p2pfwd.protocols.relay_client.REASK_S", 1e6)
        client._identified(relay_host.peer_id)
        assert client.places() == [after], "nor later than it would be"


def _refusing(status: Status) -> Callable[[MiniRelay], None]:
    return lambda relay: setattr(relay, "refuses", status)


@pytest.mark.parametrize(
    ("set_up", "why"),
    [
        (_refusing(Status.RESERVATION_REFUSED), "no place left for this node; name another relay"),
        (_refusing(Status.PERMISSION_DENIED), "peers of its owner alone; p2pfwd relay token new there"),
        (
            lambda relay: setattr(
                relay,
                "voucher",
                lambda peer, until: Voucher(relay.host.peer_id, stranger(), until).to_signed(
                    relay.host.swarm.identity
                ),
            ),
            "another relay, or another peer",
        ),
        (lambda relay: setattr(relay, "voucher", lambda peer, until: b"\x00"), "signed envelope"),
    ],
)
@on_loop
async def test_a_relay_that_refuses_or_lies_gives_no_place(
    set_up: Callable[[MiniRelay], None], why: str
) -> None:
    async with rig(set_up) as it:
        await until(it.client.refusals)
        assert why in it.client.refusals()[it.relay.host.peer_id]
        assert not it.client.places()


@on_loop
async def test_a_relay_that_names_somebody_else_brings_nobody() -> None:
    async with rig(lambda relay: setattr(relay, "claims", stranger())) as it:
        await until(it.client.places)
        conn = await it.connect()  # its own handshake is over before the target has seen who it is
        assert await conn.closed is not None
        assert not it.target.swarm.conns(it.dialer.peer_id)


@on_loop
async def test_a_relay_that_changes_bytes_ends_the_connection_and_alters_nothing() -> None:
    async with rig() as it:
        await until(it.client.places)
        conn = await it.connect()
        stream = await conn.open_stream([ECHO])
        await stream.write(b"before")
        assert await stream.read() == b"before"
        it.relay.alter = lambda data: data[:-1] + bytes([data[-1] ^ 1])
        await stream.write(b"after")
        with pytest.raises(P2PForwardError):
            await stream.read()
        await conn.closed


@on_loop
async def test_a_limit_arrives_as_what_it_is_and_never_as_an_end() -> None:
    async with rig(lambda relay: setattr(relay, "limit", Limit(120, 100_000))) as it:
        await until(it.client.places)
        conn = await it.connect()
        assert conn.limit == Limit(120, 100_000)
        with pytest.raises(ConnectionLost, match="100000 bytes for a circuit"):
            await ask(conn, bytes(300_000))
        assert isinstance(conn.closed.result(), CircuitLimitReached)


@on_loop
async def test_a_peer_without_a_place_is_not_reached_and_it_is_said_why() -> None:
    async with rig() as it:
        await until(it.client.places)
        circuit = it.circuit
        it.relay.reserved.clear()
        with pytest.raises(DialFailed, match="not connected to it, or has no reservation") as caught:
            await it.dialer.swarm.connect(it.target.peer_id, [circuit], only=True)
        assert "p2pfwd status there shows its relays" in (caught.value.hint or ""), "the relay's own cure"


@on_loop
async def test_a_circuit_through_a_relay_that_nobody_knows_has_its_cure() -> None:
    relay = stranger()
    async with host() as node:
        with pytest.raises(DialFailed, match=f"no address is known for {relay}") as caught:
            await node.swarm.connect(stranger(), [Multiaddr.parse(f"/p2p/{relay}/p2p-circuit")], only=True)
        cure = f"give its address too: /ip4/<address>/tcp/<port>/p2p/{relay}"
        assert caught.value.hint == cure
        (attempt,) = caught.value.details["attempts"]
        assert attempt["Hint"] == cure


@on_loop
async def test_a_circuit_that_comes_before_the_relays_answer_was_read_is_taken() -> None:
    """Who waits for this node at the relay asks there every moment."""
    statuses: list[Status] = []

    async def hop(relay: MiniRelay, stream: DuplexStream) -> None:
        (conn,) = relay.host.swarm.conns(stream.remote_peer)
        stop = await conn.open_stream([STOP])
        await stop.write_delimited(encode_stop_request(StopRequest(stranger())))
        statuses.append(decode_stop_answer(await stop.read_delimited(4096)))
        stop.reset()
        await relay._hop(stream)

    def before(relay: MiniRelay) -> None:
        relay.host.swarm.services.withdraw(HOP)
        relay.host.swarm.services.serve(Service(name=HOP, handler=lambda stream: hop(relay, stream)))

    async with rig(before) as it:
        await until(it.client.places)
        assert statuses == [Status.OK]


@on_loop
async def test_a_stranger_cannot_bring_circuits() -> None:
    async with rig() as it:
        await until(it.client.places)
        conn = await it.dialer.swarm.connect(it.target.peer_id, it.target.swarm.own_addresses.bound())
        with pytest.raises(P2PForwardError, match="stop"):
            await conn.open_stream(["/libp2p/circuit/relay/0.2.0/stop"])


@on_loop
async def test_strangers_haste_over_a_relay_keeps_none_of_the_owners_peers_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = Rate(1e6, 1e6)
    monkeypatch.setattr(brought, "BROUGHT", Rates(peer=wide, network=Rate(0.001, 1)))
    async with rig() as it, host() as own, host() as another:
        await until(it.client.places)
        await it.connect()
        with pytest.raises(DialFailed, match="as many circuits"):
            await another.swarm.connect(it.target.peer_id, [it.circuit], only=True)
        assert it.target.swarm.refusals.counts["circuit-opens"] == 1
        it.target.swarm.peerstore.pin(own.peer_id, (), "named")
        assert (await own.swarm.connect(it.target.peer_id, [it.circuit], only=True)).is_relayed


@on_loop
async def test_who_comes_over_a_relay_near_by_is_told_and_believed_nothing_that_is_near(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hub on the local network brings strangers from anywhere: they had this node knock at its doors."""
    async with rig() as it, host() as own:
        await until(it.client.places)
        it.target.swarm.peerstore.pin(own.peer_id, (), "named")
        for node in (it.dialer, own):
            # This one tells all, and believes all.
            monkeypatch.setattr(node.swarm, "place_of", lambda _conn: AddressClass.LOOPBACK)
            circuit = next_conn(it.target.swarm)
            conn = await node.swarm.connect(it.target.peer_id, [it.circuit], only=True)
            await asyncio.gather(conn.identified, (await circuit).identified)
        told = it.target.swarm.peerstore.known
        assert told(own.peer_id) and not told(it.dialer.peer_id)
        known = [node.swarm.peerstore.known(it.target.peer_id) for node in (own, it.dialer)]
        assert len(known[0]) > 1, "the owner's peers are where the relay is"
        assert [one.addr for one in known[1]] == [it.circuit], "where it was dialed"


@on_loop
async def test_a_live_circuit_gives_way_to_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = replace(service_bounds.STOP, most=Most(all=1, peer=2, network=2))
    monkeypatch.setattr(brought, "STOP", bounds)
    async with rig() as it, host() as another:
        await until(it.client.places)
        it.target.swarm.services.rank_of = a_stranger
        conn = await it.connect()
        with pytest.raises(DialFailed):
            await another.swarm.connect(it.target.peer_id, [it.circuit], only=True)
        assert await ask(conn, b"still here") == b"still here"


@on_loop
async def test_a_peer_has_so_many_circuits_a_second_whoever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Rate(1e6, 1e6)
    monkeypatch.setattr(brought, "BROUGHT", Rates(peer=Rate(0.001, 1), network=wide))
    async with rig() as it:
        await until(it.client.places)
        it.target.swarm.peerstore.pin(it.dialer.peer_id, (), "named")
        await (await it.connect()).close()
        with pytest.raises(DialFailed, match="as many circuits"):
            await it.dialer.swarm.connect(it.target.peer_id, [it.circuit], only=True, force=True)


@on_loop
async def test_a_relayed_peer_pings_and_tells_who_it_is() -> None:
    async with rig() as it:
        await until(it.client.places)
        conn = await it.connect()
        await conn.identified
        assert "p2pfwd" in (it.dialer.swarm.peerstore.agent(it.target.peer_id) or "")
        assert (await it.dialer.ping(it.target.peer_id)).conn is conn
