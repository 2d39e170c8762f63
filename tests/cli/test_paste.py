"""What is printed to be pasted runs as printed: the other person's line, the next step, the way to stop."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from p2pfwd.cli.advice import suggested_port
from tests.support.daemon import PROGRAM, Daemon, environment
from tests.support.in_process import Pair, two_daemons
from tests.support.sockets import TcpServer, connect, echo, read_exactly


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Two daemons that do not know each other: all the second learns is on the line."""
    with two_daemons() as daemons:
        yield daemons


@pytest.fixture(autouse=True)
def emptied(pair: Pair) -> Iterator[None]:
    """Each test leaves nothing and no connection behind, so that the next line has to find its peer, too."""
    yield
    one, other = pair
    for daemon in pair:
        daemon.ok("close", "-a")
        daemon.ok("stream", "close", "-a")
    other.cli("swarm", "disconnect", one.peer_id)


@contextmanager
def pasteable_server() -> Iterator[TcpServer]:
    """An echo server whose suggested local port is free, and one that no system gives to who asks for any."""
    while True:
        with suppress(OSError):  # one of the two is taken
            port = random.randrange(12_000, 20_000)
            suggested = suggested_port("/x/any", f"/ip4/127.0.0.1/tcp/{port}")
            socket.create_server(("127.0.0.1", suggested)).close()
            server = TcpServer(echo, port)
            break
    with server:
        yield server


def pasted(line: str, home: Path) -> str:
    """Run a line in a shell, as typed after the prompt of the person at `home`; what it prints."""
    env = environment(home)
    env["PATH"] = f"{Path(PROGRAM).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(line, shell=True, env=env, capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    return done.stdout


def line_after(output: str, text: str) -> str:
    """The line below the one that has `text` in it."""
    lines = output.splitlines()
    return next(lines[index + 1] for index, line in enumerate(lines) if text in line).strip()


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("/x/plain", ()),
        ('/x/it\'s; $(touch nothing) "quoted" *', ()),
        ("/custom", ("--allow-custom-protocol",)),
    ],
)
def test_the_line_that_listen_prints(pair: Pair, protocol: str, options: tuple[str, ...]) -> None:
    one, other = pair
    with pasteable_server() as server:
        said = one.ok("listen", protocol, server.address, *options)
        line = line_after(said, "On the other machine, run:")
        assert line.startswith("p2pfwd forward ") and one.address in line
        shown = pasted(line, other.home)
        assert "The peer answers: direct" in shown
        with connect(suggested_port(protocol, server.address)) as conn:
            conn.sendall(b"pasted")
            assert read_exactly(conn, 6) == b"pasted"
        # And each side's way to stop.
        for output, daemon in ((said, one), (shown, other)):
            stop = next(it for it in output.splitlines() if it.startswith("To stop")).partition(": ")[2]
            assert pasted(stop, daemon.home).startswith("Closed 1 ")
            assert daemon.ok("ls") == ""


def test_the_line_in_the_json_of_listen(pair: Pair) -> None:
    one, other = pair
    with pasteable_server() as server:
        pasted(one.json("listen", "/x/json", server.address)["Command"], other.home)
        assert "/x/json" in other.ok("ls")


def test_the_url_that_forward_prints(pair: Pair) -> None:
    def serve(conn: socket.socket) -> None:
        if conn.recv(4096):
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

    one, other = pair
    with TcpServer(serve) as server:
        one.ok("listen", "/x/web", server.address)
        url = line_after(other.ok("forward", "/x/web", "0", one.address), "Forwarding")
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as reply:
            assert reply.read() == b"hello"


def test_the_ssh_line_that_forward_prints(pair: Pair) -> None:
    ssh = shutil.which("ssh")
    if ssh is None:
        pytest.skip("ssh is not installed")

    def banner(conn: socket.socket) -> None:
        conn.sendall(b"this is no ssh server\r\n" * 60)

    one, other = pair
    with TcpServer(banner) as server:
        one.ok("listen", "/x/ssh", server.address)
        line = line_after(other.ok("forward", "/x/ssh", "0", one.address), "Forwarding")
        done = subprocess.run(
            [*line.split(), "true"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            stdin=subprocess.DEVNULL,
        )
        # It got through to the server, which is not one: ssh says it was no ssh banner.
        assert done.returncode == 255 and "refused" not in done.stderr


def test_listen_names_loopback_only_when_there_is_nothing_else(pair: Pair) -> None:
    one, _ = pair
    with pasteable_server() as server:
        line = line_after(one.ok("listen", "/x/a", server.address), "On the other machine")
    assert line.split()[4:] == [one.address]


PASSING = "Warning: port {} of this node's settings is taken by another program, and it listens on another"


def test_a_word_or_line_with_a_port_of_chance_says_how_long_it_holds(home: Path) -> None:
    """What `invite` and `hub` print is kept for days: it must not lead nowhere after a restart unsaid."""
    (home / "config.toml").write_text('dht.mode = "server"\nbootstrap.peers = []\nrelay.serve = "peers"\n')
    public = {"P2PFWD_NETWORK": ""}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Daemon(home, swarm=(f"/ip4/127.0.0.1/tcp/{port}",), env=public) as daemon:
            for words in (("invite", "/x/a", "--expires", "2d"), ("hub",)):
                said = daemon.cli(*words, env=public)
                assert said.returncode == 0 and PASSING.format(port) in said.stderr, said.stderr
                assert f"then p2pfwd shutdown and {words[0]} again" in said.stderr
                told = daemon.cli(*words, "--json", env=public)
                assert json.loads(told.stdout)["TakenPorts"] == [port]
            given = daemon.cli("hub", "--address", f"/ip4/203.0.113.5/tcp/{port}", env=public).stderr
            assert f": /ip4/203.0.113.5/tcp/{port} has to lead to that one\n" in given
    with Daemon(home, swarm=(f"/ip4/127.0.0.1/tcp/{port}",), env=public) as daemon:
        for words in (("invite", "/x/a"), ("hub",)):
            assert "taken by another program" not in daemon.cli(*words, env=public).stderr
