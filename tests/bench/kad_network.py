"""A simulated DHT: nodes with real routing tables and real lookups, in virtual time, over no network.

Every node has the table it would have after running for long: up to 20 random nodes of each prefix length,
dead ones among them, made when it is first asked. Latencies are drawn; of the dead, half refuse and half
never answer. An asked node learns of the asker, the asker of who answers and who does not.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Sequence
from random import Random

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire.kad.address_filter import Scope, passing_peers
from p2pfwd.wire.kad.buckets import RoutingTable
from p2pfwd.wire.kad.keys import KEY_BITS, KadKey, key_of, key_of_peer
from p2pfwd.wire.kad.messages import K, KadPeer
from p2pfwd.wire.kad.query import Lookup
from p2pfwd.wire.kad.query_values import Goal, LookupResult, LookupSettings

ANSWER_S = (0.05, 0.6)
"""From dialling to the answer: one to four round trips of a wide network."""

Behaviour = Callable[["Node", bytes, "Node"], list[KadPeer] | None]
"""(asked, target, asker) → the answer; None: never."""


class Node:
    """One simulated node; `behaviour` replaces the honest answer."""

    __slots__ = ("alive", "behaviour", "info", "key", "met", "peer_id", "table")

    def __init__(self, peer_id: PeerId, number: int) -> None:
        # Each in a /16 of its own, all public: the diversity rule of the WAN is not what is simulated.
        place = f"{20 + number % 80}.{number // 80 % 256}.1.1"
        self.peer_id = peer_id
        self.key = key_of_peer(peer_id)
        self.info = KadPeer(peer_id, (Multiaddr.parse(f"/ip4/{place}/tcp/4001"),))
        self.alive = True
        self.table: RoutingTable | None = None
        self.met: dict[PeerId, KadPeer] = {}
        """Clients that were connected: of them it tells who asks for them, and nobody else."""
        self.behaviour: Behaviour | None = None


class Network:
    """Nodes, a clock and dice."""

    def __init__(self, size: int, seed: int, *, dead_share: float = 0.2, filtered: bool = False) -> None:
        """`filtered`: answers go through the WAN's address rules, as a service does it."""
        self.rng = Random(seed)
        self.now = 0.0
        self.filtered = filtered
        self.nodes: dict[PeerId, Node] = {}
        for _ in range(size):
            self._new_node()
        self._in_order = sorted(self.nodes.values(), key=lambda node: node.key)
        self._keys = [node.key for node in self._in_order]
        for node in self.rng.sample(self._in_order, round(size * dead_share)):
            node.alive = False
        self.living = [node for node in self._in_order if node.alive]

    def _new_node(self) -> Node:
        node = Node(PeerId.from_bytes(b"\x12\x20" + self.rng.randbytes(32)), len(self.nodes))
        self.nodes[node.peer_id] = node
        return node

    # --- lookups ----------------------------------------------------------------------------------

    def table(self, node: Node) -> RoutingTable:
        """The node's table, filled when it is needed first."""
        if node.table is None:
            node.table = RoutingTable(node.peer_id, limits=None)
            others, cpl = len(self._in_order) - 1, 0
            while others > 0:
                low, high = self._range(node.key, cpl)
                others, cpl = others - (high - low), cpl + 1
                for index in self.rng.sample(range(low, high), min(K, high - low)):
                    other = self._in_order[index]
                    node.table.add(other.peer_id, other.info.addrs[0], self.now)
        return node.table

    def _range(self, key: KadKey, cpl: int) -> tuple[int, int]:
        """Nodes that share exactly `cpl` bits with `key`."""
        shift = KEY_BITS - cpl - 1
        first = (key >> shift ^ 1) << shift
        return bisect_left(self._keys, first), bisect_left(self._keys, first + (1 << shift))

    def find(self, asker: Node, target: Node, settings: LookupSettings) -> LookupResult:
        """`asker` looks for the addresses of `target`."""
        return self.look_up(asker, Goal.PEER, target.peer_id.to_bytes(), settings)

    def look_up(
        self,
        asker: Node,
        goal: Goal,
        target: bytes,
        settings: LookupSettings,
        seeds: Sequence[PeerId] | None = None,
    ) -> LookupResult:
        """Run one lookup to its end in virtual time."""
        table = self.table(asker)
        if seeds is None:
            seeds = table.closest(key_of(target), suspects=True)
        lookup = Lookup(goal, target, seeds, local=asker.peer_id, now=self.now, settings=settings)
        self.run(lookup, asker)
        return lookup.result(self.now)

    def run(self, lookup: Lookup, asker: Node) -> None:
        """Ask whom `lookup` names and report, until it is done."""
        table = self.table(asker)
        coming: list[tuple[float, PeerId, bool]] = []
        while True:
            for peer_id in lookup.next_requests(self.now):
                self._send(coming, self.nodes.get(peer_id), peer_id)
            if lookup.done:
                return
            deadline = lookup.deadline
            assert deadline is not None and deadline > self.now
            if not coming or coming[0][0] > deadline:
                self.now = deadline
                continue
            self.now, peer_id, answers = heapq.heappop(coming)
            answer = self._answer(self.nodes[peer_id], lookup.target, asker) if answers else None
            if answer is not None:
                table.add(peer_id, self.nodes[peer_id].info.addrs[0], self.now)
                lookup.on_response(peer_id, answer, self.now)
            elif not answers:
                table.failed(peer_id)
                lookup.on_failure(peer_id, self.now)

    def _send(self, coming: list[tuple[float, PeerId, bool]], node: Node | None, peer_id: PeerId) -> None:
        alive = node is not None and node.alive
        if alive or (node is not None and self.rng.random() < 0.5):
            heapq.heappush(coming, (self.now + self.rng.uniform(*ANSWER_S), peer_id, alive))

    def _answer(self, asked: Node, target: bytes, asker: Node) -> list[KadPeer] | None:
        if asked.behaviour is not None:
            answer = asked.behaviour(asked, target, asker)
        else:
            answer = self.honest_answer(asked, target, asker)
        if answer is not None and self.filtered:
            return passing_peers(answer, Scope.WAN, AddressClass.PUBLIC, local=asker.peer_id)
        return answer

    def honest_answer(self, asked: Node, target: bytes, asker: Node) -> list[KadPeer]:
        """The nearest of its table, whether they live or not; it has met the asker now."""
        table = self.table(asked)
        closest = table.closest(key_of(target), exclude=(asker.peer_id,))
        if asker.peer_id in self.nodes:
            table.add(asker.peer_id, asker.info.addrs[0], self.now)
        sought = [asked.met[one] for one in asked.met if one.to_bytes() == target]
        return sought + [self.nodes[peer_id].info for peer_id in closest]

    # --- clients and churn -----------------------------------------------------------------------------

    def new_client(self) -> Node:
        """A living node that is in nobody's table."""
        return Node(PeerId.from_bytes(b"\x12\x20" + self.rng.randbytes(32)), len(self.nodes))

    def announce(self, client: Node, settings: LookupSettings) -> None:
        """The client looks up itself and connects to the nearest, as p2pfwd does every ten minutes."""
        for peer_id in self.look_up(client, Goal.CLOSEST, client.peer_id.to_bytes(), settings).closest:
            self.nodes[peer_id].met[client.peer_id] = client.info

    def churn(self, settings: LookupSettings) -> None:
        """A random node dies, and a new one joins by looking up itself, knowing one living node."""
        gone = self.living.pop(self.rng.randrange(len(self.living)))
        gone.alive = False
        node, bootstrap = self._new_node(), self.rng.choice(self.living)
        node.table = RoutingTable(node.peer_id, limits=None)
        target = node.peer_id.to_bytes()
        self.look_up(node, Goal.CLOSEST, target, settings, seeds=[bootstrap.peer_id])
        self.living.append(node)
