"""A Kubo and a p2pfwd, each behind a router of its own: direct, whoever dials, and whoever relays.

How often, and how soon beside two Kubos: `make foreign`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.peers.fetch import PeerMissing
from tests.interop.punch_rig import RELAYS, Rig
from tests.netns.two_machines import Unavailable

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

Pair = Callable[[str, str, str], None]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """`pair(relay, a, b)`: A dials B, and then each forwards to the other, over what came up.

    A js-libp2p dials from ephemeral ports: the other's router lets in every port of a host it has sent to.
    """

    def tried(relay: str, a_kind: str, b_kind: str) -> None:
        own = "address-restricted" if "js" in (a_kind, b_kind) else "cone"
        nats = {"p2pfwd": own, "kubo": "cone", "js": "cone"}
        try:
            with Rig(tmp_path, relay) as rig:
                b, a = rig.behind(nats[b_kind], b_kind), rig.behind(nats[a_kind], a_kind)
                assert rig.punch(a, b).direct_s is not None
                assert rig.carries(a, b) and rig.carries(b, a)
        except (Unavailable, PeerMissing) as exc:
            pytest.skip(str(exc))

    return tried


@pytest.mark.parametrize("relay", RELAYS)
def test_a_kubo_behind_a_router_is_reached_directly(pair: Pair, relay: str) -> None:
    pair(relay, "p2pfwd", "kubo")


@pytest.mark.parametrize("relay", RELAYS)
def test_a_kubo_behind_a_router_reaches_this_one_directly(pair: Pair, relay: str) -> None:
    pair(relay, "kubo", "p2pfwd")


@pytest.mark.parametrize("relay", ("p2pd", "p2pfwd"))
def test_a_js_behind_a_router_is_reached_directly(pair: Pair, relay: str) -> None:
    pair(relay, "p2pfwd", "js")


@pytest.mark.parametrize("relay", ("p2pd", "p2pfwd"))
def test_a_js_behind_a_router_reaches_this_one_directly(pair: Pair, relay: str) -> None:
    pair(relay, "js", "p2pfwd")
