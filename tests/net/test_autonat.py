"""AutoNAT between hosts on loopback, which counts as public here: dial-backs, refusals, hostile requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, tcp_endpoint
from p2pfwd.errors import StreamReset
from p2pfwd.host.host import Host
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.services import Service
from p2pfwd.protocols.autonat import v1
from p2pfwd.protocols.autonat.service import AutoNat, AutoNatSettings
from p2pfwd.system.interfaces import Interface
from p2pfwd.wire import autonat as wire
from p2pfwd.wire import autonat2
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
async def serving(only: str | None = None) -> AsyncIterator[tuple[Host, AutoNat]]:
    """A host that dials back; `only` by one version's protocol."""
    async with host() as made:
        server = AutoNat(made.swarm)
        server.serve(True)
        for name in (wire.PROTOCOL, autonat2.REQUEST):
            if only not in (None, name):
                made.swarm.services.withdraw(name)
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
    async with serving(wire.PROTOCOL) as (far, _), asking() as (near, client):
        assert client.reachability is Reachability.UNKNOWN
        await join(near, far)
        await until(lambda: client.reachability is Reachability.PUBLIC)
        await until(lambda: len(near.swarm.conns(far.peer_id)) == 1)
        assert changes == [Reachability.PUBLIC]


@pytest.mark.usefixtures("public_loopback")
@on_loop
async def test_who_cannot_be_dialed_back_is_not_reachable() -> None:
    async with serving(wire.PROTOCOL) as (far, _), asking() as (near, client):
        elsewhere = Multiaddr.parse("/ip4/127.0.0.9/tcp/9")
        near.swarm._listening.pop().close()  # a port that nobody answers any more
        near.swarm.own_addresses.prove(elsewhere, stranger())
        await join(near, far)
        await until(lambda: client.reachability is Reachability.PRIVATE)
        assert elsewhere not in near.swarm.listen_addrs(), "what does not work is not announced"


@pytest.mark.usefixtures("public_loopback")
@on_loop
async def test_several_servers_make_it_sure_and_another_network_makes_it_unknown() -> None:
    async with asking(AutoNatSettings()) as (near, client):
        servers = [serving(wire.PROTOCOL) for _ in range(SURE + 1)]
        for server in servers:
            far, _ = await server.__aenter__()
            await join(near, far)
        await until(lambda: client._first.verdict.is_sure)
        assert changes == [Reachability.PUBLIC]
        own = near.swarm.own_addresses
        lo, eth0 = Interface("lo", 1, frozenset({"127.0.0.1"})), Interface("eth0", 2, frozenset({"8.8.4.4"}))
        own.interfaces._walk = lambda: (lo, eth0)
        own._sockets = [Multiaddr.parse("/ip4/0.0.0.0/tcp/4011"), *own._sockets]
        own.network_changed()
        await until(lambda: len(changes) > 1)
        assert changes[:2] == [Reachability.PUBLIC, Reachability.UNKNOWN]
        await until(lambda: client.reachability is Reachability.PUBLIC)
        for server in servers:
            await server.__aexit__(None, None, None)


class Places:
    """A server that says which address works, whatever is there, and notes what it was asked about."""

    def __init__(self, far: Host) -> None:
        self.reachable: list[Multiaddr] = []
        self.asked: list[tuple[Multiaddr, ...]] = []
        far.swarm.services.serve(Service(name=wire.PROTOCOL, handler=self.serve))

    async def serve(self, stream: Stream) -> None:
        request = wire.decode_request(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))
        self.asked.append(request.addrs)
        works = [addr for addr in request.addrs if addr in self.reachable]
        answer = wire.DialAnswer(Status.OK, addr=works[0]) if works else wire.DialAnswer(Status.DIAL_ERROR)
        await stream.write_delimited(wire.encode_answer(answer))
        await stream.close()


