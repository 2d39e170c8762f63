"""p2p.export, p2p.apply, daemon.reload and what config.toml declares, against real nodes in this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import ListenTerms
from p2pfwd.daemon import config
from p2pfwd.daemon import plan as plan_module
from p2pfwd.daemon.networks import profile
from p2pfwd.daemon.node import Running
from p2pfwd.errors import (
    InvalidConfig,
    ListenerExists,
    NotFound,
    PeerExists,
    ResourceLimitExceeded,
    StorageFailed,
)
from p2pfwd.peers.access_rules import AccessRules
from p2pfwd.peers.named import NamedPeers
from p2pfwd.policy.access import Access
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.client import Client
from p2pfwd.rpc.paths import Paths
from p2pfwd.state import json_file
from p2pfwd.state.tunnel_file import MAX_SAVED_ADDRESSES, SavedTunnel, TunnelFile
from tests.rpc.node import Node
from tests.support.loops import until
from tests.support.sockets import TcpServer, connect, echo, free_port, read_exactly

LAPTOP = "12D3KooWNBSMhmHonfyQbXYczUq24ujJKQxhpNNgSaLxvupFZ5uu"
PHONE = "12D3KooWGcQcL3RfR1bmquTwxEF25cPLg3c1EdrSUicVJm1WijhL"
OVERRIDES = {
    "network": "lan",
    "swarm.listen": ["/ip4/127.0.0.1/tcp/0"],
    "discovery.mdns": "off",
    "reach.port_mapping": "off",
    "daemon.drain_timeout_s": 0.0,
}

SSH = '[[listen]]\nprotocol = "/x/ssh"\ntarget = "127.0.0.1:9"\n'
WEB = '[[listen]]\nprotocol = "/x/web"\ntarget = "127.0.0.1:10"\n'


class Home(Node):
    """A node with a config.toml."""

    async def apply(self, text: str, **more: bool) -> Any:
        return await self.call("p2p.apply", s.ApplyParams(text, "tunnels.toml", **more))

    async def export(self) -> str:
        text: str = (await self.call("p2p.export")).text
        return text

    async def reload(self, text: str) -> Any:
        written(self.running.paths.home, text)
        return await self.call("daemon.reload")

    async def ls(self) -> dict[str, s.Listener]:
        return {it.protocol: it for it in (await self.call("p2p.ls")).listeners}

    async def everything(self) -> Any:
        """What must not change."""
        access, peers = await self.call("access.ls"), await self.call("peer.ls", s.PeerLsParams())
        return await self.export(), await self.ls(), access, peers, await self.call("block.ls")


def written(home: Path, text: str) -> Paths:
    home.mkdir(exist_ok=True)
    paths = Paths.resolve(str(home), {})
    paths.config_file.write_text(text)
    return paths


async def start(home: Path, text: str = "", identity: PrivateKey | None = None) -> Home:
    paths = written(home, text)
    loaded = config.Loaded(config.load(paths.config_file, {}, OVERRIDES), {}, OVERRIDES)
    settings = loaded.config.settings
    identity = identity or PrivateKey.generate()
    return Home(await Running.start(paths, settings, profile(settings), identity, None, loaded))


def run(home: Path, script: Callable[[Home], Awaitable[None]], text: str = "") -> None:
    """A script with a node whose config.toml has this text."""

    async def main() -> None:
        node = await start(home / "a", text)
        try:
            await script(node)
        finally:
            await node.running.stop()

    asyncio.run(asyncio.wait_for(main(), 40))


async def nothing() -> None:
    """There is no access to change."""


def lines(result: Any) -> list[str]:
    return [f"{it.action} {it.kind} {it.name}" for it in result.changes]


# --- apply and export ------------------------------------------------------------------------------


def test_what_is_applied_is_there_tomorrow_and_exported_as_the_same_text(home: Path) -> None:
    port = free_port()
    text = f"""
