"""Tunnels between two people behind routers: direct where it can be, over the relay where it cannot, and why.

All pairs: `make matrix`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.netns.punch_lab import NAME, PAYLOAD_BYTES, READY_S, World
from tests.netns.two_machines import Unavailable

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]


def world(home: Path, a: str, b: str, *, limited: bool = False) -> World:
    """Or skip."""
    try:
        return World(home, a, b, limited=limited)
    except Unavailable as exc:
        pytest.skip(str(exc))


@pytest.mark.parametrize(
    ("a", "b"),
    [("cone", "cone"), ("firewall", "nat-behind-nat"), ("symmetric", "address-restricted")],
)
def test_a_hole_is_punched(home: Path, a: str, b: str) -> None:
    with world(home, a, b) as it:
        outcome = it.run()
        assert outcome.right and outcome.direct_s is not None and outcome.direct_s < 10.0
        assert outcome.code == "punched"


@pytest.mark.parametrize(("a", "b"), [("sequential", "cone"), ("cone", "sequential")])
def test_a_router_that_counts_its_ports_up_is_punched_by_its_next_port(home: Path, a: str, b: str) -> None:
    with world(home, a, b) as it:
        outcome = it.run()
        assert outcome.right and outcome.direct_s is not None, outcome


def test_two_symmetric_routers_stay_on_the_relay_and_it_is_said_why(home: Path) -> None:
    with world(home, "symmetric", "symmetric") as it:
        outcome = it.run()
        assert outcome.right and (outcome.first_path, outcome.direct_s) == ("relayed", None)
        assert outcome.code == "relayed-symmetric-both"
        (stream,) = it.a.json("ls", "--streams")["Streams"][:1] or [None]
        assert stream is None
        assert "both routers give every connection another port" in it.a.ok("ping", it.b.peer_id)


def test_bulk_over_a_relay_goes_by_legs_through_both_routers(home: Path) -> None:
    with world(home, "symmetric", "symmetric") as it:
        it.until(it.place, READY_S, "B's address")
        where = it.place()
        assert where is not None
        port = it.forward([where])
        with it.at_a.connect(port, 40.0) as sock:
            assert it.echoed(sock, 1000)
            (one,) = it.relay.json("hub", "ls")["Circuits"]
            assert not one["Legs"], "a keystroke is not worth them"
            assert it.echoed(sock, 4_000_000)
            it.until(lambda: it.relay.json("hub", "ls")["Circuits"][0]["Legs"], READY_S, "the legs")
            assert it.echoed(sock, 4_000_000)
            (one,) = it.relay.json("hub", "ls")["Circuits"]
            assert min(one["BytesIn"], one["BytesOut"]) > 8_000_000
            it.relay.ok("peer", "rm", "b")
            with pytest.raises(ConnectionResetError):
                it.echoed(sock, PAYLOAD_BYTES)
        assert not it.relay.json("hub", "ls")["Circuits"]


def test_a_limited_relay_punches_the_hole_and_carries_no_tunnel(home: Path) -> None:
    with world(home, "cone", "cone", limited=True) as it:
        outcome = it.run()
        assert outcome.right and outcome.first_path == "direct" and outcome.code == "punched"


def test_over_a_limited_relay_alone_a_tunnel_is_reset_unless_it_is_allowed(home: Path) -> None:
    with world(home, "symmetric", "symmetric", limited=True) as it:
        it.until(it.place, READY_S, "B's address")
        where = it.place()
        assert where is not None
        port = it.forward([where])
        with pytest.raises(ConnectionResetError), it.at_a.connect(port, 40.0) as sock:
            it.echoed(sock, 100)
        (row,) = it.a.json("ls")["Listeners"]
        assert row["State"] == "no-direct-path" and "both routers" in row["Reason"]
        it.a.ok("close", "-p", NAME)
        port = it.forward([where], "--allow-limited-relay")
        with it.at_a.connect(port, 40.0) as sock:
            assert it.echoed(sock, 1000)
            (stream,) = it.a.json("ls", "--streams")["Streams"]
            assert stream["PathCode"] == "relayed-symmetric-both"
            assert 0 < stream["LimitBytesLeft"] < 1 << 17 and 0 < stream["LimitSecondsLeft"] <= 120
            with pytest.raises(ConnectionResetError):
                it.echoed(sock, PAYLOAD_BYTES)
        it.until(lambda: "the relay carries" in it.a.stderr, READY_S, "the reason in the log")
