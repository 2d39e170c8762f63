"""invite.*, with real nodes in this process: one invites, one joins, and another comes too late."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2pfwd import errors
from p2pfwd.core.invite_token import InviteToken
from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.daemon import inviting
from p2pfwd.daemon.settings import Settings
from p2pfwd.host import routing
from p2pfwd.peers import named
from p2pfwd.protocols import invite as protocol_module
from p2pfwd.rpc import schema as s
from p2pfwd.wire.invite import InviteStatus
from tests.rpc import node
from tests.support.sockets import TcpServer, connect, echo, read_exactly

SETTINGS = Settings(network="lan", listen=("/ip4/127.0.0.1/tcp/0",), mdns="off", drain_timeout_s=0.0)
CLOSED = replace(SETTINGS, access_default="none")
NAME = "/x/echo"


class Node(node.Node):
    """With what these tests ask often."""

    async def invite(self, **params: Any) -> s.InviteNewResult:
        result: s.InviteNewResult = await self.call("invite.new", s.InviteNewParams(NAME, **params))
        return result

    async def join(self, token: str, **params: Any) -> s.InviteJoinResult:
        params = {"timeout_s": 10.0, **params}
        result: s.InviteJoinResult = await self.call("invite.join", s.InviteJoinParams(token, **params))
        return result

    async def refused(self, token: str, **params: Any) -> errors.P2PForwardError:
        """Why a join fails; nothing is left of it here."""
        before = await self.state()
        with pytest.raises(errors.P2PForwardError) as caught:
            await self.join(token, **params)
        assert await self.state() == before
        assert InviteToken.parse(token).secret.hex() not in str(caught.value) and token not in str(
            caught.value
        )
        return caught.value

    async def state(self) -> tuple[object, ...]:
        listeners = (await self.call("p2p.ls")).listeners
        return await self.names(), [(it.protocol, it.listen_address) for it in listeners]

    async def names(self) -> dict[str, str]:
        return {it.name: it.peer for it in (await self.call("peer.ls")).peers}

    async def invites(self) -> tuple[s.Invite, ...]:
        found: tuple[s.Invite, ...] = (await self.call("invite.ls")).invites
        return found

    async def allowed(self) -> set[str]:
        rules = (await self.call("access.ls")).rules
        return {it.peer for rule in rules if rule.protocol == NAME for it in rule.access.allowed}


async def start(home: Path, settings: Settings = SETTINGS, identity: PrivateKey | None = None) -> Node:
    await asyncio.to_thread(home.mkdir, exist_ok=True)
    return Node(await node.running(home, settings, identity))


@pytest.fixture(autouse=True)
def nobody_comes_up_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look-ups need not wait for a DHT in which there is nobody."""
    monkeypatch.setattr(routing, "START_WAIT_S", 0.0)


Script = Callable[[Node, Node, Node], Awaitable[None]]


def run(home: Path, script: Script, *settings: Settings) -> None:
    """A script with one that invites and two others."""

    async def main() -> None:
        nodes = []
        try:
            for name, its in zip("abc", (*settings, *[SETTINGS] * 3), strict=False):
                nodes.append(await start(home / name, its))
            await script(*nodes)
        finally:
            for one in nodes:
                await one.running.stop()

    asyncio.run(asyncio.wait_for(main(), 40))


def echoes(joined: s.InviteJoinResult) -> bool:
    """Whether bytes get through the forward, and back."""
    port = int(joined.listener.listen_address.rpartition("/")[2])
    with connect(port) as local:
        local.sendall(b"hello")
        return read_exactly(local, 5) == b"hello"


