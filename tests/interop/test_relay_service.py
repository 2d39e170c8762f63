"""Foreign peers with a place at our relay, and foreign peers that reach them over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2pfwd.core.keys import KeyType
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.host.host import Host
from p2pfwd.net.transport import leg_door
from p2pfwd.protocols.relay_service import RelayService
from p2pfwd.wire.noise import NOISE
from tests.interop.conftest import Start
from tests.interop.node import Cell, ask, host, serve
from tests.interop.peers.process import Peer
from tests.support.loops import on_loop, until
from tests.support.sockets import TcpServer, echo, free_port

CELL = Cell("p2pfwd", NOISE, True, KeyType.ED25519)
KINDS = ("p2pd", "js", "kubo")


@asynccontextmanager
async def relay(*, own: bool) -> AsyncIterator[tuple[Host, RelayService]]:
    """Ours: for strangers, with the limits that all relays have, or as the owner of all who come."""
    async with host(CELL) as made:
        service = RelayService(made.swarm)
        service.is_own = lambda _peer: own
        service.serve("anyone")
        try:
            yield made, service
        finally:
            service.close()


async def start(peer: Start, kind: str, made: Host, key_type: KeyType = KeyType.ED25519) -> Peer:
    """A peer that has, or wants, a place at the relay; another one for each key type."""
    where = str(made.swarm.listen_addrs()[0].with_peer_id(made.peer_id))
    if kind != "js":
        return await asyncio.to_thread(peer, kind, key_type, "--via", where)
    started = await asyncio.to_thread(peer, kind, key_type, "--via")
    await ask(started, "reserve", relay=where)
    return started


async def in_place(service: RelayService, target: Peer) -> None:
    await until(lambda: any(place.peer == target.id for place in service.places()), 35.0)


def over(made: Host, target: Peer) -> str:
    """The target's address over the relay."""
    at = made.swarm.listen_addrs()[0].with_peer_id(made.peer_id)
    return str(at.encapsulate(Multiaddr.parse("/p2p-circuit")).with_peer_id(target.id))


@pytest.mark.parametrize("dialer_kind", KINDS)
@pytest.mark.parametrize("target_kind", KINDS)
def test_a_tunnel_between_foreign_peers_over_our_relay(
    peer: Start, target_kind: str, dialer_kind: str
) -> None:
    """100 kB there and back: a relay of their own kind would have ended it."""
    with TcpServer(echo) as service_behind:

        @on_loop
        async def run() -> None:
            async with relay(own=True) as (made, service):
                target = await start(peer, target_kind, made)
                await in_place(service, target)
                dialer = await start(peer, dialer_kind, made, KeyType.RSA)
                proto = f"/x/relayed/{target_kind}-{dialer_kind}"
                await serve(target, proto, service_behind.address)
                await ask(dialer, "connect", addr=over(made, target))
                port = free_port()
                await ask(
                    dialer, "forward", proto=proto, listen=f"/ip4/127.0.0.1/tcp/{port}", peer=str(target.id)
                )
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                sent = bytes(range(250)) * 400
                writer.write(sent)
                assert await reader.readexactly(len(sent)) == sent
                writer.close()
                assert any(
                    (one.dialer, one.target) == (dialer.id, target.id) and one.bytes_out > len(sent)
                    for one in service.circuits()
                )

        run()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stranger_is_told_its_limits(peer: Start, kind: str) -> None:
    """A foreign peer takes a limited place, and is reached over it for a little."""

    @on_loop
    async def run() -> None:
        async with relay(own=False) as (made, service), host(CELL) as dialer:
            target = await start(peer, kind, made)
            await in_place(service, target)
            where = Multiaddr.parse(over(made, target)).without_peer_id()
            conn = await dialer.swarm.connect(target.id, [where], only=True)
            assert conn.is_relayed and conn.limit is not None and conn.limit.data_bytes == 128 * 1024
            await conn.measure_rtt(5.0)

    run()


@pytest.mark.parametrize("kind", KINDS)
def test_a_foreign_target_passes_over_the_ticket_for_a_leg_and_the_circuit_stays_a_stream(
    peer: Start, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leg_door, "WAIT_S", 0.1)
    with TcpServer(echo) as service_behind:

        @on_loop
        async def run() -> None:
            async with relay(own=True) as (made, service), host(CELL) as dialer:
                target = await start(peer, kind, made)
                await in_place(service, target)
                proto = f"/x/ticket/{kind}"
                await serve(target, proto, service_behind.address)
                where = Multiaddr.parse(over(made, target)).without_peer_id()
                conn = await dialer.swarm.connect(target.id, [where], only=True)
                (circuit,) = service.circuits()
                assert circuit.legs is not None, "it was offered some"
                stream = await conn.open_stream([proto])
                sent = bytes(range(256)) * 256
                for _ in range(24):
                    await stream.write(sent)
                    assert await stream.read_exactly(len(sent)) == sent
                await until(lambda: service._door._held == 0 and not service._door._offers)
                await stream.write(sent)
                assert await stream.read_exactly(len(sent)) == sent and not circuit.has_legs
                stream.reset()

        run()
