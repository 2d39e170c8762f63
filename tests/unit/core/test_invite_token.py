"""The word of an invite: what is in it comes back, and a slip is told for what it is."""

from __future__ import annotations

import re

import pytest

from p2pfwd.core import invite_token
from p2pfwd.core.invite_token import InviteToken
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidInvite

PEER = PeerId.parse("12D3KooWR4KPFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg")
HASHED = PeerId.parse("QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN")
RELAYED = Multiaddr.parse(
    "/ip4/8.8.4.4/tcp/4011/p2p/12D3KooWS8JciKc2RoVbTPHeDG2puS8DXRrK2gLAja91JmN3s51E/p2p-circuit"
)
ADDRS = (Multiaddr.parse("/ip4/192.0.2.1/tcp/4011"), Multiaddr.parse("/dns4/home.example/tcp/1"), RELAYED)
SECRET = bytes(range(100, 116))
TOKEN = InviteToken(PEER, ADDRS, SECRET)


@pytest.mark.parametrize(
    "token",
    [
        TOKEN,
        InviteToken(PEER, (), SECRET, "lan"),
        InviteToken(HASHED, ADDRS[:1], bytes(16), "private", b"\x00\xff\x10\x01"),
    ],
)
def test_a_word_says_what_was_put_into_it(token: InviteToken) -> None:
    word = str(token)
    assert InviteToken.parse(word) == token
    assert re.fullmatch("invite[a-z2-7]+", word), "one word that no shell and no chat harms"


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda word: word.upper(),
        lambda word: f"  {word}\n",
        lambda word: f"'{word}'",
        lambda word: f"{word[:60]}\n{word[60:100]}\r\n  {word[100:]}",
        lambda word: f"p2pfwd join {word}\n",
    ],
)
def test_what_a_chat_a_mail_or_a_qr_code_makes_of_it_is_read(wrapped: object) -> None:
    assert InviteToken.parse(wrapped(str(TOKEN))) == TOKEN  # type: ignore[operator]


def test_of_every_cut_one_is_told_that_it_was_cut() -> None:
    word = str(TOKEN)
    for length in range(len("invite"), len(word)):
        with pytest.raises(InvalidInvite, match="the invite was cut"):
            InviteToken.parse(word[:length])
    with pytest.raises(InvalidInvite, match=f"cut: {len(word) - 4} of its {len(word)} characters are there"):
        InviteToken.parse(word[:-4])


def test_of_every_slip_one_is_told_that_it_was_mistyped() -> None:
    word = str(TOKEN)
    for at in range(len("invite"), len(word)):
        slipped = word[:at] + ("a" if word[at] != "a" else "b") + word[at + 1 :]
        with pytest.raises(InvalidInvite, match="mistyped"):
            InviteToken.parse(slipped)
    with pytest.raises(InvalidInvite, match='mistyped: "1" is in none'):
        InviteToken.parse(word[:20] + "1" + word[21:])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no invite is given"),
        (" \n", "no invite is given"),
        ("abcdefghijklmnopqrstuvwxyz", "one begins with invite"),  # a relay's token
        (str(TOKEN)[10:], "its beginning is missing"),
        (str(TOKEN) + "a", "and should have"),
        ("invite" + "a" * 5000, "longer than"),
    ],
)
def test_what_is_none_is_told_so(text: str, words: str) -> None:
    with pytest.raises(InvalidInvite, match=words) as caught:
        InviteToken.parse(text)
    assert "copy the whole word again" in (caught.value.hint or "")


def test_a_newer_form_is_told_from_a_slip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invite_token, "VERSION", 2)
    word = str(TOKEN)
    monkeypatch.undo()
    with pytest.raises(InvalidInvite, match="of a newer version"):
        InviteToken.parse(word)


def test_a_form_that_makes_no_sense_is_told_so() -> None:
    """A right checksum over what no p2pfwd writes."""
    for token in (
        InviteToken(PEER, ADDRS, SECRET, "private"),  # without the mark of its key
        InviteToken(PEER, ADDRS, b""),
    ):
        with pytest.raises(InvalidInvite, match="makes no sense"):
            InviteToken.parse(str(token))


def test_the_secret_is_in_no_repr() -> None:
    assert "100" not in repr(TOKEN) and SECRET.hex() not in repr(TOKEN) and "secret" not in repr(TOKEN)
