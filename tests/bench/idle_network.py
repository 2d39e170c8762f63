"""What a node holds and sends while nobody uses it: a network of servers and clients for an hour of virtual
time.

    python -m tests.bench.idle_network [--servers 200] [--clients 10] [--hours 1]

Real hosts (identify, ping, AutoNAT, both DHTs, keeping), real handshakes and frames, on conduits in memory;
every clock is the event loop's, which jumps. At the end every node is looked up by its ID from newcomers.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import statistics
import time

from tests.support.virtual_time import VirtualTimeLoop

LOOP = VirtualTimeLoop()
time.monotonic = LOOP.time  # before the package binds them as defaults anywhere
time.time = lambda: 1.8e9 + LOOP.time()
gc.collect = lambda *_: 0  # two hundred nodes give memory back to the system; here it is one process's

from p2pfwd.core.keys import PrivateKey  # noqa: E402
from p2pfwd.core.multiaddrs import Multiaddr  # noqa: E402
from p2pfwd.daemon.discovery import Discovery  # noqa: E402
from p2pfwd.daemon.networks import DhtProfile, NetworkProfile  # noqa: E402
from p2pfwd.errors import PeerNotFound  # noqa: E402
from p2pfwd.host.host import Host  # noqa: E402
from p2pfwd.wire.kad.address_filter import Scope  # noqa: E402
from tests.support.memory_network import MemoryNetwork, Meter  # noqa: E402

PORT = 4011
BOOTSTRAPS = 3
START_S = 600.0
"""From the first node's start to the last one's; the first minutes are not idle, and not counted."""


class Node:
    """One host with its discovery."""

    def __init__(self, network: MemoryNetwork, number: int, public: bool, bootstrap: list[Multiaddr]) -> None:
        """`public`: strangers can dial it. A client has a public address, too, behind a firewall."""
        self.meter = Meter()
        self.ip = f"{20 + number // 200}.{number % 200}.7.7"
        self.public = public
        self._profile = NetworkProfile(
            name="public",
            bootstrap=tuple(bootstrap),
            dhts=(DhtProfile("/ipfs/kad/1.0.0", Scope.WAN), DhtProfile("/ipfs/lan/kad/1.0.0", Scope.LAN)),
            mdns=False,
            local_only=False,
        )
        self._network = network
        self.host: Host
        self.discovery: Discovery

    @property
    def addr(self) -> Multiaddr:
        """Where it can be dialed."""
        return Multiaddr.parse(f"/ip4/{self.ip}/tcp/{PORT}").with_peer_id(self.host.peer_id)

    async def start(self) -> None:
        """As the daemon does."""
        self.host = await Host.start(
            PrivateKey.generate(),
            [Multiaddr.parse(f"/ip4/{self.ip}/tcp/{PORT}")],
            make_transports=self._network.node(self.ip, self.meter, is_open=self.public),
        )
        self.discovery = Discovery(self.host, self._profile, "auto")
        self.discovery.start()

    async def close(self) -> None:
        """End."""
        await self.discovery.close()
        await self.host.close()


def row(name: str, values: list[float]) -> str:
    """Minimum, median, maximum."""
    return f"{name:34} {min(values):10.2f} {statistics.median(values):10.2f} {max(values):10.2f}"


async def found_by_id(newcomer: Node, sought: list[Node]) -> int:
    """How many of `sought` the newcomer finds: servers are dialed, clients have to be known to somebody."""
    count = 0
    for node in sought:
        try:
            _, result = await newcomer.discovery.find_peer(node.host.peer_id, 60.0)
            count += bool(result.found)
        except PeerNotFound:
            pass  # counted
    return count


async def main(options: argparse.Namespace) -> None:
    """Build, let an hour pass, count, look up."""
    rng = random.Random(7)
    network = MemoryNetwork()
    nodes: list[Node] = []
    bootstrap: list[Multiaddr] = []
    began = time.perf_counter()
    count = options.servers + options.clients
    for number in range(count):
        node = Node(network, number, number < options.servers, list(bootstrap))
        await node.start()
        nodes.append(node)
        if number < BOOTSTRAPS:
            bootstrap.append(node.addr)
        await asyncio.sleep(START_S / count)
    print(f"{count} nodes started, {time.perf_counter() - began:.0f} s of real time", flush=True)
    held: dict[Node, list[int]] = {node: [] for node in nodes}
    minutes = int(options.hours * 60)
    before = {node: node.meter.bytes for node in nodes}
    for minute in range(minutes + 1):
        if minute % 15 == 0:
            conns = [len(node.host.swarm.conns()) for node in nodes]
            print(
                f"  minute {minute}: connections {statistics.median(conns):.0f} median, {max(conns)} most,"
                f" {time.perf_counter() - began:.0f} s of real time",
                flush=True,
            )
        for node in nodes:
            held[node].append(len(node.host.swarm.conns()))
        await asyncio.sleep(60.0)
    per_hour = {node: (node.meter.bytes - before[node]) / 1e6 / options.hours for node in nodes}
    print(f"{'':34} {'least':>10} {'median':>10} {'most':>10}")
    for kind, public in (("server", True), ("client", False)):
        group = [node for node in nodes[BOOTSTRAPS:] if node.public is public]
        if not group:
            continue
        print(row(f"{kind}: MB an hour", [per_hour[n] for n in group]))
        print(row(f"{kind}: connections at the end", [float(held[n][-1]) for n in group]))
        print(row(f"{kind}: connections, most ever", [float(max(held[n])) for n in group]))
        print(row(f"{kind}: table of the DHT", [float(len(n.discovery.dhts[0].table)) for n in group]))
    boots = nodes[:BOOTSTRAPS]
    print(row("bootstrap peer: MB an hour", [per_hour[n] for n in boots]))
    print(row("bootstrap peer: connections", [float(held[n][-1]) for n in boots]))
    newcomer = Node(network, count, False, list(bootstrap))
    await newcomer.start()
    await asyncio.sleep(30.0)
    servers = rng.sample(nodes[: options.servers], min(50, options.servers))
    clients = [node for node in nodes if not node.public]
    print(f"found by ID: {await found_by_id(newcomer, servers)} of {len(servers)} servers")
    print(f"found by ID: {await found_by_id(newcomer, clients)} of {len(clients)} clients")
    for node in [newcomer, *nodes]:
        await node.close()


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=200)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--hours", type=float, default=1.0)
    return parser.parse_args()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: LOOP) as runner:
        runner.run(main(parse()))