@pytest.mark.usefixtures("public_loopback")
@on_loop
async def test_every_address_that_works_is_proved_for_itself_and_taken_back_when_it_fails() -> None:
    async with host() as far, host() as third, asking() as (near, _client):
        await near.swarm.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
        both = near.swarm.listen_addrs()
        servers = [Places(far), Places(third)]
        for server in servers:
            server.reachable = both
        await join(near, far)
        await join(near, third)
        own = near.swarm.own_addresses
        await until(lambda: set(own.proofs.addresses()) == set(both))
        for server in servers:
            server.reachable = both[1:]
        await until(lambda: own.proofs.addresses() == (both[1],))
        assert (both[0],) in servers[0].asked + servers[1].asked, "asked about alone"


@pytest.mark.usefixtures("public_loopback")
@on_loop
async def test_after_any_number_of_changes_the_address_of_now_is_proved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line that gets a new address now and then: the old ones go, the new one is never kept out."""
    monkeypatch.setattr(v1, "household", str)  # each server is of a network of its own
    async with host() as far, host() as third, asking() as (near, client):
        servers = [Places(far), Places(third)]
        await join(near, far)
        await join(near, third)
        own, port = near.swarm.own_addresses, tcp_endpoint(near.swarm.listen_addrs()[0])
        assert port is not None
        for number in range(1, wire.MAX_ADDRESSES + 4):
            now = Multiaddr.parse(f"/ip4/203.0.113.{number}/tcp/{port.port}")
            for each, server in zip((far, third), servers, strict=True):
                server.reachable = [now]
                own.note_observed(near.swarm.conns(each.peer_id)[0], now)
            await until(lambda now=now: now in own.proofs.addresses())
        await until(lambda: own.proofs.addresses() == (now,))
        assert client.reachability is Reachability.PUBLIC


@pytest.mark.parametrize("how", ["two networks", "never dialed"])
@pytest.mark.usefixtures("public_loopback")
@on_loop
async def test_who_was_dialed_and_gets_in_by_a_router_proves_nothing_alone(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Some routers let in whomever this node has sent to: strangers are not let in for that."""
    async with host() as far, host() as third, asking() as (near, client):
        own, port = near.swarm.own_addresses, tcp_endpoint(near.swarm.listen_addrs()[0])
        assert port is not None
        outside = Multiaddr.parse(f"/ip4/203.0.113.1/tcp/{port.port}")
        servers = [Places(far), Places(third)]
        for each, server in zip((far, third), servers, strict=True):
            server.reachable = [outside]
            await join(near, each)
            own.note_observed(near.swarm.conns(each.peer_id)[0], outside)
        await until(lambda: min(len(server.asked) for server in servers) > 5)
        assert client.reachability is not Reachability.PUBLIC, "they are of one network"
        assert outside not in own.proofs.addresses()
        if how == "two networks":
            monkeypatch.setattr(v1, "household", str)
        else:
            own.is_contacted = lambda _addr: False  # type: ignore[method-assign]
        await until(lambda: client.reachability is Reachability.PUBLIC)
        assert outside in own.proofs.addresses()


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
        near.swarm.own_addresses.is_contacted = lambda _addr: False  # type: ignore[method-assign]
        await join(near, far)
        await until(lambda: client.reachability is Reachability.PUBLIC)
        assert elsewhere not in near.swarm.listen_addrs()


@pytest.mark.usefixtures("public_loopback")
@on_loop
async def test_one_peer_is_dialed_back_a_bounded_number_of_times() -> None:
    async with serving() as (far, _), host() as near:
        await join(near, far)
        message = wire.encode_request(DialRequest(near.peer_id, tuple(near.swarm.listen_addrs())))
        answers = [(await ask(near, far, message)).status for _ in range(6)]
        assert answers == [Status.OK] * 5 + [Status.DIAL_REFUSED]
        assert far.swarm.refusals.counts["autonat-dials"] == 1


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
        assert client._first._asked == {} and client._candidates == {}
        assert client.reachability is Reachability.UNKNOWN
