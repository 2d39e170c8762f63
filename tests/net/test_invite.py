"""Taking up invites over real connections: races, guessers, liars, and what was interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InviteRefused, RemoteProtocolError, StreamReset, TimedOut
from p2pfwd.net.link.contract import DuplexStream, Link
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.peers.invites import Invite, Invites
from p2pfwd.policy.service_bounds import INVITE, Bounds
from p2pfwd.policy.shares import Most, Party
from p2pfwd.protocols import invite as module
from p2pfwd.protocols.invite import InviteService, take_up
from p2pfwd.wire import invite as wire
from p2pfwd.wire.invite import Hello, InviteStatus, Offer, Verdict, Verifier
from tests.net.swarm_rig import swarm
from tests.support.loops import on_loop, until

RACES = 200
GENEROUS = replace(INVITE, most=Most(all=64, peer=64, network=64), opens=None)
"""Bounds for a test that opens hundreds of streams in a moment."""


class Desk:
    """Who lets in, and writes down whom."""

    def __init__(self, invites: Invites) -> None:
        self.invites = invites
        self.let_in: list[PeerId] = []
        self.refusals: list[tuple[PeerId, str]] = []

    def _find(self, invite: bytes) -> Invite | None:
        return self.invites.find(wire.id_text(invite))

    def verifier(self, invite: bytes) -> Verifier | None:
        found = self._find(invite)
        return found.verifier if found else None

    def judge(self, invite: bytes, peer: PeerId) -> Verdict:
        found = self._find(invite)
        assert found is not None
        status = found.status(peer, self.invites.unix_time())
        return Verdict(status, Offer(found.protocol, True) if status is InviteStatus.OK else None)

    async def claim(self, invite: bytes, peer: PeerId) -> InviteStatus:
        status = await self.invites.claim(wire.id_text(invite), peer)
        if status is InviteStatus.OK:
            self.let_in.append(peer)
        return status

    def refused(self, party: Party, cause: str) -> None:
        self.refusals.append((party.peer, cause))


class Inviter:
    """A swarm that has invites."""

    def __init__(self, made: Swarm, home: Path, bounds: Bounds) -> None:
        self.swarm = made
        self.desk = Desk(Invites(home / "invites.json"))
        self.service = InviteService(made, self.desk, bounds)
        self.service.serve(True)

    async def invite(self, uses: int = 1) -> bytes:
        """The secret of a new invite."""
        _, secret = await self.desk.invites.make("/x/ssh", life_s=60, uses=uses)
        return secret

    async def link(self, joiner: Swarm) -> Link:
        return await joiner.connect(self.swarm.peer_id, self.swarm.listen_addrs())

    @property
    def refused(self) -> int:
        return self.swarm.refusals.counts.get("invite-refused", 0)


@asynccontextmanager
async def inviter(home: Path, bounds: Bounds = INVITE) -> AsyncIterator[Inviter]:
    async with swarm() as made:
        yield Inviter(made, home, bounds)


async def nothing(_offer: Offer) -> None:
    """Of a joiner that has nothing to prepare."""


async def join(link: Link, own: Swarm, secret: bytes) -> str:
    """The name of what is offered, or of the refusal."""
    try:
        return (await take_up(link, secret, own.peer_id, nothing)).protocol
    except InviteRefused as exc:
        return str(exc.details["status"])


@on_loop
async def test_of_two_that_race_exactly_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 times, over connections; who is told that it has won is the one that was let in."""
    monkeypatch.setattr("p2pfwd.system.private_files.os.fsync", lambda _fd: None)
    async with inviter(tmp_path, GENEROUS) as made, swarm() as one, swarm() as other:
        links = [await made.link(one), await made.link(other)]
        for _ in range(RACES):
            secret = await made.invite()
            answers = await asyncio.gather(join(links[0], one, secret), join(links[1], other, secret))
            assert sorted(answers) == ["/x/ssh", "USED_UP"]
            assert made.desk.let_in[-1] == (one, other)[answers.index("/x/ssh")].peer_id
        assert len(made.desk.let_in) == RACES == made.refused


