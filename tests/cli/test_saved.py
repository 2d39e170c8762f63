"""Tunnels that are there again: real daemons killed outright and started anew, by the command line."""

from __future__ import annotations

import socket
import sqlite3
import threading
from pathlib import Path

from tests.support.daemon import run_cli
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


def test_a_newer_state_file_is_refused_with_its_cure(home: Path) -> None:
    with sqlite3.connect(home / "state.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    refused = run_cli(home, "daemon")
    assert (refused.returncode, refused.stderr.splitlines()[-2:]) == (
        1,
        [
            f"Error: state file {home / 'state.db'}: it has the form 99, of another version of p2pfwd",
            "hint: move it away to begin a new one",
        ],
    )
