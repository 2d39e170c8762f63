"""Commands beside each other: a file that is applied undoes none, and a write that hangs holds up few."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.errors import StorageFailed
from p2pfwd.peers import access_rules
from p2pfwd.peers import invites as invites_module
from p2pfwd.peers import named as named_module
from p2pfwd.rpc import schema as s
from p2pfwd.state.tunnel_file import TunnelFile
from tests.rpc.test_setup import LAPTOP, PHONE, SSH, Home, run
from tests.support.loops import until

DESK = "12D3KooWR4PKFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg"


def added(name: str, peer: str) -> s.PeerAddParams:
    return s.PeerAddParams(name, (f"/ip4/10.1.2.3/tcp/1/p2p/{peer}",))


def table(name: str, peer: str) -> str:
    return f'[[peer]]\nname = "{name}"\npeer = "/ip4/10.1.2.3/tcp/1/p2p/{peer}"\n'


async def names(node: Home) -> list[str]:
    return [it.name for it in (await node.call("peer.ls", s.PeerLsParams())).peers]


def test_names_given_while_a_file_waits_for_its_turn_stay(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, gate = named_module.write_atomically, threading.Event()

    def slow(*args: Any) -> None:
        gate.wait()
        write(*args)

    async def script(node: Home) -> None:
        monkeypatch.setattr(named_module, "write_atomically", slow)
        lock = node.running.peering.names._lock
        commands = [asyncio.create_task(node.call("peer.add", added("laptop", LAPTOP)))]
        await until(lock.locked)
        commands.append(asyncio.create_task(node.call("peer.add", added("phone", PHONE))))
        await until(lambda: len(lock._waiters or ()) == 1)
        commands.append(asyncio.create_task(node.apply(table("desk", DESK))))
        await until(lambda: len(lock._waiters or ()) == 2)
        gate.set()
        await asyncio.gather(*commands)
        assert await names(node) == ["desk", "laptop", "phone"]

    try:
        run(home, script)
    finally:
        gate.set()


def test_what_was_answered_meanwhile_is_not_taken_back_with_a_file_that_failed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, waits = threading.Event(), threading.Event()

    def full(*args: Any, **more: Any) -> None:
        waits.set()
        gate.wait()
        raise StorageFailed("the disk is full")

    file = SSH + table("desk", DESK) + '[[block]]\nwhom = ["10.9.0.0/16"]\n'

    async def script(node: Home) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(TunnelFile, "change", full)
            applying = asyncio.create_task(node.apply(file))
            await until(waits.is_set)
            await node.call("peer.add", added("phone", PHONE))
            await node.call("access.allow", s.AccessAllowParams("/x/web", (PHONE,)))
            await node.call("block.add", s.BlockParams(("10.8.0.0/16",)))
            gate.set()
            with pytest.raises(StorageFailed):
                await applying
        assert await names(node) == ["phone"]
        rules = (await node.call("access.ls")).rules
        assert [(it.protocol, [peer.peer for peer in it.access.allowed]) for it in rules] == [
            ("/x/web", [PHONE])
        ]
        assert [it.what for it in (await node.call("block.ls")).blocked] == ["10.8.0.0/16"]

    try:
        run(home, script)
    finally:
        gate.set()


COMMANDS: dict[str, tuple[Any, str, object]] = {
    "p2p.listen": (TunnelFile, "change", s.ListenParams("/x/web", "9")),
    "access.allow": (access_rules, "write_atomically", s.AccessAllowParams("/x/web", (PHONE,))),
    "peer.add": (named_module, "write_atomically", added("phone", PHONE)),
    "invite.new": (invites_module, "write_atomically", s.InviteNewParams("/x/web")),
}


@pytest.mark.parametrize("hanging", COMMANDS)
def test_a_write_that_hangs_keeps_only_those_waiting_who_need_its_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, hanging: str
) -> None:
    where, name, params = COMMANDS[hanging]
    work, gate, waits = getattr(where, name), threading.Event(), threading.Event()

    def hang(*args: Any, **more: Any) -> Any:
        waits.set()
        gate.wait()
        return work(*args, **more)

    async def script(node: Home) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(where, name, hang)
            slow = asyncio.create_task(node.call(hanging, params))
            await until(waits.is_set)
            for method, (_, _, others) in COMMANDS.items():
                if method != hanging:
                    await node.call(method, others)
            await node.call("p2p.ls")
            assert not slow.done()
            gate.set()
            await slow

    try:
        run(home, script)
    finally:
        gate.set()
