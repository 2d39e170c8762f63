"""peer.add, peer.rm, peer.ls and names in place of peers, against real nodes in this process."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfwd import errors
from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.daemon.settings import Settings
from p2pfwd.peers.book_file import AddressFile
from p2pfwd.policy.dial_schedule import Priority
from p2pfwd.policy.provenance import Standing
from p2pfwd.rpc import schema as s
from tests.rpc import node
from tests.rpc.node import STRANGER

SETTINGS = Settings(network="lan", listen=("/ip4/127.0.0.1/tcp/0",), drain_timeout_s=5.0)
NOWHERE = "/ip4/127.0.0.1/tcp/9"


class Node(node.Node):
    """With what these tests ask often."""

    async def row(self, name: str, **params: Any) -> s.NamedPeer:
        rows: tuple[s.NamedPeer, ...] = (await self.call("peer.ls", s.PeerLsParams(**params))).peers
        return next(row for row in rows if row.name == name)

    async def until_connected(self, name: str) -> s.NamedPeer:
        come = asyncio.Event()
        self.running.host.swarm.on_connected(lambda _: come.set())
        async with asyncio.timeout(10):
            while (row := await self.row(name)).state != "connected":
                await come.wait()
                come.clear()
        return row


async def start(home: Path, identity: PrivateKey | None = None) -> Node:
    return Node(await node.running(home, SETTINGS, identity))


def run(home: Path, script: Callable[[Node, Node], Awaitable[None]]) -> None:
    """A script with two nodes."""

    async def main() -> None:
        near, far = await start(home / "a"), await start(home / "b")
        try:
            await script(near, far)
        finally:
            await near.running.stop()
            await far.running.stop()

    for name in ("a", "b"):
        (home / name).mkdir(exist_ok=True)
    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_name_stands_for_the_peer_wherever_one_is_asked(home: Path) -> None:
    async def script(near: Node, far: Node) -> None:
        added = await near.call("peer.add", s.PeerAddParams("Nas", (far.address,)))
        assert (added.replaced, added.peer.name, added.peer.peer) == (False, "nas", far.peer)
        assert added.peer.addresses == (far.address.removesuffix(f"/p2p/{far.peer}"),)
        assert (added.peer.kept, added.peer.state, added.peer.next_try_s) == (None, "not-connected", None)
        assert (await near.call("ping", s.PingParams("nas"))).peer == far.peer
        row = await near.row("nas")
        assert (row.state, row.remote_address) == ("connected", row.addresses[0])
        closed = await near.call("swarm.disconnect", s.DisconnectParams("NAS"))
        assert closed.peer == far.peer
        connected = await near.call("swarm.connect", s.ConnectParams(("nas", far.address)))
        assert connected.connection.peer == far.peer
        forward = await near.call("p2p.forward", s.ForwardParams("/x/a", "0", ("nas",)))
        assert forward.listener.target_address == f"/p2p/{far.peer}"
        assert (await near.call("p2p.close", s.CloseParams(target_address="nas"))).closed == (
            forward.listener,
        )

    run(home, script)


def test_the_addresses_of_a_name_are_found_by_the_bare_id_as_long_as_it_is_there(home: Path) -> None:
    async def script(near: Node, far: Node) -> None:
        await near.call("peer.add", s.PeerAddParams("nas", (far.address,)))
        await near.call("ping", s.PingParams(far.peer))
        await near.call("peer.add", s.PeerAddParams("phone", (f"{NOWHERE}/p2p/{STRANGER}",)))
        removed = await near.call("peer.rm", s.PeerRmParams("phone"))
        assert removed.peer.peer == STRANGER
        with pytest.raises(errors.PeerNotFound, match="was not found: 1 peer was asked"):
            await near.call("ping", s.PingParams(STRANGER, 1.0))

    run(home, script)


def is_own_on_disk(home: Path, peer_id: PeerId) -> bool:
    """What a daemon would find that starts after a kill: the address book in a copy."""
    copy = Path(tempfile.mkdtemp(dir=home))
    for path in home.glob("peers.db*"):
        shutil.copy(path, copy)
    file = AddressFile(copy / "peers.db")
    try:
        return any(it.peer_id == peer_id and it.standing is Standing.OWN for it in file.load())
    finally:
        file.close()


def test_whom_a_command_gave_is_the_owners_until_it_is_removed_by_its_id(home: Path) -> None:
    async def script(near: Node, far: Node) -> None:
        peer_id = PeerId.parse(far.peer)
        await near.call("ping", s.PingParams(far.address))
        await near.running.stop()
        again = await start(home / "a")
        await again.running.peering.book_loaded.wait()
        assert again.running.host.swarm.peerstore.is_chosen(peer_id)
        assert is_own_on_disk(home / "a", peer_id)
        removed = await again.call("peer.rm", s.PeerRmParams(far.peer))
        assert (removed.peer.name, removed.peer.peer, removed.still_own) == ("", far.peer, False)
        assert not again.running.host.swarm.peerstore.is_chosen(peer_id)
        assert not is_own_on_disk(home / "a", peer_id)
        with pytest.raises(errors.NotFound, match=f"{far.peer} has no name here, and no command gave"):
            await again.call("peer.rm", s.PeerRmParams(far.peer))
        await again.running.stop()
        last = await start(home / "a")
        try:
            await last.running.peering.book_loaded.wait()
            assert not last.running.host.swarm.peerstore.is_chosen(peer_id)
        finally:
            await last.running.stop()

    run(home, script)


@pytest.mark.parametrize("by_id", [False, True])
def test_who_loses_its_name_is_the_owners_as_long_as_a_forward_leads_there(home: Path, by_id: bool) -> None:
    async def script(near: Node, far: Node) -> None:
        store, peer_id = near.running.host.swarm.peerstore, PeerId.parse(far.peer)
        await near.call("peer.add", s.PeerAddParams("nas", (far.address,)))
        await near.call("p2p.forward", s.ForwardParams("/x/a", "0", ("nas",)))
        store.note_forwarded(peer_id)
        removed = await near.call("peer.rm", s.PeerRmParams(far.peer if by_id else "nas"))
        assert (removed.peer.name, removed.still_own) == ("nas", True)
        await near.call("p2p.close", s.CloseParams(target_address=far.peer))
        assert not store.is_chosen(peer_id)

    run(home, script)


def test_a_kept_peer_is_dialed_at_once_and_at_the_next_start_and_released(home: Path) -> None:
    async def script(near: Node, far: Node) -> None:
        await near.call("peer.add", s.PeerAddParams("nas", (far.address,), keep=True))
        row = await near.until_connected("nas")
        assert (row.kept, row.last_outcome, row.failures) == ("static", "connected", 0)
        assert row.last_try_s is not None and row.last_try_s < 30
        await near.running.stop()
        again = await start(home / "a")
        try:
            await again.until_connected("nas")
            assert again.running.host.swarm.connmgr.is_protected(PeerId.parse(far.peer))
            renewed = await again.call("peer.add", s.PeerAddParams("nas", (far.address,)))
            assert renewed.replaced and renewed.peer.kept is None and renewed.peer.state == "connected"
            assert not again.running.host.swarm.connmgr.is_protected(PeerId.parse(far.peer))
        finally:
            await again.running.stop()

    run(home, script)


def test_an_unreachable_kept_peer_tells_why_and_when_next(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(near: Node, far: Node) -> None:
        await near.call("peer.add", s.PeerAddParams("nas", (f"{NOWHERE}/p2p/{STRANGER}",), keep=True))
        async with asyncio.timeout(10):
            while (row := await near.row("nas")).state != "waiting":
                pass
        assert row.last_outcome == f"cannot reach {STRANGER}: {NOWHERE}: Connection refused"
        assert row.failures == 1 and row.next_try_s is not None and 20 < row.next_try_s <= 30

    run(home, script)
    assert caplog.text.count("a kept peer is not connected") == 1


def test_kept_peers_without_a_name_are_shown_when_asked(home: Path) -> None:
    async def script(near: Node, far: Node) -> None:
        keeper = near.running.host.keeper
        keeper.keep(PeerId.parse(STRANGER), [Multiaddr.parse(NOWHERE)], Priority.BOOTSTRAP)
        assert (await near.call("peer.ls", s.PeerLsParams())).peers == ()
        row = await near.row("", all=True)
        assert (row.peer, row.kept, row.addresses) == (STRANGER, "bootstrap", (NOWHERE,))

    run(home, script)


@pytest.mark.parametrize(
    ("params", "error", "said"),
    [
        (s.PeerAddParams("1", (STRANGER,)), errors.UsageError, "cannot be the name"),
        (s.PeerAddParams("nas", ()), errors.UsageError, "no peer given"),
        (s.PeerAddParams("nas", (NOWHERE,)), errors.InvalidMultiaddr, "names no peer"),
        (s.PeerAddParams("nas", ("phone",)), errors.InvalidPeerId, '"phone" is no peer ID, and no peer has'),
        (s.PeerAddParams("nas", ("12D3KooWNo",)), errors.InvalidPeerId, '"12D3KooWNo" is no peer ID: it is'),
        (s.PeerRmParams("nas"), errors.NotFound, 'no peer is named "nas"'),
        (s.PeerRmParams(STRANGER), errors.NotFound, f"{STRANGER} has no name here"),
        (s.PeerRmParams("12D3KooWNo"), errors.InvalidPeerId, '"12D3KooWNo" is no peer ID: it is'),
    ],
)
def test_what_is_refused(home: Path, params: Any, error: type[Exception], said: str) -> None:
    async def script(near: Node, far: Node) -> None:
        method = "peer.rm" if isinstance(params, s.PeerRmParams) else "peer.add"
        with pytest.raises(error, match=said):
            await near.call(method, params)
        assert (await near.call("peer.ls", s.PeerLsParams(all=True))).peers == ()
        with pytest.raises(errors.SelfDial):
            await near.call("peer.add", s.PeerAddParams("me", (near.address,)))

    run(home, script)


def test_an_identity_that_became_a_named_peer_s_is_no_bar(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = PrivateKey.generate()

    async def script(near: Node, far: Node) -> None:
        mine = PeerId.from_public_key(key.public_key)
        await near.call("peer.add", s.PeerAddParams("nas", (str(mine),), keep=True))
        await near.running.stop()
        again = await start(home / "a", key)
        await again.running.stop()

    run(home, script)
    assert "nas is the name of this node itself, and not kept" in caplog.text


def test_peers_met_before_a_restart_are_found_by_their_bare_id(home: Path) -> None:
    async def script(near: Node, far: Node) -> None:
        await near.call("ping", s.PingParams(far.address))
        await near.running.stop()
        again = await start(home / "a")
        try:
            assert (await again.call("ping", s.PingParams(far.peer))).peer == far.peer
        finally:
            await again.running.stop()

    run(home, script)


def test_a_home_that_has_a_damaged_book_starts(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        (home / name).mkdir()
        (home / name / "peers.db").write_bytes(b"no database at all, and yet of some length" * 50)

    async def script(near: Node, far: Node) -> None:
        await near.call("ping", s.PingParams(far.address))

    run(home, script)
    assert caplog.text.count("a new one begun") == 2
