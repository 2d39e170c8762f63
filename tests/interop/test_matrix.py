"""Every kind of peer x {dialing, listening} x {noise, tls} x {early muxer, multistream} x {ed25519, RSA}.

Library level: a `Host` and the forwarding service in this process, a real node at the other end. Each
test runs over one connection made as the cell says, and checks that it was made so.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import ExitStack
from typing import Any

import pytest

from p2pfwd.core.keys import KeyType
from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.host.host import Host
from p2pfwd.net import upgrader
from p2pfwd.net.link.contract import Link
from p2pfwd.wire.noise import NOISE
from p2pfwd.wire.tls import TLS
from tests.interop.conftest import Start
from tests.interop.node import LOOPBACK, Cell, address, ask, dialed_by, forwarding, host, serve
from tests.interop.peers.process import Peer
from tests.support import sockets
from tests.support.sockets import Payload, Received, TcpServer

KINDS = ("kubo", "p2pd", "js")
CELLS = [
    Cell(*values)
    for values in itertools.product(KINDS, (NOISE, TLS), (True, False), (KeyType.ED25519, KeyType.RSA))
]
AGENTS = {"kubo": "kubo/0.22.0", "p2pd": "p2pd/", "js": "js-libp2p/"}
BULK = {"kubo": 100_000_000, "p2pd": 20_000_000, "js": 20_000_000}
"""Bytes each way through each kind: the full measure through Kubo, the product's other end."""

cells = pytest.mark.parametrize("cell", CELLS, ids=str)


@pytest.fixture
def muxer_negotiations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets an entry for every connection whose muxer was not agreed in the handshake."""
    seen: list[str] = []
    original = upgrader.Upgrader._negotiate_muxer

    async def spy(self: upgrader.Upgrader, *arguments: Any) -> bytes:
        seen.append("multistream")
        return await original(self, *arguments)

    monkeypatch.setattr(upgrader.Upgrader, "_negotiate_muxer", spy)
    return seen


async def meet(node: Host, other: Peer, direction: str) -> Link:
    """The connection of `node` and `other`, dialed from here or by the peer, identified."""
    if direction == "outbound":
        conn = await node.swarm.connect(other.id, [address(other)])
    else:
        conn = await dialed_by(other, node)
    async with asyncio.timeout(10):
        await asyncio.shield(conn.identified)
    return conn


@pytest.mark.parametrize("direction", ["outbound", "inbound"])
@cells
def test_connect_identify_ping(
    peer: Start, cell: Cell, direction: str, muxer_negotiations: list[str]
) -> None:
    """Connected as the cell says, the peer proves its ID, says who it is, and answers pings.

    js also tells what it learned about us, with our addresses certified by a signed record, and pings us.
    """
    other = peer(cell.kind, cell.key_type)

    async def main() -> None:
        async with host(cell) as node:
            conn = await meet(node, other, direction)
            assert (conn.remote_peer, conn.direction) == (other.id, direction)
            assert (conn.security, conn.muxer) == (cell.security, "/yamux/1.0.0")
            assert cell.security == TLS or conn.cipher == "chacha20-poly1305"
            assert (muxer_negotiations == []) is cell.early_muxer
            store = node.swarm.peerstore
            assert (store.agent(other.id) or "").startswith(AGENTS[cell.kind])
            assert {"/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"} <= store.protocols(other.id)
            assert address(other) in store.addrs(other.id)
            observed = node.swarm.own_addresses.observed()
            assert all(str(seen).startswith("/ip4/127.0.0.1/tcp/") for seen in observed)
            assert observed != []
            assert 0 < (await node.ping(other.id, timeout_s=10)).rtt_s < 10
            if cell.kind == "js":
                known = await ask(other, "protocols", peer=str(node.peer_id))
                assert known["agent"].startswith("p2pfwd/")
                assert "/ipfs/ping/1.0.0" in known["protocols"]
                assert {"addr": str(node.swarm.listen_addrs()[0]), "certified": True} in known["addresses"]
                assert (await ask(other, "ping", peer=str(node.peer_id)))["ms"] >= 0

    asyncio.run(main())


@cells
def test_forward_to_the_peers_listener(peer: Start, cell: Cell) -> None:
    """We dial; our forward, the peer's listener: an echo, then bulk both ways with checksums."""
    other, payload = peer(cell.kind, cell.key_type), Payload(BULK[cell.kind])

    async def main() -> None:
        async with host(cell) as node, forwarding(node) as service:
            await meet(node, other, "outbound")
            ports: list[int] = []
            for name, target in targets.items():
                protocol = f"/x/to-{cell}/{name}"
                await serve(other, protocol, target.address)
                listener = await service.forward(protocol, LOOPBACK, other.id)
                endpoint = tcp_endpoint(listener.listen_address)
                assert endpoint is not None
                ports.append(endpoint.port)
            await asyncio.to_thread(check_transfers, cell, ports, payload)

    with ExitStack() as stack:
        targets = {name: stack.enter_context(server) for name, server in servers(cell, payload).items()}
        asyncio.run(main())


@cells
def test_listen_for_the_peers_forward(peer: Start, cell: Cell) -> None:
    """The peer dials; its forward, our listener: an echo, then bulk both ways with checksums."""
    other, payload = peer(cell.kind, cell.key_type), Payload(BULK[cell.kind])

    async def main() -> None:
        async with host(cell) as node, forwarding(node) as service:
            await meet(node, other, "inbound")
            ports: list[int] = []
            for name, target in targets.items():
                protocol = f"/x/from-{cell}/{name}"
                await service.listen(protocol, Multiaddr.parse(target.address))
                ports.append(sockets.free_port())
                where = f"/ip4/127.0.0.1/tcp/{ports[-1]}"
                await ask(other, "forward", proto=protocol, listen=where, peer=str(node.peer_id))
            await asyncio.to_thread(check_transfers, cell, ports, payload)

    with ExitStack() as stack:
        targets = {name: stack.enter_context(server) for name, server in servers(cell, payload).items()}
        asyncio.run(main())


def servers(cell: Cell, payload: Payload) -> dict[str, TcpServer]:
    """The targets behind the tunnels of one test, in the order of `check_transfers`."""
    return {
        "echo": TcpServer(sockets.echo),
        "down": TcpServer(sockets.send_payload(payload, wait=cell.kind != "js")),
        "up": TcpServer(sockets.receive_payload(payload.size)),
    }


def check_transfers(cell: Cell, ports: list[int], payload: Payload) -> None:
    """Through these local ports: 300 kB echoed, `payload` whole in each direction.

    js closes when all is sent; with a go peer the reader closes first. The pipe of a go peer, when its own
    application closes, closes the stream in one goroutine and may reset it in another: once in some thirty
    times every byte comes, and a reset instead of FIN.
    """
    echo, down, up = ports
    assert sockets.echoes(echo, Payload(300_000))
    received = sockets.download(down, None if cell.kind == "js" else payload.size)
    assert received == Received(payload.size, payload.digest(), clean=True)
    assert sockets.upload(up, payload) == payload.digest()
