"""What people type and paste, against real daemons: understood, or answered with the words to write."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.peer_id import PeerId
from tests.support.daemon import run_cli
from tests.support.fake_daemon import until
from tests.support.in_process import Pair, two_daemons
from tests.support.sockets import TcpServer, connect, echo, free_port, read_exactly, refusing_port

NOBODY = "12D3KooWGjMCzjmzGgxx2Lu4HUpfSxRHUAAN4hN9ckgjFnKoTtB7"
SLIP = str(PeerId.from_bytes(PeerId.parse(NOBODY).to_bytes()[:-1] + b"\x02"))
"""A whole ID that no key has."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Two daemons that do not know each other."""
    with two_daemons() as daemons:
        yield daemons


@pytest.fixture(autouse=True)
def emptied(pair: Pair) -> Iterator[None]:
    yield
    for daemon in pair:
        daemon.ok("close", "-a")
    pair[1].cli("swarm", "disconnect", pair[0].peer_id)


def echoes(port: int) -> bool:
    with connect(port) as conn:
        conn.sendall(b"hello")
        return read_exactly(conn, 5) == b"hello"


# --- addresses that cannot be dialed --------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/ip4/127.0.0.1/udp/4001/quic-v1", "it is for QUIC, and this node speaks TCP only"),
        ("/ip4/127.0.0.1/tcp/4001/ws", "it is for WebSocket, and this node speaks TCP only"),
        ("/ip4/127.0.0.1/tcp/4001/p2p-circuit", "does not say which relay"),
        ("/dns4/h.libp2p.direct/tcp/4001/tls/ws", "it is for WebSocket"),
        ("/ip4/127.0.0.1/tcp/0", "0 is no port to dial"),
        ("/ip6zone/wlan9/ip6/fe80::1/tcp/4001", "this machine has no network interface wlan9"),
    ],
)
@pytest.mark.parametrize("with_somebody_to_ask", [False, True])
def test_an_address_that_cannot_be_dialed_says_why_everywhere(
    pair: Pair, address: str, said: str, with_somebody_to_ask: bool
) -> None:
    one, other = pair
    nobody = str(PeerId.from_public_key(PrivateKey.generate().public_key))
    peer = f"{address}/p2p/{nobody}"
    if with_somebody_to_ask:
        other.ok("swarm", "connect", one.address)
        assert until(lambda: other.json("dht", "stat")["Tables"][0]["Peers"] == 1)
    for words in (("swarm", "connect", peer), ("ping", "-n", "1", peer)):
        result = other.cli(*words)
        assert result.returncode == 4, result
        assert f"Error: {nobody} cannot be dialed: {address}: " in result.stderr
        assert said in result.stderr and "hint: give an address for TCP: /ip4/" in result.stderr
        assert "NAT" not in result.stderr and "DNS" not in result.stderr
    result = other.cli("forward", "/x/a", "0", peer)
    assert result.returncode == 0 and result.stderr.count(said) == 1
    result = other.cli("peer", "add", "box", peer)
    assert result.returncode == 0 and f"Warning: {address} is not used: " in result.stderr
    assert said in result.stderr
    other.ok("peer", "rm", "box")


def test_an_address_that_cannot_be_dialed_beside_one_that_works_is_said_and_does_no_harm(pair: Pair) -> None:
    one, other = pair
    quic = f"/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{one.peer_id}"
    with TcpServer(echo) as server:
        one.ok("listen", "/x/echo", server.address)
        result = other.cli("forward", "/x/echo", "0", quic, one.address)
    assert "The peer answers" in result.stdout
    assert result.stderr.startswith("Warning: /ip4/127.0.0.1/udp/4001/quic-v1 is not used: it is for QUIC")


