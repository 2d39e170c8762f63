"""Private networks with a real Kubo: the same swarm.key, another one, and none, dialed from either side.

Kubo takes the key from `swarm.key` in its repository, as a node of a private IPFS network does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from p2pfwd.core.keys import KeyType, PrivateKey
from p2pfwd.core.swarm_key import SwarmKey
from p2pfwd.errors import DialFailed
from p2pfwd.host.host import Host, HostSettings
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.wire.noise import NOISE
from p2pfwd.wire.tls import TLS
from tests.interop.node import LOOPBACK, address, ask, dialed_by
from tests.interop.peers import process
from tests.interop.peers.fetch import PeerMissing
from tests.interop.peers.process import Peer, PeerFailed
from tests.support import leaks, sockets
from tests.support.daemon import Daemon
from tests.support.sockets import Payload, Received, TcpServer

VECTOR = json.loads((Path(__file__).parents[1] / "vectors/pnet.json").read_text())
KEY = SwarmKey.parse(VECTOR["swarm_key"].encode())
OTHER = SwarmKey(bytes(32))
BULK = Payload(3_000_000)

securities = pytest.mark.parametrize("security", [NOISE, TLS])


@pytest.fixture(scope="module")
def kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """A Kubo of the private network."""
    directory = tmp_path_factory.mktemp("kubo")
    put_key(directory / "repo", KEY)
    try:
        node = process.kubo(directory, KeyType.ED25519)
    except PeerMissing as exc:
        pytest.skip(str(exc))
    leaks.outlive(*node.descriptors)
    with node:
        yield node


def put_key(home: Path, key: SwarmKey) -> None:
    """Make the directory, and its swarm.key."""
    home.mkdir(exist_ok=True)
    path = home / "swarm.key"
    path.touch(0o600)
    path.write_bytes(key.encode())


def with_host(key: SwarmKey | None, security: str, script: Callable[[Host], Awaitable[None]]) -> None:
    """Run `script(host)` with a host of the network `key`."""

    async def main() -> None:
        swarm = SwarmSettings(security=(security,), psk=None if key is None else key.psk)
        node = await Host.start(PrivateKey.generate(), [LOOPBACK], HostSettings(swarm=swarm))
        try:
            async with asyncio.timeout(30):
                await script(node)
        finally:
            await node.close()

    asyncio.run(main())


@securities
@pytest.mark.parametrize("direction", ["outbound", "inbound"])
def test_with_the_same_key_we_are_one_network(kubo: Peer, security: str, direction: str) -> None:
    """Connected either way, identified, and pings are answered."""

    async def script(node: Host) -> None:
        if direction == "outbound":
            conn = await node.swarm.connect(kubo.id, [address(kubo)])
        else:
            conn = await dialed_by(kubo, node)
        await asyncio.shield(conn.identified)
        assert (conn.remote_peer, conn.direction, conn.security) == (kubo.id, direction, security)
        assert (node.swarm.peerstore.agent(kubo.id) or "").startswith("kubo/")
        assert 0 < (await node.ping(kubo.id, timeout_s=10)).rtt_s < 10

    with_host(KEY, security, script)


STRANGERS = pytest.mark.parametrize(
    ("key", "reason"),
    [
        (OTHER, r"has another swarm\.key|it may be outside this private network"),
        (None, "one of a private network|the connection ended during|closed the connection during"),
    ],
    ids=["another key", "no key"],
)


@securities
@STRANGERS
def test_a_stranger_cannot_dial_kubo_and_says_why(
    kubo: Peer, security: str, key: SwarmKey | None, reason: str
) -> None:
    async def script(node: Host) -> None:
        with pytest.raises(DialFailed, match=reason):
            await node.swarm.connect(kubo.id, [address(kubo)])

    with_host(key, security, script)


@securities
@STRANGERS
def test_kubo_cannot_dial_a_stranger(kubo: Peer, security: str, key: SwarmKey | None, reason: str) -> None:
    async def script(node: Host) -> None:
        where = node.swarm.listen_addrs()[0].with_peer_id(node.peer_id)
        with pytest.raises(PeerFailed):
            await ask(kubo, "connect", addr=str(where))
        assert node.swarm.conns() == []

    with_host(key, security, script)


def test_tunnels_of_daemons_and_commands(kubo: Peer, home: Path) -> None:
    """A daemon with Kubo's swarm.key in its home: 3 MB each way through forwards of both kinds."""
    put_key(home, KEY)
    with (
        Daemon(home, "--network", "private") as daemon,
        TcpServer(sockets.echo) as echo,
        TcpServer(sockets.send_payload(BULK, wait=True)) as down,
        TcpServer(sockets.receive_payload(BULK.size)) as up,
    ):
        status = daemon.json("status")
        assert (status["Network"], status["SwarmKeyFingerprint"]) == ("private", VECTOR["fingerprint_hex"])
        for name, target in (("down", down), ("up", up)):
            kubo("listen", proto=f"/x/private/{name}", target=target.address)
        received = sockets.download(forward(daemon, "/x/private/down", kubo), BULK.size)
        assert received == Received(BULK.size, BULK.digest(), clean=True)
        assert sockets.upload(forward(daemon, "/x/private/up", kubo), BULK) == BULK.digest()

        daemon.ok("listen", "/x/private/echo", echo.address)
        port = sockets.free_port()
        where = f"/ip4/127.0.0.1/tcp/{port}"
        kubo("forward", proto="/x/private/echo", listen=where, peer=daemon.peer_id)
        assert sockets.echoes(port, Payload(300_000))


def forward(daemon: Daemon, protocol: str, peer: Peer) -> int:
    """`p2pfwd forward` to a peer's address; the local port."""
    daemon.ok("forward", protocol, "127.0.0.1:0", peer.addrs[0])
    (listener,) = [each for each in daemon.json("ls")["Listeners"] if each["Protocol"] == protocol]
    return int(listener["ListenAddress"].rpartition("/")[2])
