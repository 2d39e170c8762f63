"""Pins look-ups of names: shared, bounded in time and in threads, and one clause for each way to fail."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfwd.system import host_names
from p2pfwd.system.host_names import (
    MAX_LOOKUPS,
    HostAddress,
    HostNames,
    NameFailed,
    asks_local_names_locally,
    in_hosts_file,
    name_servers,
    no_name_server,
)
from tests.support.loops import until

GOOD = HostAddress(socket.AF_INET, "192.0.2.1")


class Hanging:
    """Look-ups that end when they are let go; which were begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.free = threading.Event()

    def __call__(self, host: str, family: int) -> list[HostAddress]:
        self.begun.append(host)
        if host.startswith("hangs"):
            assert self.free.wait(20)
        return [GOOD]


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    lookup = Hanging()
    yield lookup
    lookup.free.set()


def failing(error: Exception) -> host_names.Lookup:
    def lookup(host: str, family: int) -> list[HostAddress]:
        raise error

    return lookup


def test_a_name_that_hangs_costs_its_waiters_a_bounded_time_and_others_nothing(hanging: Hanging) -> None:
    async def story() -> None:
        names = HostNames(hanging)
        with pytest.raises(NameFailed, match=r"^no answer for hangs within 0\.01 s$"):
            await names.find("hangs", timeout_s=0.01)
        assert await names.find("good") == [GOOD]

    asyncio.run(story())


def test_waiters_for_one_name_share_its_thread(hanging: Hanging) -> None:
    async def story() -> None:
        names = HostNames(hanging)
        for _ in range(50):
            with pytest.raises(NameFailed):
                await names.find("hangs", timeout_s=0.001)
        await until(lambda: bool(hanging.begun))
        assert hanging.begun == ["hangs"]
        waiting = asyncio.create_task(names.find("hangs"))
        await asyncio.sleep(0)
        hanging.free.set()
        assert await waiting == [GOOD]

    asyncio.run(story())


def test_no_more_threads_than_the_bound_and_the_next_one_waits_for_room(hanging: Hanging) -> None:
    async def story() -> None:
        names = HostNames(hanging)
        asked = [
            asyncio.create_task(names.find(f"hangs{number}", timeout_s=20)) for number in range(MAX_LOOKUPS)
        ]
        await until(lambda: len(hanging.begun) == MAX_LOOKUPS)
        with pytest.raises(NameFailed, match=r"^good waits for 16 other names that nobody answers$"):
            await names.find("good", timeout_s=0.01)
        assert len(hanging.begun) == MAX_LOOKUPS and "good" not in hanging.begun
        late = asyncio.create_task(names.find("good", timeout_s=20))
        await asyncio.sleep(0)
        hanging.free.set()
        assert await late == [GOOD]
        await asyncio.gather(*asked)

    asyncio.run(story())


def test_who_asks_after_resolv_conf_has_changed_shares_no_look_up_from_before(tmp_path: Path) -> None:
    """And who waits for that one is told that it was not answered."""
    conf, read, free = tmp_path / "resolv.conf", list[str](), threading.Event()

    def lookup(host: str, family: int) -> list[HostAddress]:
        read.append(conf.read_text())
        if "silent" in read[-1]:
            assert free.wait(20)
        return [GOOD]

    async def story() -> None:
        names = HostNames(lookup, conf)
        conf.write_text("nameserver 192.0.2.1 # silent\n")
        before = asyncio.create_task(names.find("nas", timeout_s=0.05))
        await until(lambda: read)
        conf.write_text("nameserver 192.0.2.2\n")
        assert await names.find("nas") == [GOOD]
        with pytest.raises(NameFailed, match=r"^no answer for nas within"):
            await before

    try:
        asyncio.run(story())
    finally:
        free.set()


def test_a_resolv_conf_that_changes_again_and_again_makes_a_bounded_number_of_threads(
    hanging: Hanging, tmp_path: Path
) -> None:
    conf = tmp_path / "resolv.conf"

    async def story() -> None:
        names = HostNames(hanging, conf)
        for size in range(2 * MAX_LOOKUPS):
            conf.write_text("#" * size)
            with pytest.raises(NameFailed, match="no answer for hangs"):
                await names.find("hangs", timeout_s=0.001)
        await until(lambda: len(hanging.begun) > MAX_LOOKUPS)
        assert await names.find("good") == [GOOD], "a name that does not hang finds room"
        assert hanging.begun == ["hangs"] * (MAX_LOOKUPS + 1) + ["good"]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("error", "family", "said"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), socket.AF_UNSPEC, "the name nas does not exist"),
        (socket.gaierror(socket.EAI_NODATA, "x"), socket.AF_INET, "nas has no IPv4 address"),
        (socket.gaierror(socket.EAI_ADDRFAMILY, "x"), socket.AF_INET6, "nas has no IPv6 address"),
        (socket.gaierror(socket.EAI_FAIL, "x"), 0, r"no name server can tell for nas \(192\.0\.2\.53 in"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), 0, r"no name server answers for nas \(192\.0\.2\.53 in"),
        (socket.gaierror(socket.EAI_MEMORY, "out"), 0, "nas cannot be looked up: out"),
        (UnicodeError("label too long"), 0, "nas cannot be a host name"),
    ],
)
def test_each_failure_is_one_clause(tmp_path: Path, error: Exception, family: int, said: str) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("# mine\nsearch lan\nnameserver 192.0.2.53\n")
    with pytest.raises(NameFailed, match=f"^{said}"):
        asyncio.run(HostNames(failing(error), conf).find("nas", family))


