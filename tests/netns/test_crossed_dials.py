"""Two nodes that dial each other at the same moment, from listen port to listen port, over a long line.

The kernels make one connection of the two attempts (simultaneous open), of which both ends think they dialed.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.netns.lab import Segment
from tests.netns.two_machines import Unavailable
from tests.support.daemon import Daemon

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

DELAY_S = 0.4
"""One way: longer than two commands take to start."""


@pytest.fixture
def segment() -> Iterator[Segment]:
    try:
        with Segment(2) as made, ExitStack() as stack:
            made.delay(stack, made.machines[0], DELAY_S, 0.0)
            yield made
    except Unavailable as exc:
        pytest.skip(str(exc))


def test_both_get_a_connection(segment: Segment, home: Path) -> None:
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                Daemon(
                    home / machine.address,
                    swarm=(f"/ip4/{machine.address}/tcp/4011",),
                    env={"P2PFWD_DISCOVERY_MDNS": "off"},
                    within=machine.within,
                )
            )
            for machine in segment.machines
        ]
        with ThreadPoolExecutor(2) as threads:
            dials = [
                threads.submit(one.cli, "swarm", "connect", other.address)
                for one, other in ((nodes[0], nodes[1]), (nodes[1], nodes[0]))
            ]
            for dial in dials:
                done = dial.result()
                assert done.returncode == 0, done.stderr
