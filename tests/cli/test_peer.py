"""`peer add`, `peer rm`, `peer ls`: word for word from a fake daemon, and the whole way through real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from p2pfwd.rpc.schema import LsResult, NamedPeer, PeerAddResult, PeerLsResult, PeerRmResult, PeersResult
from tests.cli.conftest import Run
from tests.support.daemon import Daemon
from tests.support.fake_daemon import OTHER, PEER, FakeDaemon, until

NAS = NamedPeer(
    name="nas",
    peer=OTHER,
    addresses=("/ip4/192.0.2.7/tcp/4011", "/dnsaddr/example.org"),
    kept="static",
    state="connected",
    remote_address="/ip4/192.0.2.7/tcp/4011",
    last_outcome="connected",
    last_try_s=3700.0,
    next_try_s=None,
)
OFFICE = replace(
    NAS,
    name="office",
    peer=PEER,
    addresses=("/ip4/192.0.2.9/tcp/4011",),
    state="waiting",
    remote_address=None,
    last_outcome=f"cannot reach {PEER}: /ip4/192.0.2.9/tcp/4011: Connection refused",
    last_try_s=12.0,
    next_try_s=18.9,
    failures=3,
)
PHONE = replace(
    OFFICE,
    name="phone",
    addresses=(),
    kept=None,
    state="not-connected",
    last_outcome=None,
    last_try_s=None,
    next_try_s=None,
)
NAMELESS = replace(OFFICE, name="", kept="bootstrap", state="dialing", next_try_s=None, last_outcome=None)


@pytest.fixture
def filled(fake: FakeDaemon) -> FakeDaemon:
    """A fake daemon with a peer of every kind."""
    fake.answers |= {
        "peer.ls": lambda params: PeerLsResult(
            (NAS, OFFICE, PHONE) + ((NAMELESS,) if params.get("all") else ())
        ),
        "swarm.peers": PeersResult(()),
        "p2p.ls": LsResult(()),
    }
    return fake


def test_ls_to_a_program_is_one_plain_line_each(filled: FakeDaemon, run: Run) -> None:
    lines = [line.split() for line in run("peer", "ls", "-v").out.splitlines()]
    assert lines == [
        ["Name", "Peer", "Kept", "State"],
        ["nas", OTHER, "static", "connected"],
        ["office", PEER, "static", "waiting"],
        ["phone", PEER, "-", "not-connected"],
    ]
    assert run("peer", "ls", "-a").out.splitlines()[3].split() == ["-", PEER, "bootstrap", "dialing"]


def test_ls_on_a_terminal_tells_outcomes_and_next_tries(
    filled: FakeDaemon, on_terminal: Callable[..., str]
) -> None:
    assert on_terminal("peer", "ls", "-a") == (
        "NAME    PEER         ADDRESS         KEPT       STATE          TRIED  NEXT\n"
        "nas     12D3…wvuTHr  192.0.2.7:4011  static     connected      1h01m     -\n"
        "office  12D3…defLcL  192.0.2.9:4011  static     waiting          12s   18s\n"
        "phone   12D3…defLcL  -               -          not connected      -     -\n"
        "-       12D3…defLcL  192.0.2.9:4011  bootstrap  dialing          12s     -\n"
        "office: cannot reach 12D3…defLcL: /ip4/192.0.2.9/tcp/4011: Connection refused\n"
    )


def test_ls_of_nothing(fake: FakeDaemon, run: Run, on_terminal: Callable[..., str]) -> None:
    fake.answers["peer.ls"] = PeerLsResult(())
    assert run("peer", "ls").out == ""
    assert json.loads(run("peer", "ls", "--json").out) == {"Peers": []}
    assert on_terminal("peer", "ls") == "No named peers.\n"


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (PeerAddResult(NAS, False), f"Added nas: {OTHER}, 2 addresses, kept connected.\n"),
        (PeerAddResult(replace(OFFICE, kept=None), True), f"Renewed office: {PEER}, 1 address.\n"),
        (PeerAddResult(PHONE, False), f"Added phone: {PEER}, no address.\n"),
    ],
)
def test_add_says_what_it_did(fake: FakeDaemon, run: Run, result: PeerAddResult, said: str) -> None:
    fake.answers["peer.add"] = result
    done = run("peer", "add", "x", OTHER, f"/ip4/192.0.2.7/tcp/4011/p2p/{OTHER}", "--keep")
    assert (done.status, done.out, done.err) == (0, said, "")
    (asked,) = fake.called("peer.add")
    assert asked == {"name": "x", "peers": [OTHER, f"/ip4/192.0.2.7/tcp/4011/p2p/{OTHER}"], "keep": True}


def test_rm_says_what_it_did(fake: FakeDaemon, run: Run) -> None:
    fake.answers["peer.rm"] = PeerRmResult(NAS)
    assert run("peer", "rm", "nas").out == f"Removed nas: {OTHER}.\n"
    assert json.loads(run("peer", "rm", "nas", "--json").out)["Peer"]["Name"] == "nas"
    fake.answers["peer.rm"] = PeerRmResult(NAMELESS)
    assert (run("peer", "rm", PEER).out, run("peer", "rm", PEER).err) == (f"Removed {PEER}.\n", "")
    fake.answers["peer.rm"] = PeerRmResult(NAS, still_own=True)
    done = run("peer", "rm", "nas")
    assert (done.status, done.out) == (0, f"Removed nas: {OTHER}.\n")
    assert done.err.startswith("Warning: 12D3…wvuTHr is one of your peers all the same\nhint: it is kept")


def test_peer_commands_start_no_daemon(run: Run) -> None:
    result = run("peer", "ls")
    assert (result.status, result.out) == (3, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("peer", ""), {"add", "rm", "ls"}),
        (("peer", "rm", ""), {"nas", "office", "phone"}),
        (("peer", "add", ""), set()),
        (("ping", "n"), {"nas"}),
        (("forward", "/x/a", "2222", "o"), {"office"}),
        (("swarm", "connect", "p"), {"phone"}),
        (("swarm", "disconnect", "nas"), {"nas"}),
    ],
)
def test_names_are_completed(
    filled: FakeDaemon, run: Run, words: tuple[str, ...], expected: set[str]
) -> None:
    result = run("__complete", *words)
    assert {line.partition("\t")[0] for line in result.out.splitlines()} == expected


def test_the_whole_way_with_real_daemons(home: Path) -> None:
    with Daemon(home / "far") as far:
        with Daemon(home / "near") as near:
            port = far.address.split("/")[4]
            added = near.ok("peer", "add", "NAS", far.address, "--keep")
            assert added == f"Added nas: {far.peer_id}, 1 address, kept connected.\n"
            assert until(lambda: near.json("peer", "ls")["Peers"][0]["State"] == "connected")
            assert far.peer_id in near.ok("swarm", "peers")
            assert near.ok("ping", "-n", "1", "nas").endswith(f"(direct, /ip4/127.0.0.1/tcp/{port})\n")
            forward = near.json("forward", "/x/web", "0", "nas", "--no-check")
            assert forward["Peer"] == far.peer_id
            assert near.ok("close", "-t", "nas") == "Closed 1 forward.\n"
            for arguments, status, said in (
                (("peer", "add", "nas", near.address), 2, "the peer is this node itself"),
                (("peer", "add", "other", far.address), 1, f"{far.peer_id} has a name already: nas"),
                (("peer", "add", "no/name", far.address), 2, '"no/name" cannot be the name of a peer'),
                (("ping", "nobody"), 2, '"nobody" is no peer ID, and no peer has that name'),
                (("peer", "rm", "nobody"), 4, 'no peer is named "nobody"'),
            ):
                done = near.cli(*arguments)
                assert (done.returncode, done.stdout) == (status, "")
                assert done.stderr.startswith(f"Error: {said}\nhint: ")
        with Daemon(home / "near") as near:  # after a restart it is dialed by itself
            assert until(lambda: near.json("peer", "ls")["Peers"][0]["State"] == "connected")
            assert near.ok("peer", "rm", "nas") == f"Removed nas: {far.peer_id}.\n"
            assert near.ok("peer", "ls") == ""
            assert far.peer_id in near.ok("swarm", "peers")


def test_an_address_of_this_machine_is_not_completed_with_names_of_peers(fake: FakeDaemon, run: Run) -> None:
    named = NamedPeer("nas", OTHER, (), None, "not-connected", None, None, None, None)
    fake.answers["peer.ls"] = PeerLsResult((named,))
    assert "nas\t" in run("__complete", "swarm", "connect", "").out
    assert run("__complete", "hub", "--address", "").out == ""
