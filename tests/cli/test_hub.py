"""`hub`, `network join`, `relay token`: what they print and write, and a network of three real daemons."""

from __future__ import annotations

import json
import socket
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from p2pfwd.cli.env import Env
from p2pfwd.daemon.bootstrap_report import FOR_A_HUB
from p2pfwd.errors import TimedOut
from p2pfwd.rpc.schema import (
    AddrsResult,
    Relay,
    RelayCircuit,
    RelayLsResult,
    RelayPeer,
    RelayPlace,
    RelayToken,
    RelayTokenLsResult,
    RelayTokenNewResult,
    RelayTokenRevokeResult,
    StatusResult,
)
from tests.cli.conftest import Run
from tests.support.daemon import Daemon, run_cli
from tests.support.fake_daemon import OTHER, PEER, FakeDaemon
from tests.support.sockets import TcpServer, echo, free_port

ONE_ID = "12D3KooWR4KPFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg"
TWO_ID = "12D3KooWS8JciKc2RoVbTPHeDG2puS8DXRrK2gLAja91JmN3s51E"
HUB = f"/ip4/8.8.4.4/tcp/4011/p2p/{ONE_ID}"
OTHER_HUB = f"/ip4/8.8.8.8/tcp/4011/p2p/{TWO_ID}"
TOKEN = "abcdefghijklmnopqrstuvwxyz"
KEY = "0123456789abcdef" * 4

LS = RelayLsResult(
    serves="peers",
    reason=None,
    places=(
        RelayPlace(
            peer=OTHER,
            name="nas",
            own=True,
            remote_address="/ip4/192.0.2.7/tcp/4011",
            age_s=3700.0,
            left_s=1800.0,
        ),
    ),
    circuits=(
        RelayCircuit(dialer=PEER, target=OTHER, bytes_in=5000, bytes_out=100, age_s=12.0, limited=True),
    ),
    circuits_ever=3,
    bytes=70_000,
)


