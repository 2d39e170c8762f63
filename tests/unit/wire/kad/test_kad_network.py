"""Lookups in simulated networks: they succeed in few hops, though many nodes are dead, and some hostile.

Larger networks, and the table: `python -m tests.bench.kad_simulation`.
"""

from collections.abc import Callable
from math import log2

import pytest

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire.kad.buckets import RoutingTable
from p2pfwd.wire.kad.keys import SEED_BYTES, TargetSearch, key_of
from p2pfwd.wire.kad.messages import KadPeer
from p2pfwd.wire.kad.query import Lookup
from p2pfwd.wire.kad.query_values import MAX_HEARD, Ending, Goal, LookupResult, LookupSettings
from tests.bench.kad_network import Behaviour, Network, Node
from tests.bench.kad_simulation import simulate

PRIVATE = Multiaddr.parse("/ip4/10.0.0.1/tcp/22")
LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/22")


@pytest.mark.parametrize("alpha", [3, 10])
@pytest.mark.parametrize("target", ["server", "client"])
def test_a_thousand_nodes_with_churn_and_a_fifth_dead(alpha: int, target: str) -> None:
    row = simulate(1000, alpha, target, lookups=100, seed=7)
    assert row.found >= 0.99
    assert sum(row.hops) / len(row.hops) <= log2(1000) / 4
    assert row.hops[-1] <= log2(1000) / 2
    assert row.messages[len(row.messages) // 2] <= 20


def test_the_closest_peers_are_the_closest_there_are() -> None:
    network = Network(1000, seed=3)
    right = total = 0
    for _ in range(20):
        target, asker = network.rng.randbytes(34), network.rng.choice(network.living)
        result = network.look_up(asker, Goal.CLOSEST, target, LookupSettings())
        others = [node for node in network.living if node is not asker]
        nearest = sorted(others, key=lambda node: node.key ^ key_of(target))[:20]
        right += len({node.peer_id for node in nearest} & set(result.closest))
        total += 20
        assert result.ending is Ending.CONVERGED
        # Whoever never answers costs his timeout once, not once more in each round.
        assert result.elapsed_s < 2.5 * LookupSettings().request_timeout_s
    assert right / total >= 0.95


def test_a_node_that_knows_one_other_joins_and_is_found_by_all() -> None:
    network, settings = Network(200, seed=5, dead_share=0.0), LookupSettings()
    network.churn(settings)
    newcomer = network.living[-1]
    for asker in network.rng.sample(network.living[:-1], 20):
        assert network.find(asker, newcomer, settings).found == newcomer.info.addrs


# --- hostile --------------------------------------------------------------------------------------


def fake_peers(network: Network) -> Behaviour:
    """20 invented peers per answer, new ones each time."""

    def answer(asked: Node, target: bytes, asker: Node) -> list[KadPeer]:
        return [invented(network.rng.randbytes(32)) for _ in range(20)]

    return answer


def fake_peers_nearby(network: Network) -> Behaviour:
    """20 invented peers per answer, nearer to the target than anybody can be by chance."""
    pools: dict[tuple[PeerId, bytes], list[KadPeer]] = {}

    def answer(asked: Node, target: bytes, asker: Node) -> list[KadPeer]:
        if (asked.peer_id, target) not in pools:
            search = TargetSearch(key_of(target), 9, network.rng.randbytes(SEED_BYTES))
            made = (search.step(1 << 16) for _ in range(20))
            pools[asked.peer_id, target] = [invented(found[2:]) for found in made if found is not None]
        return pools[asked.peer_id, target]

    return answer


def invented(digest: bytes) -> KadPeer:
    place = f"/ip4/{20 + digest[0] % 80}.{digest[1]}.1.1/tcp/4001"
    return KadPeer(PeerId.from_bytes(b"\x12\x20" + digest), (Multiaddr.parse(place),))


def itself_always(network: Network) -> Behaviour:
    return lambda asked, target, asker: [asked.info] * 20


def private_addresses(network: Network) -> Behaviour:
    """The target, and everybody, at home: a way to have strangers knock on doors of one's own network."""

    def answer(asked: Node, target: bytes, asker: Node) -> list[KadPeer]:
        wanted = KadPeer(PeerId.from_bytes(target), (PRIVATE, LOOPBACK))
        closest = network.honest_answer(asked, target, asker)
        return [wanted, *(KadPeer(one.peer_id, (LOOPBACK, PRIVATE)) for one in closest)]

    return answer


def never(network: Network) -> Behaviour:
    return lambda asked, target, asker: None


def everybody_it_can(network: Network) -> Behaviour:
    """As many peers as fit, to fill the memory."""
    return lambda asked, target, asker: [invented(network.rng.randbytes(32)) for _ in range(60)]


def wrong_addresses(network: Network) -> Behaviour:
    """The target, at public addresses where it is not."""

    def answer(asked: Node, target: bytes, asker: Node) -> list[KadPeer]:
        addrs = invented(network.rng.randbytes(32)).addrs
        return [KadPeer(PeerId.from_bytes(target), addrs), *network.honest_answer(asked, target, asker)]

    return answer


def find(network: Network, asker: Node, target: Node, settings: LookupSettings) -> LookupResult:
    """As a service does it: what is found is dialled, and rejected if nobody is there."""
    seeds = network.table(asker).closest(target.key, suspects=True)
    lookup = Lookup(
        Goal.PEER, target.peer_id.to_bytes(), seeds, local=asker.peer_id, now=network.now, settings=settings
    )
    while True:
        network.run(lookup, asker)
        result = lookup.result(network.now)
        for peer_id in [one for one in network.nodes if lookup.addrs(one)]:
            assert {address_class(addr) for addr in lookup.addrs(peer_id)} == {AddressClass.PUBLIC}
        wrong = [addr for addr in result.found if addr not in target.info.addrs]
        if not wrong:
            return result
        network.now += 0.5
        lookup.reject_found(wrong, network.now)


@pytest.mark.parametrize(
    "hostile",
    [
        fake_peers,
        fake_peers_nearby,
        itself_always,
        private_addresses,
        never,
        everybody_it_can,
        wrong_addresses,
    ],
)
def test_a_fifth_of_all_nodes_is_hostile_and_the_honest_are_found(
    hostile: Callable[[Network], Behaviour],
) -> None:
    """Newcomers, who know two honest nodes and a hostile one, look for clients, whom few know."""
    network, settings = Network(500, seed=11, dead_share=0.1, filtered=True), LookupSettings()
    clients = [network.new_client() for _ in range(5)]
    for client in clients:
        network.announce(client, settings)
    bad = network.rng.sample(network.living, 100)
    behaviour = hostile(network)
    for node in bad:
        node.behaviour = behaviour
    honest = [node for node in network.living if node.behaviour is None]
    found, lookups = 0, 40
    for _ in range(lookups):
        asker, target = network.new_client(), network.rng.choice(clients)
        asker.table = RoutingTable(asker.peer_id, limits=None)
        for node in (*network.rng.sample(honest, 2), network.rng.choice(bad)):
            asker.table.add(node.peer_id, node.info.addrs[0], network.now)
        result = find(network, asker, target, settings)
        found += result.found == target.info.addrs
        assert result.heard <= MAX_HEARD
        assert result.queried <= settings.max_queries
        assert result.elapsed_s <= settings.total_timeout_s
    assert found / lookups >= 0.95
