"""The real peers among themselves: what they need to do for the tests of p2pfwd to mean anything.

p2pfwd takes no part but for the keys, which the peers load. A failure here is a failure of the harness.
"""

from __future__ import annotations

import itertools
import json

import pytest

from p2pfwd.core.keys import KeyType
from tests.interop.conftest import Start
from tests.interop.node import SERVE
from tests.support import sockets
from tests.support.sockets import Payload, TcpServer

KINDS = ("kubo", "p2pd", "js")


@pytest.mark.parametrize("key_type", [KeyType.ED25519, KeyType.RSA])
@pytest.mark.parametrize("kind", KINDS)
def test_peer_starts_with_the_key_it_was_given(peer: Start, kind: str, key_type: KeyType) -> None:
    """It runs, on loopback, under an ID of the right kind."""
    node = peer(kind, key_type)
    assert str(node.id).startswith("12D3KooW" if key_type is KeyType.ED25519 else "Qm")
    assert all(
        addr.startswith("/ip4/127.0.0.1/tcp/") and addr.endswith(f"/p2p/{node.id}") for addr in node.addrs
    )


@pytest.mark.parametrize(("server", "client"), list(itertools.permutations(KINDS, 2)))
def test_two_peers_tunnel(peer: Start, server: str, client: str) -> None:
    """Each kind forwards to each other kind's listener, 300 kB there and back."""
    listening, forwarding = peer(server, KeyType.ED25519), peer(client, KeyType.ED25519)
    protocol, port = f"/x/{client}-to-{server}", sockets.free_port()
    forwarding("connect", addr=listening.addrs[0])
    with TcpServer(sockets.echo) as target:
        listening(SERVE[server], proto=protocol, target=target.address)
        forwarding("forward", proto=protocol, listen=f"/ip4/127.0.0.1/tcp/{port}", peer=str(listening.id))
        assert sockets.echoes(port, Payload(300_000))


def test_kubo_lists_and_closes(peer: Start) -> None:
    """Kubo's own `ls` and `close`, which tests of p2pfwd lean on."""
    node = peer("kubo", KeyType.ED25519)
    node("listen", proto="/x/listed", target="/ip4/127.0.0.1/tcp/9")
    assert "/x/listed" in json.dumps(node("ls"))
    assert node("close", proto="/x/listed")["closed"] == 1
    assert "/x/listed" not in json.dumps(node("ls"))
