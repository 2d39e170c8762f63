"""One p2pfwd node of a DHT behind JSON lines: `python -m tests.netns.dht_node --listen ADDRESS [--client]`.

A host with identify, the DHT under the rules of the public one, its timers as they are by default, and the
router: what a daemon looks up a peer with. It starts only where no route leads out of its network. Commands
(see tests/interop/peers/jsonl):

    join addr           connect to a server by address
    state               -> table (its size), refreshed
    find peer           forget all about PEER, connect to it by its ID alone -> ms, requests, addr
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.host.host import Host
from p2pfwd.host.routing import DhtSource, Routing
from p2pfwd.protocols.kad.search import Try
from p2pfwd.protocols.kad.service import Dht
from p2pfwd.protocols.kad.upkeep import Upkeep
from p2pfwd.wire.kad.address_filter import Scope
from p2pfwd.wire.kad.query_values import LookupResult
from tests.interop.peers.jsonl import (
    Message,
    claim_stdout,
    failure,
    read_command,
    refuse_a_way_out,
    write_line,
)

PROTOCOL = "/ipfs/kad/1.0.0"


class CountingDht(Dht):
    """A DHT that adds up what its lookups of peers sent."""

    requests = 0

    async def find_peer(self, peer_id: PeerId, attempt: Try | None = None) -> LookupResult:
        result = await super().find_peer(peer_id, attempt)
        self.requests += result.queried
        return result


class DhtNode:
    """One running node; methods named `cmd_*` are the commands."""

    def __init__(self, host: Host, *, server: bool) -> None:
        self._host = host
        self._dht = CountingDht(host.swarm, PROTOCOL, scope=Scope.WAN, server=server)
        self._upkeep = Upkeep(host.swarm, self._dht)
        Routing(host.swarm).add(DhtSource(self._dht))

    async def cmd_join(self, addr: str) -> None:
        full = Multiaddr.parse(addr)
        peer_id = full.peer_id()
        assert peer_id is not None
        await self._host.swarm.connect(peer_id, [full.without_peer_id()])

    async def cmd_state(self) -> Message:
        return {"table": len(self._dht.table), "refreshed": self._dht.refreshed_at is not None}

    async def cmd_find(self, peer: str) -> Message:
        peer_id = PeerId.parse(peer)
        await self._forget(peer_id)
        before, began = self._dht.requests, time.perf_counter()
        conn = await self._host.swarm.connect(peer_id)
        elapsed_s = time.perf_counter() - began
        return {
            "ms": elapsed_s * 1000,
            "requests": self._dht.requests - before,
            "addr": str(conn.remote_addr),
        }

    async def _forget(self, peer_id: PeerId) -> None:
        """As if nothing had ever been heard of the peer."""
        swarm = self._host.swarm
        await swarm.disconnect(peer_id)
        if (entry := swarm.peerstore._peers.get(peer_id)) is not None:
            swarm.peerstore._forget(peer_id, entry)
        if peer_id in self._dht.table:
            self._dht.table.remove(peer_id)

    async def close(self) -> None:
        """End timers and host."""
        await self._upkeep.close()
        await self._host.close()


async def serve(listen: Multiaddr, *, server: bool, out: TextIO) -> None:
    """Answer commands until stdin closes."""
    host = await Host.start(PrivateKey.generate(), [listen])
    node = DhtNode(host, server=server)
    addrs = [str(addr.with_peer_id(host.peer_id)) for addr in host.swarm.listen_addrs()]
    write_line(out, {"id": str(host.peer_id), "addrs": addrs})
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    while line := await stdin.readline():
        try:
            name, arguments = read_command(line.decode())
            answer = {"ok": True, **(await getattr(node, f"cmd_{name}")(**arguments) or {})}
        except Exception as exc:  # the root of a command: the test is told, the node goes on
            answer = failure(exc)
        write_line(out, answer)
    await node.close()


def main(argv: Sequence[str] | None = None) -> None:
    """Run a node until stdin closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", type=Multiaddr.parse, required=True)
    parser.add_argument("--client", action="store_true")
    options = parser.parse_args(argv)
    refuse_a_way_out()
    asyncio.run(serve(options.listen, server=not options.client, out=claim_stdout()))


if __name__ == "__main__":
    main()