@pytest.fixture
def public(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network in the environment, which `run` sets: what config.toml says holds."""
    monkeypatch.delenv("P2PFWD_NETWORK")


def written(home: Path) -> dict[str, object]:
    """The settings that are in the file."""
    return tomllib.loads((home / "config.toml").read_text())


# --- hub --------------------------------------------------------------------------------------------


def test_hub_ls_on_a_terminal(fake: FakeDaemon, on_terminal: Callable[..., str]) -> None:
    fake.answers["relay.ls"] = LS
    assert on_terminal("hub", "ls") == (
        "PEER         NAME  LIMITS  ADDRESS           AGE    LEFT\n"
        "12D3…wvuTHr  nas   none    192.0.2.7:4011  1h01m  30m00s\n"
        "\n"
        "FROM         TO           LIMITS      IN   OUT  AGE\n"
        "12D3…defLcL  12D3…wvuTHr  limited  5.0kB  100B  12s\n"
        "Relaying for own peers: 1 place, 3 circuits so far, 70kB.\n"
    )


def test_hub_ls_shows_members_that_need_no_place(
    fake: FakeDaemon, run: Run, on_terminal: Callable[..., str]
) -> None:
    others = (RelayPeer(OTHER, "nas", "/ip4/192.0.2.7/tcp/4011", 12.0),)
    fake.answers["relay.ls"] = replace(LS, places=(), circuits=(), others=others)
    assert on_terminal("hub", "ls") == (
        "PEER         NAME  PLACE  ADDRESS         AGE\n"
        "12D3…wvuTHr  nas   none   192.0.2.7:4011  12s\n"
        "Relaying for own peers: 0 places, 3 circuits so far, 70kB.\n"
        "Connected without a place, as others can dial them: 1 peer.\n"
    )
    assert run("hub", "ls").out.split() == ["peer", OTHER, "nas", "-", "/ip4/192.0.2.7/tcp/4011"]


def test_hub_ls_tells_whom_it_has_refused_apart_from_those_that_need_no_place(
    fake: FakeDaemon, run: Run, on_terminal: Callable[..., str]
) -> None:
    others = (RelayPeer(OTHER, None, "/ip4/192.0.2.7/tcp/4011", 12.0, refused=True),)
    fake.answers["relay.ls"] = replace(LS, places=(), circuits=(), others=others)
    said = on_terminal("hub", "ls")
    assert "12D3…wvuTHr  -     refused  192.0.2.7:4011  12s\n" in said and "can dial them" not in said
    assert said.endswith(
        "Asked for a place, and got none: 1 peer. p2pfwd peer add lets one in, as a token does.\n"
    )
    assert run("hub", "ls").out.split() == ["peer", OTHER, "-", "refused", "/ip4/192.0.2.7/tcp/4011"]
    fake.answers["relay.ls"] = replace(LS, serves="anyone", places=(), circuits=(), others=others)
    assert "no room for more strangers" in on_terminal("hub", "ls")


def test_hub_ls_of_circuits_alone_begins_with_their_table(
    fake: FakeDaemon, on_terminal: Callable[..., str]
) -> None:
    fake.answers["relay.ls"] = replace(LS, places=())
    assert on_terminal("hub", "ls").startswith("FROM ")


def test_hub_ls_to_a_program_and_as_json(fake: FakeDaemon, run: Run) -> None:
    fake.answers["relay.ls"] = LS
    assert [line.split() for line in run("hub", "ls").out.splitlines()] == [
        ["place", OTHER, "nas", "none", "/ip4/192.0.2.7/tcp/4011"],
        ["circuit", PEER, OTHER, "limited", "5000/100"],
    ]
    assert json.loads(run("hub", "ls", "--json").out)["CircuitsEver"] == 3


def test_a_second_run_prints_the_line_and_writes_nothing(
    fake: FakeDaemon, run: Run, home: Path, public: None
) -> None:
    (home / "config.toml").write_text('dht.mode = "server"\nbootstrap.peers = []\n')
    fake.answers |= {
        "swarm.addrs": AddrsResult(ONE_ID, ("/ip4/8.8.4.4/tcp/4011",), ()),
        "relay.ls": LS,
        "relay.token.new": RelayTokenNewResult("invitation-1", TOKEN),
    }
    done = run("hub")
    assert done.status == 0
    assert done.out == (
        "This machine is a hub: relay, bootstrap peer and DHT server for whoever joins.\n"
        "On each other machine, run:\n"
        f"  p2pfwd network join '{HUB}#{TOKEN}'\n"
    )
    assert "Warning" not in done.err
    document = json.loads(run("hub", "--json", "--address", "/ip4/203.0.113.9/tcp/1").out)
    assert document["Line"] == f"/ip4/203.0.113.9/tcp/1/p2p/{ONE_ID}#{TOKEN}"
    assert document["Wrote"] == {}


def test_a_running_daemon_has_to_be_started_anew(
    fake: FakeDaemon, run: Run, home: Path, public: None
) -> None:
    done = run("hub")
    assert done.status != 0 and "p2pfwd shutdown, then p2pfwd hub again" in done.err
    assert written(home) == {"dht": {"mode": "server"}, "bootstrap": {"peers": []}}


def test_a_lan_needs_no_hub(run: Run, home: Path, public: None) -> None:
    (home / "config.toml").write_text('network = "lan"\n')
    for words in (("hub",), ("hub", "--private")):
        done = run(*words)
        assert done.status != 0 and "--home DIR" in done.err
    assert written(home) == {"network": "lan"}


@pytest.mark.parametrize("words", [("hub",), ("hub", "--private"), ("network", "join", f"{HUB}#{TOKEN}")])
def test_a_daemon_that_does_not_answer_is_told_before_anything_is_written(
    run: Run, home: Path, public: None, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    def silent(_env: Env, **_options: float) -> None:
        raise TimedOut("control socket: the daemon did not answer in time")

    monkeypatch.setattr(Env, "connect", silent)
    done = run(*words)
    assert (done.status, done.out) == (6, "")
    assert not (home / "config.toml").exists() and not (home / "swarm.key").exists()


# --- join -------------------------------------------------------------------------------------------


def test_join_writes_relay_and_bootstrap_peer_and_says_so(run: Run, home: Path, public: None) -> None:
    (home / "config.toml").write_text("# mine\n")
    done = run("network", "join", f"{HUB}#{TOKEN}")
    assert done.status == 0 and TOKEN not in done.out
    assert f'reach.relays = ["{HUB}#…"]' in done.out
    assert (home / "config.toml").read_text().startswith("# mine\n")
    assert written(home) == {
        "reach": {"relays": [f"{HUB}#{TOKEN}"]},
        "bootstrap": {"peers": ["auto", HUB]},
    }
    again = run("network", "join", f"{HUB}#{TOKEN}")
    assert again.out.endswith("has all of it already.\n")
    assert run("network", "join", OTHER_HUB).status == 0
    assert written(home) == {
        "reach": {"relays": [f"{HUB}#{TOKEN}", OTHER_HUB]},
        "bootstrap": {"peers": ["auto", HUB, OTHER_HUB]},
    }
    shown = json.loads(run("config", "show", "--json").out)["Settings"]
    assert {it["Key"]: it["Origin"] for it in shown}["reach.relays"] == "config.toml"


def test_join_of_a_private_network_writes_its_key(run: Run, home: Path, public: None) -> None:
    document = json.loads(run("network", "join", f"{HUB}?{KEY}", "--json").out)
    assert document["Private"] is True and KEY not in json.dumps(document)
    assert written(home) == {
        "network": "private",
        "reach": {"relays": [HUB]},
        "bootstrap": {"peers": [HUB]},
    }
    assert KEY in (home / "swarm.key").read_text()
    assert run("network", "join", f"{OTHER_HUB}?{KEY}").status == 0
    other = run("network", "join", f"{OTHER_HUB}?{KEY[::-1]}")
    assert other.status != 0 and "another network" in other.err
    without = run("network", "join", OTHER_HUB)
    assert without.status != 0 and "network is private" in without.err


def test_a_running_daemon_takes_a_hub_by_reload_and_a_network_by_a_restart(
    fake: FakeDaemon, run: Run, home: Path, public: None
) -> None:
    joined = run("network", "join", HUB)
    assert joined.status == 0 and joined.err.endswith("settings from before: p2pfwd reload.\n")
    document = json.loads(run("network", "join", OTHER_HUB, "--json").out)
    assert (document["Reload"], document["Restart"]) == (True, False)
    (home / "config.toml").unlink()
    private = run("network", "join", f"{HUB}?{KEY}")
    assert "p2pfwd shutdown, then start it again" in private.err


def test_join_is_refused_where_the_environment_goes_before(
    run: Run, home: Path, public: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PFWD_REACH_RELAYS", OTHER_HUB)
    done = run("network", "join", HUB)
    assert done.status != 0 and "P2PFWD_REACH_RELAYS" in done.err
    assert not (home / "config.toml").exists()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("/ip4/8.8.4.4/udp/4011/quic-v1", "it is for QUIC"),
        ("/ip4/8.8.4.4/tcp/4011/ws", "it is for WebSocket"),
        ("/ip4/8.8.4.4/tcp/0", "0 is no port to dial"),
        ("/ip4/0.0.0.0/tcp/4011", "stands for every address"),
        (f"/ip4/8.8.4.4/tcp/4011/p2p/{TWO_ID}/p2p-circuit", "reached directly"),
        ("", "it is no host and TCP port"),
    ],
)
def test_a_hub_that_cannot_be_dialed_is_neither_joined_nor_made(
    fake: FakeDaemon, run: Run, home: Path, public: None, address: str, why: str
) -> None:
    joined = run("network", "join", f"{address}/p2p/{ONE_ID}#{TOKEN}")
    assert joined.status == 2 and why in joined.err and "p2pfwd hub --address" in joined.err
    made = run("hub", "--address", address or f"/p2p/{ONE_ID}")
    assert made.status == 2 and why in made.err and "as /ip4/203.0.113.5/tcp/4011" in made.err
    assert not (home / "config.toml").exists() and not fake.called("relay.token.new")


def test_the_address_of_another_peer_is_refused_before_an_invitation_is_made(
    fake: FakeDaemon, run: Run, home: Path, public: None
) -> None:
    (home / "config.toml").write_text('dht.mode = "server"\nbootstrap.peers = []\n')
    fake.answers |= {"swarm.addrs": AddrsResult(ONE_ID, ("/ip4/8.8.4.4/tcp/4011",), ()), "relay.ls": LS}
    done = run("hub", "--address", OTHER_HUB)
    assert done.status == 2 and "the address of another peer" in done.err and ONE_ID in done.err
    assert not fake.called("relay.token.new")
    fake.answers["relay.token.new"] = RelayTokenNewResult("invitation-1", TOKEN)
    assert run("hub", "--address", HUB).status == 0


def test_the_line_of_this_node_itself_is_not_joined(run: Run, home: Path, public: None) -> None:
    from p2pfwd.core.keys import PrivateKey
    from p2pfwd.core.peer_id import PeerId
    from p2pfwd.state import identity_file

    key = PrivateKey.generate()
    identity_file.save(home / "identity.key", key)
    own = PeerId.from_public_key(key.public_key)
    done = run("network", "join", f"/ip4/8.8.4.4/tcp/4011/p2p/{own}#{TOKEN}")
    assert done.status == 2 and "this node itself" in done.err and "on the other machines" in done.err
    assert not (home / "config.toml").exists()
    assert run("network", "join", HUB).status == 0


# --- tokens -----------------------------------------------------------------------------------------


def test_token_commands_say_what_they_did(
    fake: FakeDaemon, run: Run, on_terminal: Callable[..., str]
) -> None:
    token = RelayToken("nas", False, 0.0, (OTHER,))
    fake.answers |= {
        "relay.token.new": RelayTokenNewResult("nas", TOKEN),
        "relay.token.ls": RelayTokenLsResult((token,)),
        "relay.token.revoke": RelayTokenRevokeResult(token, 2),
    }
    assert run("relay", "token", "new", "nas").out == f"{TOKEN}\n"
    assert fake.called("relay.token.new") == [{"name": "nas", "many": False}]
    assert run("relay", "token", "ls").out.split() == ["nas", "one", OTHER]
    assert "12D3…wvuTHr" in on_terminal("relay", "token", "ls")
    revoked = run("relay", "token", "revoke", "nas")
    assert (revoked.out, revoked.err) == ("Revoked nas: 1 peer, 2 circuits reset.\n", "")
    fake.answers["relay.token.revoke"] = RelayTokenRevokeResult(token, 2, (OTHER,))
    revoked = run("relay", "token", "revoke", "nas")
    assert revoked.status == 0 and "12D3…wvuTHr may use this relay all the same" in revoked.err
    assert "p2pfwd peer rm" in revoked.err and "p2pfwd block" in revoked.err


# --- relays of the settings -------------------------------------------------------------------------


def test_status_has_a_line_for_each_named_relay_that_gives_no_place(home: Path) -> None:
    """Away, nobody's name, this node itself: why, and never a token."""
    away = f"/ip4/127.0.0.1/tcp/{free_port()}/p2p/{ONE_ID}"
    with Daemon(home) as daemon:
        own = daemon.peer_id
        (home / "config.toml").write_text(
            f'reach.relays = ["{away}#{TOKEN}", "nobody#{TOKEN}", "/ip4/127.0.0.1/tcp/1/p2p/{own}"]\n'
        )
        daemon.ok("reload")
        deadline = time.monotonic() + 20
        while "not connected" not in (said := daemon.ok("status")) and time.monotonic() < deadline:
            time.sleep(0.1)
        found = daemon.cli("doctor").stdout
    assert "of those named in reach.relays 3 give no place, and none does" in found
    relays = said[said.index("relays") : said.index("tunnels")]
    assert "12D3…CucLPg has no place for this node: it is not connected: " in relays
    assert "nobody has no place for this node: " in relays and "no peer has that name" in relays
    assert "it is this node itself" in relays
    assert TOKEN not in said


def test_status_says_why_a_relay_refuses_and_what_to_do(fake: FakeDaemon, run: Run) -> None:
    from p2pfwd.core.peer_id import PeerId
    from p2pfwd.net.transport.relay_transport import refusal
    from p2pfwd.wire.circuit import Status

    why = refusal(PeerId.parse(ONE_ID), Status.PERMISSION_DENIED).message
    relays = (Relay(OTHER, "refused", why),)
    fake.answers["daemon.status"] = StatusResult("0.1.0", 42, PEER, 1.0, relays=relays)
    (line,) = [line for line in run("status").out.splitlines() if line.startswith("relays")]
    assert "has no place for this node: it has places for peers of its owner alone" in line
    assert "p2pfwd relay token new there" in line


def test_a_relay_is_named_here_and_lets_this_node_in_there_after_the_start_of_both(home: Path) -> None:
    """In any order: each command is what the other end waits for, and no rest is waited for."""

    def relay(client: Daemon) -> dict[str, object]:
        (found,) = client.json("status")["Relays"]
        return dict(found)

    (home / "hub").mkdir()
    with (
        Daemon(home / "hub", env={"P2PFWD_RELAY_SERVE": "peers"}) as hub,
        Daemon(home, env={"P2PFWD_REACH_RELAYS": "hub"}) as client,
    ):
        assert relay(client)["State"] == "missing"
        client.ok("peer", "add", "hub", hub.address)
        _wait_until(lambda: relay(client)["State"] == "refused")
        hub.ok("peer", "add", "client", client.peer_id)
        _wait_until(lambda: relay(client)["State"] == "held")


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- three machines ---------------------------------------------------------------------------------


def test_two_that_join_a_hub_find_each_other_by_it_and_have_places_there(home: Path) -> None:
    """One command on each machine, and a bare peer ID."""
    env = {"P2PFWD_NETWORK": "", "P2PFWD_AUTOSTART": "1"}
    one, other = home / "1", home / "2"
    for each in (home, one, other):
        each.mkdir(exist_ok=True)
        (each / "config.toml").write_text('[swarm]\nlisten = ["/ip4/127.0.0.1/tcp/0"]\n')
    hub = run_cli(home, "hub", "--private", "--json", env=env)
    try:
        assert hub.returncode == 0, hub.stderr
        line = json.loads(hub.stdout)["Line"]
        alone = json.loads(run_cli(home, "status", "--json", env=env).stdout)["Bootstrap"]
        assert alone["Message"].startswith("this node is a bootstrap peer itself")
        assert alone["Hint"] == FOR_A_HUB
        for each in (one, other):
            joined = run_cli(each, "network", "join", line, env=env)
            assert joined.returncode == 0, joined.stderr
        plain = {"P2PFWD_NETWORK": ""}
        with (
            TcpServer(echo) as server,
            Daemon(one, env=plain) as serving,
            Daemon(other, env=plain) as dialing,
        ):
            shared = serving.cli("listen", "/x/echo", str(server.port), env=plain)
            assert shared.returncode == 0, shared.stderr
            _wait_for_place(home, serving.peer_id)
            made = dialing.cli("forward", "/x/echo", "127.0.0.1:0", serving.peer_id, "--json", env=plain)
            assert made.returncode == 0, made.stderr
            port = int(json.loads(made.stdout)["Listener"]["ListenAddress"].rsplit("/", 1)[1])
            with socket.create_connection(("127.0.0.1", port), 10) as local:
                local.sendall(b"hello")
                assert local.recv(5) == b"hello"
    finally:
        run_cli(home, "shutdown", env=env)


def test_who_joins_one_of_two_hubs_is_found_by_who_joins_the_other(home: Path) -> None:
    """`network join` on the second hub, and `hub` there, are all that it takes."""
    env = {"P2PFWD_NETWORK": "", "P2PFWD_AUTOSTART": "1"}
    homes = [home / name for name in ("hub1", "hub2", "one", "other")]
    for each in homes:
        each.mkdir(0o700)
        (each / "config.toml").write_text('[swarm]\nlisten = ["/ip4/127.0.0.1/tcp/0"]\n')

    def hub(where: Path, *words: str) -> str:
        made = run_cli(where, "hub", *words, "--json", env=env)
        assert made.returncode == 0, made.stderr
        document = json.loads(made.stdout)
        assert len(document["OtherHubs"]) == (where == homes[1])
        return str(document["Line"])

    def join(where: Path, line: str) -> None:
        joined = run_cli(where, "network", "join", line, env=env)
        assert joined.returncode == 0, joined.stderr

    try:
        first = hub(homes[0], "--private")
        join(homes[1], first)
        second = hub(homes[1])
        said = run_cli(homes[1], "hub", env=env).stdout
        assert "The other hub, too: run it there, then p2pfwd reload" in said
        join(homes[2], first)
        join(homes[3], second)
        plain = {"P2PFWD_NETWORK": ""}
        with Daemon(homes[2], env=plain) as one, Daemon(homes[3], env=plain) as other:
            found = one.cli("ping", "-n", "1", other.peer_id, env=plain)
            assert found.returncode == 0, found.stderr
            here = json.loads(run_cli(homes[1], "hub", "ls", "--json", env=env).stdout)
            ids = {each["Peer"] for each in (*here["Places"], *here["Others"])}
            assert other.peer_id in ids and len(ids) >= 2, "the client, and the other hub"
        join(homes[0], second)
        reloaded = run_cli(homes[0], "reload", env=env)
        assert reloaded.returncode == 0 and "bootstrap.peers" in reloaded.stdout, reloaded.stdout
    finally:
        for each in homes[:2]:
            run_cli(each, "shutdown", env=env)


def _wait_for_place(home: Path, peer: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = json.loads(run_cli(home, "hub", "ls", "--json").stdout)
        if any(place["Peer"] == peer for place in found["Places"]):
            return
        time.sleep(0.2)
    raise AssertionError("no place at the hub")
