"""The line of a hub: what it says, and that no error shows a secret."""

from __future__ import annotations

import pytest

from p2pfwd.core.join_line import JoinLine
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.swarm_key import SwarmKey
from p2pfwd.errors import UsageError

HUB = "/ip4/203.0.113.5/tcp/4011/p2p/12D3KooWR4KPFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg"
TOKEN = "abcdefghijklmnopqrstuvwxyz"
KEY = "0123456789abcdef" * 4


@pytest.mark.parametrize("token", ["", f"#{TOKEN}"])
@pytest.mark.parametrize("key", ["", f"?{KEY}"])
@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_line_comes_back(token: str, key: str, quote: str) -> None:
    line = JoinLine.parse(f" {quote}{HUB}{token}{key}{quote}\n")
    assert line.hub == Multiaddr.parse(HUB)
    assert line.token == (TOKEN if token else None)
    assert line.key == (SwarmKey(bytes.fromhex(KEY)) if key else None)
    assert str(line) == f"{HUB}{token}{key}"
    assert line.relay == f"{HUB}{token}"


@pytest.mark.parametrize(
    "text",
    [
        *("", "hub", TOKEN, KEY, "/ip4/203.0.113.5/tcp/1"),
        *(f"{HUB}#{TOKEN}x", f"{HUB}?{KEY}00", f"{HUB}?secret", f"{HUB}#1"),
    ],
)
def test_what_is_none_is_refused_without_its_secrets(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        JoinLine.parse(text)
    assert "p2pfwd hub" in str(caught.value.hint) or "token" in caught.value.message
    for secret in (TOKEN, KEY, "secret"):
        assert secret not in caught.value.message
