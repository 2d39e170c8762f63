"""The DHT with foreign nodes, both ways round: each side as the servers through which two of the other meet.

Everybody is on loopback, which Kubo's public DHT takes into no routing table but answers all the same. So
p2pfwd speaks the public protocol under the rules of a private network here, and Kubo's own tables are filled
on its local one. Nobody is told where a sought peer is: one connection to a server is all each has.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from p2pfwd.core.keys import KeyType, PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.host.host import Host
from p2pfwd.host.routing import DhtSource, Routing
from p2pfwd.net.link.contract import Link
from p2pfwd.protocols.kad.service import Dht
from p2pfwd.protocols.kad.upkeep import Upkeep
from p2pfwd.wire.kad.address_filter import Scope
from tests.interop.node import LOOPBACK, address, ask
from tests.interop.peers.fetch import PeerMissing
from tests.interop.peers.process import Peer, PeerFailed, js, kubo, p2pd
from tests.net.kad_rig import QUICK, Node
from tests.support import sockets
from tests.support.daemon import Daemon
from tests.support.loops import until
from tests.support.sockets import Payload, TcpServer

PUBLIC = "/ipfs/kad/1.0.0"
LOCAL = "/ipfs/lan/kad/1.0.0"
SCOPES = {PUBLIC: Scope.PRIVATE, LOCAL: Scope.LAN}
RUNNERS: dict[str, Callable[..., Peer]] = {"kubo": kubo, "p2pd": p2pd, "js": js}

SETTLED_S = 20.0
"""For foreign nodes to identify, check and take in their servers; js and Kubo need a second or two."""

StartPeer = Callable[..., Peer]


@pytest.fixture
def fresh() -> Iterator[StartPeer]:
    """`fresh("js", "--dht", "client")`: a node of this test alone, which knows nobody yet."""
    with ExitStack() as stack:

        def start(kind: str, *options: str) -> Peer:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"p2pf-{kind}-")))
            try:
                return stack.enter_context(RUNNERS[kind](directory, KeyType.ED25519, options=options))
            except PeerMissing as exc:
                pytest.skip(str(exc))

        yield start


@asynccontextmanager
async def joined(protocol: str, *, server: bool) -> AsyncIterator[Node]:
    """A p2pfwd node of a DHT that knows nobody yet."""
    host = await Host.start(PrivateKey.generate(), [LOOPBACK])
    dht = Dht(host.swarm, protocol, scope=SCOPES[protocol], server=server, settings=QUICK)
    routing = Routing(host.swarm)
    routing.add(DhtSource(dht))
    node = Node(host, dht, Upkeep(host.swarm, dht, random.Random(0)), [])
    routing.on_progress(node.progress.append)
    try:
        yield node
    finally:
        await node.close()


async def learns(node: Node, server: Peer) -> None:
    """Connect to a foreign server, and wait until it has passed as one and the node has looked itself up."""
    await node.host.swarm.connect(server.id, [address(server)])
    await until(lambda: server.id in node.dht.table and node.dht.refreshed_at is not None, SETTLED_S)


async def meet(seeker: Node, sought: Node) -> Link:
    """Connect by the ID alone."""
    assert not seeker.host.swarm.conns(sought.peer_id)
    assert not seeker.host.swarm.peerstore.addrs(sought.peer_id)
    conn = await seeker.host.swarm.connect(sought.peer_id)
    assert (seeker.progress[-1].state, seeker.progress[-1].text) == ("found", "found in the DHT")
    return conn


# --- foreign servers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "option", "protocol"),
    [
        pytest.param("kubo", None, LOCAL, id="kubo-lan"),
        pytest.param("kubo", "--public", PUBLIC, id="kubo-wan"),
        pytest.param("p2pd", "--dht=server", PUBLIC, id="p2pd"),
        pytest.param("js", "--dht=server", PUBLIC, id="js"),
    ],
)
def test_two_clients_meet_through_a_foreign_server(
    fresh: StartPeer, kind: str, option: str | None, protocol: str
) -> None:
    """Two p2pfwd clients whose only acquaintance is one foreign server; ping over what they found."""
    between = fresh(kind, *([option] if option else []))

    async def main() -> None:
        async with joined(protocol, server=False) as seeker, joined(protocol, server=False) as sought:
            await learns(seeker, between)
            await learns(sought, between)
            conn = await meet(seeker, sought)
            assert conn.remote_addr in sought.host.swarm.listen_addrs()
            await seeker.host.ping(sought.peer_id, timeout_s=5)

    asyncio.run(main())


def test_a_lookup_goes_from_one_foreign_server_to_another(fresh: StartPeer) -> None:
    """The seeker knows the go daemon only, the sought Kubo only: one names the other, that one the sought."""
    near, far = fresh("p2pd", "--dht=server"), fresh("kubo", "--public")
    near("connect", addr=far.addrs[0])

    async def main() -> None:
        async with joined(PUBLIC, server=False) as seeker, joined(PUBLIC, server=False) as sought:
            await learns(sought, far)
            await learns(seeker, near)
            conn = await meet(seeker, sought)
            assert conn.remote_peer == sought.peer_id
            assert far.id in seeker.dht.table, "the answering server has become an entry"

    asyncio.run(main())


def test_forward_by_id_through_a_kubo_between_two_daemons(fresh: StartPeer, home: Path) -> None:
    """As a person does it: a Kubo is both daemons' bootstrap peer, and `forward` names nobody's address."""
    between = fresh("kubo")
    env = {"P2PFWD_BOOTSTRAP_PEERS": between.addrs[0], "P2PFWD_DHT_MODE": "client"}
    with (
        Daemon(home / "near", env=env) as near,
        Daemon(home / "far", env=env) as far,
        TcpServer(sockets.echo) as target,
    ):
        for daemon in (near, far):
            await_entry(daemon, between)
        far.ok("listen", "/x/echo", target.address)
        # Ephemeral: a saved one looks its peer up as soon as it is made, too soon to be told here.
        done = near.cli("forward", "--ephemeral", "/x/echo", "127.0.0.1:0", far.peer_id)
        assert done.returncode == 0, done.stderr
        assert "Found in the DHT of the LAN" in done.stderr
        (listener,) = near.json("ls")["Listeners"]
        assert sockets.echoes(int(listener["ListenAddress"].rpartition("/")[2]), Payload(300_000))


def await_entry(daemon: Daemon, server: Peer) -> None:
    """Wait until a daemon has let a server into its table."""
    deadline = time.monotonic() + SETTLED_S
    while str(server.id) not in daemon.ok("dht", "stat", "--json"):
        assert time.monotonic() < deadline, daemon.ok("dht", "stat")
        time.sleep(0.1)


# --- p2pfwd as the servers ------------------------------------------------------------------------


@asynccontextmanager
async def servers(protocol: str, count: int = 4) -> AsyncIterator[list[Node]]:
    """p2pfwd servers that have all taken each other in."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(joined(protocol, server=True)) for _ in range(count)]
        await asyncio.gather(*(node.join(nodes[0]) for node in nodes[1:]))
        await until(lambda: all(len(node.dht.table) == count - 1 for node in nodes), SETTLED_S)
        yield nodes


