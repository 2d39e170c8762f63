"""p2pfwd's own side at the library level: a `Host` with chosen security, muxer negotiation and key type."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from p2pfwd.core.keys import KeyType, PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.host.host import Host, HostSettings
from p2pfwd.net.link.contract import Link
from p2pfwd.net.settings import SwarmSettings
from tests.interop.peers.process import Peer

LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the matrix: who is at the other end, and how the connection is to be made."""

    kind: str
    security: str
    early_muxer: bool
    key_type: KeyType  # of both ends

    def __str__(self) -> str:
        muxer = "early" if self.early_muxer else "multistream"
        return f"{self.kind}-{self.security.split('/')[1]}-{muxer}-{self.key_type.name.lower()}"


@asynccontextmanager
async def host(cell: Cell) -> AsyncIterator[Host]:
    """A host that offers and accepts nothing but what the cell says; of ciphers, to each peer, AES too."""
    swarm = SwarmSettings(security=(cell.security,), aes=True, early_muxer=cell.early_muxer)
    node = await Host.start(PrivateKey.generate(cell.key_type), [LOOPBACK], HostSettings(swarm=swarm))
    try:
        yield node
    finally:
        await node.close()


@asynccontextmanager
async def forwarding(node: Host) -> AsyncIterator[Forwarding]:
    """The forwarding service on a host."""
    service = Forwarding(node)
    try:
        yield service
    finally:
        await service.aclose()


async def ask(peer: Peer, cmd: str, /, **arguments: Any) -> dict[str, Any]:
    """A command to a real peer, while our own loop goes on serving it."""
    return await asyncio.to_thread(peer, cmd, **arguments)


async def dialed_by(peer: Peer, node: Host) -> Link:
    """Have `peer` dial the host; the connection, as the host sees it."""
    accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()

    def connected(conn: Link) -> None:
        if not accepted.done():
            accepted.set_result(conn)

    node.swarm.on_connected(connected)
    where = node.swarm.listen_addrs()[0].with_peer_id(node.peer_id)
    await ask(peer, "connect", addr=str(where))
    # The peer's side may be complete a moment before ours.
    return await asyncio.wait_for(accepted, 10)


def address(peer: Peer) -> Multiaddr:
    """Where a peer is, without its ID."""
    return Multiaddr.parse(peer.addrs[0]).without_peer_id()


SERVE = {"kubo": "listen", "p2pd": "handle", "js": "handle"}
"""Each kind's word for `p2p listen`."""


async def serve(peer: Peer, protocol: str, target: str) -> None:
    """Have a peer listen for `protocol` on behalf of `target`."""
    await ask(peer, SERVE[peer.kind], proto=protocol, target=target)
