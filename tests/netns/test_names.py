"""Names as machines have them: hosts file, search domains, name servers that change, are gone or never were.

Real daemons on machines of their own, each with its own hosts file and resolv.conf; link-local addresses on a
wire.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.netns.own_files import OwnFiles
from tests.netns.two_machines import Machine, TwoMachines, Unavailable
from tests.support import sockets
from tests.support.daemon import Daemon
from tests.support.fake_daemon import until
from tests.support.fake_dns import FakeDns
from tests.support.sockets import TcpServer

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

PUBLIC = {
    "P2PFWD_NETWORK": "public",
    "P2PFWD_BOOTSTRAP_PEERS": "/dnsaddr/nobody.example",
    "P2PFWD_DISCOVERY_MDNS": "off",
}
"""The names of peers go the system's way; nobody is there to be met."""


@pytest.fixture
def wire() -> Iterator[TwoMachines]:
    try:
        made = TwoMachines()
    except Unavailable as exc:
        pytest.skip(str(exc))
    with made:
        yield made


class Scene:
    """`near`, on the left machine with files of its own, and `far` on the right one, which shares an echo."""

    def __init__(self, stack: ExitStack, home: Path, wire: TwoMachines, **files: str) -> None:
        self.wire = wire
        try:
            self.files = OwnFiles(home / "files", wire.left, **files)
        except Unavailable as exc:
            pytest.skip(str(exc))
        self.echo = stack.enter_context(wire.right.call(lambda: TcpServer(sockets.echo)))
        self.far = stack.enter_context(
            Daemon(home / "far", swarm=("/ip4/0.0.0.0/tcp/4011",), within=wire.right.within)
        )
        self.near = stack.enter_context(Daemon(home / "near", env=PUBLIC, within=self.files.within))
        self.far.ok("listen", "/x/echo", self.echo.address)

    def peer(self, host: str) -> str:
        """A PEER argument for `far` by name."""
        return f"/dns4/{host}/tcp/4011/p2p/{self.far.peer_id}"

    @property
    def literal(self) -> str:
        """One by address."""
        return f"/ip4/{self.wire.right.address}/tcp/4011/p2p/{self.far.peer_id}"

    def echoes(self, port: int) -> bool:
        """Whether a new connection through the tunnel answers."""
        try:
            with self.wire.left.connect(port) as conn:
                conn.sendall(b"?")
                return sockets.read_exactly(conn, 1) == b"?"
        except (ConnectionError, EOFError):
            return False


@contextmanager
def scene(home: Path, wire: TwoMachines, **files: str) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(stack, home, wire, **files)


@contextmanager
def name_server(machine: Machine, host: str, **hosts: list[str]) -> Iterator[FakeDns]:
    """A name server at port 53 of an address of that machine."""
    with machine.call(lambda: FakeDns(host, 53)) as dns:
        dns.hosts |= {f"{name.replace('_', '.')}.": found for name, found in hosts.items()}
        yield dns


def port_in(output: str) -> int:
    found = re.search(r"Forwarding 127\.0\.0\.1:(\d+)", output)
    assert found is not None, output
    return int(found[1])


def test_without_name_servers_a_literal_address_works_and_a_name_says_dns(
    home: Path, wire: TwoMachines
) -> None:
    """An empty resolv.conf: a race with a name goes on, a name alone fails with one sentence."""
    with scene(home / "1", wire) as it:
        both = it.near.cli("forward", "/x/echo", "0", it.peer("home.example"), it.literal)
        assert both.returncode == 0 and "The peer answers" in both.stdout and both.stderr == ""
        assert it.echoes(port_in(both.stdout))
        it.near.ok("swarm", "disconnect", it.far.peer_id)
        it.near.ok("close", "-a")
    with scene(home / "2", wire) as it:
        alone = it.near.cli("ping", it.peer("home.example"))
        assert alone.returncode != 0
        assert "DNS: home.example cannot be looked up, /etc/resolv.conf names no name server" in alone.stderr
        assert alone.stderr.count("DNS") == 1 and "defect" not in alone.stderr
        for words in (("peer", "add", "box", "/dnsaddr/home.example"), ("ping", "/dnsaddr/home.example")):
            said = it.near.cli(*words)
            assert said.returncode == 4 and "names no name server" in said.stderr
        assert "Traceback" not in it.near.stderr
        assert it.near.stderr.count("/dnsaddr/nobody.example cannot be used yet: DNS: ") == 1


