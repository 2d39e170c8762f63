"""access.*, block.* and `allow` of p2p.listen, against real nodes in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2pfwd import errors
from p2pfwd.core.keys import PrivateKey
from p2pfwd.daemon.methods.tunnels import TunnelMethods
from p2pfwd.daemon.settings import Settings
from p2pfwd.forwarding import denied
from p2pfwd.forwarding import forward as forward_module
from p2pfwd.rpc import schema as s
from p2pfwd.state import json_file
from p2pfwd.state.tunnel_file import TunnelFile
from p2pfwd.system import private_files
from p2pfwd.wire.circuit import Status
from tests.net.relay_rig import reserve
from tests.rpc import node
from tests.rpc.node import STRANGER
from tests.support.loops import until
from tests.support.sockets import TcpServer, echo

SETTINGS = Settings(network="lan", listen=("/ip4/127.0.0.1/tcp/0",), mdns="off", drain_timeout_s=0.0)
NAME = "/x/echo"


class Node(node.Node):
    """With what these tests ask often."""

    async def change(self, what: str, *peers: str, protocol: str = NAME, keep: bool = False) -> Any:
        return await self.call(f"access.{what}", s.AccessChangeParams(protocol, peers, keep))

    async def refused(self) -> dict[str, int]:
        refused: dict[str, int] = (await self.call("daemon.status")).refused
        return refused


async def start(home: Path, settings: Settings = SETTINGS, identity: PrivateKey | None = None) -> Node:
    return Node(await node.running(home, settings, identity))


Script = Callable[[Node, Node, TcpServer], Awaitable[None]]


def run(home: Path, script: Script, settings: Settings = SETTINGS) -> None:
    """A script with a node that offers and one that asks, and an echo service."""

    async def main() -> None:
        owner, asker = await start(home / "a", settings), await start(home / "b")
        try:
            with TcpServer(echo) as server:
                await script(owner, asker, server)
        finally:
            await owner.running.stop()
            await asker.running.stop()

    for name in ("a", "b"):
        (home / name).mkdir(exist_ok=True)
    asyncio.run(asyncio.wait_for(main(), 40))


async def listen(owner: Node, server: TcpServer, *allow: str) -> s.ListenResult:
    result: s.ListenResult = await owner.call("p2p.listen", s.ListenParams(NAME, server.address, allow=allow))
    return result


async def forward(owner: Node, asker: Node) -> tuple[int, int]:
    """The port of a forward to the echo, and the number of its listener."""
    made = await asker.call("p2p.forward", s.ForwardParams(NAME, "0", (owner.address,)))
    return int(made.listener.listen_address.rpartition("/")[2]), made.listener.id


async def state(asker: Node, listener: int) -> str:
    check: s.Check = await asker.call("p2p.check", s.CheckParams(listener, 10.0))
    return check.state


@contextlib.asynccontextmanager
async def tunnel(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that has been used."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def is_reset(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(1), 10) is None
    return True


def test_allowed_denied_and_allowed_again_while_it_runs(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        made = await listen(owner, server, STRANGER)
        assert made.listener.access == s.Access("listed", (s.AccessPeer(STRANGER, None),))
        port, listener = await forward(owner, asker)
        assert await state(asker, listener) == "protocol-not-supported"
        assert not server.accepted, "the service was not touched"
        await until(lambda: bool(owner.running.forwarding.access.requests.all()))
        (request,) = (await owner.call("access.requests")).requests
        assert (request.protocol, request.peer, request.count) == (NAME, asker.peer, 1)
        assert request.command == f"p2pfwd allow {NAME} {asker.peer}"
        assert (await owner.refused())["tunnel-denied"] == 1

        allowed = await owner.change("allow", asker.peer)
        assert (allowed.streams, allowed.rule.listening, allowed.rule.saved) == (0, True, True)
        assert not (await owner.call("access.requests")).requests
        assert await state(asker, listener) == "ready"
        async with tunnel(port) as (reader, _):
            denied = await owner.change("deny", asker.peer)
            assert denied.streams == 1
            assert await is_reset(reader)
        assert await state(asker, listener) == "not-allowed", "who was allowed is told"

        await owner.change("allow", asker.peer)
        async with tunnel(port) as (reader, writer):
            assert (await owner.change("deny", asker.peer, keep=True)).streams == 0
            writer.write(b"still")
            assert await reader.readexactly(5) == b"still"
            assert (await owner.change("deny", STRANGER)).streams == 0, "what was let run stays"
        (row,) = (await owner.call("p2p.ls")).listeners
        assert [it.peer for it in row.access.denied] == sorted([asker.peer, STRANGER])

    run(home, script)


@pytest.mark.parametrize("told", ["any", "asker"])
def test_who_is_told_that_it_is_denied_sees_the_line_that_lets_it_in(home: Path, told: str) -> None:
    """Its forward says so, and goes on with the next connection once it is allowed."""

    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        whom = "any" if told == "any" else asker.peer
        await owner.call(
            "p2p.listen", s.ListenParams(NAME, server.address, allow=(STRANGER,), tell_denied=(whom,))
        )
        port, listener = await forward(owner, asker)
        check: s.Check = await asker.call("p2p.check", s.CheckParams(listener, 10.0))
        line = f"p2pfwd allow {NAME} {asker.peer}"
        assert (check.ok, check.state, check.reason) == (
            False,
            "not-allowed",
            f"not allowed yet to use {NAME}",
        )
        assert check.hint == f"ask them to run: {line}" and not server.accepted
        await until(lambda: bool(owner.running.forwarding.access.requests.all()))
        (request,) = (await owner.call("access.requests")).requests
        assert request.command == line
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await is_reset(reader)
        writer.close()
        assert (await listener_of(asker)).state == "not-allowed", "a connection that fails does not hide why"
        (rule,) = (await owner.call("access.ls")).rules
        assert (rule.access.tells_any, [it.peer for it in rule.access.told]) == (
            (True, []) if told == "any" else (False, [asker.peer])
        )
        await owner.change("allow", asker.peer)
        async with tunnel(port):
            assert (await listener_of(asker)).state == "ready"

    run(home, script)


def test_a_denied_forward_shows_by_itself_that_it_is_let_in(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `ls` and in the history, with nobody connecting; the owner is shown one request, however often."""
    monkeypatch.setattr(denied, "FIRST_S", 0.02)
    monkeypatch.setattr(forward_module, "ASK_INTERVAL_S", 0.0)

    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        params = s.ListenParams(NAME, server.address, allow=(STRANGER,), tell_denied=("any",))
        await owner.call("p2p.listen", params)
        _, listener = await forward(owner, asker)
        assert await state(asker, listener) == "not-allowed"
        (row,) = asker.running.forwarding._forwards()
        asked_at = row._asked_at
        await until(lambda: row._asked_at > asked_at)
        await owner.change("allow", asker.peer)

        await until(lambda: asker.running.forwarding.listeners()[0].state == "ready")
        assert (await listener_of(asker)).state == "ready"
        events = (await asker.call("events.ls", s.EventsParams(kinds=("tunnel",)))).events
        assert [it.code for it in events if "allowed" in it.code] == ["tunnel-not-allowed", "tunnel-allowed"]
        assert not server.accepted, "the service was not touched"
        refusals = owner.running.host.swarm.services.refusals
        await until(lambda: "tunnel-denied" in refusals.counts)  # it is told of a little later
        assert (await owner.refused())["tunnel-denied"] == 1

    run(home, script)