def test_who_joins_is_let_in_named_and_has_its_forward(tmp_path: Path) -> None:
    async def script(owner: Node, joiner: Node, other: Node) -> None:
        with TcpServer(echo) as server:
            await owner.call("p2p.listen", s.ListenParams(NAME, server.address))
            made = await owner.invite(name="laptop")
            assert made.command == f"p2pfwd join {made.token}" and made.addresses == (owner.address,)
            joined = await joiner.join(made.token)
            assert (joined.peer, joined.name, joined.listening) == (owner.peer, "inviter", True)
            assert joined.listener.saved and joined.listener.listen_address.startswith("/ip4/127.0.0.1/tcp/")
            assert await asyncio.to_thread(echoes, joined)
        assert await owner.allowed() == {joiner.peer}
        assert await owner.names() == {"laptop": joiner.peer}
        assert await joiner.names() == {"inviter": owner.peer}
        (shown,) = await owner.invites()
        assert (shown.id, shown.state, shown.left_s) == (made.invite.id, "used-up", 0.0)
        assert shown.taken_by == (s.AccessPeer(joiner.peer, "laptop"),)
        late = await other.refused(made.token)
        assert late.code == "invite-refused" and "used up" in late.message
        assert await owner.allowed() == {joiner.peer}

    run(tmp_path, script, CLOSED)


def test_the_same_machine_joins_again_without_another_use(tmp_path: Path) -> None:
    async def script(owner: Node, joiner: Node, other: Node) -> None:
        made = await owner.invite(uses=2)
        first = await joiner.join(made.token)
        again = await joiner.join(made.token)
        assert (first.stood, again.stood) == (False, True) and not first.listening
        assert again.listener.listen_address == first.listener.listen_address
        elsewhere = await joiner.join(made.token, listen="0")
        assert elsewhere.listener.listen_address != first.listener.listen_address
        assert [len(it.taken_by) for it in await owner.invites()] == [1]
        await other.join(made.token)
        assert await owner.allowed() == {joiner.peer, other.peer}
        assert [it.state for it in await owner.invites()] == ["used-up"]

    run(tmp_path, script, CLOSED)


def test_who_was_denied_since_is_not_said_to_stay(tmp_path: Path) -> None:
    async def script(owner: Node, joiner: Node, other: Node) -> None:
        made = await owner.invite(uses=2, name="laptop")
        await joiner.join(made.token)
        await other.join(made.token)
        await owner.call("access.deny", s.AccessChangeParams(NAME, (joiner.peer,)))
        revoked = await owner.call("invite.revoke", s.InviteRevokeParams(made.invite.id))
        assert [it.peer for it in revoked.invite.taken_by] == [joiner.peer, other.peer]
        assert revoked.let_in == (s.AccessPeer(other.peer, "laptop-2"),)

    run(tmp_path, script, CLOSED)


def test_a_restart_of_the_inviter_between_invite_and_join(tmp_path: Path) -> None:
    async def main() -> None:
        identity = PrivateKey.generate()
        owner = await start(tmp_path / "a", CLOSED, identity)
        joiner = await start(tmp_path / "b")
        try:
            made = await owner.invite()
            port = made.addresses[0].split("/")[4]
            await owner.running.stop()
            there = await joiner.refused(made.token, timeout_s=2.0)
            assert there.code in ("dial-failed", "dial-timeout"), there.code
            again = replace(CLOSED, listen=(f"/ip4/127.0.0.1/tcp/{port}",))
            owner = await start(tmp_path / "a", again, identity)
            await joiner.join(made.token)
            assert await owner.allowed() == {joiner.peer}
            await owner.running.stop()
            owner = await start(tmp_path / "a", again, identity)
            assert [it.state for it in await owner.invites()] == ["used-up"]
            assert await owner.allowed() == {joiner.peer}
        finally:
            await owner.running.stop()
            await joiner.running.stop()

    asyncio.run(asyncio.wait_for(main(), 40))