async def finds(seeker: Peer, sought: Peer) -> list[Multiaddr]:
    """What a foreign node finds of another, as soon as it has taken in a server to ask."""
    deadline = time.monotonic() + SETTLED_S
    while True:
        try:
            if found := (await ask(seeker, "findpeer", peer=str(sought.id)))["addrs"]:
                return [Multiaddr.parse(text).without_peer_id() for text in found]
            failure = "nothing"
        except PeerFailed as exc:
            failure = str(exc)
        assert time.monotonic() < deadline, failure
        await asyncio.sleep(0.2)


@pytest.mark.parametrize(
    ("kind", "options", "protocol"),
    [
        pytest.param("kubo", [], LOCAL, id="kubo"),
        pytest.param("p2pd", ["--dht=client"], PUBLIC, id="p2pd-clients"),
        pytest.param("p2pd", ["--dht=server"], PUBLIC, id="p2pd-servers"),
        pytest.param("js", ["--dht=client", f"--dht-proto={LOCAL}"], LOCAL, id="js-clients"),
        pytest.param("js", ["--dht=server", f"--dht-proto={LOCAL}"], LOCAL, id="js-servers"),
    ],
)
def test_two_foreign_nodes_meet_through_p2pfwd_servers(
    fresh: StartPeer, kind: str, options: list[str], protocol: str
) -> None:
    """Each is connected to another of four p2pfwd servers, and finds where the other one is."""
    seeker, sought = fresh(kind, *options), fresh(kind, *options)

    async def main() -> None:
        async with servers(protocol) as nodes:
            for foreign, node in ((sought, nodes[2]), (seeker, nodes[3])):
                where = node.host.swarm.listen_addrs()[0].with_peer_id(node.peer_id)
                await ask(foreign, "connect", addr=str(where))
            found = await finds(seeker, sought)
            assert address(sought) in found
            await ask(seeker, "connect", addr=str(found[0].with_peer_id(sought.id)))

    asyncio.run(main())