[[peer]]
name = "laptop"
peer = ["/ip4/192.0.2.1/tcp/4011/p2p/{LAPTOP}"]
[[listen]]
protocol = "/x/ssh"
target = "22"
report_peer_id = true
allow = ["laptop"]
[[forward]]
protocol = "/x/web"
listen = "127.0.0.1:{port}"
peer = "laptop"
path = "direct"
[[block]]
whom = ["192.0.2.0/24"]
"""

    async def main() -> None:
        identity = PrivateKey.generate()
        node = await start(home / "a", identity=identity)
        result = await node.apply(text)
        assert lines(result) == [
            "added peer laptop",
            "added listen /x/ssh",
            f"added forward /ip4/127.0.0.1/tcp/{port}",
            "added rule /x/ssh",
            "added block 192.0.2.0/24",
        ]
        assert (result.unchanged, result.notes, result.dry_run) == (0, (), False)
        first = await node.everything()
        assert {it.lifetime for it in first[1].values()} == {"saved"}
        assert first[1]["/x/ssh"].access.allowed == (s.AccessPeer(LAPTOP, "laptop"),)
        again = await node.apply(first[0], prune=True)
        assert (lines(again), again.unchanged) == ([], 5)
        await node.running.stop()
        tomorrow = await start(home / "a", identity=identity)
        assert await tomorrow.export() == first[0]
        await tomorrow.running.stop()
        other = await start(home / "b")
        await other.apply(first[0])
        assert await other.export() == first[0]
        await other.running.stop()

    asyncio.run(asyncio.wait_for(main(), 40))


def test_a_dry_run_and_a_bad_file_change_nothing(home: Path) -> None:
    async def script(node: Home) -> None:
        await node.apply(SSH + 'allow = ["any"]')
        before = await node.everything()
        told = await node.apply(WEB, prune=True, dry_run=True)
        assert lines(told) == ["added listen /x/web", "removed rule /x/ssh"] or lines(told) == [
            "removed listen /x/ssh",
            "added listen /x/web",
            "removed rule /x/ssh",
        ]
        assert await node.everything() == before
        for bad in (
            WEB + '[[listen]]\nprotocol = "/x/b"\n',
            WEB + '[[rule]]\nprotocol = "/x/c"\nallow = ["nobody"]\n',
            WEB + "[[listen]\n",
            '[[listen]]\nprotocol = "/ipfs/lan/kad/1.0.0"\ntarget = "1"\ncustom_protocol = true\n' + WEB,
        ):
            with pytest.raises(InvalidConfig, match=r"tunnels\.toml"):
                await node.apply(bad, prune=True)
            assert await node.everything() == before

    run(home, script)


def test_one_file_is_for_all_machines(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What names this node itself is told and passed over: by apply, by reload and at the start."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        identity = PrivateKey.generate()
        own, local = PeerId.from_public_key(identity.public_key), f"/ip4/127.0.0.1/tcp/{free_port()}"
        tables = (f'[[peer]]\nname = "nas"\npeer = "{own}"\n', f'[[block]]\nwhom = ["{own}"]\n')
        text = "".join((*tables, f'[[forward]]\nprotocol = "/x/a"\nlisten = "{local}"\npeer = "nas"\n', SSH))
        node = await start(home / "a", identity=identity)
        applied = await node.apply(text)
        assert (lines(applied), applied.unchanged, applied.notes) == (["added listen /x/ssh"], 0, ())
        assert [(it.action, it.kind, it.name, it.text) for it in applied.skipped] == [
            ("skipped", kind, name, "this node itself")
            for kind, name in (("peer", "nas"), ("forward", local), ("block", str(own)))
        ]
        assert lines(await node.apply(text)) == []
        assert list(await node.ls()) == ["/x/ssh"] and not (await node.call("block.ls")).blocked
        assert len((await node.reload(text)).skipped) == 3
        await node.running.stop()
        node = await start(home / "a", text, identity)
        assert list(await node.ls()) == ["/x/ssh"]
        assert "config.toml: peer nas is left out: this node itself" in caplog.text
        await node.running.stop()

    asyncio.run(asyncio.wait_for(main(), 40))


def test_prune_leaves_what_ends_by_itself(home: Path) -> None:
    async def script(node: Home) -> None:
        await node.call("p2p.listen", s.ListenParams("/x/day", "11", ephemeral=True))
        await node.call("p2p.listen", s.ListenParams("/x/old", "12"))
        result = await node.apply(SSH, prune=True)
        assert lines(result) == ["removed listen /x/old", "added listen /x/ssh"]
        assert list(await node.ls()) == ["/x/day", "/x/ssh"]
        assert "/x/day" not in await node.export()
        await node.apply('[[listen]]\nprotocol = "/x/day"\ntarget = "11"\n')
        assert (await node.ls())["/x/day"].lifetime == "saved"

    run(home, script)


def test_what_a_command_in_the_foreground_has_is_left_to_it(home: Path) -> None:
    async def script(node: Home) -> None:
        with contextlib.closing(await asyncio.to_thread(Client.connect, node.running.paths.socket)) as client:
            params = s.ListenParams("/x/ssh", "9", foreground=True)
            await asyncio.to_thread(client.call, "p2p.listen", params)
            with pytest.raises(InvalidConfig, match="a command in the foreground has listen /x/ssh"):
                await node.apply(SSH)
            saved = SavedTunnel("listen", "/x/ssh", Multiaddr.parse("/ip4/127.0.0.1/tcp/9"), ListenTerms())
            with pytest.raises(ListenerExists, match="a command in the foreground has listen /x/ssh"):
                await node.running.tunnels.change([saved], (), nothing)  # it came after the look
            result = await node.reload(SSH)
            assert "a command in the foreground has listen /x/ssh" in result.notes[0]
            assert (await node.ls())["/x/ssh"].lifetime == "foreground"
        await until(lambda: not node.running.forwarding.is_listening("/x/ssh"))
        await node.reload(SSH)
        assert (await node.ls())["/x/ssh"].lifetime == "declared"

    run(home, script)


def test_a_forward_whose_port_is_taken_stands_and_says_so(home: Path) -> None:
    async def script(node: Home) -> None:
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = holder.getsockname()[1]
            text = f'[[forward]]\nprotocol = "/x/a"\nlisten = "127.0.0.1:{port}"\npeer = "{LAPTOP}"\n'
            result = await node.apply(text)
            assert "already in use; it stands, and works once it can" in result.notes[0]
            assert (await node.ls())["/x/a"].state == "address-in-use"

    run(home, script)


def test_addresses_for_any_are_told_where_they_are_typed(home: Path) -> None:
    near = SSH + f'[[forward]]\nprotocol = "/x/near"\nlisten = "{free_port()}"\npeer = "{LAPTOP}"\n'
    any_ = '[[listen]]\nprotocol = "/x/b"\ntarget = "[::]:9"\n'
    any_ += f'[[forward]]\nprotocol = "/x/a"\nlisten = "0.0.0.0:{{}}"\npeer = "{LAPTOP}"\n'

    def told(notes: tuple[str, ...], port: int, name: str = "/x/b") -> None:
        listen, forward = sorted(notes, reverse=True)
        assert listen.startswith(f"listen {name}: :: is where to listen for all addresses; connecting to it")
        assert listen.endswith("; write [::1]:9 for a service of this machine")
        assert forward.startswith(f"forward /ip4/0.0.0.0/tcp/{port}: other machines can connect, too: ")
        assert forward.endswith(f"; to keep it to this machine, listen on 127.0.0.1:{port}")

    async def script(node: Home) -> None:
        one, other = free_port(), free_port()
        told((await node.apply(near + any_.format(one), dry_run=True)).notes, one)
        told((await node.apply(near + any_.format(one))).notes, one)
        assert (await node.apply(near + any_.format(one))).notes == (), "it is typed once"
        told((await node.reload(any_.replace("/x/b", "/x/c").format(other))).notes, other, "/x/c")

    run(home, script)


# --- streams ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def tunnelled(port: int) -> Iterator[Callable[[], bytes]]:
    """One connection through a forward; asks for an echo on it."""
    with connect(port) as conn:

        def ask() -> bytes:
            conn.sendall(b"hello")
            return read_exactly(conn, 5)

        yield ask


@pytest.mark.parametrize("how", ["apply", "reload"])
def test_streams_live_through_whatever_changes_and_new_ones_have_it(home: Path, how: str) -> None:
    def listen(port: int, more: str = "") -> str:
        return f'[[listen]]\nprotocol = "/x/echo"\ntarget = "127.0.0.1:{port}"\n{more}\n'

    async def main() -> None:
        far, near = await start(home / "a"), await start(home / "b")

        async def change(text: str) -> list[str]:
            return lines(await (far.apply(text) if how == "apply" else far.reload(text)))

        port = free_port()
        with TcpServer(echo) as one, TcpServer(echo) as other:
            await change(listen(one.port))
            await near.apply(
                f'[[forward]]\nprotocol = "/x/echo"\nlisten = "{port}"\npeer = "{far.address}"\n'
            )
            number = (await far.ls())["/x/echo"].id
            with tunnelled(port) as ask:
                assert await asyncio.to_thread(ask) == b"hello"
                stream = far.running.forwarding.streams()[0].id
                assert await change(listen(one.port) + WEB) == ["added listen /x/web"]
                assert await change(listen(one.port, "report_peer_id = true") + WEB) == [
                    "changed listen /x/echo"
                ]
                assert (await far.ls())["/x/echo"].id == number  # changed where it stood
                assert await change(listen(other.port) + WEB) == ["changed listen /x/echo"]
                listener = (await far.ls())["/x/echo"]
                assert listener.id != number
                assert listener.target_address == f"/ip4/127.0.0.1/tcp/{other.port}"
                assert await asyncio.to_thread(ask) == b"hello"
                assert [it.id for it in far.running.forwarding.streams()] == [stream]
                with tunnelled(port) as again:
                    assert await asyncio.to_thread(again) == b"hello"
                    assert far.running.forwarding.streams()[-1].target_address.endswith(f"/{other.port}")
                allowed = f'allow = ["{near.peer}"]'
                assert len(await change(listen(other.port, allowed) + WEB + SSH)) == 2
                assert await asyncio.to_thread(ask) == b"hello"  # it was let in before, and is now
                assert (
                    await change(listen(other.port, "allow = []"))
                    == {
                        "apply": ["changed rule /x/echo"],
                        "reload": ["removed listen /x/web", "removed listen /x/ssh", "changed rule /x/echo"],
                    }[how]
                )
                await until(lambda: not far.running.forwarding.streams())
        await near.running.stop()
        await far.running.stop()

    asyncio.run(asyncio.wait_for(main(), 40))


def test_a_forward_changes_its_path_where_it_stands(home: Path) -> None:
    async def script(node: Home) -> None:
        text = f'[[forward]]\nprotocol = "/x/a"\nlisten = "{free_port()}"\npeer = "{LAPTOP}"\n'
        await node.apply(text)
        number = (await node.ls())["/x/a"].id
        await node.apply(text + 'path = "direct"')
        assert (await node.ls())["/x/a"].id == number
        assert 'path = "direct"' in await node.export()
        await node.apply(text.replace(LAPTOP, PHONE))
        assert (await node.ls())["/x/a"].id != number

    run(home, script)


# --- never open to more ----------------------------------------------------------------------------

PEERS = (LAPTOP, PHONE)
BEFORE = f"""
[[peer]]
name = "old"
peer = "{LAPTOP}"
[[listen]]
protocol = "/x/a"
target = "127.0.0.1:1"
allow = ["any"]
[[listen]]
protocol = "/x/b"
target = "127.0.0.1:2"
allow = ["{LAPTOP}"]
[[listen]]
protocol = "/x/gone"
target = "127.0.0.1:3"
allow = ["{PHONE}"]
[[listen]]
protocol = "/x/named"
target = "127.0.0.1:4"
"""
AFTER = f"""
[[peer]]
name = "new"
peer = "{PHONE}"
[[listen]]
protocol = "/x/a"
target = "127.0.0.1:5"
allow = ["{LAPTOP}"]
[[listen]]
protocol = "/x/b"
target = "127.0.0.1:6"
allow = ["any"]
[[listen]]
protocol = "/x/comes"
target = "127.0.0.1:7"
[[listen]]
protocol = "/x/named"
target = "127.0.0.1:4"
report_peer_id = true
"""

Open = set[tuple[str, str, str]]


def open_on_disk(running: Running) -> Open:
    """Who would reach what if the daemon were killed now, and started again."""
    names, rules = NamedPeers(running.paths.named_peers_file), AccessRules(running.paths.access_file)
    names.load()
    rules.load()
    access = Access("named", rules.table.rules, {it.peer_id for it in names.all()})
    return {
        (it.protocol, str(it.address), peer)
        for it in running.tunnels._file._file._known.values()  # as it was written last
        for peer in PEERS
        if access.admits(PeerId.parse(peer), it.protocol)
    }


def open_now(running: Running) -> Open:
    """Who reaches what at this moment."""
    rules = running.forwarding.access.rules
    return {
        (it.protocol, str(it.target_address), peer)
        for it in running.forwarding.listeners()
        for peer in PEERS
        if rules.admits(PeerId.parse(peer), it.protocol)
    }


@pytest.mark.parametrize(("one", "other"), [(BEFORE, AFTER), (AFTER, BEFORE)])
def test_no_listen_is_open_to_more_than_either_state_allows(
    home: Path, monkeypatch: pytest.MonkeyPatch, one: str, other: str
) -> None:
    async def script(node: Home) -> None:
        await node.apply(one)
        on_disk, in_memory = [open_on_disk(node.running)], [open_now(node.running)]

        def after_write(*args: Any, **more: Any) -> None:
            on_disk.append(open_on_disk(node.running))

        write = followed(json_file.write_atomically, after_write)
        monkeypatch.setattr(json_file, "write_atomically", write)
        monkeypatch.setattr(TunnelFile, "change", followed(TunnelFile.change, after_write))
        node.running.forwarding.on_event(lambda event: in_memory.append(open_now(node.running)))
        set_access = node.running.forwarding.set_access
        look = followed(set_access, lambda *args, **more: in_memory.append(open_now(node.running)))
        monkeypatch.setattr(node.running.forwarding, "set_access", look)
        await node.apply(other, prune=True)
        on_disk.append(open_on_disk(node.running))
        in_memory.append(open_now(node.running))
        assert len(on_disk) > 4 and len(in_memory) > 4
        for states in (on_disk, in_memory):
            assert states[0] != states[-1]
            for state in states:
                assert state <= states[0] | states[-1]

    run(home, script, '[access]\ndefault = "named"\n')


def followed(work: Callable[..., Any], then: Callable[..., object]) -> Callable[..., Any]:
    def both(*args: Any, **more: Any) -> Any:
        result = work(*args, **more)
        then(*args, **more)
        return result

    return both


@pytest.mark.parametrize("failing", [1, 2, 3, 4, 5])
def test_a_disk_that_is_full_changes_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    async def script(node: Home) -> None:
        await node.apply(BEFORE)
        before = await node.everything()
        writes = 0

        def full(*args: Any) -> None:
            nonlocal writes
            writes += 1
            if writes == failing:
                raise StorageFailed("the disk is full")

        write = preceded(full, json_file.write_atomically)
        monkeypatch.setattr(json_file, "write_atomically", write)
        monkeypatch.setattr(TunnelFile, "change", preceded(full, TunnelFile.change))
        with pytest.raises(StorageFailed):
            await node.apply(AFTER, prune=True)
        assert essence(await node.everything()) == essence(before)
        writes = 99
        assert lines(await node.apply(AFTER, prune=True))
        assert lines(await node.apply(AFTER, prune=True)) == []

    run(home, script, '[access]\ndefault = "named"\n')


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_an_apply_that_fails_leaves_what_is_not_saved_as_it_was(
    home: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Also where it had been closed for another in its place: it is there again, and still not saved."""
    ports = [free_port() for _ in range(2)]
    listens = [f"127.0.0.1:{port}" for port in ports]
    text = "".join(
        (
            '[[listen]]\nprotocol = "/x/a"\ntarget = "127.0.0.1:2"\nallow = []\n',
            '[[listen]]\nprotocol = "/x/b"\ntarget = "127.0.0.1:3"\nreport_peer_id = true\n',
            f'[[forward]]\nprotocol = "/x/c"\nlisten = "{listens[0]}"\npeer = "{LAPTOP}"\n',
            f'[[forward]]\nprotocol = "/x/d"\nlisten = "{listens[1]}"\npeer = "{LAPTOP}"\npath = "direct"\n',
        )
    )

    async def script(node: Home) -> None:
        for protocol, target in (("/x/a", "127.0.0.1:1"), ("/x/b", "127.0.0.1:3")):
            await node.call("p2p.listen", s.ListenParams(protocol, target, ephemeral=True, max_streams=7))
        for protocol, peer, listen in (("/x/c", PHONE, listens[0]), ("/x/d", LAPTOP, listens[1])):
            await node.call("p2p.forward", s.ForwardParams(protocol, listen, (peer,), ephemeral=True))
        before, writes = await node.ls(), 0

        def full(*args: Any) -> None:
            nonlocal writes
            writes += 1
            if writes == failing:
                raise StorageFailed("the disk is full")

        with monkeypatch.context() as broken:
            broken.setattr(json_file, "write_atomically", preceded(full, json_file.write_atomically))
            broken.setattr(TunnelFile, "change", preceded(full, TunnelFile.change))
            with pytest.raises(StorageFailed):
                await node.apply(text)
        after = await node.ls()
        assert {it.lifetime for it in after.values()} == {"ephemeral"} and writes >= failing
        same: dict[str, Any] = {"id": 0, "state": "", "state_since": 0.0, "reason": None}
        assert {name: replace(it, **same) for name, it in after.items()} == {
            name: replace(it, **same) for name, it in before.items()
        }
        assert "[[" not in await node.export()

    run(home, script)


