"""AutoNAT between hosts on loopback, which counts as public here: dial-backs, refusals, hostile requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr
from p2pfwd.errors import StreamReset
from p2pfwd.host.host import Host
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.services import Service
from p2pfwd.protocols.autonat import AutoNat, AutoNatSettings
from p2pfwd.wire import autonat as wire
from p2pfwd.wire.autonat import DialRequest, Status
from p2pfwd.wire.reachability import SURE, Reachability
from tests.net.swarm_rig import host, stranger
from tests.support.loops import on_loop, turns, until

QUICK = AutoNatSettings(ask_again_s=0.05, refresh_s=0.05)


@pytest.fixture
def public_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback addresses are public to AutoNAT."""
    monkeypatch.setattr(wire, "address_class", lambda _addr: AddressClass.PUBLIC)


@asynccontextmanager
async def asking(settings: AutoNatSettings = QUICK) -> AsyncIterator[tuple[Host, AutoNat]]:
    """A host that wants to know."""
    async with host() as made:
        client = AutoNat(made.swarm, settings)
        changes.clear()
        client.on_change(lambda: changes.append(client.reachability))
        client.start()
        try:
            yield made, client
        finally:
            await client.close()


changes: list[Reachability] = []


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Host, AutoNat]]:
    """A host that dials back."""
    async with host() as made:
        server = AutoNat(made.swarm)
        server.serve(True)
        yield made, server


async def join(near: Host, far: Host) -> None:
    conn = await near.swarm.connect(far.peer_id, far.swarm.listen_addrs())
    await conn.identified


async def ask(near: Host, far: Host, message: bytes) -> wire.DialAnswer:
    stream = await near.swarm.open_stream(far.peer_id, [wire.PROTOCOL])
    await stream.write_delimited(message)
    answer = wire.decode_answer(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))
    await stream.close()
    return answer


@pytest.mark.usefixtures("public_loopback")
@on_loop
async def test_who_is_dialed_back_is_reachable_and_leaves_no_connection() -> None:
    async with serving() as (far, _), asking() as (near, client):
        assert client.reachability is Reachability.UNKNOWN
        await join(near, far)
        await until(lambda: client.reachability is Reachability.PUBLIC)
        await until(lambda: len(near.swarm.conns(far.peer_id)) == 1)
        assert changes == [Reachability.PUBLIC]


@pytest.mark.usefixtures("public_loopback")
@on_loop
async def test_who_cannot_be_dialed_back_is_not_reachable() -> None:
    async with serving() as (far, _), asking() as (near, client):
        bound = near.swarm.listen_addrs()
        near.swarm._listening.pop().close()
        near.swarm.own_addresses.announce(bound)  # a port that nobody answers any more
        await join(near, far)
        await until(lambda: client.reachability is Reachability.PRIVATE)
        assert near.swarm.listen_addrs() == [], "what does not work is not announced"


@pytest.mark.usefixtures("public_loopback")
@on_loop
async def test_several_servers_make_it_sure_and_another_network_makes_it_unknown() -> None:
    async with asking(AutoNatSettings()) as (near, client):
        servers = [serving() for _ in range(SURE + 1)]
        for server in servers:
            far, _ = await server.__aenter__()
            await join(near, far)
        await until(lambda: client._verdict.is_sure)
        assert changes == [Reachability.PUBLIC]
        client.network_changed()
        assert changes == [Reachability.PUBLIC, Reachability.UNKNOWN]
        await until(lambda: client.reachability is Reachability.PUBLIC)
        for server in servers:
            await server.__aexit__(None, None, None)


@pytest.mark.usefixtures("public_loopback")
@on_loop
async def test_every_address_that_was_proved_stays_announced() -> None:
    # One server may reach the IPv4 address, another the IPv6 one.
    async with host() as far, asking() as (near, _client):
        await near.swarm.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
        told: list[Multiaddr] = []

        async def one_after_the_other(stream: Stream) -> None:
            request = wire.decode_request(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))
            told.append(request.addrs[len(told) % 2])
            await stream.write_delimited(wire.encode_answer(wire.DialAnswer(Status.OK, addr=told[-1])))
            await stream.close()

        far.swarm.services.serve(Service(name=wire.PROTOCOL, handler=one_after_the_other))
        await join(near, far)
        await until(lambda: len(told) >= 3)
        assert set(near.swarm.own_addresses.announced) == set(told[:2]) and len(set(told)) == 2


@pytest.mark.usefixtures("public_loopback")
@on_loop
async def test_an_answer_for_an_address_that_was_not_asked_about_is_not_announced() -> None:
    async with host() as far, asking() as (near, client):
        elsewhere = Multiaddr.parse("/ip4/127.0.0.9/tcp/1")

        async def lie(stream: Stream) -> None:
            await stream.read_delimited(wire.MAX_MESSAGE_BYTES)
            await stream.write_delimited(wire.encode_answer(wire.DialAnswer(Status.OK, addr=elsewhere)))
            await stream.close()

        far.swarm.services.serve(Service(name=wire.PROTOCOL, handler=lie))
        await join(near, far)
        await until(lambda: client.reachability is Reachability.PUBLIC)
        assert elsewhere not in near.swarm.listen_addrs()


@pytest.mark.usefixtures("public_loopback")
@on_loop
async def test_one_peer_is_dialed_back_a_bounded_number_of_times() -> None:
    async with serving() as (far, _), host() as near:
        await join(near, far)
        message = wire.encode_request(DialRequest(near.peer_id, tuple(near.swarm.listen_addrs())))
        answers = [(await ask(near, far, message)).status for _ in range(5)]
        assert answers == [Status.OK] * 3 + [Status.DIAL_REFUSED] * 2
        assert far.swarm.refusals.counts["autonat-dials"] == 2


@on_loop
async def test_loopback_is_no_public_address() -> None:
    async with serving() as (far, _), host() as near:
        await join(near, far)
        message = wire.encode_request(DialRequest(near.peer_id, tuple(near.swarm.listen_addrs())))
        assert (await ask(near, far, message)).status is Status.DIAL_REFUSED


@on_loop
async def test_nobody_is_dialed_on_behalf_of_another_peer() -> None:
    async with serving() as (far, _), host() as near:
        await join(near, far)
        message = wire.encode_request(DialRequest(stranger(), tuple(near.swarm.listen_addrs())))
        assert (await ask(near, far, message)).status is Status.BAD_REQUEST


@on_loop
async def test_a_hostile_request_ends_its_stream_and_nothing_else() -> None:
    async with serving() as (far, _), host() as near:
        await join(near, far)
        for message in (b"\xff" * 20, b"", bytes(wire.MAX_MESSAGE_BYTES + 1)):
            with pytest.raises(StreamReset):
                await ask(near, far, message)
        await near.ping(far.peer_id)


@on_loop
async def test_a_node_without_candidates_asks_nobody() -> None:
    async with serving() as (far, _), asking() as (near, client):
        await join(near, far)
        await turns()
        assert client._asked == {}
        assert client.reachability is Reachability.UNKNOWN
