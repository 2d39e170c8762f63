"""Twenty-four nodes and a bootstrap node on a flat segment find each other by ID, whoever has gone meanwhile.

Each node is a process on a machine of its own with a public address in a /16 of its own, so that the public
DHT's rules hold: address classes, diversity, clients in nobody's table. Every fourth one is a client, which
only those it is connected to know of.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.peers.process import Peer, PeerFailed
from tests.netns.lab import Segment
from tests.netns.two_machines import Machine, Unavailable
from tests.support.figures import percentile

pytestmark = [pytest.mark.netns, pytest.mark.timeout(300)]

NODES = 24
FOUND_SHARE = 0.99
SETTLED_S = 60.0
AT_ONCE = 4
"""Processes that start, or end, at the same time."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A node, and the machine it is on."""

    peer: Peer
    machine: Machine


@dataclass(frozen=True, slots=True)
class Outcome:
    """One look-up that ended in a connection."""

    ms: float
    requests: int


@pytest.fixture
def nodes(home: Path) -> Iterator[list[Placed]]:
    """The bootstrap node and NODES others that have joined through it; all have looked themselves up."""
    with ExitStack() as stack:
        try:
            segment = stack.enter_context(Segment(NODES + 1))
        except Unavailable as exc:
            pytest.skip(str(exc))

        def start(number: int) -> Placed:
            machine = segment.machines[number]
            address = f"11.{number + 1}.0.1"
            machine.run("ip", "address", "add", f"{address}/8", "dev", "eth0")
            command = [sys.executable, "-m", "tests.netns.dht_node", "--listen", f"/ip4/{address}/tcp/4001"]
            if number % 4 == 3:
                command.append("--client")
            directory = home / str(number)
            directory.mkdir()
            return Placed(Peer("p2pfwd", command, directory, machine.within), machine)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            started = list(pool.map(start, range(NODES + 1)))
        stack.callback(close, started)
        for node in started[1:]:
            node.peer("join", addr=started[0].peer.addrs[0])
        await_refreshed(started)
        yield started


def close(nodes: Sequence[Placed]) -> None:
    """End the processes, those that live gracefully: they wait a moment for peers that do not answer."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda node: node.peer.close(), nodes))


def await_refreshed(nodes: Sequence[Placed]) -> None:
    """Wait until every node has looked itself up."""
    deadline = time.monotonic() + SETTLED_S
    for node in nodes:
        while not (state := node.peer("state"))["refreshed"]:
            assert time.monotonic() < deadline, state
            time.sleep(0.05)


def kill(nodes: Sequence[Placed]) -> None:
    """SIGKILL; every second machine also drops off the segment, so that it does not even refuse."""
    for number, node in enumerate(nodes):
        os.kill(node.peer.pid, signal.SIGKILL)
        if number % 2:
            node.machine.run("ip", "link", "set", "eth0", "down")


def look_up_all_pairs(nodes: Sequence[Placed]) -> tuple[list[Outcome], list[str]]:
    """Every node looks up every other one, one after the other; what was found, and each failure."""
    found: list[Outcome] = []
    failures: list[str] = []
    for seeker, sought in itertools.permutations(nodes, 2):
        try:
            answer = seeker.peer("find", peer=str(sought.peer.id))
        except PeerFailed as exc:
            failures.append(str(exc))
            continue
        assert f"{answer['addr']}/p2p/{sought.peer.id}" in sought.peer.addrs
        found.append(Outcome(answer["ms"], answer["requests"]))
    return found, failures


def report(phase: str, found: Sequence[Outcome], failures: Sequence[str]) -> str:
    """One line of figures; a message is a request or its answer, due or not."""
    times = [outcome.ms for outcome in found]
    messages = [2 * outcome.requests for outcome in found]
    return (
        f"{phase:<38} found {len(found)} of {len(found) + len(failures)}"
        f"  ms p50 {percentile(times, 50):.0f} p99 {percentile(times, 99):.0f}"
        f"  messages p50 {percentile(messages, 50):.0f} p99 {percentile(messages, 99):.0f}"
    )


def test_all_pairs_find_each_other_by_id(nodes: list[Placed], capsys: pytest.CaptureFixture[str]) -> None:
    """With everybody there; with a third killed; with the bootstrap node gone too: nobody living is lost."""
    bootstrap, others = nodes[0], nodes[1:]
    dead = others[::3]
    living = [node for node in others if node not in dead]
    assert len(dead) == NODES // 3

    def proves(phase: str, among: Sequence[Placed]) -> None:
        found, failures = look_up_all_pairs(among)
        with capsys.disabled():
            print(f"\n{report(phase, found, failures)}", end="", flush=True)
        assert len(found) >= FOUND_SHARE * (len(found) + len(failures)), failures

    proves("all there", nodes)
    kill(dead)
    proves("a third killed", [bootstrap, *living])
    kill([bootstrap])
    proves("the bootstrap node gone, too", living)