def essence(everything: Any) -> Any:
    """Without the numbers of those that had to be made again."""
    text, listeners, *rest = everything
    return text, {name: (it.target_address, it.access, it.lifetime) for name, it in listeners.items()}, rest


def preceded(first: Callable[..., object], work: Callable[..., Any]) -> Callable[..., Any]:
    def both(*args: Any, **more: Any) -> Any:
        first(*args)
        return work(*args, **more)

    return both


# --- declared in config.toml -----------------------------------------------------------------------


def test_what_is_declared_is_there_and_not_in_the_state_file(home: Path) -> None:
    named = f'[[peer]]\nname = "laptop"\npeer = "{LAPTOP}"\n'

    async def script(node: Home) -> None:
        listener = (await node.ls())["/x/ssh"]
        place = f"{node.running.paths.config_file}, line 4"
        assert (listener.lifetime, listener.saved, listener.declared_in) == ("declared", False, place)
        assert listener.access == s.Access("listed", (s.AccessPeer(LAPTOP, "laptop"),))
        assert not node.running.paths.state_file.exists()
        assert not node.running.paths.access_file.exists()
        same = await node.call("p2p.listen", s.ListenParams("/x/ssh", "127.0.0.1:9"))
        assert same.stood
        with pytest.raises(ListenerExists, match="its target is") as caught:
            await node.call("p2p.listen", s.ListenParams("/x/ssh", "127.0.0.1:8"))
        assert caught.value.hint == f"to change it: {place}, then p2pfwd reload"
        with pytest.raises(PeerExists, match="declares laptop"):
            await node.call("peer.rm", s.PeerRmParams("laptop"))
        with pytest.raises(NotFound, match="declares the block"):
            await node.call("block.rm", s.BlockParams(("192.0.2.0/24",)))
        closed = (await node.call("p2p.close", s.CloseParams(protocol="/x/ssh"))).closed
        assert [(it.lifetime, it.declared_in) for it in closed] == [("declared", place)]
        assert await node.ls() == {}
        again = await node.call("daemon.reload")
        assert (lines(again), again.notes) == ([], ("listen /x/ssh was closed, and is there again",))
        assert list(await node.ls()) == ["/x/ssh"]

    text = named + SSH + 'allow = ["laptop"]\n[[block]]\nwhom = ["192.0.2.0/24"]\n'
    run(home, script, text)