@on_loop
async def test_what_is_offered_is_known_before_anything_is_used_up(tmp_path: Path) -> None:
    async with inviter(tmp_path) as made, swarm() as joiner:
        secret = await made.invite()

        async def fail(offer: Offer) -> None:
            assert offer == Offer("/x/ssh", True)
            raise OSError("the port is taken")

        with pytest.raises(OSError, match="taken"):
            await take_up(await made.link(joiner), secret, joiner.peer_id, fail)
        assert made.desk.invites.all()[0].peers == () and not made.desk.let_in
        assert await join(await made.link(joiner), joiner, secret) == "/x/ssh"


@on_loop
async def test_who_has_not_the_secret_waits_and_leaves_room_for_who_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether there is such an invite makes no difference, and is not told."""
    monkeypatch.setattr(module, "WRONG_S", 3600.0)
    async with inviter(tmp_path, GENEROUS) as made, swarm() as guesser, swarm() as joiner:
        secret = await made.invite()
        link = await made.link(guesser)
        known = Hello(wire.invite_id(secret), bytes(32))
        waiting: list[DuplexStream] = []
        for number in range(module.MAX_WRONG):
            hello = known if number % 2 else Hello(bytes(5), bytes(32))
            waiting.append(await guessed(link, hello))
        await until(lambda: made.refused == module.MAX_WRONG)
        assert not any(stream.is_over for stream in waiting)
        with pytest.raises(StreamReset):
            await (await guessed(link, known)).read_delimited(99)
        assert await join(await made.link(joiner), joiner, secret) == "/x/ssh"
        assert made.desk.let_in == [joiner.peer_id]
        for stream in waiting:
            stream.reset()


async def guessed(link: Link, hello: Hello) -> DuplexStream:
    """A stream on which a wrong proof was sent."""
    stream = await link.open_stream([wire.PROTOCOL])
    await stream.write_delimited(wire.encode_hello(hello))
    assert len(await stream.read_delimited(99)) == wire.NONCE_BYTES
    await stream.write_delimited(bytes(32))
    return stream


@on_loop
async def test_a_wrong_secret_is_told_as_one_that_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRONG_S", 0.0)
    async with inviter(tmp_path) as made, swarm() as joiner:
        await made.invite()
        link = await made.link(joiner)
        with pytest.raises(InviteRefused, match="knows no such invite") as caught:
            await take_up(link, bytes(16), joiner.peer_id, nothing)
        assert caught.value.hint and caught.value.details["status"] == "UNKNOWN"
        stream = await guessed(link, Hello(bytes(5), bytes(32)))
        assert await stream.read_delimited(99) == bytes([InviteStatus.UNKNOWN])
        assert made.refused == 2 and not made.desk.let_in


@on_loop
async def test_a_peer_has_six_tries_at_once_and_no_more(tmp_path: Path) -> None:
    async with inviter(tmp_path) as made, swarm() as joiner:
        secret = await made.invite()
        link = await made.link(joiner)
        answers = [await join(link, joiner, secret) for _ in range(7)]
        assert answers == ["/x/ssh"] * 6 + ["BROKEN_OFF"]
        assert made.swarm.refusals.counts["invite-opens"] == 1


@on_loop
async def test_the_proof_of_one_peer_is_of_no_use_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that is asked as if it were the inviter, and hands on what it is told."""
    monkeypatch.setattr(module, "WRONG_S", 0.0)
    async with inviter(tmp_path) as made, swarm() as middle, swarm() as joiner:
        secret = await made.invite()
        onward = await made.link(middle)
        heard: list[bytes] = []

        async def relay(stream: DuplexStream) -> None:
            async def on(other: DuplexStream) -> bytes:
                message = await stream.read_delimited(99)
                await other.write_delimited(message)
                answer = await other.read_delimited(2000)
                await stream.write_delimited(answer)
                return answer

            other = await onward.open_stream([wire.PROTOCOL])
            heard.extend([await on(other), await on(other)])
            await stream.close()

        middle.services.serve(Service(name=wire.PROTOCOL, handler=relay))
        link = await joiner.connect(middle.peer_id, middle.listen_addrs())
        assert await join(link, joiner, secret) == "UNKNOWN"
        assert heard[1] == bytes([InviteStatus.UNKNOWN]) and not made.desk.let_in