# --- peers that are none --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "peer",
    [
        "12D3KooWnope",
        NOBODY[:-1],
        SLIP,
        f"/ip4/127.0.0.1/tcp/1/p2p/{NOBODY[:-1]}",
        f"/ip4/127.0.0.1/tcp/1/p2p/{SLIP}/p2p-circuit/p2p/{NOBODY}",
    ],
)
def test_an_id_that_nobody_has_is_refused_as_mistyped_wherever_a_peer_is_asked(pair: Pair, peer: str) -> None:
    _, other = pair
    before = other.json("access", "ls"), other.json("block", "ls")
    for words in (
        ("allow", "/x/a", peer),
        ("deny", "/x/a", peer),
        ("block", peer),
        ("unblock", peer),
        ("listen", "/x/a", "9", "--allow", peer),
        ("listen", "/x/a", "9", "--tell-denied", peer),
        ("close", "-t", peer),
        ("events", "--peer", peer),
        ("doctor", peer),
        ("peer", "rm", peer),
        ("forward", "/x/a", "0", peer),
        ("ping", peer),
        ("swarm", "connect", peer),
        ("swarm", "disconnect", peer),
        ("peer", "add", "box", peer),
        ("dht", "findpeer", peer),
        ("dht", "query", peer),
    ):
        result = other.cli(*words)
        assert result.returncode == 2 and "mistyped" in result.stderr, (words, result)
    assert other.ok("ls") == "" and other.ok("peer", "ls") == ""
    assert (other.json("access", "ls"), other.json("block", "ls")) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("listen", "8080", "/x/web"), "hint: write: p2pfwd listen /x/web 8080"),
        (("forward", "8080", "/x/web", NOBODY), f"hint: write: p2pfwd forward /x/web 8080 {NOBODY}"),
        (("forward", "/x/web", NOBODY, "8080"), f"hint: write: p2pfwd forward /x/web 8080 {NOBODY}"),
        (("listen", "/x/web", NOBODY), f"hint: to reach a peer's service: p2pfwd forward /x/web 0 {NOBODY}"),
        (("listen", "/x/a", "2222:localhost:22"), "p2pfwd listen /x/NAME localhost:22; on the other machine"),
        (("listen", "/x/a", "http://localhost:80/app"), "hint: leave it out: localhost:80"),
        (("listen", "/x/a", "/run/app"), "for a Unix socket write /unix/run/app"),
        (("forward", "/x/a", "0", "127.0.0.1:4011"), "as /ip4/127.0.0.1/tcp/4011/p2p/12D3KooW"),
        (("forward", "/x/a", f"/ip4/127.0.0.1/tcp/1/p2p/{NOBODY}", NOBODY), "it is the address of a peer"),
    ],
)
def test_what_was_meant_is_in_the_hint(pair: Pair, words: tuple[str, ...], said: str) -> None:
    _, other = pair
    result = other.cli(*words)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr, result.stderr
    assert other.ok("ls") == ""


# --- what is pasted and works ---------------------------------------------------------------------


@pytest.mark.parametrize("form", ["http://127.0.0.1:{}/", "tcp://localhost:{}", "localhost:{}/", " {} "])
def test_a_pasted_url_is_its_host_and_port(pair: Pair, form: str) -> None:
    one, other = pair
    with TcpServer(echo) as server:
        said = one.ok("listen", "/x/echo", form.format(server.port))
        assert said.startswith(f"Sharing /x/echo -> 127.0.0.1:{server.port}, which answers.\n")
        port = free_port()
        other.ok("forward", "/x/echo", form.format(port), one.address)
        assert echoes(port)


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}", "{}", "/unix{}"])
def test_the_path_of_a_socket_in_every_form(pair: Pair, home: Path, form: str) -> None:
    one, other = pair
    path = home / "entry.sock"
    with TcpServer(echo) as server:
        one.ok("listen", "/x/echo", server.address)
        assert f"/unix{path}" in other.ok("forward", "/x/echo", form.format(path), one.address)
        one.ok("listen", "/x/again", form.format(path))
        with socket.socket(socket.AF_UNIX) as conn:
            conn.connect(str(path))
            conn.sendall(b"hello")
            assert read_exactly(conn, 5) == b"hello"


