"""Tunnels that are there again: real daemons killed outright and started anew, by the command line."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Program, run_cli
from tests.support.fake_daemon import until
from tests.support.in_process import QuickDaemon
from tests.support.sockets import TcpServer, connect, echo, free_port, read_exactly

PEER = "12D3KooWNBSMhmHonfyQbXYczUq24ujJKQxhpNNgSaLxvupFZ5uu"


def echoed(port: int) -> bool:
    with connect(port) as conn:
        conn.sendall(b"hello")
        return read_exactly(conn, 5) == b"hello"


def test_a_tunnel_works_again_after_both_daemons_were_killed(home: Path) -> None:
    swarm = (f"/ip4/127.0.0.1/tcp/{free_port()}",)
    with TcpServer(echo) as target:
        with QuickDaemon(home / "far", swarm=swarm) as far, QuickDaemon(home / "near") as near:
            far.ok("listen", "/x/echo", str(target.port))
            made = near.json("forward", "/x/echo", "0", far.address)["Listener"]
            port = int(made["ListenAddress"].rpartition("/")[2])
            assert echoed(port)
            for daemon in (far, near):
                daemon.process.kill()
                daemon.wait()
        with QuickDaemon(home / "far", swarm=swarm), QuickDaemon(home / "near"):
            assert echoed(port)


ENDS: dict[str, Callable[[QuickDaemon], object]] = {
    "SIGTERM, as a service manager or a reboot stops it": lambda it: it.process.send_signal(signal.SIGTERM),
    "SIGINT": lambda it: it.process.send_signal(signal.SIGINT),
    "SIGTERM, twice": lambda it: [it.process.send_signal(signal.SIGTERM) for _ in range(2)],
    "SIGTERM, then SIGKILL, as a service manager does": lambda it: [
        it.process.send_signal(signal.SIGTERM),
        it.process.kill(),
    ],
    "SIGKILL": lambda it: it.process.kill(),
    "the command": lambda it: it.ok("shutdown"),
}


@pytest.mark.parametrize("end", ENDS)
def test_no_end_of_the_daemon_is_a_close(home: Path, end: str) -> None:
    """zrok lost its users' shares so. One command of each kind stands in the foreground meanwhile."""

    def saved(daemon: QuickDaemon) -> list[tuple[str, str, str]]:
        found = daemon.json("ls")["Listeners"]
        return [(it["Protocol"], it["ListenAddress"], it["TargetAddress"]) for it in found if it["Saved"]]

    with TcpServer(echo) as target, QuickDaemon(home / "far") as far:
        far.ok("listen", "/x/echo", str(target.port))
        with QuickDaemon(home / "near") as near:
            near.ok("listen", "/x/a", "9")
            made = near.json("forward", "/x/echo", "0", far.address)["Listener"]
            port = int(made["ListenAddress"].rpartition("/")[2])
            tied = [
                Program(home / "near", ("listen", "/x/tied", "9", "-f")),
                Program(home / "near", ("forward", "/x/tied", "0", PEER, "--no-check", "-f")),
            ]
            with tied[0], tied[1], connect(port) as conn:
                conn.sendall(b"hello")
                assert read_exactly(conn, 5) == b"hello"
                assert until(lambda: len(near.json("ls")["Listeners"]) == 4)
                before = saved(near)
                assert len(before) == 2
                conn.close()
                ENDS[end](near)
                near.wait()
                for program in tied:
                    assert program.wait() != 0  # the daemon is gone, and says so
        with QuickDaemon(home / "near") as near:
            assert saved(near) == before and len(near.json("ls")["Listeners"]) == 2
            assert echoed(port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_end_of_a_command_in_the_foreground_closes_its_own_and_no_other(
    home: Path, number: signal.Signals
) -> None:
    with QuickDaemon(home) as daemon:
        daemon.ok("listen", "/x/saved", "9")
        with Program(home, ("listen", "/x/tied", "9", "-f")) as tied:
            assert until(lambda: len(daemon.json("ls")["Listeners"]) == 2)
            tied.process.send_signal(number)
            tied.wait()
        assert until(lambda: [it["Protocol"] for it in daemon.json("ls")["Listeners"]] == ["/x/saved"])
    with QuickDaemon(home) as daemon:
        assert [it["Protocol"] for it in daemon.json("ls")["Listeners"]] == ["/x/saved"]


def test_programs_that_connect_while_the_far_daemon_restarts_are_served(home: Path) -> None:
    swarm = (f"/ip4/127.0.0.1/tcp/{free_port()}",)
    with TcpServer(echo) as target, QuickDaemon(home / "near") as near:
        with QuickDaemon(home / "far", swarm=swarm) as far:
            far.ok("listen", "/x/echo", str(target.port))
            made = near.json("forward", "/x/echo", "0", far.address)["Listener"]
            port = int(made["ListenAddress"].rpartition("/")[2])
            assert echoed(port)
        ended = threading.Event()
        served: list[bool] = []

        def program() -> None:
            while not ended.wait(0.02):
                served.append(echoed(port))

        programs = [threading.Thread(target=program) for _ in range(4)]
        for thread in programs:
            thread.start()
        with QuickDaemon(home / "far", swarm=swarm):
            assert until(lambda: len(served) >= 40)
            ended.set()
            for thread in programs:
                thread.join()
        assert all(served)


def test_a_unix_socket_left_by_a_killed_daemon_is_bound_again(home: Path) -> None:
    path = home / "near.sock"
    with QuickDaemon(home / "near") as near:
        near.ok("forward", "/x/a", str(path), PEER, "--no-check")
        near.process.kill()
        near.wait()
    assert path.exists()
    with QuickDaemon(home / "near") as near, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert not path.exists()


def test_a_port_that_is_taken_at_the_start_is_waited_for(home: Path) -> None:
    port = free_port()
    command = ("forward", "/x/a", str(port), PEER)
    with QuickDaemon(home / "near") as near:
        near.ok(*command, "--no-check")
    with socket.create_server(("127.0.0.1", port)) as holder, QuickDaemon(home / "near") as near:
        again = near.cli(*command)
        assert again.returncode == 0
        assert again.stdout.startswith(f"Forwarding already: 127.0.0.1:{port} -> /x/a at ")
        assert again.stderr.splitlines()[0].endswith(
            "the address is already in use; the forward stands and listens there once it can"
        )
        assert near.json("ls")["Listeners"][0]["State"] == "address-in-use"
        holder.close()
        assert until(lambda: near.json("ls")["Listeners"][0]["State"] == "unknown")
        connect(port).close()


@pytest.mark.parametrize(
    "name", ["state.db", "access.json", "peers.json", "invites.json", "relay-tokens.json"]
)
def test_a_file_of_a_newer_version_is_refused_with_its_cure(home: Path, name: str) -> None:
    """With the exit status of what a service manager need not try again, and left as it is."""
    path = home / name
    if name == "state.db":
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA user_version = 99")
        db.close()
    else:
        path.write_text('{"version": 99}')
        path.chmod(0o600)
    before = path.read_bytes()
    for words, env in ((["daemon"], {}), (["listen", "/x/a", "9"], {"P2PFWD_AUTOSTART": "1"})):
        refused = run_cli(home, *words, env=env)
        error, hint = refused.stderr.splitlines()[-2:]
        assert refused.returncode == 2
        assert error.startswith("Error: ")
        assert error.endswith(f" {path}: it has the form 99, of a newer version of p2pfwd")
        assert hint.startswith("hint: use that version; or move the file away: then ")
        assert path.read_bytes() == before


def test_what_a_damaged_file_has_lost_is_told_where_one_looks(home: Path) -> None:
    """In `ls` and `status` as long as it lies there, in the events once."""
    for name in ("state.db", "access.json", "peers.json", "invites.json"):
        (home / name).write_bytes(b"rubbish" * 1000)
        (home / name).chmod(0o600)
    aside = home / "state.db.damaged"
    said = f"Warning: the saved tunnels are lost: what is left of them is in {aside}"
    for _ in range(2):
        with Daemon(home):
            listed = run_cli(home, "ls")
            assert (listed.returncode, listed.stdout, listed.stderr.splitlines()[0]) == (0, "", said)
            as_json = json.loads(run_cli(home, "ls", "--json").stdout)
            assert as_json == {"Listeners": [], "Lost": str(aside)}
            status = run_cli(home, "status", "--json").stdout
            assert json.loads(status)["Lost"] == [str(aside), str(home / "access.json.damaged")]
            assert f"what {aside} had before it was damaged" in run_cli(home, "status").stdout
            events = run_cli(home, "events", "--json", "--kind", "file-damaged").stdout
            assert [json.loads(line)["Data"] for line in events.splitlines()] == [
                {"what": "the saved tunnels", "file": str(aside)},
                {"what": "the access rules and blocks", "file": str(home / "access.json.damaged")},
                {"what": "the names of peers", "file": str(home / "peers.json.damaged")},
                {"what": "the invites", "file": str(home / "invites.json.damaged")},
            ]
    aside.unlink()
    with Daemon(home):
        assert run_cli(home, "ls").stderr == ""