Lie = Callable[[DuplexStream], Awaitable[None]]


async def ends_at_once(stream: DuplexStream) -> None:
    await stream.close()


async def grants_what_it_cannot_prove(stream: DuplexStream) -> None:
    await stream.read_delimited(99)
    await stream.write_delimited(bytes(32))
    await stream.read_delimited(99)
    await stream.write_delimited(bytes([InviteStatus.OK]) + bytes(32) + b"\x01/x/ssh")


async def sends_a_short_challenge(stream: DuplexStream) -> None:
    await stream.read_delimited(99)
    await stream.write_delimited(bytes(31))


async def sends_too_much(stream: DuplexStream) -> None:
    await stream.read_delimited(99)
    await stream.write_delimited(bytes(4096))


@pytest.mark.parametrize(
    "lie", [ends_at_once, grants_what_it_cannot_prove, sends_a_short_challenge, sends_too_much]
)
@on_loop
async def test_a_peer_that_is_not_the_inviter_is_not_believed(lie: Lie) -> None:
    async with swarm() as liar, swarm() as joiner:
        liar.services.serve(Service(name=wire.PROTOCOL, handler=lie))
        prepared: list[Offer] = []

        async def prepare(offer: Offer) -> None:
            prepared.append(offer)

        link = await joiner.connect(liar.peer_id, liar.listen_addrs())
        with pytest.raises((RemoteProtocolError, InviteRefused)):
            await take_up(link, bytes(16), joiner.peer_id, prepare)
        assert not prepared


@on_loop
async def test_who_has_no_invites_is_told_of_and_so_is_who_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with swarm() as other, swarm() as joiner:
        link = await joiner.connect(other.peer_id, other.listen_addrs())
        with pytest.raises(InviteRefused, match="knows no invites"):
            await take_up(link, bytes(16), joiner.peer_id, nothing)

        async def silent(_stream: DuplexStream) -> None:
            await asyncio.sleep(3600)

        other.services.serve(Service(name=wire.PROTOCOL, handler=silent))
        monkeypatch.setattr(module, "ANSWER_S", 0.05)
        with pytest.raises(TimedOut, match="did not answer about the invite"):
            await take_up(link, bytes(16), joiner.peer_id, nothing)


@on_loop
async def test_where_the_receipt_is_lost_the_same_peer_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut between the use and its receipt: the invite is this peer's, and nobody else's."""
    async with inviter(tmp_path) as made, swarm() as joiner, swarm() as other:
        secret = await made.invite()
        link = await made.link(joiner)
        claim = made.desk.claim

        async def cut(invite: bytes, peer: PeerId) -> InviteStatus:
            status = await claim(invite, peer)
            for conn in made.swarm.conns(peer):
                conn.abort()
            return status

        with monkeypatch.context() as patch:
            patch.setattr(made.desk, "claim", cut)
            with pytest.raises(InviteRefused, match="was lost, and the invite may be used up") as caught:
                await take_up(link, secret, joiner.peer_id, nothing)
        assert caught.value.details["status"] == "UNSURE" and "join again" in (caught.value.hint or "")
        assert await join(await made.link(other), other, secret) == "USED_UP"
        assert await join(await made.link(joiner), joiner, secret) == "/x/ssh"


@on_loop
async def test_it_is_known_of_while_there_are_invites_and_told_to_nobody(tmp_path: Path) -> None:
    async with inviter(tmp_path) as made:
        services = made.swarm.services
        assert services.is_reserved(wire.PROTOCOL)
        assert services.accepts(made.swarm.peer_id, wire.PROTOCOL)
        assert wire.PROTOCOL not in services.names(made.swarm.peer_id)
        made.service.serve(False)
        made.service.serve(False)
        assert not services.accepts(made.swarm.peer_id, wire.PROTOCOL)
