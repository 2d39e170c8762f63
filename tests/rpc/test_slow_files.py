"""A disk that hangs in one file holds up only the commands that need that file."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import ListenTerms
from p2pfwd.errors import ShuttingDown
from p2pfwd.rpc import schema as s
from p2pfwd.state import json_file
from p2pfwd.state.tunnel_file import SavedTunnel, TunnelFile
from tests.rpc.test_setup import PHONE, Home, run
from tests.support.loops import until

COMMANDS: dict[str, tuple[str, object]] = {
    "p2p.listen": ("state.db", s.ListenParams("/x/web", "9")),
    "p2p.listen --allow": ("access.json", s.ListenParams("/x/mine", "9", allow=(PHONE,))),
    "access.allow": ("access.json", s.AccessAllowParams("/x/web", (PHONE,))),
    "peer.add": ("peers.json", s.PeerAddParams("phone", (f"/ip4/10.1.2.3/tcp/1/p2p/{PHONE}",))),
    "invite.new": ("invites.json", s.InviteNewParams("/x/web")),
}


class HangingDisk:
    """From `hang` on whoever writes `file` waits until the gate opens; at the end of a test it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
        self.gate, self.waits = threading.Event(), threading.Event()
        self._monkeypatch = monkeypatch
        self._file = file

    def hang(self) -> None:
        """Begin with it."""
        write, change = json_file.write_atomically, TunnelFile.change

        def slow_write(path: Path, *args: Any) -> None:
            self._wait(path)
            write(path, *args)

        def slow_change(file: TunnelFile, *args: Any, **more: Any) -> None:
            self._wait(file.path)
            change(file, *args, **more)

        self._monkeypatch.setattr(json_file, "write_atomically", slow_write)
        self._monkeypatch.setattr(TunnelFile, "change", slow_change)

    def _wait(self, path: Path) -> None:
        if path.name == self._file:
            self.waits.set()
            self.gate.wait()

    def run(self, home: Path, script: Callable[[Home], Awaitable[None]]) -> None:
        """A story that opens the gate, or else it is opened at the end."""
        try:
            run(home, script)
        finally:
            self.gate.set()


def test_a_stop_does_not_wait_for_a_disk_that_hangs_under_a_command(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its call is cancelled again, which is no defect."""
    disk = HangingDisk(monkeypatch, "state.db")

    async def script(node: Home) -> None:
        disk.hang()
        wanted = SavedTunnel("listen", "/x/web", Multiaddr.parse("/ip4/127.0.0.1/tcp/9"), ListenTerms())
        making = asyncio.create_task(node.running.tunnels.make(wanted, "saved"))
        await until(disk.waits.is_set)
        for _ in range(2):
            making.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await making
        disk.gate.set()

    disk.run(home, script)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stop_answers_what_it_carried_out_as_done(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The disk is slow when the stop comes: it was answered as not done, and was done."""
    file, params = COMMANDS[command]
    disk = HangingDisk(monkeypatch, file)

    async def script(node: Home) -> None:
        disk.hang()
        slow = asyncio.create_task(node.call(command.split()[0], params))
        await until(disk.waits.is_set)
        stopping = asyncio.create_task(node.running.stop())
        await until(lambda: node.running.server.closing)
        disk.gate.set()
        if command == "p2p.listen --allow":  # its listen comes after its rule, and too late: neither is there
            with pytest.raises(ShuttingDown):
                await slow
            assert not node.running.access.rules.table.rules
        else:
            await slow
        await stopping

    disk.run(home, script)


def test_a_right_ends_at_its_time_though_the_disk_hangs_in_its_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = HangingDisk(monkeypatch, "access.json")

    async def script(node: Home) -> None:
        await node.call("access.deny", s.AccessChangeParams("/x/web", ("any",)))
        await node.call("access.allow", s.AccessAllowParams("/x/web", (PHONE,), expires_s=0.5))
        rules = node.running.forwarding.access
        assert rules.rules.admits(PeerId.parse(PHONE), "/x/web")
        disk.hang()
        slow = asyncio.create_task(node.call("access.allow", s.AccessAllowParams("/x/ssh", (PHONE,))))
        await until(disk.waits.is_set)
        await until(lambda: not rules.rules.admits(PeerId.parse(PHONE), "/x/web"))
        assert not slow.done()
        disk.gate.set()
        await slow

    disk.run(home, script)


@pytest.mark.parametrize("hanging", COMMANDS)
def test_a_write_that_hangs_holds_up_only_who_needs_its_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, hanging: str
) -> None:
    file, params = COMMANDS[hanging]
    disk = HangingDisk(monkeypatch, file)

    async def script(node: Home) -> None:
        disk.hang()
        slow = asyncio.create_task(node.call(hanging.split()[0], params))
        await until(disk.waits.is_set)
        for method, (needs, others) in COMMANDS.items():
            if needs != file and not (file == "state.db" and "listen" in method):
                await node.call(method.split()[0], others)
        await node.call("p2p.ls")
        assert not slow.done()
        disk.gate.set()
        await slow

    disk.run(home, script)