def test_a_resolv_conf_that_cannot_be_read_is_told_and_the_bootstrap_name_is_found_once_it_can(
    home: Path, wire: TwoMachines
) -> None:
    """A name server by its name and a search domain that is none: once they ended the look-up for good."""
    with (
        name_server(wire.left, "127.0.0.2") as dns,
        scene(home, wire, resolv_conf="nameserver router.lan\nsearch a..b\n") as it,
    ):
        assert f"/ip4/{wire.right.address}/tcp/4011" in it.near.ok("ping", "-n", "1", it.literal)
        told = "_dnsaddr.nobody.example cannot be looked up, /etc/resolv.conf names no name server by its IP"
        assert told in it.near.cli("doctor").stdout
        it.files.resolv_conf("search a..b\nnameserver 127.0.0.2\n")
        assert until(lambda: ("_dnsaddr.nobody.example.", "TXT") in dns.asked, 70)
        assert "Traceback" not in it.near.stderr


def test_the_hosts_file_and_the_search_domains_are_those_of_every_program(
    home: Path, wire: TwoMachines
) -> None:
    """A name of the hosts file, and a short one below `search lan`."""
    right = wire.right.address
    with (
        name_server(wire.left, "127.0.0.1", nas_lan=[right]),
        scene(
            home, wire, hosts=f"{right} homeserver\n", resolv_conf="search lan\nnameserver 127.0.0.1\n"
        ) as it,
    ):
        for host in ("homeserver", "nas", "nas.lan"):
            assert f"/ip4/{right}/tcp/4011" in it.near.ok("ping", "-n", "1", it.peer(host))
            it.near.ok("swarm", "disconnect", it.far.peer_id)


def test_name_servers_are_read_anew_when_the_machine_moves(home: Path, wire: TwoMachines) -> None:
    """The old server is gone, resolv.conf names another: the next connection of a forward asks that one."""
    right = wire.right.address
    with ExitStack() as stack:
        with name_server(wire.left, "127.0.0.1", home_example=[right]):
            it = Scene(stack, home, wire, resolv_conf="nameserver 127.0.0.1\n")
            port = port_in(it.near.ok("forward", "/x/echo", "0", it.peer("home.example")))
            assert it.echoes(port)
        it.near.ok("swarm", "disconnect", it.far.peer_id)
        wire.right.run("ip", "address", "del", f"{right}/24", "dev", "wire")
        wire.right.run("ip", "address", "add", "10.77.0.77/24", "dev", "wire")
        with name_server(wire.left, "127.0.0.2", home_example=["10.77.0.77"]):
            it.files.resolv_conf("nameserver 127.0.0.2\n")
            started = time.monotonic()
            assert it.echoes(port)
            assert time.monotonic() - started < 8, "a new name server, as fast as at a start"


def test_a_name_server_that_does_not_answer_is_what_the_message_is_about(
    home: Path, wire: TwoMachines
) -> None:
    """`forward` and `ping` say DNS, once, and not that the peer is silent."""
    with (
        wire.left.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as deaf,
        scene(home, wire, resolv_conf="nameserver 127.0.0.1\n") as it,
    ):
        deaf.bind(("127.0.0.1", 53))
        said = it.near.cli("forward", "/x/echo", "0", it.peer("home.example"))
        assert said.returncode == 0 and said.stderr.count("DNS") == 1, said.stderr
        assert "DNS: no answer for home.example within 8 s" in said.stderr
        assert "the peer did not answer" not in said.stderr
        said = it.near.cli("ping", "-n", "1", it.peer("home.example"))
        assert re.search("DNS: no (name server answers|answer) for home.example", said.stderr), said.stderr


def test_a_look_up_by_a_silent_server_is_begun_anew_when_resolv_conf_names_another(
    home: Path, wire: TwoMachines
) -> None:
    """The system's resolver would wait for the silent one for forty seconds."""
    silent = "options timeout:20\nnameserver 127.0.0.1\n"
    with (
        wire.left.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as deaf,
        name_server(wire.left, "127.0.0.2", home_example=[wire.right.address]),
        scene(home, wire, resolv_conf=silent) as it,
    ):
        deaf.bind(("127.0.0.1", 53))
        assert "DNS: no answer for home.example" in it.near.cli("ping", it.peer("home.example")).stderr
        it.files.resolv_conf("nameserver 127.0.0.2\n")
        assert f"/ip4/{wire.right.address}/tcp/4011" in it.near.ok(
            "ping", "-n", "1", it.peer("home.example")
        )