@pytest.mark.parametrize("form", ["{}", "localhost:{}", "http://localhost:{}/"])
def test_a_service_on_the_other_loopback_is_found_and_named(pair: Pair, form: str) -> None:
    one, other = pair
    with refusing_port() as port, socket.create_server(("::1", port), family=socket.AF_INET6) as service:
        said = one.ok("listen", "/x/dev", form.format(port))
        assert f"Sharing /x/dev -> 127.0.0.1:{port}, which answers at [::1]:{port}.\n" in said
        local = free_port()
        assert "The peer answers" in other.ok("forward", "/x/dev", str(local), one.address)
        with connect(local) as conn:
            accepted, _ = service.accept()
            with accepted:
                conn.sendall(b"hello")
                assert read_exactly(accepted, 5) == b"hello"
        # 127.0.0.1 in so many words is that address and no other.
        assert "refused the connection" in one.cli("listen", "/x/four", f"127.0.0.1:{port}").stderr


def test_every_address_of_this_machine_is_warned_of_where_it_is_typed(pair: Pair) -> None:
    one, other = pair
    for listen, url in (("0.0.0.0:0", r"http://127\.0\.0\.1:\d+/"), ("[::]:0", r"http://\[::1\]:\d+/")):
        result = other.cli("forward", "--no-check", "/x/web", listen, one.address)
        assert result.returncode == 0 and re.search(url, result.stdout)
        assert result.stderr.startswith(
            "Warning: other machines can connect, too: whoever reaches any address of this machine ("
        )
        assert "hint: to keep it to this machine, listen on " in result.stderr
    assert other.cli("forward", "--no-check", "/x/web", "127.0.0.1:0", one.address).stderr == ""


def test_a_target_that_stands_for_every_address_is_told_what_it_is_taken_for(pair: Pair) -> None:
    one, _ = pair
    with TcpServer(echo) as server:
        said = one.cli("listen", "/x/near", str(server.port), "/x/any", f"0.0.0.0:{server.port}")
        assert (said.returncode, said.stderr) == (
            0,
            "Warning: 0.0.0.0 is where to listen for all addresses; connecting to it reaches this machine\n"
            f"hint: write 127.0.0.1:{server.port} for a service of this machine\n",
        )
        told = one.json("listen", "/x/six", f"[::]:{server.port}")["Notices"]
    assert [(it["Code"], it["Hint"].split()[1]) for it in told] == [("any-address", f"[::1]:{server.port}")]


# --- several in one command -----------------------------------------------------------------------


def test_several_listens_and_the_line_they_print(pair: Pair) -> None:
    one, other = pair
    with TcpServer(echo) as first, TcpServer(echo) as second:
        said = one.ok("listen", "/x/one", str(first.port), "/x/two", str(second.port))
        line = next(it.strip() for it in said.splitlines() if it.startswith("  p2pfwd forward"))
        words = [re.sub(r"^127\.0\.0\.1:\d+$", "0", word) for word in line.split()[1:]]
        made = json.loads(other.ok(*words, "--json"))
        assert [it["Check"]["Ok"] for it in made] == [True, True]
        for it in made:
            assert echoes(int(it["Listener"]["ListenAddress"].rpartition("/")[2]))


def test_of_several_forwards_none_is_left_when_one_fails(pair: Pair) -> None:
    one, other = pair
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = str(holder.getsockname()[1])
        result = other.cli("forward", "/x/one", "0", "/x/two", "0", "/x/three", taken, one.address)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[0] == "Taken back: /x/one and /x/two."
    assert result.stderr.splitlines()[1].startswith(f"Error: cannot listen on /ip4/127.0.0.1/tcp/{taken}")
    assert other.ok("ls") == ""


def test_a_listen_address_of_the_daemon_may_have_a_zone_too(home: Path) -> None:
    result = run_cli(home, "daemon", "--swarm", "/ip6zone/wlan9/ip6/fe80::1/tcp/0")
    assert (result.returncode, result.stdout) == (1, "")
    assert "this machine has no network interface wlan9" in result.stderr


# --- settings -------------------------------------------------------------------------------------


def test_a_name_server_that_is_no_address_keeps_the_daemon_from_starting(home: Path) -> None:
    result = run_cli(home, "daemon", env={"P2PFWD_SWARM_DNS_SERVERS": "not-an-ip"})
    assert (result.returncode, result.stdout) == (2, "")
    assert 'swarm.dns_servers must be addresses of name servers, and "not-an-ip" is no IP' in result.stderr
