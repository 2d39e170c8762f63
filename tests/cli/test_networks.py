"""`daemon --network`, `swarm key …`, and what `status` says: with commands as a person gives them."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support.daemon import PROGRAM, Daemon, environment, run_cli
from tests.support.sockets import Payload, TcpServer, echo, echoes

TEXT = json.loads((Path(__file__).parents[1] / "vectors/pnet.json").read_text())["swarm_key"]
FINGERPRINT = "45fc986bbc9388a11d939df26f730f0c"


def put_key(path: Path) -> None:
    """Kubo's example key, private."""
    path.parent.mkdir(exist_ok=True)
    path.touch(0o600)
    path.write_text(TEXT)


# --- swarm key --------------------------------------------------------------------------------------


def test_a_key_is_made_once_and_shown_by_its_fingerprint(home: Path, run: Run) -> None:
    made = run("swarm", "key", "new")
    path = home / "swarm.key"
    assert made.status == 0
    first, second = made.out.splitlines()
    assert first == f"swarm key    {path}"
    assert second.startswith("fingerprint  ") and len(second) == 13 + 32
    assert "whoever has it is in" in made.err and "p2pfwd daemon --network private" in made.err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().splitlines()[2] not in made.out + made.err

    shown = run("swarm", "key", "show")
    assert (shown.status, shown.out, shown.err) == (0, made.out, "")
    again = run("swarm", "key", "new")
    assert (again.status, again.out) == (2, "")
    assert again.err.startswith(f"Error: swarm key {path}: there is one already")


def test_as_json_and_where_the_setting_says(home: Path, run: Run) -> None:
    (home / "config.toml").write_text('[private]\nswarm_key = "office.key"\n')
    put_key(home / "office.key")
    expected = {"File": str(home / "office.key"), "Fingerprint": FINGERPRINT}
    assert json.loads(run("swarm", "key", "show", "--json").out) == expected
    (home / "office.key").unlink()
    made = run("swarm", "key", "new", "--json")
    assert json.loads(made.out)["File"] == str(home / "office.key") and made.err == ""


def test_without_a_key_there_is_nothing_to_show(home: Path, run: Run) -> None:
    result = run("swarm", "key", "show")
    assert (result.status, result.out) == (4, "")
    assert result.err == (
        f"Error: swarm key {home}/swarm.key: there is none\n"
        "hint: copy it from another machine of the network, or make one for a new network: "
        "p2pfwd swarm key new\n"
    )


def test_no_daemon_of_a_test_is_in_the_public_network(home: Path, run: Run) -> None:
    """The demo and the bench start theirs with the same environment."""
    assert environment(home)["P2PFWD_NETWORK"] == "lan"
    shown = json.loads(run("config", "show", "--json").out)["Settings"]
    assert {one["Key"]: one["Value"] for one in shown}["network"] == "lan"


# --- the daemon -------------------------------------------------------------------------------------


def refused(home: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A daemon that does not start."""
    swarm = ("--swarm", "/ip4/127.0.0.1/tcp/0")
    return subprocess.run(
        [PROGRAM, "daemon", *swarm, *args], env=environment(home, env), capture_output=True, text=True,
        timeout=20, check=False,
    )  # fmt: skip


def test_an_unknown_network_is_a_usage_error(home: Path) -> None:
    result = refused(home, "--network", "home")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(
        "Error: command line: network must be one of public, lan, private\nhint: network: Whom"
    )


def test_a_private_network_without_its_key_does_not_start(home: Path) -> None:
    result = refused(home, "--network", "private")
    assert (result.returncode, result.stdout) == (4, "")
    assert result.stderr.startswith(f"Error: swarm key {home}/swarm.key: there is none\nhint: copy it")


def test_a_forced_private_network_keeps_other_daemons_from_starting(home: Path) -> None:
    result = refused(home, LIBP2P_FORCE_PNET="1")
    assert result.returncode == 2
    assert "Error: LIBP2P_FORCE_PNET is set, and the network is lan, not private\nhint: " in result.stderr


@pytest.mark.parametrize("network", ["lan", "private"])
def test_the_option_goes_before_the_environment_and_status_tells(home: Path, network: str) -> None:
    put_key(home / "swarm.key")
    other = "private" if network == "lan" else "lan"
    with Daemon(home, "--network", network, env={"P2PFWD_NETWORK": other}) as daemon:
        status = daemon.json("status")
        fingerprint = FINGERPRINT if network == "private" else None
        assert (status["Network"], status["SwarmKeyFingerprint"]) == (network, fingerprint)
        line = next(line for line in daemon.ok("status").splitlines() if line.startswith("network"))
        assert line.split(maxsplit=1)[1] == (f"private, swarm key {FINGERPRINT}" if fingerprint else "lan")
        said = f"Private network, swarm key {FINGERPRINT}"
        assert (said in daemon.lines) is (network == "private")
        assert ("is not used: the network is lan" in daemon.stderr) is (network == "lan")


def test_two_machines_with_the_same_key_tunnel_and_one_without_does_not(home: Path) -> None:
    for name in ("near", "far"):
        put_key(home / name / "swarm.key")
    with (
        Daemon(home / "near", "--network", "private") as near,
        Daemon(home / "far", "--network", "private") as far,
        Daemon(home / "stranger") as stranger,
        TcpServer(echo) as target,
    ):
        far.ok("listen", "/x/echo", target.address)
        said = near.ok("forward", "/x/echo", "127.0.0.1:0", far.address)
        assert "The peer answers: direct" in said
        (listener,) = near.json("ls")["Listeners"]
        assert echoes(int(listener["ListenAddress"].rpartition("/")[2]), Payload(300_000))

        for one, other in ((stranger, far), (far, stranger)):
            failed = one.cli("swarm", "connect", other.address)
            assert (failed.returncode, failed.stdout) == (1, "")
            assert "private" in failed.stderr, failed.stderr


def test_the_lan_is_not_left_whoever_asks(home: Path) -> None:
    far = "/ip4/8.8.8.8/tcp/4001/p2p/12D3KooWGRUVh3xoVy6F6FQyRVFiDYpYPSrDzb2YwEGeYL8bBBZQ"
    with Daemon(home) as daemon:
        failed = daemon.cli("swarm", "connect", far)
    assert failed.returncode == 1
    assert "/ip4/8.8.8.8/tcp/4001: outside the local network, where this node stays" in failed.stderr


def test_commands_are_started_with_the_network_of_the_environment(home: Path) -> None:
    put_key(home / "swarm.key")
    env = {
        "P2PFWD_AUTOSTART": "1",
        "P2PFWD_NETWORK": "private",
        "P2PFWD_SWARM_LISTEN": "/ip4/127.0.0.1/tcp/0",
    }
    try:
        assert run_cli(home, "listen", "/x/a", "9", env=env).returncode == 0
        assert json.loads(run_cli(home, "status", "--json").stdout)["Network"] == "private"
    finally:
        assert run_cli(home, "shutdown").returncode == 0