@pytest.mark.parametrize("content", ["", "search lan\n", None])
def test_without_a_name_server_the_clause_says_so_and_names_the_cure(
    tmp_path: Path, content: str | None
) -> None:
    conf = tmp_path / "resolv.conf"
    if content is not None:
        conf.write_text(content)
    error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    with pytest.raises(NameFailed, match=r"names no name server \(add one there or .* give an IP address\)"):
        asyncio.run(HostNames(failing(error), conf).find("nas"))


def test_why_there_is_no_name_server_is_told(tmp_path: Path) -> None:
    """One that is named by a name, and a file that cannot be read."""
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver router.lan\n")
    assert f"nas cannot be looked up, {conf} names no name server by its IP address (" in no_name_server(
        "nas", conf
    )
    assert f"{tmp_path} cannot be read: Is a directory (add one" in no_name_server("nas", tmp_path)


def test_the_system_is_asked() -> None:
    found = asyncio.run(HostNames().find("127.0.0.1"))
    assert found == [HostAddress(socket.AF_INET, "127.0.0.1")]
    assert asyncio.run(HostNames().find("::1")) == [HostAddress(socket.AF_INET6, "::1")]


def test_the_hosts_file_by_itself(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n192.0.2.7\tnas nas.lan # mine\nfd00::7 NAS\n\n#192.0.2.8 off\n")
    four, six = HostAddress(socket.AF_INET, "192.0.2.7"), HostAddress(socket.AF_INET6, "fd00::7")
    assert in_hosts_file("nas", path=hosts) == [four, six]
    assert in_hosts_file("Nas.Lan.", path=hosts) == [four]
    assert in_hosts_file("nas", socket.AF_INET6, path=hosts) == [six]
    assert in_hosts_file("off", path=hosts) == [] == in_hosts_file("nas", path=tmp_path / "none")


@pytest.mark.parametrize(
    ("line", "locally"),
    [
        ("hosts: files mdns4_minimal [NOTFOUND=return] dns", True),
        ("hosts: files dns mdns4", False),
        ("hosts:\tfiles\tmdns4\tdns", True),
        ("hosts:\tfiles\tdns\tmdns4", False),
        ("hosts:files dns", False),
        ("hosts: files", False),
        ("# hosts: mdns dns", False),
    ],
)
def test_whether_local_names_stay_local_is_read_from_nsswitch(
    tmp_path: Path, line: str, locally: bool
) -> None:
    path = tmp_path / "nsswitch.conf"
    path.write_text(f"passwd: files\n{line}\n")
    assert asks_local_names_locally(path) is locally


def test_name_servers_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\noptions edns0\nnameserver fe80::1%eth0\nnameserver\n")
    assert name_servers(path) == ["192.0.2.1", "fe80::1%eth0"]


def test_lines_of_the_systems_files_without_an_address_are_left_out_as_the_system_does(
    tmp_path: Path,
) -> None:
    conf, hosts = tmp_path / "resolv.conf", tmp_path / "hosts"
    conf.write_bytes(b"# \xff\nnameserver router.lan\nnameserver https://192.0.2.1/\nnameserver 192.0.2.2\n")
    assert name_servers(conf) == ["192.0.2.2"]
    hosts.write_text("router nas\n192.0.2.7 nas\n")
    assert in_hosts_file("nas", path=hosts) == [HostAddress(socket.AF_INET, "192.0.2.7")]


def test_a_thread_that_cannot_start_fails_its_name_now_and_not_later(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoThread:
        def __init__(self, **_options: object) -> None:
            pass

        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    async def story() -> None:
        names = HostNames(lambda host, family: [GOOD])
        with monkeypatch.context() as patched:
            patched.setattr(host_names, "Thread", NoThread)
            with pytest.raises(NameFailed, match="no more threads"):
                await names.find("good")
        assert await names.find("good") == [GOOD]

    asyncio.run(story())
