"""`python -m tests.bench.kad_simulation`: how lookups fare in simulated networks, as a table.

Random living nodes look for the addresses of servers (random living nodes) or of clients, which are in
nobody's table and known only to the 20 nearest nodes they found when they announced themselves last. A fifth
of all nodes is dead from the start; after every fourth lookup one more dies and a new one joins; clients
announce themselves anew when a fiftieth has changed. Seconds are virtual: they follow from the latencies.
Exit status 1 if less than 99 % of the lookups of a row succeed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from p2pfwd.wire.kad.query_values import LookupSettings
from tests.bench.kad_network import Network
from tests.support.figures import percentile

LOOKUPS_PER_CHURN = 4
CLIENTS = 50
CHURN_PER_ANNOUNCEMENT = 0.02
GOAL = 0.99


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: sorted figures of the lookups that succeeded."""

    nodes: int
    alpha: int
    target: str
    found: float
    hops: Sequence[int]
    messages: Sequence[int]
    seconds: Sequence[float]


def simulate(size: int, alpha: int, target: str, lookups: int, seed: int) -> Row:
    """Make a network and look up in it; `target` is "server" or "client"."""
    network, settings = Network(size, seed), LookupSettings(alpha=alpha)
    clients = [network.new_client() for _ in range(CLIENTS)] if target == "client" else []
    churned = announced = 0
    done = []
    for number in range(lookups):
        if number % LOOKUPS_PER_CHURN == 0:
            network.churn(settings)
            churned += 1
        if clients and (number == 0 or churned - announced > size * CHURN_PER_ANNOUNCEMENT):
            announced = churned
            for client in clients:
                network.announce(client, settings)
        asker, sought = network.rng.sample(network.living, 2)
        if clients:
            sought = network.rng.choice(clients)
        done.append((network.find(asker, sought, settings), sought.info.addrs))
    found = [result for result, addrs in done if result.found == addrs]
    return Row(
        size,
        alpha,
        target,
        len(found) / lookups,
        sorted(result.hops for result in found),
        sorted(result.queried for result in found),
        sorted(result.elapsed_s for result in found),
    )


def line(row: Row, run_s: float) -> str:
    """The row as it is printed."""
    mean = sum(row.hops) / max(1, len(row.hops))
    hops, messages = (f"{percentile(f, 50):g} / {percentile(f, 99):g}" for f in (row.hops, row.messages))
    seconds = f"{percentile(row.seconds, 50):.1f} / {percentile(row.seconds, 99):.1f}"
    return (
        f"{row.nodes:7,} {row.alpha:5} {row.target:>7} {row.found:8.1%} {mean:9.2f} {hops:>7}"
        f" {messages:>9} {seconds:>11} {run_s:7.1f}"
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="kad_simulation", description="Simulated DHT lookups, as a table.")
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--alpha", type=int, nargs="+", default=[3, 10])
    parser.add_argument("--target", nargs="+", choices=["server", "client"], default=["server", "client"])
    parser.add_argument("--lookups", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{options.lookups} lookups per row, 20 % of the nodes dead, churn, seed {options.seed}")
    print("  nodes alpha  target  found %  hops mean p50/p99  messages     seconds   run s")
    good = True
    for target, size, alpha in product(options.target, options.nodes, options.alpha):
        started = time.perf_counter()
        row = simulate(size, alpha, target, options.lookups, options.seed)
        print(line(row, time.perf_counter() - started), flush=True)
        good = good and row.found >= GOAL
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
