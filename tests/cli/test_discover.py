"""`swarm discover` as it reads: full lines for programs, a table for people, why somebody was not asked."""

from __future__ import annotations

import json
from collections.abc import Callable

from p2pfwd.errors import NotFound
from p2pfwd.rpc.schema import DiscoverResult, NearPeer
from tests.cli.conftest import Run
from tests.support.fake_daemon import OTHER, PEER, FakeDaemon

NEAR = DiscoverResult(
    (
        NearPeer(
            OTHER,
            (f"/ip4/192.168.1.7/tcp/4001/p2p/{OTHER}", f"/ip6/fd00::7/tcp/4001/p2p/{OTHER}"),
            "mdns",
            "kubo/0.22.0/\x1b[31m",
            True,
            None,
        ),
        NearPeer(PEER, (), "mdns", None, None, f"{OTHER} has its place"),
    )
)


def test_plain_lines(fake: FakeDaemon, run: Run) -> None:
    """A line a peer, its first address in full; what could not be known is a dash, and why on stderr."""
    fake.answers["swarm.discover"] = NEAR
    done = run("swarm", "discover")
    kubo, silent = done.out.splitlines()
    assert kubo == f"{OTHER} /ip4/192.168.1.7/tcp/4001/p2p/{OTHER} yes kubo/0.22.0/\\x1b[31m"
    assert silent.split() == [PEER, "-", "-", "-"] and silent.index("-   -") == kubo.index("yes")
    assert done.err == "12D3…defLcL: 12D3…wvuTHr has its place\n"
    titles, _, _ = run("swarm", "discover", "-v").out.splitlines()
    assert titles.split() == ["Peer", "Address", "Tunnels", "Agent"]


def test_the_time_limit_is_the_daemons(fake: FakeDaemon, run: Run) -> None:
    fake.answers["swarm.discover"] = DiscoverResult(())
    assert run("swarm", "discover", "--timeout", "2.5").out == ""
    assert run("swarm", "discover").status == 0
    assert [params["timeout_s"] for params in fake.called("swarm.discover")] == [2.5, 5.0]


def test_json(fake: FakeDaemon, run: Run) -> None:
    fake.answers["swarm.discover"] = NEAR
    kubo, silent = json.loads(run("swarm", "discover", "--json").out)["Peers"]
    assert kubo["Tunnels"] is True and kubo["Source"] == "mdns" and len(kubo["Addresses"]) == 2
    assert silent["Tunnels"] is None and silent["AgentVersion"] is None and silent["Reason"]


def test_a_table(fake: FakeDaemon, on_terminal: Callable[..., str]) -> None:
    fake.answers["swarm.discover"] = NEAR
    assert on_terminal("swarm", "discover", columns=100) == (
        "PEER         ADDRESS           TUNNELS  AGENT\n"
        "12D3…wvuTHr  192.168.1.7:4001  yes      kubo/0.22.0/\\x1b[31m\n"
        "12D3…defLcL  -                 -        -\n"
        "12D3…defLcL: 12D3…wvuTHr has its place\n"
    )


def test_nobody(fake: FakeDaemon, on_terminal: Callable[..., str]) -> None:
    fake.answers["swarm.discover"] = DiscoverResult(())
    assert on_terminal("swarm", "discover") == "Nobody answered.\n"


def test_off(fake: FakeDaemon, run: Run) -> None:
    """Where it is off in the daemon, that is told with its cure, and as not found."""
    fake.answers["swarm.discover"] = NotFound("it is off", hint="see discovery.mdns")
    done = run("swarm", "discover")
    assert (done.status, done.out) == (4, "") and done.err == "Error: it is off\nhint: see discovery.mdns\n"
