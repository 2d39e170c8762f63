"""Invites: as many peers as they are for, no other; on the disk first; in a file that lets nobody in."""

from __future__ import annotations

import asyncio
import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import (
    InvalidConfig,
    InvalidKey,
    NotFound,
    ResourceLimitExceeded,
    StorageFailed,
    UsageError,
)
from p2pfwd.peers import invites as module
from p2pfwd.peers.invites import KEPT_S, Invite, Invites
from p2pfwd.state import json_file
from p2pfwd.wire.invite import InviteStatus, Verifier, id_text, invite_id

ONE = PeerId.parse("12D3KooWR4KPFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg")
TWO = PeerId.parse("12D3KooWS8JciKc2RoVbTPHeDG2puS8DXRrK2gLAja91JmN3s51E")
HOUR = 3600.0
RACES = 200


class Clock:
    """Unix time, as the test says."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def table(home: Path, clock: Clock | None = None) -> Invites:
    """As a daemon that starts has it."""
    made = Invites(home / "invites.json", clock or Clock())
    made.load()
    return made


def test_the_first_peer_has_it_and_comes_again_and_no_other_does(tmp_path: Path) -> None:
    async def main() -> None:
        invites = table(tmp_path)
        invite, secret = await invites.make("/x/ssh", life_s=HOUR, name="laptop")
        assert invite.id == id_text(invite_id(secret)) and invite.verifier == Verifier.of(secret)
        assert await invites.claim(invite.id, ONE) is InviteStatus.OK
        assert await invites.claim(invite.id, TWO) is InviteStatus.USED_UP
        again = table(tmp_path)
        assert await again.claim(invite.id, ONE) is InviteStatus.OK
        assert await again.claim(invite.id, TWO) is InviteStatus.USED_UP
        assert again.all() == invites.all() and again.all()[0].peers == (ONE,)

    asyncio.run(main())


def test_one_for_several_is_for_so_many_peers_and_not_so_many_times(tmp_path: Path) -> None:
    async def main() -> None:
        invites = table(tmp_path)
        invite, _ = await invites.make("/x/ssh", life_s=HOUR, uses=2)
        for _ in range(3):
            assert await invites.claim(invite.id, ONE) is InviteStatus.OK
        assert await invites.claim(invite.id, TWO) is InviteStatus.OK
        third = PeerId.parse("12D3KooWGcQcL3RfR1bmquTwxEF25cPLg3c1EdrSUicVJm1WijhL")
        assert await invites.claim(invite.id, third) is InviteStatus.USED_UP

    asyncio.run(main())


def test_of_two_who_race_exactly_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 200 tries, on a real file, whose disk is not waited for; what a winner is told is in the file."""
    monkeypatch.setattr("p2pfwd.system.private_files.os.fsync", lambda _fd: None)

    async def main() -> None:
        invites = table(tmp_path)
        winners: dict[str, tuple[PeerId, ...]] = {}
        for number in range(RACES):
            invite, _ = await invites.make("/x/ssh", life_s=HOUR)
            racers = (ONE, TWO) if number % 2 else (TWO, ONE)
            answers = await asyncio.gather(*(invites.claim(invite.id, peer) for peer in racers))
            assert sorted(answers) == [InviteStatus.OK, InviteStatus.USED_UP]
            winners[invite.id] = (racers[answers.index(InviteStatus.OK)],)
        assert {it.id: it.peers for it in table(tmp_path).all()} == winners and len(winners) == RACES

    asyncio.run(main())


@pytest.mark.parametrize(
    ("later_s", "status"),
    [(0, "OK"), (HOUR - 1, "OK"), (HOUR, "EXPIRED"), (HOUR + KEPT_S - 1, "EXPIRED")],
)
def test_it_ends_with_its_time(tmp_path: Path, later_s: float, status: str) -> None:
    async def main() -> None:
        clock = Clock()
        invites = table(tmp_path, clock)
        invite, _ = await invites.make("/x/ssh", life_s=HOUR)
        clock.now += later_s
        assert (await invites.claim(invite.id, ONE)).name == status

    asyncio.run(main())


