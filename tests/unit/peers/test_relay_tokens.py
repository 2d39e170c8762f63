"""Tokens of a relay: bound to the first who shows one, kept as digests, in a file that is never half."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from p2pfwd.core import relay_token as core
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import (
    InvalidConfig,
    InvalidKey,
    NotFound,
    PeerExists,
    RemoteProtocolError,
    ResourceLimitExceeded,
    UsageError,
)
from p2pfwd.peers import relay_tokens as module
from p2pfwd.peers.relay_tokens import RelayTokens
from p2pfwd.wire import relay_token as wire
from p2pfwd.wire.relay_token import TokenStatus

ONE = PeerId.parse("12D3KooWR4KPFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg")
TWO = PeerId.parse("12D3KooWS8JciKc2RoVbTPHeDG2puS8DXRrK2gLAja91JmN3s51E")


def table(home: Path) -> RelayTokens:
    """As a daemon that starts has it."""
    made = RelayTokens(home / "relay-tokens.json", lambda: 1_800_000_000.0)
    made.load()
    return made


def test_the_first_to_show_a_token_has_it_for_good(tmp_path: Path) -> None:
    async def main() -> None:
        tokens = table(tmp_path)
        entry, text = await tokens.make("nas")
        assert (entry.name, entry.many, entry.peers) == ("nas", False, ())
        assert await tokens.claim(text, ONE) is TokenStatus.OK
        assert await tokens.claim(text, TWO) is TokenStatus.TAKEN
        again = table(tmp_path)
        assert await again.claim(text, ONE) is TokenStatus.OK
        assert await again.claim(text, TWO) is TokenStatus.TAKEN
        assert again.peers() == {ONE}

    asyncio.run(main())


def test_an_invitation_is_for_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PEERS", 1)

    async def main() -> None:
        tokens = table(tmp_path)
        _, text = await tokens.make(None, many=True)
        assert await tokens.claim(text, ONE) is TokenStatus.OK
        assert await tokens.claim(text, TWO) is TokenStatus.TAKEN, "it is full"
        monkeypatch.setattr(module, "MAX_PEERS", 2)
        assert await tokens.claim(text, TWO) is TokenStatus.OK
        assert [(it.name, it.peers) for it in table(tmp_path).all()] == [("invitation-1", (ONE, TWO))]

    asyncio.run(main())


def test_what_is_revoked_is_unknown(tmp_path: Path) -> None:
    async def main() -> None:
        tokens = table(tmp_path)
        _, text = await tokens.make("nas")
        await tokens.claim(text, ONE)
        assert (await tokens.revoke("NAS")).peers == (ONE,)
        assert await tokens.claim(text, ONE) is TokenStatus.UNKNOWN
        assert tokens.peers() == set() and table(tmp_path).all() == []
        with pytest.raises(NotFound):
            await tokens.revoke("nas")

    asyncio.run(main())


def test_the_file_is_the_users_alone_and_has_no_token_in_it(tmp_path: Path) -> None:
    async def main() -> str:
        return (await table(tmp_path).make("nas"))[1]

    text = asyncio.run(main())
    path = tmp_path / "relay-tokens.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert text not in path.read_text()
    path.chmod(0o644)
    with pytest.raises(InvalidKey):
        table(tmp_path)


def test_a_binding_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "home").mkdir()
        tokens = table(tmp_path / "home")
        _, text = await tokens.make("nas")
        (tmp_path / "home").rename(tmp_path / "gone")
        assert await tokens.claim(text, ONE) is TokenStatus.BUSY
        assert tokens.peers() == set()

    asyncio.run(main())


def test_names_are_names_and_one_has_one_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOKENS", 2)

    async def main() -> None:
        tokens = table(tmp_path)
        await tokens.make("nas")
        with pytest.raises(PeerExists):
            await tokens.make("Nas")
        with pytest.raises(UsageError):
            await tokens.make("no name")
        assert (await tokens.make(None))[0].name == "token-1"
        with pytest.raises(ResourceLimitExceeded):
            await tokens.make(None)

    asyncio.run(main())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "tokens": [{}]}'])
def test_a_file_that_cannot_be_understood_stops_the_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "relay-tokens.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InvalidConfig):
        table(tmp_path)
    assert path.read_text() == text


@pytest.mark.parametrize("wrong", [{"peers": ["nobody"]}, {"made": 1e300}, {"made": -1}, {"made": "x"}])
def test_what_is_no_peer_id_or_no_time_in_the_file_stops_the_start(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    path = tmp_path / "relay-tokens.json"
    entry = {"name": "a", "digest": "0", "many": False, "made": 1, "peers": [], **wrong}
    path.write_text(json.dumps({"version": 1, "tokens": [entry]}))
    path.chmod(0o600)
    with pytest.raises(InvalidConfig):
        table(tmp_path)


def test_the_messages() -> None:
    text = core.to_text(bytes(range(16)))
    assert len(text) == core.TEXT_CHARS
    assert wire.decode_request(wire.encode_request(text)) == text
    assert core.read_token(f" {text.upper()} ") == text
    for status in TokenStatus:
        assert wire.decode_answer(wire.encode_answer(status)) is status
    for data in (b"", b"\x09", b"\x00\x00"):
        with pytest.raises(RemoteProtocolError):
            wire.decode_answer(data)
    for data in (b"", b"\xff" * 26, text.encode()[:-1], b"1" * 26):
        with pytest.raises(RemoteProtocolError):
            wire.decode_request(data)
