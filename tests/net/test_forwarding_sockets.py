"""Pins the two socket ends of forwarding: binding (TCP, names, unix files) and connecting to a target."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.typed import parse_target
from p2pfwd.errors import (
    AddressInUse,
    BindFailed,
    InvalidMultiaddr,
    P2PForwardError,
    ResourceLimitExceeded,
    TargetRefused,
    TargetTimeout,
)
from p2pfwd.forwarding import target as target_module
from p2pfwd.forwarding.bind import LOOPBACK_RECEIVE_BYTES, BoundSocket, bind, numeric
from p2pfwd.forwarding.target import Target
from p2pfwd.system import sockaddrs
from p2pfwd.system.acceptor import Acceptor, bind_failure
from p2pfwd.system.host_names import HostAddress, HostNames
from p2pfwd.wire.noise.cipher import MAX_WIDE_MESSAGE
from tests.net.forwarding_rig import ANY_PORT, LOOPS, FullBacklog
from tests.support.sockets import FailingAccept, TcpServer, echo, refusing_port

Run = Callable[[Awaitable[object]], object]


@pytest.fixture(params=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    def run(work: Awaitable[object]) -> object:
        async def main() -> object:
            return await work

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(main())

    return run


def bound(address: str) -> BoundSocket:
    async def main() -> BoundSocket:
        return bind(await numeric(Multiaddr.parse(address)))

    return asyncio.run(main())


# --- binding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0", "/dns4/localhost/tcp/0"])
def test_the_real_address_is_known_and_options_are_inherited(address: str) -> None:
    made = bound(address)
    with made.sock:
        family = "/ip6/::1" if "ip6" in address else "/ip4/127.0.0.1"
        assert str(made.address) == f"{family}/tcp/{made.sock.getsockname()[1]}"
        with socket.create_connection(made.sock.getsockname()[:2], 20):
            conn, _ = made.sock.accept()
            with conn:
                assert conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert conn.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert conn.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 2 * LOOPBACK_RECEIVE_BYTES
    assert LOOPBACK_RECEIVE_BYTES >= MAX_WIDE_MESSAGE, "a read can fill a wide frame"


def test_an_address_somebody_has_is_in_use() -> None:
    with TcpServer(echo) as server, pytest.raises(AddressInUse) as caught:
        bound(server.address)
    assert server.address in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, "permission denied"),
        (errno.EADDRNOTAVAIL, "no interface of this machine"),
        (errno.EAFNOSUPPORT, "Address family not supported"),
    ],
)
def test_a_failed_bind_says_why(code: int, words: str) -> None:
    failure = bind_failure(OSError(code, os.strerror(code)), "/ip4/127.0.0.1/tcp/80")
    assert isinstance(failure, BindFailed) and words in failure.message
    cures = {errno.EACCES: "1024", errno.EADDRNOTAVAIL: "`ip address` shows"}
    assert cures.get(code, "") in (failure.hint or "")


def test_no_free_port_is_told_as_that() -> None:
    """With port 0 nobody named a port that another program could have."""
    failure = bind_failure(OSError(errno.EADDRINUSE, ""), "/ip4/127.0.0.1/tcp/0")
    assert isinstance(failure, AddressInUse) and "no free port" in failure.message and failure.hint
    assert "already in use" in bind_failure(OSError(errno.EADDRINUSE, ""), "/ip4/127.0.0.1/tcp/80").message


def test_an_address_of_no_interface_cannot_be_bound() -> None:
    with pytest.raises(BindFailed, match="no interface"):
        bound("/ip4/192.0.2.1/tcp/0")


def test_a_name_that_cannot_be_resolved_cannot_be_bound() -> None:
    with pytest.raises(BindFailed, match="cannot be resolved"):
        bound(f"/dns/{'a' * 64}.invalid/tcp/0")


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/udp/53", "/ip4/127.0.0.1/tcp/1/ws", "/ip4/127.0.0.1"])
def test_what_is_no_listen_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidMultiaddr, match="tcp or unix"):
        bound(address)


def test_a_unix_socket_is_private_and_removed(home: Path) -> None:
    path = home / "entry"
    made = bound(f"/unix{path}")
    with made.sock:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made.remove_file()
    assert not path.exists()
    made.remove_file()


def test_a_stale_unix_socket_is_replaced(home: Path) -> None:
    path = home / "entry"
    with bound(f"/unix{path}").sock:
        pass
    assert path.exists(), "left behind as by a crash"
    made = bound(f"/unix{path}")
    with made.sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@pytest.mark.parametrize("backlog", ["room", "full"])
def test_a_unix_socket_somebody_answers_on_is_in_use(home: Path, backlog: str) -> None:
    path = home / "entry"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        other.bind(str(path))
        other.listen(0)
        if backlog == "full":
            client.connect(str(path))
        with pytest.raises(AddressInUse, match="another program listens there"):
            bound(f"/unix{path}")
        assert path.exists()


def test_a_file_is_never_overwritten(home: Path) -> None:
    path = home / "notes.txt"
    path.write_text("precious")
    with pytest.raises(AddressInUse, match="no socket") as told:
        bound(f"/unix{path}")
    assert told.value.hint == "choose another path, or move that file away"
    assert path.read_text() == "precious"


def test_the_file_of_a_successor_is_not_removed(home: Path) -> None:
    path = home / "entry"
    first = bound(f"/unix{path}")
    first.sock.close()
    second = bound(f"/unix{path}")
    os.utime(path, (1, 1))  # made at another time; its inode may well be the first one's
    with second.sock:
        first.remove_file()
        assert path.exists()


@pytest.mark.parametrize(
    ("path", "words", "hint"),
    [
        ("/" + "a" * 107, "108 bytes long, the system's limit is 107", "choose a shorter path"),
        ("/" + "ä" * 54, "109 bytes long", "choose a shorter path"),
        ("/no/such/directory/sock", "the directory does not exist", "make it first, or choose another path"),
        ("/dev/null/sock", "the directory does not exist", "make it first, or choose another path"),
    ],
)
def test_unix_paths_that_cannot_be_say_why(path: str, words: str, hint: str) -> None:
    with pytest.raises(BindFailed, match=words) as told:
        bound(f"/unix{path}")
    assert told.value.hint == hint


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"])
def test_an_accepted_connection_is_reset_by_default(address: str) -> None:
    """It inherits that, so nothing is asked of the kernel for each: a killed daemon's clients see a RST."""
    try:
        made = bind(Multiaddr.parse(address))
    except BindFailed:
        pytest.skip("no such address here")
    with made.sock, socket.create_connection(made.sock.getsockname()[:2], 20) as client:
        accepted, _ = made.sock.accept()
        accepted.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_paused_acceptor_leaves_connections_in_the_backlog(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[socket.socket] = asyncio.Queue()
        made = bind(ANY_PORT)
        acceptor = Acceptor(made.sock, loop, lambda sock, _peer: arrived.put_nowait(sock))
        address = made.sock.getsockname()
        acceptor.pause()
        acceptor.pause()
        with socket.create_connection(address, 20), socket.create_connection(address, 20):
            await asyncio.sleep(0.02)
            assert arrived.empty()
            acceptor.resume()
            acceptor.resume()
            for _ in range(2):
                async with asyncio.timeout(10):
                    (await arrived.get()).close()
            acceptor.pause()
        acceptor.close()
        acceptor.resume()
        acceptor.close()

    run(main())


@pytest.mark.parametrize("name", ["EPROTO", "ENETDOWN", "EHOSTUNREACH", "EPERM"])
def test_the_failure_of_one_connection_is_no_failure_of_the_listener(run: Run, name: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        defects: list[Any] = []
        loop.set_exception_handler(lambda _loop, context: defects.append(context))
        arrived: asyncio.Queue[socket.socket] = asyncio.Queue()
        made = bind(ANY_PORT)
        sock: Any = FailingAccept(made.sock, 1, getattr(errno, name))
        acceptor = Acceptor(sock, loop, lambda sock, _peer: arrived.put_nowait(sock))
        with socket.create_connection(made.sock.getsockname(), 20):
            async with asyncio.timeout(10):
                (await arrived.get()).close()
        acceptor.close()
        assert defects == []

    run(main())


# --- zones ----------------------------------------------------------------------------------------


def test_an_interface_that_is_not_there_is_named() -> None:
    with pytest.raises(BindFailed, match="this machine has no network interface wlan9") as caught:
        bound("/ip6zone/wlan9/ip6/fe80::1/tcp/0")
    assert caught.value.hint
    with pytest.raises(TargetRefused, match="this machine has no network interface wlan9"):
        Target(Multiaddr.parse("/ip6zone/wlan9/ip6/fe80::1/tcp/1")).begin()


def test_a_link_local_address_without_its_interface_says_what_to_add() -> None:
    said = "fe80::1 needs the interface it is behind, as fe80::1%eth0"
    with pytest.raises(BindFailed, match=said) as caught:
        bound("/ip6/fe80::1/tcp/0")
    assert caught.value.hint
    with pytest.raises(InvalidMultiaddr, match=said):
        Target(Multiaddr.parse("/ip6/fe80::1/tcp/1"))


# --- targets --------------------------------------------------------------------------------------


async def connected(address: str, timeout_s: float = 10) -> bytes:
    """What a target answers to "hello"."""
    sock = await Target(Multiaddr.parse(address)).connect(timeout_s)
    loop = asyncio.get_running_loop()
    with sock:
        assert sock.gettimeout() == 0
        await loop.sock_sendall(sock, b"hello")
        return await loop.sock_recv(sock, 100)


def test_a_loopback_target_is_connected_without_waiting_for_the_loop() -> None:
    with TcpServer(echo) as server:
        sock, done = Target(Multiaddr.parse(server.address)).begin()
        assert sock is not None and done
        with sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            sock.setblocking(True)
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"


def test_tcp_and_names(run: Run) -> None:
    with TcpServer(echo) as server:
        assert run(connected(server.address)) == b"hello"
        # ::1 comes first where there is IPv6, and nobody is there.
        assert run(connected(f"/dns/localhost/tcp/{server.port}")) == b"hello"


# A name with several addresses, all at the port of one: what a test needs of 127.0.0.0/8.


def named(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """From now on every name is these addresses, in this order."""
    found = [HostAddress(socket.AF_INET6 if ":" in host else socket.AF_INET, host) for host in hosts]
    monkeypatch.setattr(target_module, "SYSTEM_NAMES", HostNames(lambda host, family: found))


def served_at(host: str, port: int) -> socket.socket:
    """A listening socket; the kernel takes connections for it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def test_a_silent_first_address_costs_one_step_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(port: int) -> list[float]:
        loop = asyncio.get_running_loop()
        target = Target(Multiaddr.parse(f"/dns/app.lan/tcp/{port}"))
        took = []
        for _ in range(3):
            began = loop.time()
            with await target.connect(10) as sock:
                assert sock.getpeername()[0] == "127.0.0.2"
            took.append(loop.time() - began)
        return took

    assert target_module.STEP_S == 0.25
    monkeypatch.setattr(target_module, "STEP_S", 1.0)  # so that a busy machine's delays are no step
    named(monkeypatch, "127.0.0.1", "127.0.0.2")
    with FullBacklog() as silent, served_at("127.0.0.2", int(silent.rpartition("/")[2])) as server:
        first, *others = run(story(server.getsockname()[1]))  # type: ignore[misc]
    assert first > 0.9 > max(others)


def test_the_address_that_worked_is_given_up_when_it_works_no_more(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        target = Target(Multiaddr.parse(f"/dns/app.lan/tcp/{port}"))
        for host in ("127.0.0.2", "127.0.0.3"):
            with served_at(host, port), await target.connect(10) as sock:
                assert sock.getpeername()[0] == host

    named(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.3")
    with refusing_port() as port:
        run(story())


def test_when_all_addresses_fail_each_says_why(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_port() as port:
        address = f"/dns/app.lan/tcp/{port}"
        named(monkeypatch, "127.0.0.1", "127.0.0.2")
        error = failure(run, address)
        assert type(error) is TargetRefused and error.hint == "is the service running?"
        assert error.message == (
            f"the target {address} refused the connection, at 127.0.0.1 and at 127.0.0.2"
        )
        named(monkeypatch, "127.0.0.1", "fe80::1%wlan9")
        monkeypatch.setattr(sockaddrs, "interface_number", lambda zone: 7777)
        error = failure(run, address)
        assert type(error) is TargetRefused
        assert error.message.startswith(
            f"the target {address} cannot be reached: 127.0.0.1 refused the connection; "
            "fe80::1%wlan9 cannot be reached: "
        )


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("fe80::1", "fe80::1 needs the interface it is behind, as fe80::1%eth0"),
        ("fe80::1%wlan9", "this machine has no network interface wlan9"),
    ],
)
def test_a_name_with_an_address_that_lacks_its_interface_says_so_and_goes_on_to_the_next(
    run: Run, monkeypatch: pytest.MonkeyPatch, host: str, said: str
) -> None:
    named(monkeypatch, host)
    error = failure(run, "/dns/app.lan/tcp/1")
    assert type(error) is TargetRefused
    assert error.message == f"the target /dns/app.lan/tcp/1 cannot be reached: {said}"
    named(monkeypatch, host, "127.0.0.1")
    with TcpServer(echo) as server:
        assert run(connected(f"/dns/app.lan/tcp/{server.port}")) == b"hello"


def test_at_the_deadline_each_address_says_what_it_did(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, "127.0.0.2", "127.0.0.1")
    with FullBacklog() as silent:
        address = silent.replace("/ip4/127.0.0.1", "/dns/app.lan")
        error = failure(run, address, timeout_s=0.5)
    assert type(error) is TargetTimeout
    assert error.message == (
        f"the target {address} did not answer within 0.5 s "
        "(127.0.0.2 refused the connection; 127.0.0.1 did not answer)"
    )


def test_a_name_that_cannot_be_resolved_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(host: str, family: int) -> list[HostAddress]:
        raise socket.gaierror(socket.EAI_NONAME, "x")

    monkeypatch.setattr(target_module, "SYSTEM_NAMES", HostNames(lookup))
    error = failure(run, "/dns/app.lan/tcp/1")
    assert error.message == (
        "the name of the target /dns/app.lan/tcp/1 cannot be resolved: the name app.lan does not exist"
    )


def loopback_target(port: int) -> Target:
    address, any_loopback = parse_target(str(port))
    return Target(address, any_loopback=any_loopback)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_bare_port_finds_its_service_on_either_loopback(run: Run, host: str) -> None:
    with refusing_port() as port, served_at(host, port if host == "::1" else 0) as server:
        target = loopback_target(server.getsockname()[1])
        assert str(target.listening_at()).split("/")[2] == host
        for _ in range(2):
            sock, connected = target.begin()
            assert sock is not None and connected, "no turn of the loop is waited for"
            with sock:
                assert target.found_at(sock) == target.listening_at()


def test_a_bare_port_without_a_service_says_that_both_were_tried(run: Run) -> None:
    with refusing_port() as port:
        with pytest.raises(TargetRefused) as caught:
            loopback_target(port).begin()
        assert caught.value.message == (
            f"the target /ip4/127.0.0.1/tcp/{port} refused the connection, at 127.0.0.1 and at ::1"
        )
        assert loopback_target(port).listening_at() is None


def test_where_there_is_no_ipv6_it_is_not_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = target_module._begin

    def without_ipv6(place: Any) -> Any:
        if place.family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return begin(place)

    monkeypatch.setattr(target_module, "_begin", without_ipv6)
    with refusing_port() as port, pytest.raises(TargetRefused) as caught:
        loopback_target(port).begin()
    assert caught.value.message == f"the target /ip4/127.0.0.1/tcp/{port} refused the connection"
    assert caught.value.hint == "is the service running?"


def failure(run: Run, address: str, timeout_s: float = 10) -> P2PForwardError:
    with pytest.raises(P2PForwardError) as caught:
        run(connected(address, timeout_s))
    return caught.value


def test_a_refused_target(run: Run) -> None:
    with refusing_port() as port:
        for address in (f"/ip4/127.0.0.1/tcp/{port}", f"/dns4/localhost/tcp/{port}"):
            error = failure(run, address)
            assert type(error) is TargetRefused
            assert error.message == f"the target {address} refused the connection"


def test_a_silent_target_ends_at_the_deadline(run: Run) -> None:
    with FullBacklog() as address:
        for target in (address, address.replace("/ip4/127.0.0.1", "/dns4/localhost")):
            error = failure(run, target, timeout_s=0.1)
            assert type(error) is TargetTimeout
            assert error.message == f"the target {target} did not answer within 0.1 s"


def test_no_descriptor_left_is_our_limit_and_not_the_targets_fault() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = Target(Multiaddr.parse("/ip4/127.0.0.1/tcp/9"))
    with pytest.raises(ResourceLimitExceeded, match="as many files open as this machine allows it"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            target.begin()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_local_port_left_is_this_machines_limit() -> None:
    """In a network whose one free port is in use: two connections to one place cannot be told apart."""
    script = (
        "import asyncio, socket\n"
        "from p2pfwd.core.multiaddrs import Multiaddr\n"
        "from p2pfwd.forwarding.target import Target\n"
        "open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('50000 50000')\n"
        "server = socket.create_server(('127.0.0.1', 8080))\n"
        "first = socket.create_connection(('127.0.0.1', 8080))\n"
        "asyncio.run(Target(Multiaddr.parse('/ip4/127.0.0.1/tcp/8080')).connect(5))\n"
    )
    inside = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-c"]
    if subprocess.run([*inside, "pass"], capture_output=True, check=False).returncode != 0:
        pytest.skip("network namespaces are not to be had here")
    done = subprocess.run([*inside, script], capture_output=True, text=True, check=False)
    assert "Cannot assign requested address (this machine has no local port left" in done.stderr


def test_unix_targets(run: Run, home: Path) -> None:
    path = home / "target"
    assert failure(run, f"/unix{path}").message == f"the target /unix{path} does not exist"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert "refused the connection" in failure(run, f"/unix{path}").message
        server.listen(1)
        thread = threading.Thread(target=_answer, args=(server, 1))
        thread.start()
        assert run(connected(f"/unix{path}")) == b"hello"
        thread.join()


def _answer(server: socket.socket, times: int) -> None:
    for _ in range(times):
        conn, _ = server.accept()
        with conn:
            conn.sendall(conn.recv(100))


def test_a_unix_target_with_a_full_backlog_is_waited_for(run: Run, home: Path) -> None:
    path = str(home / "target")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(path)
        server.listen(0)
        first.connect(path)
        sock, done = Target(Multiaddr.parse(f"/unix{path}")).begin()
        assert sock is not None and not done, "the backlog is full"
        sock.close()
        error = failure(run, f"/unix{path}", timeout_s=0.1)
        assert type(error) is TargetTimeout
        first.sendall(b"first")
        thread = threading.Thread(target=_answer, args=(server, 2))
        thread.start()
        assert run(connected(f"/unix{path}")) == b"hello"
        thread.join()


def test_those_who_wait_for_a_full_unix_socket_share_one_thread(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The others of the executor resolve names: a service that does not answer must not stop all others.
    at_once, most, lock = 0, 0, threading.Lock()

    def busy(sock: socket.socket, sockaddr: object) -> int:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        release.wait(5)
        with lock:
            at_once -= 1
        return errno.EAGAIN

    monkeypatch.setattr(target_module, "_connect_blocking", busy)
    release = threading.Event()
    path = str(home / "target")

    async def wait_for_all(target: Target) -> None:
        waits = [asyncio.ensure_future(target.connect(30)) for _ in range(20)]
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        assert await loop.getaddrinfo("127.0.0.1", 1)
        for wait in waits[:10]:
            wait.cancel()
        assert await loop.getaddrinfo("127.0.0.1", 1)
        release.set()
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(path)
        server.listen(0)
        first.connect(path)
        run(wait_for_all(Target(Multiaddr.parse(f"/unix{path}"))))
    assert most == 1