def test_a_command_shuts_what_is_declared_open_and_never_the_other_way_round(home: Path) -> None:
    async def script(node: Home) -> None:
        async def change(what: str, *peers: str) -> s.Access:
            params = s.AccessChangeParams("/x/ssh", peers)
            access: s.Access = (await node.call(f"access.{what}", params)).rule.access
            return access

        laptop, phone = s.AccessPeer(LAPTOP, None), s.AccessPeer(PHONE, None)
        assert (await change("allow", PHONE)).allowed == (phone, laptop)
        assert (await change("deny", LAPTOP)).denied == (laptop,)
        assert (await change("allow", LAPTOP)).denied == ()
        text = '[[rule]]\nprotocol = "/x/ssh"\ndeny = ["%s"]\n'
        await node.reload(SSH + text.replace("%s", LAPTOP))
        shut = await change("allow", LAPTOP, PHONE)
        assert (shut.allowed, shut.denied) == ((phone,), (laptop,))
        assert (await node.apply(await node.export())).changes == (), "nobody is in it both ways"
        await node.reload(SSH + f'allow = ["{LAPTOP}"]\n')
        assert (await change("deny", LAPTOP)).denied == (laptop,)
        assert (await change("allow", "any")).lets_in == "listed"
        await node.call("daemon.reload")

        def admits(peer: PeerId, protocol: str) -> bool:
            return node.running.forwarding.access.rules.admits(peer, protocol)

        assert not admits(PeerId.parse(LAPTOP), "/x/ssh")
        assert admits(PeerId.parse(PHONE), "/x/ssh")
        await node.call("access.rm", s.AccessRmParams("/x/ssh"))
        assert admits(PeerId.parse(LAPTOP), "/x/ssh")
        with pytest.raises(NotFound) as caught:
            await node.call("access.rm", s.AccessRmParams("/x/ssh"))
        assert caught.value.hint == "config.toml declares it: take it out there, then p2pfwd reload"

    run(home, script, SSH + f'allow = ["{LAPTOP}"]\n')