@pytest.mark.parametrize(
    ("end", "words", "status"),
    [
        ("expired", "the invite has expired", "EXPIRED"),
        ("revoked", "the invite was revoked", "REVOKED"),
        ("denied", "kept out there by its peer ID", "DENIED"),
        ("forgotten", "it knows no such invite", "UNKNOWN"),
        ("never-made", "knows no invites", "NONE"),
    ],
)
def test_a_refusal_says_why_and_changes_nothing(
    tmp_path: Path, end: str, words: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol_module, "WRONG_S", 0.0)

    async def script(owner: Node, joiner: Node, other: Node) -> None:
        made = await owner.invite()
        invites = owner.running.inviting.invites
        if end == "expired":
            now = invites.unix_time()
            invites.unix_time = lambda: now + 3600
        elif end == "revoked":
            assert (
                await owner.call("invite.revoke", s.InviteRevokeParams(made.invite.id))
            ).invite.state == end
        elif end == "denied":
            await owner.call("access.deny", s.AccessChangeParams(NAME, (joiner.peer,)))
        elif end == "forgotten":
            await owner.invite()
            del invites._file.table[made.invite.id]
        else:
            del invites._file.table[made.invite.id]
            owner.running.inviting._serve()
        refused = await joiner.refused(made.token)
        assert refused.code == "invite-refused" and words in refused.message and refused.hint
        assert refused.details["status"] == status
        assert await owner.allowed() == set()
        assert all(not it.taken_by for it in await owner.invites())

    run(tmp_path, script, CLOSED)


def test_where_listen_is_taken_nothing_is_used_up_and_nothing_changes(tmp_path: Path) -> None:
    async def script(owner: Node, joiner: Node, other: Node) -> None:
        made = await owner.invite(name="laptop")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            assert (await joiner.refused(made.token, listen=port)).code == "address-in-use"
        assert (await joiner.refused(made.token, listen="nonsense")).code == "invalid-multiaddr"
        assert (await joiner.refused(made.token, name="Not a name")).code == "usage"
        assert [it.state for it in await owner.invites()] == ["open"]
        assert await owner.allowed() == set() and await owner.names() == {}
        assert (await joiner.join(made.token, listen=port)).listener.listen_address.endswith(f"/{port}")

    run(tmp_path, script, CLOSED)


def test_a_forward_whose_invite_is_not_granted_is_taken_back(tmp_path: Path) -> None:
    """The disk of the inviter fails between its offer and its receipt."""

    async def script(owner: Node, joiner: Node, other: Node) -> None:
        made = await owner.invite()
        inviting = owner.running.inviting

        async def busy(_invite: bytes, _peer: object) -> InviteStatus:
            return InviteStatus.BUSY

        claim, inviting.claim = inviting.claim, busy  # type: ignore[method-assign,assignment]
        refused = await joiner.refused(made.token)
        assert "could not write it down" in refused.message
        inviting.claim = claim  # type: ignore[method-assign]
        await joiner.join(made.token)

    run(tmp_path, script, CLOSED)


def test_where_there_is_no_room_for_a_name_the_right_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(owner: Node, joiner: Node, other: Node) -> None:
        made = await owner.invite(name="laptop")
        monkeypatch.setattr(named, "MAX_NAMED", 0)
        with pytest.raises(errors.ResourceLimitExceeded):
            await owner.running.peering.name_if_free("phone", other.running.host.peer_id)
        await joiner.join(made.token)
        assert await owner.allowed() == {joiner.peer} and await owner.names() == {}

    run(tmp_path, script, CLOSED)


def test_a_name_that_an_earlier_version_took_and_this_does_not_costs_no_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(owner: Node, joiner: Node, other: Node) -> None:
        with monkeypatch.context() as earlier:
            earlier.setattr(inviting, "read_name", str)
            made = await owner.invite(name="any")
        await joiner.join(made.token)
        assert await owner.allowed() == {joiner.peer} and await owner.names() == {}
        with pytest.raises(errors.UsageError, match="cannot be the name of a peer"):
            await owner.invite(name="any")

    run(tmp_path, script, CLOSED)


