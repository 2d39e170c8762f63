"""Circuits over foreign relays: a place there, and a tunnel's bytes through it."""

from __future__ import annotations

import os

from p2pfwd.core.keys import KeyType
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.net.services import Service
from p2pfwd.protocols.relay_client import RelayClient
from p2pfwd.wire.noise import NOISE
from tests.interop.conftest import Start
from tests.interop.node import Cell, address, host
from tests.net.swarm_rig import ECHO, echo
from tests.net.test_relay_client import ask
from tests.support.loops import on_loop, until

CELL = Cell("p2pfwd", NOISE, True, KeyType.ED25519)


def test_a_peer_with_a_place_at_go_libp2ps_relay_is_reached(peer: Start) -> None:
    relay = peer("p2pd", KeyType.ED25519, "--relay")

    @on_loop
    async def run() -> None:
        async with host(CELL) as target, host(CELL) as dialer:
            client = RelayClient(target.swarm, strangers=True, is_public=lambda: False)
            client.start()
            target.swarm.services.serve(Service(name=ECHO, handler=echo))
            await target.swarm.connect(relay.id, [address(relay)])
            await until(client.places)
            (place,) = client.places()
            assert place.addrs[0] == Multiaddr.parse(f"{address(relay)}/p2p/{relay.id}/p2p-circuit")
            conn = await dialer.swarm.connect(target.peer_id, place.addrs, only=True)
            assert conn.is_relayed and conn.remote_peer == target.peer_id
            assert conn.limit == place.limit
            data = os.urandom(50_000)
            assert await ask(conn, data) == data
            await client.close()

    run()