def test_one_bad_tunnel_is_logged_and_the_others_come_up(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(node: Home) -> None:
        assert list(await node.ls()) == ["/x/ssh", "/x/web"]

    run(home, script, SSH + '[[listen]]\nprotocol = "/x/b"\ntarget = "x y"\n' + WEB)
    (record,) = [it for it in caplog.records if it.levelno >= logging.ERROR]
    assert "config.toml, [[listen]] 2 (line 4): target: " in record.getMessage()
    assert record.getMessage().endswith("; it is left out")


@pytest.mark.parametrize(
    "bad", [f'target = "x y"\nallow = ["{LAPTOP}"]\n', 'target = "127.0.0.1:9"\nallow = ["nobody"]\n']
)
def test_a_bad_listen_does_not_leave_a_saved_one_of_its_name_open(
    home: Path, caplog: pytest.LogCaptureFixture, bad: str
) -> None:
    async def script() -> None:
        key = PrivateKey.generate()
        node = await start(home / "a", "", key)
        await node.call("p2p.listen", s.ListenParams("/x/ssh", "127.0.0.1:9"))
        await node.running.stop()
        node = await start(home / "a", f'[[listen]]\nprotocol = "/x/ssh"\n{bad}', key)
        try:
            (access,) = [it.access for it in (await node.ls()).values()]
            assert access is not None and (access.lets_in, access.allowed) == ("listed", ())
        finally:
            await node.running.stop()

    asyncio.run(asyncio.wait_for(script(), 40))
    (record,) = [it for it in caplog.records if it.levelno >= logging.ERROR]
    assert record.getMessage().endswith("it is left out, and its name lets in only whom commands allow")


@pytest.mark.parametrize(
    "bad",
    [
        '[[rule]]\nprotocol = "/x/ssh"\nallow = ["nobody"]\n',
        '[[block]]\nwhom = ["192.0.2.1/24"]\n',
        '[[peer]]\nname = "a"\npeer = "b"\n',
        "[[listen]\n",
    ],
)
def test_what_would_let_in_more_than_was_meant_stops_the_start(home: Path, bad: str) -> None:
    with pytest.raises(InvalidConfig, match=r"config\.toml"):
        asyncio.run(start(home / "a", SSH + bad))


def test_more_than_there_may_be_stops_the_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "MAX_SAVED", 1)
    with pytest.raises(ResourceLimitExceeded, match="2 tunnels, where 1 is the limit"):
        asyncio.run(start(home / "a", SSH + WEB))