def test_a_denial_that_comes_in_between_holds(tmp_path: Path) -> None:
    """Between the use on the disk and the right."""

    async def script(owner: Node, joiner: Node, other: Node) -> None:
        made = await owner.invite()
        access, invites = owner.running.access, owner.running.inviting.invites
        claim = invites.claim

        async def slowly(invite: str, peer: PeerId) -> InviteStatus:
            status = await claim(invite, peer)
            await access.deny(NAME, [str(peer)], keep_live=False)
            return status

        invites.claim = slowly  # type: ignore[method-assign]
        refused = await joiner.refused(made.token)
        assert refused.details["status"] == "DENIED" and await owner.allowed() == set()
        assert access.is_denied(NAME, joiner.running.host.peer_id)

    run(tmp_path, script, CLOSED)


@pytest.mark.parametrize("how", ["listen", "rm", "deny-and-rm", "name", "ended"])
@pytest.mark.parametrize("uses", [1, 5])
def test_a_right_that_was_taken_away_does_not_come_back_by_the_old_word(
    tmp_path: Path, how: str, uses: int
) -> None:
    """Nor after a restart; a new invite gives it again."""
    closed = replace(CLOSED, access_default="named") if how == "name" else CLOSED

    async def main() -> None:
        identity = PrivateKey.generate()
        owner, joiner = await start(tmp_path / "a", closed, identity), await start(tmp_path / "b")
        try:
            with TcpServer(echo) as server:
                made = await owner.invite(uses=uses, name="laptop" if how == "name" else None)
                await joiner.join(made.token)
                await joiner.join(made.token)
                access = owner.running.access
                if how == "listen":
                    other = str(PeerId.from_public_key(PrivateKey.generate().public_key))
                    await owner.call("p2p.listen", s.ListenParams(NAME, server.address, allow=(other,)))
                if how == "deny-and-rm":
                    await access.deny(NAME, [joiner.peer], keep_live=False)
                if how == "ended":
                    await access.allow(NAME, [joiner.peer], keep_live=False, ends_at=1.0)
                elif how != "listen":
                    await access.remove(NAME, keep_live=False)
                if how == "name":
                    await owner.call("peer.rm", s.PeerRmParams("laptop"))
                allowed, names = await owner.allowed(), await owner.names()
                for _ in range(2):
                    refused = await joiner.refused(made.token)
                    assert refused.details["status"] == "DENIED"
                    rules = owner.running.forwarding.access.rules
                    assert not rules.admits(joiner.running.host.peer_id, NAME)
                    assert (await owner.allowed(), await owner.names()) == (allowed, names)
                    port = owner.address.split("/")[4]
                    await owner.running.stop()
                    again = replace(closed, listen=(f"/ip4/127.0.0.1/tcp/{port}",))
                    owner = await start(tmp_path / "a", again, identity)
                await joiner.join((await owner.invite()).token)
                assert joiner.peer in await owner.allowed()
        finally:
            await owner.running.stop()
            await joiner.running.stop()

    asyncio.run(asyncio.wait_for(main(), 40))


def test_who_was_interrupted_before_its_right_was_given_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(owner: Node, joiner: Node, other: Node) -> None:
        made = await owner.invite()

        async def full(*_: object) -> bool:
            raise errors.StorageFailed("access rules: no space left")

        with monkeypatch.context() as broken:
            broken.setattr(owner.running.access, "let_in", full)
            assert (await joiner.refused(made.token)).details["status"] == "BUSY"
        assert [len(it.taken_by) for it in await owner.invites()] == [1] and not await owner.allowed()
        await joiner.join(made.token)
        assert await owner.allowed() == {joiner.peer}

    run(tmp_path, script, CLOSED)


