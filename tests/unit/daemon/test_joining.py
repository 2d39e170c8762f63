"""An invite of another network is told for what it is, before anybody is dialed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfwd.core.invite_token import KEY_MARK_BYTES, InviteToken
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.swarm_key import SwarmKey
from p2pfwd.daemon.joining import Joining
from p2pfwd.daemon.networks import NetworkProfile, profile
from p2pfwd.daemon.settings import Settings
from p2pfwd.errors import InvalidInvite, SelfDial

ONE = PeerId.parse("12D3KooWR4KPFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg")
TWO = PeerId.parse("12D3KooWS8JciKc2RoVbTPHeDG2puS8DXRrK2gLAja91JmN3s51E")
KEYS = SwarmKey(bytes(32)), SwarmKey(bytes(31) + b"\x01")


def mark(key: SwarmKey) -> bytes:
    return bytes.fromhex(key.fingerprint())[:KEY_MARK_BYTES]


def joining(network: NetworkProfile) -> Joining:
    absent: Any = None
    host: Any = SimpleNamespace(peer_id=TWO)
    return Joining(host, network, absent, absent, absent)


TOKEN = InviteToken(ONE, (), bytes(16), "public")
PRIVATE = replace(TOKEN, network="private", key_mark=mark(KEYS[0]))


@pytest.mark.parametrize(
    ("token", "network", "words"),
    [
        (PRIVATE, profile(Settings(network="public")), "this node is in none"),
        (TOKEN, profile(Settings(network="private"), KEYS[0]), "this node is in a private one"),
        (PRIVATE, profile(Settings(network="private"), KEYS[1]), "its swarm key is not the one here"),
    ],
)
def test_networks_that_cannot_meet(token: InviteToken, network: NetworkProfile, words: str) -> None:
    with pytest.raises(InvalidInvite, match=words) as caught:
        joining(network)._check(token)
    assert "p2pfwd network join" in (caught.value.hint or "")


def test_networks_that_can_meet_and_an_invite_of_ones_own() -> None:
    joining(profile(Settings(network="private"), KEYS[0]))._check(PRIVATE)
    joining(profile(Settings(network="lan")))._check(TOKEN)  # on one LAN they can
    with pytest.raises(SelfDial):
        joining(profile(Settings(network="lan")))._check(replace(TOKEN, peer=TWO))
