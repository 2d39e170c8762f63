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
MOVED_S = 60.0
"""For the servers to be found anew first; those that have dialed often enough are asked again after 15 s."""

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
            }
            swarm = (f"/ip4/0.0.0.0/tcp/{PORT}",)
            made = Daemon(home / str(len(known)), swarm=swarm, env=env, within=machine.within)
            stack.enter_context(made)
            known.append(f"/ip4/{machine.address}/tcp/{PORT}/p2p/{made.peer_id}")
            return made

        yield start


def found_out(daemon: Daemon) -> tuple[str, str, str]:
    """(reachability, standing, kind of NAT), once it is known what strangers can do; within `KNOWN_S`."""
    begin = time.monotonic()
    while True:
        found = verdict(daemon)
        if found[1] != "unknown":
            return found
        assert time.monotonic() - begin < KNOWN_S, found
        time.sleep(0.1)


def verdict(daemon: Daemon) -> tuple[str, str, str]:
    """As it is known at this moment."""
    status = daemon.json("status")
    return status["Reachability"], status["Standing"], status["NAT"]


def inside(segment: Segment, kind: str) -> Machine:
    """A machine behind a router of this kind."""
    if kind == "public":
        return segment.add()
    if kind == "nat-behind-nat":
        return Router(Router(segment, "cone"), "cone").host()
    return Router(segment, kind).host()


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("public", ("public", "public", "none")),
        ("full-cone", ("public", "public", "endpoint-independent")),
        ("address-restricted", ("private", "punchable", "endpoint-independent")),
        ("cone", ("private", "punchable", "endpoint-independent")),
        ("symmetric", ("private", "unpunchable", "symmetric")),
        ("sequential", ("private", "unpunchable", "sequential")),
        ("firewall", ("private", "punchable", "none")),
        ("nat-behind-nat", ("private", "punchable", "endpoint-independent")),
    ],
)
def test_the_right_verdict_in_seconds(
    segment: Segment, daemon: Place, kind: str, found: tuple[str, str, str]
) -> None:
    for machine in tuple(segment.machines):
        daemon(machine)
    node = daemon(inside(segment, kind))
    assert found_out(node) == found


@pytest.mark.timeout(300)
def test_the_verdict_follows_a_machine_that_moves(segment: Segment, daemon: Place) -> None:
    """From one router to the next, as a laptop does; what was known of the last one is of no use."""
    for machine in tuple(segment.machines):
        daemon(machine)
    routers = {kind: Router(segment, kind) for kind in ("cone", "full-cone", "symmetric")}
    machine = routers["cone"].host()
    node = daemon(machine)
    assert found_out(node) == ("private", "punchable", "endpoint-independent")
    for kind, found in (
        ("full-cone", ("public", "public", "endpoint-independent")),
        ("symmetric", ("private", "unpunchable", "symmetric")),
        ("cone", ("private", "punchable", "endpoint-independent")),
        ("full-cone", ("public", "public", "endpoint-independent")),  # the servers have had enough by now
    ):
        routers[kind].plug(machine)
        begin = time.monotonic()
        while (told := verdict(node)) != found:
            assert time.monotonic() - begin < MOVED_S, (kind, told)
            time.sleep(0.2)


def test_a_forwarded_port_is_public_though_the_router_lets_in_nobody_else(
    segment: Segment, daemon: Place
) -> None:
    """Both servers were dialed from the listening port: it takes a side door to tell this from filtering."""
    for machine in tuple(segment.machines):
        daemon(machine)
    router = Router(segment, "cone")
    machine = router.host()
    router.forward(PORT, machine)
    node = daemon(machine)
    assert found_out(node)[:2] == ("public", "public")
    (proved,) = [own for own in node.json("status")["Announced"] if own["Kind"] == "proved"]
    assert proved["Address"] == f"/ip4/{router.machine.address}/tcp/{PORT}" and proved["SinceS"] >= 0