def test_no_name_of_another_peer_is_taken_away(tmp_path: Path) -> None:
    async def script(owner: Node, joiner: Node, other: Node) -> None:
        await owner.call("peer.add", s.PeerAddParams("laptop", (other.peer,)))
        await joiner.call("peer.add", s.PeerAddParams("inviter", (other.peer,)))
        made = await owner.invite(name="Laptop")
        taken = await joiner.refused(made.token, name="inviter")
        assert taken.code == "peer-exists"
        assert (await joiner.join(made.token)).name == "inviter-2"
        assert await owner.names() == {"laptop": other.peer, "laptop-2": joiner.peer}
        assert await joiner.names() == {"inviter": other.peer, "inviter-2": owner.peer}
        assert (await joiner.join(made.token, name="else")).name == "inviter-2", "it has one"

    run(tmp_path, script)


def test_a_name_that_would_let_somebody_in_is_not_given_unasked(tmp_path: Path) -> None:
    """With access.default = "named" a name opens every listen that has no rule."""
    named = replace(SETTINGS, access_default="named")

    async def script(owner: Node, joiner: Node, other: Node) -> None:
        made = await owner.invite(name="laptop")
        assert {it.code for it in made.notices} == {"not-listening", "names-open", "unreachable"}
        assert (await joiner.join(made.token)).name is None and await joiner.names() == {}
        assert (await joiner.join(made.token, name="nas")).name == "nas"

    run(tmp_path, script, named, named)


def test_what_the_owner_should_know_is_told(tmp_path: Path) -> None:
    async def script(owner: Node, joiner: Node, other: Node) -> None:
        open_one = await owner.invite()
        assert {it.code for it in open_one.notices} == {"not-listening", "open", "unreachable"}
        hints = [it.hint or "" for it in open_one.notices]
        assert hints[:2] == [f"p2pfwd listen {NAME} TARGET", f"p2pfwd deny {NAME} any"]
        for wrong in ({"expires_s": 0.0}, {"uses": 0}, {"name": "no name"}):
            with pytest.raises(errors.UsageError):
                await owner.invite(**wrong)
        with pytest.raises(errors.InvalidProtocol):
            await owner.call("invite.new", s.InviteNewParams("/p2pfwd/mine"))
        assert len(await owner.invites()) == 1

    run(tmp_path, script)


def test_an_invite_of_this_node_or_of_another_network_is_told_so(tmp_path: Path) -> None:
    async def script(owner: Node, joiner: Node, other: Node) -> None:
        made = await owner.invite()
        assert (await owner.refused(made.token)).code == "self-dial"
        token = InviteToken.parse(made.token)
        private = replace(token, network="private", key_mark=b"1234")
        foreign = await joiner.refused(str(private))
        assert foreign.code == "invalid-invite" and "of a private network" in foreign.message
        joiner.running.inviting._network = owner.running.network
        elsewhere = replace(token, network="public", addrs=(Multiaddr.parse("/ip4/127.0.0.1/tcp/1"),))
        away = await joiner.refused(str(elsewhere), timeout_s=2.0)
        assert "the inviter is in the network public, and this node in lan" in away.message
        assert "connection refused" in away.message.lower()
        cut = made.token[:-3]
        with pytest.raises(errors.InvalidInvite, match="was cut"):
            await joiner.join(cut)

    run(tmp_path, script)


def test_a_wrong_machine_at_the_address_learns_nothing(tmp_path: Path) -> None:
    """It is found out by its identity, before a stream is opened to it."""

    async def script(owner: Node, joiner: Node, other: Node) -> None:
        made = await owner.invite()
        await other.invite()  # it knows the protocol
        asked: list[object] = []
        other.running.inviting.verifier = asked.append  # type: ignore[method-assign,assignment]
        where = Multiaddr.parse(other.address).without_peer_id()
        misled = replace(InviteToken.parse(made.token), addrs=(where,))
        wrong = await joiner.refused(str(misled), timeout_s=3.0)
        assert wrong.code == "peer-id-mismatch" and not asked
        assert [it.state for it in await owner.invites()] == ["open"]

    run(tmp_path, script)