def test_a_declared_tunnel_goes_before_a_saved_one_which_comes_back(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        identity = PrivateKey.generate()
        node = await start(home / "a", identity=identity)
        await node.call("p2p.listen", s.ListenParams("/x/ssh", "127.0.0.1:8"))
        await node.running.stop()
        node = await start(home / "a", SSH, identity)
        listener = (await node.ls())["/x/ssh"]
        assert (listener.lifetime, listener.target_address) == ("declared", "/ip4/127.0.0.1/tcp/9")
        assert "line 1 declares listen /x/ssh, and so it is: config.toml goes before" in caplog.text
        assert "The saved one, /x/ssh with /ip4/127.0.0.1/tcp/8, comes back" in caplog.text
        assert lines(await node.reload("")) == ["removed listen /x/ssh"]
        listener = (await node.ls())["/x/ssh"]
        assert (listener.lifetime, listener.target_address) == ("saved", "/ip4/127.0.0.1/tcp/8")
        (said,) = (await node.reload(SSH)).notes
        assert "declares listen /x/ssh, and so it is" in said
        assert (await node.reload(SSH)).notes == ()
        await node.call("p2p.close", s.CloseParams(protocol="/x/ssh"))
        assert await node.ls() == {}
        await node.call("p2p.close", s.CloseParams(all=True))
        await node.reload("")
        assert (await node.ls())["/x/ssh"].lifetime == "saved", "it was the declared one that was closed"
        await node.call("p2p.close", s.CloseParams(protocol="/x/ssh"))
        await node.reload("")
        assert await node.ls() == {}
        await node.running.stop()

    asyncio.run(asyncio.wait_for(main(), 40))


def test_a_forward_whose_peer_moves_often_is_exported_as_it_can_be_applied(home: Path) -> None:
    """Of its addresses the latest are known, as many as a file can name."""

    async def script(node: Home) -> None:
        port = str(free_port())
        for number in range(40):
            address = f"/ip4/192.0.2.{number}/tcp/1/p2p/{LAPTOP}"
            await node.call("p2p.forward", s.ForwardParams("/x/ssh", port, (address,)))
        text = await node.export()
        assert text.count("/ip4/192.0.2.") == MAX_SAVED_ADDRESSES and "192.0.2.39/" in text
        assert (await node.apply(text)).changes == ()

    run(home, script)


def test_the_end_of_a_saved_tunnel_is_none_of_the_declared_one_in_its_place(home: Path) -> None:
    async def script(node: Home) -> None:
        await node.call("p2p.listen", s.ListenParams("/x/ssh", "127.0.0.1:8", expires_s=1.0))
        await node.reload(SSH)
        await until(lambda: not node.running.tunnels._saved)
        assert (await node.ls())["/x/ssh"].lifetime == "declared"
        assert not (await node.call("events.ls", s.EventsParams(kinds=("tunnel-ended",)))).events

    run(home, script)


def test_apply_leaves_what_is_declared(home: Path) -> None:
    async def script(node: Home) -> None:
        result = await node.apply(SSH + WEB)
        assert (lines(result), result.unchanged) == (["added listen /x/web"], 1)
        with pytest.raises(InvalidConfig, match="declares it otherwise"):
            await node.apply(SSH.replace(":9", ":8"))
        result = await node.apply('[[block]]\nwhom = ["192.0.2.0/24"]\n', prune=True)
        assert lines(result) == ["removed listen /x/web", "added block 192.0.2.0/24"]
        assert result.notes == ("listen /x/ssh stays: config.toml declares it",)
        assert (await node.ls())["/x/ssh"].lifetime == "declared"

    run(home, script, SSH)


def test_a_name_that_the_file_uses_stays_or_the_next_start_would_fail(home: Path) -> None:
    async def script(node: Home) -> None:
        await node.call("peer.add", s.PeerAddParams("laptop", (LAPTOP,)))
        await node.reload(SSH + 'allow = ["Laptop"]\n')
        with pytest.raises(PeerExists, match=r"\[\[listen\]\] 1 \(line 1\) uses the name"):
            await node.call("peer.rm", s.PeerRmParams("laptop"))
        result = await node.apply(WEB, prune=True)
        assert any("peer laptop stays" in note for note in result.notes)
        assert [it.name for it in (await node.call("peer.ls", s.PeerLsParams())).peers] == ["laptop"]
        await node.reload(SSH)
        await node.call("peer.rm", s.PeerRmParams("laptop"))

    run(home, script)


# --- reload ----------------------------------------------------------------------------------------


def test_what_can_change_live_does_and_the_rest_is_named(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(node: Home) -> None:
        stranger = PeerId.parse(PHONE)
        running, admits = (
            node.running,
            lambda: node.running.forwarding.access.rules.admits(stranger, "/x/ssh"),
        )
        assert admits()
        relay, other = (f"/ip4/127.0.0.1/tcp/1/p2p/{it}" for it in (LAPTOP, PHONE))
        result = await node.reload(
            SSH
            + '[access]\ndefault = "none"\n[log]\nlevel = "warning"\n[forward]\nopen_timeout_s = 5\n'
            + '[swarm]\nsecurity = ["tls"]\n[limits]\nstreams = 5\npending_opens = 7\n'
            + f'[reach]\nrelays = ["{relay}"]\n[bootstrap]\npeers = ["{other}"]\n'
        )
        assert set(result.settings) == {
            "access.default",
            "log.level",
            "forward.open_timeout_s",
            "limits.pending_opens",
            "reach.relays",
            "bootstrap.peers",
        }
        assert result.restart == ("swarm.security", "limits.streams")
        assert "swarm.security changed: it takes a restart: p2pfwd shutdown" in caplog.text
        assert not admits()
        assert logging.getLogger("p2pfwd").level == logging.WARNING
        listener = running.forwarding.standing("listen", "/x/ssh")
        assert listener is not None
        assert (listener.limits.open_timeout_s, listener.limits.max_pending_opens) == (5, 7)
        assert listener.limits.max_streams == 8192
        keeper = running.host.keeper
        await until(lambda: keeper.status(PeerId.parse(LAPTOP)) is not None)
        assert keeper.status(PeerId.parse(PHONE)) is not None
        result = await node.reload(SSH + '[swarm]\nsecurity = ["tls"]\n[limits]\nstreams = 5\n')
        assert result.restart == ("swarm.security", "limits.streams")  # until it has been restarted
        assert keeper.status(PeerId.parse(LAPTOP)) is None
        assert keeper.status(PeerId.parse(PHONE)) is None
        assert admits()

    run(home, script, SSH)


@pytest.mark.parametrize(
    "bad",
    [
        SSH + '[[listen]]\nprotocol = "/x/b"\n',
        WEB + '[log]\nlevel = "loud"\n',
        WEB + "[[forward]\n",
        '[[listen]]\nprotocol = "/ipfs/lan/kad/1.0.0"\ntarget = "1"\ncustom_protocol = true\n',
    ],
)
def test_a_bad_file_changes_nothing(home: Path, bad: str, caplog: pytest.LogCaptureFixture) -> None:
    async def script(node: Home) -> None:
        before = await node.everything()
        with pytest.raises(InvalidConfig, match=r"config\.toml"):
            await node.reload(bad)
        await node.running.reloading.reload_by_signal()
        assert "config.toml was not reloaded, nothing was changed: config file" in caplog.text
        assert await node.everything() == before
        assert lines(await node.reload(SSH)) == []

    run(home, script, SSH)