@pytest.mark.parametrize("foreground", [False, True])
@pytest.mark.parametrize("stands", [False, True])
def test_a_listen_whose_word_of_access_cannot_be_written_is_not_there(
    home: Path, monkeypatch: pytest.MonkeyPatch, foreground: bool, stands: bool
) -> None:
    """Least of all one in the foreground, which nobody would end."""

    def full(path: Path, data: bytes, what: str) -> None:
        raise errors.StorageFailed(f"{what} {path}: no space left")

    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        if stands:
            await listen(owner, server)
        monkeypatch.setattr(json_file, "write_atomically", full)
        goes = foreground and not stands
        params = s.ListenParams(NAME, server.address, tell_denied=("any",), foreground=goes)
        with pytest.raises(errors.StorageFailed):
            await owner.call("p2p.listen", params)
        monkeypatch.undo()
        assert len((await owner.call("p2p.ls")).listeners) == (1 if stands else 0)

    run(home, script)


@pytest.mark.parametrize("before", [False, True])
def test_a_listen_that_cannot_be_saved_leaves_the_rule_as_it_was(
    home: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    def full(self: TunnelFile, *args: Any, **more: Any) -> None:
        raise errors.StorageFailed(f"state file {self.path}: no space left")

    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        if before:
            await owner.change("allow", STRANGER)
        rules = owner.running.access.rules.table.rules
        monkeypatch.setattr(TunnelFile, "change", full)
        params = s.ListenParams(NAME, server.address, allow=(asker.peer,), tell_denied=("any",))
        with pytest.raises(errors.StorageFailed):
            await owner.call("p2p.listen", params)
        monkeypatch.undo()
        assert owner.running.access.rules.table.rules == rules
        assert not (await owner.call("p2p.ls")).listeners

    run(home, script)


def test_a_listen_whose_client_is_gone_leaves_no_rule(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes while the rule is being written."""
    gate, waits = threading.Event(), threading.Event()
    write = private_files.write_atomically

    def slow(path: Path, data: bytes, what: str) -> None:
        waits.set()
        gate.wait(10)
        write(path, data, what)

    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        monkeypatch.setattr(json_file, "write_atomically", slow)
        params = s.ListenParams(NAME, server.address, allow=(asker.peer,))
        methods: Any = TunnelMethods(owner.running).table()
        calling = asyncio.create_task(methods["p2p.listen"](None, params))
        await until(waits.is_set)
        calling.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert not owner.running.access.rules.table.rules
        assert not owner.running.forwarding.listeners()

    try:
        run(home, script)
    finally:
        gate.set()


async def listener_of(asker: Node) -> s.Listener:
    found: s.Listener = (await asker.call("p2p.ls")).listeners[0]
    return found


def test_a_forward_finds_out_that_its_right_was_taken_away(home: Path) -> None:
    """Nobody checks: the connection that fails asks why, and who was allowed is told."""

    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        await listen(owner, server, asker.peer)
        port, _ = await forward(owner, asker)
        async with tunnel(port):
            pass
        await owner.change("deny", asker.peer)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await is_reset(reader)
        writer.close()

        def says() -> bool:
            (row,) = asker.running.forwarding.listeners()
            return row.state == "not-allowed" and "p2pfwd allow" in (row.hint or "")

        await until(says)

    run(home, script)


def test_any_opens_and_closes_it_at_large(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        assert (await listen(owner, server)).listener.access == s.Access("any")
        port, listener = await forward(owner, asker)
        async with tunnel(port) as (reader, _):
            closed = await owner.change("deny", "any")
            assert (closed.rule.access, closed.streams) == (s.Access("listed"), 1)
            assert await is_reset(reader)
        assert await state(asker, listener) == "protocol-not-supported"
        assert (await owner.change("allow", "any")).rule.access == s.Access("any")
        assert await state(asker, listener) == "ready"
        removed = await owner.call("access.rm", s.AccessRmParams(NAME))
        assert (removed.rule.saved, removed.rule.access.lets_in) == (False, "any")
        with pytest.raises(errors.NotFound):
            await owner.call("access.rm", s.AccessRmParams(NAME))

    run(home, script)


def test_names_let_in_where_that_is_the_default_and_a_lost_name_ends_it(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        assert (await listen(owner, server)).listener.access == s.Access("named")
        port, listener = await forward(owner, asker)
        assert await state(asker, listener) == "protocol-not-supported"
        await owner.call("peer.add", s.PeerAddParams("laptop", (asker.peer,)))
        assert await state(asker, listener) == "ready"
        async with tunnel(port) as (reader, _):
            await owner.call("peer.rm", s.PeerRmParams("laptop"))
            assert await is_reset(reader)
        assert await state(asker, listener) == "protocol-not-supported"

    run(home, script, replace(SETTINGS, access_default="named"))


def test_names_are_looked_through_once_for_a_list_and_again_when_one_changes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand rows of a thousand names each would hold up every stream."""

    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        for number in range(5):
            await owner.call("p2p.listen", s.ListenParams(f"/x/{number}", server.address, allow=(STRANGER,)))
        names, looks = owner.running.peering.names, 0
        all_names = names.all

        def looked() -> Any:
            nonlocal looks
            looks += 1
            return all_names()

        monkeypatch.setattr(names, "all", looked)
        await owner.call("p2p.ls")
        await owner.call("access.ls")
        assert looks <= 1
        await owner.call("peer.add", s.PeerAddParams("friend", (STRANGER,)))
        rows = (await owner.call("access.ls")).rules
        assert {it.name for row in rows for it in row.access.allowed} == {"friend"}

    run(home, script)


def test_rules_and_blocks_are_there_after_a_restart(home: Path) -> None:
    async def main() -> None:
        with TcpServer(echo) as server:
            owner = await start(home)
            await owner.call("peer.add", s.PeerAddParams("laptop", (STRANGER,)))
            await listen(owner, server, "Laptop")
            await owner.call("block.add", s.BlockParams((STRANGER, "192.0.2.0/24", "192.0.2.0/24")))
            await owner.running.stop()
            owner = await start(home)
            (rule,) = (await owner.call("access.ls")).rules
            assert (rule.protocol, rule.saved, rule.listening) == (NAME, True, True)
            assert rule.access == s.Access("listed", (s.AccessPeer(STRANGER, "laptop"),))
            assert (await owner.call("block.ls")).blocked == (
                s.Block("peer", STRANGER, "laptop"),
                s.Block("network", "192.0.2.0/24", None),
            )
            assert (await listen(owner, server)).listener.access == rule.access
            await owner.running.stop()

    asyncio.run(asyncio.wait_for(main(), 40))


def test_lost_rules_let_nobody_in(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        aside = str(home / "a" / "access.json.damaged")
        told = await owner.call("access.ls")
        assert (told.default, told.lost) == ("none", aside)
        assert (await listen(owner, server)).listener.access == s.Access("listed")
        _, listener = await forward(owner, asker)
        assert await state(asker, listener) == "protocol-not-supported"
        await owner.change("allow", asker.peer)
        assert await state(asker, listener) == "ready"

    (home / "a").mkdir()
    (home / "a" / "access.json").write_text("{")
    run(home, script)


change, block, e = s.AccessChangeParams, s.BlockParams, errors


@pytest.mark.parametrize(
    ("method", "params", "error", "words"),
    [
        ("access.allow", change("ssh", (STRANGER,)), e.InvalidProtocol, "begin with '/'"),
        ("access.allow", change(NAME, ()), e.UsageError, "no peer"),
        (
            "access.allow",
            change(NAME, ("bogus",)),
            e.InvalidPeerId,
            "no peer has that name",
        ),
        ("access.deny", change(NAME, ("any", STRANGER)), e.UsageError, "stands alone"),
        (
            "access.deny",
            change("/ipfs/id/1.0.0", ("any",)),
            e.InvalidProtocol,
            "node itself",
        ),
        (
            "access.allow",
            change(NAME, ("/dnsaddr/a.test",)),
            e.InvalidPeerId,
            "no peer ID",
        ),
        (
            "access.allow",
            change(NAME, (STRANGER,) * 257),
            e.UsageError,
            "256 is the limit",
        ),
        ("access.rm", s.AccessRmParams(NAME), e.NotFound, "no access rule"),
        ("block.add", block(()), e.UsageError, "no peer"),
        ("block.add", block(("192.0.2.7/24",)), e.UsageError, "bits beyond its prefix"),
        ("block.add", block(("192.0.2.0/33",)), e.UsageError, "no network"),
        ("block.add", block(("fe80::1%eth0",)), e.UsageError, "no network"),
        ("block.add", block((STRANGER, "300.1.1.1")), e.UsageError, "no network"),
        ("block.add", block(("bogus",)), e.InvalidPeerId, "no peer has that name"),
        ("block.rm", block((STRANGER,)), e.NotFound, "is not blocked"),
        ("p2p.listen", s.ListenParams(NAME, "1", allow=("bogus",)), e.InvalidPeerId, "no peer"),
        ("p2p.listen", s.ListenParams("nope", "1", allow=("any",)), e.InvalidProtocol, "namespace"),
        ("p2p.listen", s.ListenParams("/x/there", "2", allow=(STRANGER,)), e.ListenerExists, "/x/there"),
    ],
)
def test_bad_input_changes_nothing(
    home: Path, method: str, params: Any, error: type[errors.P2PForwardError], words: str
) -> None:
    async def main() -> None:
        owner = await start(home)
        try:
            await owner.call("p2p.listen", s.ListenParams("/x/there", "1"))
            with pytest.raises(error) as caught:
                await owner.call(method, params)
            assert words in caught.value.message and caught.value.hint
            assert not (home / "access.json").exists()
            assert [it.protocol for it in (await owner.call("p2p.ls")).listeners] == ["/x/there"]
        finally:
            await owner.running.stop()

    asyncio.run(asyncio.wait_for(main(), 40))


def test_nobody_blocks_himself(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        with pytest.raises(errors.UsageError, match="this node itself"):
            await owner.call("block.add", s.BlockParams((owner.peer,)))

    run(home, script)


def test_a_blocked_peer_is_cut_and_stays_out_both_ways(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        await listen(owner, server)
        port, _ = await forward(owner, asker)
        async with tunnel(port) as (reader, _writer):
            done = await owner.call("block.add", s.BlockParams((asker.peer,)))
            assert (done.connections, done.streams) == (1, 1)
            assert done.blocked == (s.Block("peer", asker.peer, None),)
            assert await is_reset(reader)
        with contextlib.suppress(errors.P2PForwardError):  # it may think for a moment that it is in
            await asker.call("swarm.connect", s.ConnectParams((owner.address,), 5.0))
        await until(lambda: not asker.running.host.swarm.conns())
        with pytest.raises(errors.PeerBlocked) as caught:
            await owner.call("swarm.connect", s.ConnectParams((asker.address,), 5.0))
        assert caught.value.hint == f"p2pfwd unblock {asker.peer} takes it off the list"
        assert (await owner.refused())["blocked"] >= 1
        assert not owner.running.host.swarm.conns()
        await owner.call("block.rm", s.BlockParams((asker.peer,)))
        await owner.call("swarm.connect", s.ConnectParams((asker.address,), 5.0))

    run(home, script)


def test_a_blocked_network_is_refused_at_the_door_and_the_control_socket_is_not(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        await asker.call("swarm.connect", s.ConnectParams((owner.address,), 5.0))
        done = await owner.call("block.add", s.BlockParams(("0.0.0.0/0", "::/0")))
        assert done.connections == 1
        host, port = owner.address.split("/")[2], int(owner.address.split("/")[4])
        with socket.create_connection((host, port), 5) as refused:
            refused.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.to_thread(refused.recv, 1) == b"", "before a byte is said"
        assert (await owner.refused())["blocked"] >= 1, "the asker may have come again meanwhile"
        with pytest.raises(errors.P2PForwardError, match="blocked on this node"):
            await owner.call("swarm.connect", s.ConnectParams((asker.address,), 5.0))
        assert [it.what for it in (await owner.call("block.ls")).blocked] == ["0.0.0.0/0", "::/0"]
        document = json.loads((home / "a" / "access.json").read_text())
        assert document["blocked"]["networks"] == ["0.0.0.0/0", "::/0"]

    run(home, script)


def test_whom_a_rule_lets_in_by_its_id_has_a_place_at_the_relay_as_long_as_it_does(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        swarm = owner.running.host.swarm
        link = await asker.running.host.swarm.connect(swarm.peer_id, swarm.listen_addrs())
        await owner.change("allow", "any")
        punch, peer = owner.running.host.hole_punch, asker.running.host.peer_id
        assert (await reserve(link)).status is Status.PERMISSION_DENIED
        assert punch is not None and not punch.is_own(peer)
        await owner.change("allow", asker.peer)
        answer = await reserve(link)
        assert answer.status is Status.OK and answer.limit is None
        assert punch.is_own(peer)
        await owner.change("deny", asker.peer)
        assert owner.running.relaying.service.places() == [], "at once"
        assert (await reserve(link)).status is Status.PERMISSION_DENIED
        await owner.call("peer.add", s.PeerAddParams("laptop", (asker.peer,)))
        assert (await reserve(link)).status is Status.OK
        await owner.call("peer.rm", s.PeerRmParams("laptop"))
        assert owner.running.relaying.service.places() == []
        await owner.call("swarm.connect", s.ConnectParams((asker.address,)))
        assert (await reserve(link)).status is Status.OK, "it was given in a command"
        await owner.call("peer.rm", s.PeerRmParams(asker.peer))
        assert owner.running.relaying.service.places() == []

    run(home, script, replace(SETTINGS, network="public", dht_mode="server", bootstrap=()))