def test_a_target_with_a_dead_first_address_costs_little_and_once(home: Path, wire: TwoMachines) -> None:
    """The hosts file has a silent address before the good one."""
    dead, good = "10.77.0.99", wire.right.address
    with (
        wire.right.call(lambda: socket.create_server((good, 0))) as service,
        ExitStack() as stack,
    ):
        try:
            files = OwnFiles(home / "files", wire.left, hosts=f"{dead} app.lan\n{good} app.lan\n")
        except Unavailable as exc:
            pytest.skip(str(exc))
        near = stack.enter_context(Daemon(home / "near", within=files.within))
        user = stack.enter_context(Daemon(home / "user", within=wire.left.within))
        # The dead neighbour is known, and silent: no "no route to host" comes to the rescue.
        silent = f"ip neighbour replace {dead} lladdr 02:00:00:00:00:99 dev wire nud permanent"
        wire.left.run(*silent.split())
        target = f"app.lan:{service.getsockname()[1]}"
        found = f"{good}:{service.getsockname()[1]}"
        assert f"-> {target}, which answers at {found}." in near.ok("listen", "/x/app", target)
        near.ok("close", "-a")
        near.ok("listen", "/x/app", target)
        service.accept()[0].close()
        service.accept()[0].close()
        port = port_in(user.ok("forward", "/x/app", "0", near.address))
        took = []
        for _ in range(3):
            thread = threading.Thread(target=_echo_one, args=(service,))
            thread.start()
            started = time.monotonic()
            with wire.left.connect(port) as conn:
                conn.sendall(b"?")
                assert sockets.read_exactly(conn, 1) == b"?"
                took.append(time.monotonic() - started)
            thread.join()
        assert max(took) < 0.25, "the check has found out which address works"


def _echo_one(listener: socket.socket) -> None:
    conn, _ = listener.accept()
    with conn:
        sockets.echo(conn)


LEFT, RIGHT = "fe80::77:1", "fe80::77:2"


def test_link_local_addresses_work_as_target_listen_and_peer(home: Path, wire: TwoMachines) -> None:
    """`[fe80::1%wire]:PORT` and `/ip6zone/wire/…`, on a wire with no other IPv6 address."""
    for machine, address in ((wire.left, LEFT), (wire.right, RIGHT)):
        machine.run("ip", "address", "add", f"{address}/64", "dev", "wire", "nodad")
    with (
        wire.right.call(lambda: _serve_at(RIGHT)) as service,
        Daemon(home / "far", swarm=("/ip6/::/tcp/4011",), within=wire.right.within) as far,
        Daemon(home / "near", within=wire.left.within) as near,
    ):
        thread = threading.Thread(target=_echo_one, args=(service,))
        thread.start()
        target = f"[{RIGHT}%wire]:{service.getsockname()[1]}"
        said = far.cli("listen", "/x/ll", target)
        assert said.returncode == 0 and f"Sharing /x/ll -> {target}, which answers." in said.stdout, said
        thread.join()  # the check was a connection: no list of sockets tells about such an address
        peer = f"/ip6zone/wire/ip6/{RIGHT}/tcp/4011/p2p/{far.peer_id}"
        assert f"/ip6zone/wire/ip6/{RIGHT}/tcp/4011" in near.ok("ping", "-n", "1", peer)
        shown = near.cli("forward", "/x/ll", f"[{LEFT}%wire]:0", peer)
        assert shown.returncode == 0 and "The peer answers" in shown.stdout, shown.stderr
        assert "other machines can connect, too: whoever reaches fe80::77:1%wire" in shown.stderr
        found = re.search(rf"Forwarding (\[{LEFT}%wire\]:(\d+)) ", shown.stdout)
        assert found is not None, shown.stdout
        thread = threading.Thread(target=_echo_one, args=(service,))
        thread.start()
        with wire.right.call(lambda: _connect_to(LEFT, int(found[2]))) as conn:
            conn.sendall(b"?")
            assert sockets.read_exactly(conn, 1) == b"?"
        thread.join()
        assert near.ok("close", "-l", found[1]).startswith("Closed 1 forward.")


def test_an_interface_that_is_not_there_is_named_wherever_it_is_typed(home: Path, wire: TwoMachines) -> None:
    """TARGET warns, LISTEN fails, PEER says why it is not dialed."""
    peer = "12D3KooWGjMCzjmzGgxx2Lu4HUpfSxRHUAAN4hN9ckgjFnKoTtB7"
    address = f"/ip6zone/wlan9/ip6/fe80::1/tcp/1/p2p/{peer}"
    with Daemon(home / "near", within=wire.left.within) as near:
        for words, status in (
            (("listen", "/x/no", "[fe80::1%wlan9]:80"), 0),
            (("forward", "/x/no", "[fe80::1%wlan9]:0", peer), 1),
            (("ping", address), 4),
            (("swarm", "connect", address), 4),
            (("peer", "add", "box", address), 0),
            (("forward", "/x/no", "0", address), 0),
        ):
            said = near.cli(*words)
            assert said.returncode == status and "no network interface wlan9" in said.stderr, (words, said)


def _serve_at(host: str) -> socket.socket:
    return socket.create_server((host, 0, 0, socket.if_nametoindex("wire")), family=socket.AF_INET6)


def _connect_to(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6)
    sock.settimeout(20)
    sock.connect((host, port, 0, socket.if_nametoindex("wire")))
    return sock
