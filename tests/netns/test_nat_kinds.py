"""What a node finds out of itself behind every kind of router, within seconds, from two p2pfwd servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.netns.lab import Segment
from tests.netns.nat import Router
from tests.netns.two_machines import Machine, Unavailable
from tests.support.daemon import Daemon

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

KNOWN_S = 6.0
PORT = 4011

Place = Callable[[Machine], Daemon]


@pytest.fixture
def segment() -> Iterator[Segment]:
    try:
        with Segment(2, "11.78") as made:
            yield made
    except Unavailable as exc:
        pytest.skip(str(exc))


@pytest.fixture
def daemon(home: Path, segment: Segment) -> Iterator[Place]:
    """`daemon(machine)`: one in the network `public`; it knows of those made before as bootstrap peers."""
    with ExitStack() as stack:
        known: list[str] = []

        def start(machine: Machine) -> Daemon:
            env = {
                "P2PFWD_NETWORK": "public",
                "P2PFWD_DISCOVERY_MDNS": "off",
                "P2PFWD_BOOTSTRAP_PEERS": ",".join(known),
                "P2PFWD_LOG": "autonat=debug",
            }
            swarm = (f"/ip4/0.0.0.0/tcp/{PORT}",)
            made = Daemon(home / str(len(known)), swarm=swarm, env=env, within=machine.within)
            stack.enter_context(made)
            known.append(f"/ip4/{machine.address}/tcp/{PORT}/p2p/{made.peer_id}")
            return made

        yield start


def found_out(daemon: Daemon, since: float) -> tuple[str, str, float]:
    """(standing, kind of NAT, after how many seconds)."""
    while True:
        status = daemon.json("status")
        after_s = time.monotonic() - since
        if status["Reachability"] != "unknown" or after_s > 20:
            return status["Reachability"], "", after_s
        time.sleep(0.1)


def inside(segment: Segment, kind: str) -> Machine:
    """A machine behind a router of this kind."""
    if kind == "public":
        return segment.add()
    if kind == "nat-behind-nat":
        return Router(Router(segment, "cone"), "cone").host()
    return Router(segment, kind).host()


@pytest.mark.parametrize(
    ("kind", "reachability"),
    [
        ("public", "public"),
        ("full-cone", "public"),
        ("address-restricted", "private"),
        ("cone", "private"),
        ("symmetric", "private"),
        ("sequential", "private"),
        ("firewall", "private"),
        ("nat-behind-nat", "private"),
    ],
)
def test_the_right_verdict_in_seconds(
    segment: Segment, daemon: Place, kind: str, reachability: str
) -> None:
    left, right = segment.machines
    daemon(left)
    daemon(right)
    machine = inside(segment, kind)
    begin = time.monotonic()
    node = daemon(machine)
    said, _, after_s = found_out(node, begin)
    print(kind, said, after_s)
    assert said == reachability
    assert after_s < KNOWN_S
