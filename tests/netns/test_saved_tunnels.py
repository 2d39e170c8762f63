"""Saved tunnels on a machine whose address comes and goes, and on a disk that is really full."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.two_machines import Machine, TwoMachines, Unavailable
from tests.support import sockets
from tests.support.daemon import Daemon, run_cli
from tests.support.fake_daemon import until
from tests.support.sockets import TcpServer

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

VPN = "10.99.0.1"
WAIT_S = 10.0
SWARM = ("/ip4/0.0.0.0/tcp/4011",)


@pytest.fixture
def wire() -> Iterator[TwoMachines]:
    try:
        made = TwoMachines()
    except Unavailable as exc:
        pytest.skip(str(exc))
    with made:
        yield made


def echoes(machine: Machine) -> bool:
    """Whether a connection to the forward at the address that comes and goes answers."""

    def ask() -> bool:
        try:
            with socket.create_connection((VPN, 8080), WAIT_S) as conn:
                conn.sendall(b"?")
                return sockets.read_exactly(conn, 1) == b"?"
        except (OSError, EOFError):
            return False

    return machine.call(ask)


def test_an_address_that_goes_and_comes_back_is_bound_again(home: Path, wire: TwoMachines) -> None:
    near, far = wire.left, wire.right
    near.run("ip", "address", "add", f"{VPN}/32", "dev", "lo")

    def state() -> str:
        (listener,) = forwarding.json("ls")["Listeners"]
        return str(listener["State"])

    with (
        far.call(lambda: TcpServer(sockets.echo)) as echo,
        Daemon(home / "far", swarm=SWARM, within=far.within) as sharing,
    ):
        sharing.ok("listen", "/x/echo", echo.address)
        peer = f"/ip4/{far.address}/tcp/4011/p2p/{sharing.peer_id}"
        with Daemon(home / "near", swarm=SWARM, within=near.within) as forwarding:
            forwarding.ok("forward", "/x/echo", f"{VPN}:8080", peer)
            assert echoes(near)
            near.run("ip", "address", "del", f"{VPN}/32", "dev", "lo")
            assert until(lambda: state() == "bind-failed")
            near.run("ip", "address", "add", f"{VPN}/32", "dev", "lo")
            assert until(lambda: state() == "unknown")
            assert echoes(near)
        near.run("ip", "address", "del", f"{VPN}/32", "dev", "lo")
        with Daemon(home / "near", swarm=SWARM, within=near.within) as forwarding:
            assert state() == "bind-failed"
            near.run("ip", "address", "add", f"{VPN}/32", "dev", "lo")
            assert until(lambda: state() == "unknown")
            assert echoes(near)


def test_an_interface_that_goes_and_comes_back_has_its_forward_again(home: Path, wire: TwoMachines) -> None:
    """As a VPN does it: the interface itself is gone meanwhile."""
    near = wire.left

    def vpn(*, up: bool) -> None:
        if up:
            near.run("ip", "link", "add", "vpn0", "type", "veth", "peer", "name", "vpn1")
            near.run("ip", "address", "add", f"{VPN}/24", "dev", "vpn0")
            near.run("ip", "link", "set", "vpn0", "up")
            near.run("ip", "link", "set", "vpn1", "up")
        else:
            near.run("ip", "link", "del", "vpn0")

    def connects() -> bool:
        def dial() -> bool:
            try:
                socket.create_connection((VPN, 8080), WAIT_S).close()
            except OSError:
                return False
            return True

        return near.call(dial)

    vpn(up=True)
    with Daemon(home, swarm=SWARM, within=near.within) as forwarding:
        peer = "12D3KooWNBSMhmHonfyQbXYczUq24ujJKQxhpNNgSaLxvupFZ5uu"
        forwarding.ok("forward", "/x/echo", f"{VPN}:8080", peer, "--no-check")
        for _ in range(2):
            assert connects()
            vpn(up=False)
            assert until(lambda: forwarding.json("ls")["Listeners"][0]["State"] == "bind-failed")
            reason = forwarding.json("ls")["Listeners"][0]["Reason"]
            assert reason.endswith(f"/ip4/{VPN}/tcp/8080: no interface of this machine has that address")
            vpn(up=True)
            assert until(lambda: forwarding.json("ls")["Listeners"][0]["State"] != "bind-failed")


def test_a_nodes_own_address_that_comes_after_its_start_and_goes_and_comes_back(
    home: Path, wire: TwoMachines
) -> None:
    near, far = wire.left, wire.right
    near.run("ip", "address", "add", "10.88.0.1/24", "dev", "wire")
    own = "/ip4/10.88.0.2/tcp/4011"

    def absent() -> list[str]:
        return list(late.json("status")["AbsentAddresses"])

    with (
        Daemon(home / "far", swarm=(own,), within=far.within) as late,
        Daemon(home / "near", swarm=SWARM, within=near.within) as dialing,
    ):
        assert absent() == [own] and late.json("id")["Addresses"] == []
        for _ in range(2):
            far.run("ip", "address", "add", "10.88.0.2/24", "dev", "wire")
            assert until(lambda: absent() == [])
            assert f"{own}/p2p/{late.peer_id}" in late.json("id")["Addresses"]
            dialing.ok("ping", "-n", "1", f"{own}/p2p/{late.peer_id}")
            dialing.ok("swarm", "disconnect", late.peer_id)
            far.run("ip", "address", "del", "10.88.0.2/24", "dev", "wire")
            assert until(lambda: absent() == [own])
            assert f"{own}/p2p/{late.peer_id}" not in late.json("id")["Addresses"]


def test_a_disk_that_is_full_loses_and_changes_nothing(home: Path) -> None:
    disk = home / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        _fill(disk / "d", disk / "ballast")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _fill(place: Path, ballast: Path) -> None:
    with Daemon(place) as daemon:
        daemon.ok("listen", "/x/before", "9")
        before = daemon.json("ls")
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(1024))
        for command in (("listen", "/x/more", "9"), ("close", "-a")):
            failed = run_cli(place, *command)
            assert (failed.returncode, failed.stdout) == (1, "")
            error, hint = failed.stderr.splitlines()
            assert error == f"Error: state file {place / 'state.db'}: database or disk is full"
            assert hint == "hint: free some space on that file system"
        assert daemon.json("ls") == before
        daemon.process.kill()
        daemon.wait()
    with Daemon(place) as daemon:  # it starts on the full disk, too
        assert [it["Protocol"] for it in daemon.json("ls")["Listeners"]] == ["/x/before"]
        told = run_cli(place, "events")
        assert "the daemon started" in told.stdout, "from memory, and so are the next ones"
        warning = f"Warning: history {place / 'events.db'}: "  # once the first write has failed
        assert until(lambda: warning in run_cli(place, "events").stderr)
        ballast.unlink()
        daemon.ok("close", "-a")
    with Daemon(place) as daemon:
        assert daemon.json("ls") == {"Listeners": []}
