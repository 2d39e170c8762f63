"""The README as real daemons print it; sections about one command are tested beside that command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from p2pfwd.cli.advice import suggested_port
from p2pfwd.cli.text import short_peer
from tests.cli.test_find_by_id import table_size
from tests.support.daemon import Daemon, run_cli
from tests.support.fake_daemon import until
from tests.support.readme import replaced, story
from tests.support.sockets import TcpServer, connect, echo

OnTerminal = Callable[..., str]

ANN = "12D3KooWGcQcL3RfR1bmquTwxEF25cPLg3c1EdrSUicVJm1WijhL"
FOUND = "12D3KooWQdF4QGh35QSW4tCx8jsnCs8gvz3Mn6USsKB3VnzgDL7A"


def masked(text: str) -> list[list[str]]:
    """Words by line; what differs from run to run is left out."""
    text = re.sub(r"\b[0-9.]+(ms| s\b|s\b)", r"N\1", text)
    text = re.sub(r"127\.0\.0\.1:[0-9]{5} ->(?= 12D3)", "ORIGIN ->", text)
    return [line.split() for line in text.splitlines()]


def free_port() -> int:
    with TcpServer(echo) as server:
        return server.port


def test_the_two_commands_and_every_day(home: Path, on_terminal: OnTerminal) -> None:
    (home / "1").mkdir()
    with Daemon(home) as dialing, Daemon(home / "1") as sharing, TcpServer(echo) as server:
        local = free_port()
        suggested = suggested_port("/x/web", server.address)
        place = sharing.address.partition("/p2p/")[0]
        known = {
            ANN: sharing.peer_id,
            "12D3…1WijhL": short_peer(sharing.peer_id),
            "/ip4/192.0.2.2/tcp/4011": place,
            "127.0.0.1:8080": f"127.0.0.1:{server.port}",
        }
        (listen, shared), (forward, forwarded) = story("The two commands")
        shared = "".join(shared.splitlines(keepends=True)[2:])  # it runs, and has its identity
        seen = sharing.ok(*shlex.split(replaced(listen, known))[1:])
        assert masked(seen) == masked(replaced(shared, {**known, ":18080": f":{suggested}"}))
        here = {**known, ":18080": f":{local}"}
        words = shlex.split(replaced(forward, here))[1:]
        assert masked(on_terminal(*words, columns=200)) == masked(replaced(forwarded, here))
        with connect(local) as live:
            assert until(lambda: bool(dialing.json("stream", "ls")["Streams"]))
            for command, printed in story("Every day"):
                words = shlex.split(replaced(command, here))[1:]
                if words[0] == "close":
                    live.close()
                    assert until(lambda: not dialing.json("stream", "ls")["Streams"])
                assert masked(on_terminal(*words, columns=200)) == masked(replaced(printed, here)), command


def test_how_a_peer_is_found(home: Path, on_terminal: OnTerminal) -> None:
    """The one that looks is no server of the DHT, and so unknown to the one that comes later.

    Its own first look-up, half a second after it has met a peer, must be over by then, or it meets the other.
    """
    client = {"P2PFWD_DHT_MODE": "client"}
    with Daemon(home / "hub") as hub, Daemon(home, env=client) as near:
        near.ok("swarm", "connect", hub.address)
        assert until(lambda: near.json("dht", "stat")["Tables"][0]["RefreshedSeconds"] is not None, 20)
        with Daemon(home / "far") as far:
            far.ok("swarm", "connect", hub.address)
            assert until(lambda: table_size(hub) == 1, 20)
            known = {
                FOUND: far.peer_id,
                "12D3…zgDL7A": short_peer(far.peer_id),
                "/ip4/192.0.2.2/tcp/4011": far.address.partition("/p2p/")[0],
            }
            ((command, printed),) = story("How a peer is found")
            seen = on_terminal(*shlex.split(replaced(command, known))[1:], columns=200)
            assert masked(seen) == masked(replaced(printed, known))


QUIET = '''
[swarm]
listen = ["/ip4/127.0.0.1/tcp/0"]
[discovery]
mdns = "off"
[reach]
port_mapping = "off"
'''


def test_one_machine_makes_a_network(home: Path, on_terminal: OnTerminal) -> None:
    ((command, printed),) = story("One machine of your own makes a network", "hub$ ")
    (home / "config.toml").write_text(QUIET)
    env = {"P2PFWD_NETWORK": "", "P2PFWD_AUTOSTART": "1"}
    try:
        seen = on_terminal(*command.split()[1:], columns=200, env=env)
        seen = re.sub(r"^(Made a new|Warning:|hint:) .*\n", "", seen, flags=re.MULTILINE)
        assert hidden(seen) == hidden(
            printed.replace("/home/ann/.config/p2pfwd", str(home)).replace(
                "/home/ann/.local/state/p2pfwd", str(home)
            )
        )
        (home / "1").mkdir()
        line = re.findall(r"network join '(.*)'", seen)[0]
        assert run_cli(home / "1", "network", "join", line, env={"P2PFWD_NETWORK": ""}).returncode == 0
    finally:
        run_cli(home, "shutdown")


def hidden(text: str) -> list[str]:
    """Its lines, without what is the hub's own."""
    return re.sub(r"'/ip4/[^']*#[a-z2-7]{26}'", "LINE", text).splitlines()
