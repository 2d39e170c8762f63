"""How long a circuit takes to come up, in round trips: in a network in memory, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import RelayRefused
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.transport.relay_transport import connect
from p2pfwd.protocols.relay_service import RelayService
from tests.net.relay_rig import Target, reserve
from tests.support.memory_network import MemoryNetwork, Meter
from tests.support.virtual_time import in_virtual_time

LATENCY_S = 0.05


@asynccontextmanager
async def swarm(network: MemoryNetwork, number: int) -> AsyncIterator[Swarm]:
    ip = f"{20 + number}.7.7.7"
    made = Swarm(PrivateKey.generate(), make_transports=network.node(ip, Meter()))
    made.on_connected(lambda conn: conn.identified.set_result(None))
    try:
        await made.listen(Multiaddr.parse(f"/ip4/{ip}/tcp/4011"))
        yield made
    finally:
        await made.close()


@in_virtual_time
async def test_a_circuit_takes_one_round_trip_to_the_relay_and_one_from_there_to_the_peer() -> None:
    """The question goes out with the proposal of its protocol, on both parts of the way."""
    network, loop = MemoryNetwork(LATENCY_S), asyncio.get_running_loop()
    async with swarm(network, 1) as relay, swarm(network, 2) as target, swarm(network, 3) as dialer:
        service = RelayService(relay)
        service.serve("anyone")
        Target(target)
        await reserve(await target.connect(relay.peer_id, relay.listen_addrs()))
        link = await dialer.connect(relay.peer_id, relay.listen_addrs())
        began = loop.time()
        await connect(link, target.peer_id)
        assert loop.time() - began == pytest.approx(2 * 2 * LATENCY_S)
        service.close()


@in_virtual_time
async def test_who_is_no_relay_is_told_of_after_one_round_trip() -> None:
    network, loop = MemoryNetwork(LATENCY_S), asyncio.get_running_loop()
    async with swarm(network, 1) as other, swarm(network, 2) as dialer:
        link = await dialer.connect(other.peer_id, other.listen_addrs())
        began = loop.time()
        with pytest.raises(RelayRefused, match="is no relay"):
            await connect(link, dialer.peer_id)
        assert loop.time() - began == pytest.approx(2 * LATENCY_S)
        assert not link.streams