def test_who_took_it_in_time_may_come_for_a_lost_answer_after_it(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        invites = table(tmp_path, clock)
        invite, _ = await invites.make("/x/ssh", life_s=HOUR, uses=2)
        await invites.claim(invite.id, ONE)
        clock.now += HOUR
        assert await invites.claim(invite.id, ONE) is InviteStatus.OK
        assert await invites.claim(invite.id, TWO) is InviteStatus.EXPIRED
        assert invites.all()[0].peers == (ONE,)

    asyncio.run(main())


def test_what_ended_long_ago_is_forgotten_with_the_next_one(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        invites = table(tmp_path, clock)
        old, _ = await invites.make("/x/ssh", life_s=HOUR)
        clock.now += HOUR + KEPT_S
        new, _ = await invites.make("/x/ssh", life_s=HOUR)
        assert [it.id for it in invites.all()] == [new.id]
        assert await invites.claim(old.id, ONE) is InviteStatus.UNKNOWN

    asyncio.run(main())


def test_what_is_revoked_is_over_also_for_who_has_it(tmp_path: Path) -> None:
    async def main() -> None:
        invites = table(tmp_path)
        invite, _ = await invites.make("/x/ssh", life_s=HOUR)
        await invites.claim(invite.id, ONE)
        assert (await invites.revoke(invite.id.upper())).revoked
        for peer in (ONE, TWO):
            assert await table(tmp_path).claim(invite.id, peer) is InviteStatus.REVOKED
        with pytest.raises(NotFound, match="no invite"):
            await invites.revoke("aaaaaaaa")

    asyncio.run(main())


def test_a_full_table_forgets_what_has_ended_and_then_takes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_INVITES", 2)

    async def main() -> None:
        invites = table(tmp_path)
        first, _ = await invites.make("/x/ssh", life_s=HOUR)
        second, _ = await invites.make("/x/ssh", life_s=HOUR)
        with pytest.raises(ResourceLimitExceeded, match="2 open invites"):
            await invites.make("/x/ssh", life_s=HOUR)
        await invites.revoke(first.id)
        third, _ = await invites.make("/x/ssh", life_s=HOUR)
        assert {it.id for it in invites.all()} == {second.id, third.id}

    asyncio.run(main())


@pytest.mark.parametrize(
    ("life_s", "uses"), [(0, 1), (-1, 1), (1e9, 1), (float("nan"), 1), (60, 0), (60, 1025)]
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, life_s: float, uses: int) -> None:
    async def main() -> None:
        invites = table(tmp_path)
        with pytest.raises(UsageError) as caught:
            await invites.make("/x/ssh", life_s=life_s, uses=uses)
        assert caught.value.hint and not invites.all()

    asyncio.run(main())


def test_a_use_that_is_not_on_the_disk_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise StorageFailed("no space")

    async def main() -> None:
        invites = table(tmp_path)
        invite, _ = await invites.make("/x/ssh", life_s=HOUR)
        with monkeypatch.context() as patch:
            patch.setattr(json_file, "write_atomically", fail)
            assert await invites.claim(invite.id, ONE) is InviteStatus.BUSY
        assert invites.all()[0].peers == () == table(tmp_path).all()[0].peers
        assert await invites.claim(invite.id, TWO) is InviteStatus.OK

    asyncio.run(main())


def test_the_file_lets_nobody_in_and_is_the_users_alone(tmp_path: Path) -> None:
    async def main() -> None:
        invites = table(tmp_path)
        invite, secret = await invites.make("/x/ssh", life_s=HOUR, name="laptop")
        text = (tmp_path / "invites.json").read_text()
        assert secret.hex() not in text and invite.id in text
        assert stat.S_IMODE((tmp_path / "invites.json").stat().st_mode) == 0o600
        assert "stored_key" not in repr(invite) and invite.verifier.stored_key.hex() not in repr(invite)
        (tmp_path / "invites.json").chmod(0o644)
        with pytest.raises(InvalidKey, match="other users can read it"):
            table(tmp_path)

    asyncio.run(main())


GOOD = {
    "id": "a" * 8,
    "protocol": "/x/ssh",
    "stored_key": "00" * 32,
    "inviter_key": "11" * 32,
    "made": 1,
    "expires": 2,
    "uses": 1,
    "name": None,
    "peers": [str(ONE)],
    "revoked": False,
}


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        '{"version": 0, "invites": []}',
        '{"version": 1}',
        *(
            json.dumps({"version": 1, "invites": [{**GOOD, **wrong}]})
            for wrong in (
                {"stored_key": "00"},
                {"id": "b"},
                {"name": 7},
                {"peers": ["nobody"]},
                {"expires": "x"},
                {"expires": float("nan")},
                {"expires": float("inf")},
                {"expires": 1e300},
                {"expires": 10**400},
                {"made": -1},
                {"made": True},
                {"uses": 0},
                {"uses": 1e3},
                {"uses": 10**9},
                {"protocol": None},
            )
        ),
    ],
)
def test_a_damaged_file_is_moved_aside_and_its_invites_let_nobody_in(tmp_path: Path, content: str) -> None:
    path = tmp_path / "invites.json"
    path.touch(0o600)
    path.write_text(content)
    assert table(tmp_path).all() == []
    assert (tmp_path / "invites.json.damaged").read_text() == content and not path.exists()


def test_a_good_file_is_read_and_a_newer_one_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "invites.json"
    path.touch(0o600)
    path.write_text(json.dumps({"version": 1, "invites": [GOOD]}))
    (found,) = table(tmp_path).all()
    verifier = Verifier(bytes(32), b"\x11" * 32)
    assert found == Invite("a" * 8, "/x/ssh", verifier, 1, 2, 1, None, (ONE,), let_in=frozenset({ONE}))
    path.write_text(json.dumps({"version": 1, "invites": [{**GOOD, "let_in": []}]}))
    assert table(tmp_path).all() == [replace(found, let_in=frozenset())], "it was interrupted"
    path.write_text('{"version": 2}')
    with pytest.raises(InvalidConfig, match="of a newer version"):
        table(tmp_path)
    assert path.exists()
