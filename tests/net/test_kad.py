"""The DHT service on real hosts: who is let in, who is found, and what hostile servers cannot do."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from contextlib import AsyncExitStack

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import DialFailed, PeerNotFound
from p2pfwd.host.host import Host
from p2pfwd.net.exchange import exchange
from p2pfwd.net.name_servers import NameServers
from p2pfwd.net.services import Service
from p2pfwd.peers.store import GRACE_S
from p2pfwd.protocols.kad import service
from p2pfwd.protocols.kad.requests import ask
from p2pfwd.wire.kad.codec import encode_request
from p2pfwd.wire.kad.messages import (
    AddProvider,
    FindNode,
    GetProviders,
    GetValue,
    KadPeer,
    MessageType,
    Ping,
)
from p2pfwd.wire.kad.query_values import Ending
from tests.net.kad_rig import PROTOCOL, Node, dead_address, hostile, hostile_bytes, network, start
from tests.net.swarm_rig import ANY_PORT, stranger
from tests.support.fake_dns import FakeDns
from tests.support.loops import on_loop, until


@on_loop
async def test_servers_fill_each_others_tables_and_clients_are_in_none() -> None:
    async with network(6, clients=2) as nodes:
        clients = {node.peer_id for node in nodes[6:]}
        for node in nodes:
            assert not clients & set(node.dht.table)
            assert len(node.dht.table) >= 5


@on_loop
async def test_who_becomes_a_server_is_let_in_and_who_ceases_to_be_one_is_let_go() -> None:
    async with network(3, clients=1) as nodes:
        changing, others = nodes[3], nodes[:3]
        await changing.host.swarm.connect(others[1].peer_id, others[1].host.swarm.listen_addrs())
        known_by = [node for node in others if node.host.swarm.conns(changing.peer_id)]
        assert len(known_by) >= 2
        changing.dht.serve(True)
        changing.host.identify.push()
        await until(lambda: all(changing.peer_id in node.dht.table for node in known_by))
        changing.dht.serve(False)
        changing.host.identify.push()
        await until(lambda: not any(changing.peer_id in node.dht.table for node in known_by))


@on_loop
async def test_who_was_dialed_to_be_let_in_does_not_wait_for_strangers_that_answer_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "MAX_CHECKS", 2)
    monkeypatch.setattr(service, "CHECK_TIMEOUT_S", 60.0)  # however slow this machine is
    async with AsyncExitStack() as stack:
        node, server, own = [await start() for _ in range(3)]
        for each in (node, server, own):
            stack.push_async_callback(each.close)
        addrs = node.host.swarm.listen_addrs()
        for _ in range(3):
            silent = await Host.start(PrivateKey.generate(), [ANY_PORT])
            stack.push_async_callback(silent.close)
            silent.swarm.services.serve(Service(name=PROTOCOL, handler=lambda _stream: None))
            await silent.swarm.connect(node.peer_id, addrs)
        await until(lambda: len(node.dht._checking) == 3)
        await node.join(server)
        node.host.swarm.peerstore.pin(own.peer_id, (), "named")
        await own.join(node)
        await until(lambda: server.peer_id in node.dht.table and own.peer_id in node.dht.table)


@on_loop
async def test_a_client_finds_a_client_by_its_id_alone_and_says_how() -> None:
    async with network(6, clients=2) as nodes:
        seeker, sought = nodes[6], nodes[7]
        assert not seeker.host.swarm.peerstore.addrs(sought.peer_id)
        conn = await seeker.host.swarm.connect(sought.peer_id)
        assert conn.remote_peer == sought.peer_id
        assert [step.state for step in seeker.progress][-1] == "found"
        assert seeker.progress[0].text == "asking the DHT"


@on_loop
async def test_a_peer_that_stays_connected_is_told_to_others_for_as_long_as_it_does() -> None:
    """One second more than the time of grace, and a day: told and dialable. The grace begins as it leaves."""
    async with network(2, clients=2) as nodes:
        common, other, seeker, sought = nodes
        store, passed_s = common.host.swarm.peerstore, 0.0
        for node in (common, other):
            node.host.swarm.peerstore.clock = lambda: time.monotonic() + passed_s
        where = set(sought.host.swarm.listen_addrs())
        for passed_s in (0.0, GRACE_S + 1, 86_400.0):
            assert set(store.dialable(sought.peer_id)) >= where
            found = await seeker.dht.find_peer(sought.peer_id)
            assert set(found.found) == where, f"after {passed_s} s"
        await sought.close()
        await until(lambda: not common.host.swarm.conns(sought.peer_id))
        passed_s += GRACE_S - 10
        assert set(store.addrs(sought.peer_id)) == where
        passed_s += 20
        assert store.addrs(sought.peer_id) == []
        assert set(store.dialable(sought.peer_id)) == where, "stale, but better than nothing"


@on_loop
async def test_peers_are_found_after_the_first_node_and_a_third_of_the_others_are_gone() -> None:
    async with network(12) as nodes:
        gone = [nodes[0], *nodes[1:5]]
        for node in gone:
            await node.close()
        left = nodes[5:]
        for seeker, sought in itertools.pairwise(left):
            await seeker.host.swarm.disconnect(sought.peer_id)
            found = await seeker.dht.find_peer(sought.peer_id)
            assert set(found.found) & set(sought.host.swarm.listen_addrs())


@on_loop
async def test_not_found_and_found_but_unreachable_are_two_failures() -> None:
    async with network(4, clients=2) as nodes:
        seeker, left = nodes[4], nodes[5]
        nobody = stranger()
        with pytest.raises(PeerNotFound, match=rf"{nobody} was not found: \d peers were asked"):
            await seeker.host.swarm.connect(nobody)
        address = left.host.swarm.listen_addrs()[0]
        await left.close()
        with pytest.raises(DialFailed, match="found, but cannot be reached") as failure:
            await seeker.host.swarm.connect(left.peer_id)
        attempts = failure.value.details["attempts"]
        assert [one["Address"] for one in attempts] == [str(address)]


@on_loop
async def test_with_nobody_to_ask_it_says_so_and_how_to_get_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfwd.host.routing.START_WAIT_S", 0.05)
    node = await start()
    try:
        with pytest.raises(PeerNotFound, match="no peer is there to ask") as failure:
            await node.host.swarm.connect(stranger())
        assert failure.value.hint is not None
        assert "/p2p/" in failure.value.hint
    finally:
        await node.close()


@on_loop
async def test_a_server_keeps_the_providers_that_others_announce() -> None:
    # This node announces and seeks none; the network expects it of every server.
    async with network(3) as nodes:
        key = b"\x12\x20" + hashlib.sha256(b"a service").digest()
        provider = KadPeer(nodes[1].peer_id, tuple(nodes[1].host.swarm.listen_addrs()))
        conn = await nodes[1].host.swarm.connect(nodes[0].peer_id)
        async with exchange(conn, PROTOCOL, 3) as stream:
            await stream.write_delimited(encode_request(AddProvider(key, (provider,))))
        asking = await nodes[2].host.swarm.connect(nodes[0].peer_id)
        found = await ask(asking, PROTOCOL, GetProviders(key), 3)
        assert [one.peer_id for one in found.provider_peers] == [nodes[1].peer_id]
        assert set(found.provider_peers[0].addrs) == set(provider.addrs)


@on_loop
async def test_ping_public_keys_and_several_requests_on_one_stream_are_answered() -> None:
    async with network(2) as nodes:
        conn = await nodes[1].host.swarm.connect(nodes[0].peer_id)
        pong = await ask(conn, PROTOCOL, Ping(), 3)
        assert pong.type is MessageType.PING
        record = await ask(conn, PROTOCOL, GetValue(b"/pk/" + nodes[1].peer_id.to_bytes()), 3)
        assert record.record is not None
        assert record.record.value == nodes[1].host.swarm.identity.public_key.to_protobuf()


@on_loop
async def test_a_dead_entry_is_dropped_by_revalidation() -> None:
    async with network(3) as nodes:
        dead = nodes[2].peer_id
        await nodes[2].close()
        table = nodes[1].dht.table
        assert dead in table
        for _ in range(2):  # suspect first, and still: nobody has answered since, it may be us
            assert not await nodes[1].dht.revalidate(dead)
        assert dead in table
        assert await nodes[1].dht.revalidate(nodes[0].peer_id)
        assert not await nodes[1].dht.revalidate(dead)  # gone: nobody was there to take its place
        assert dead not in table


# --- hostile servers ------------------------------------------------------------------------------


async def _finds_in_spite_of(nodes: list[Node], seeker: Node, sought: Node) -> None:
    await seeker.host.swarm.disconnect(sought.peer_id)
    seeker.host.swarm.peerstore.refute_addr(sought.peer_id, sought.host.swarm.listen_addrs()[0])
    result = await seeker.dht.find_peer(sought.peer_id)
    assert result.ending is Ending.FOUND
    assert set(sought.host.swarm.listen_addrs()) <= set(result.found)
    assert result.heard < 1000, "what liars tell is bounded"


@on_loop
async def test_twenty_fakes_per_answer_do_not_hide_an_honest_target() -> None:
    def fakes(_request: FindNode, _asker: PeerId) -> list[KadPeer]:
        return [KadPeer(stranger(), (dead_address(n),)) for n in range(20)]

    async with network(5, clients=2) as nodes, hostile(fakes) as liar:
        seeker = nodes[5]
        await seeker.host.swarm.connect(liar.peer_id, liar.swarm.listen_addrs())
        await until(lambda: liar.peer_id in seeker.dht.table)
        await _finds_in_spite_of(nodes, seeker, nodes[6])


@on_loop
async def test_a_server_that_always_names_itself_or_the_asker_gains_nothing() -> None:
    async with network(5, clients=2) as nodes:
        seeker = nodes[5]
        mine: list[KadPeer] = []
        async with hostile(lambda _request, asker: [*mine, KadPeer(asker, (dead_address(3),))]) as liar:
            mine.append(KadPeer(liar.peer_id, tuple(liar.swarm.listen_addrs())))
            await seeker.host.swarm.connect(liar.peer_id, liar.swarm.listen_addrs())
            await until(lambda: liar.peer_id in seeker.dht.table)
            await _finds_in_spite_of(nodes, seeker, nodes[6])


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"\x80\x80\x80\x02" + bytes(64), id="announces 4 MiB"),
        pytest.param(b"\x05\xff\xff\xff\xff\xff", id="garbage"),
        pytest.param(b"", id="silence"),
    ],
)
@on_loop
async def test_a_server_that_breaks_the_protocol_is_suspect_and_no_hindrance(answer: bytes) -> None:
    async with network(5, clients=2) as nodes, hostile_bytes(lambda _r, _a: answer) as liar:
        seeker = nodes[5]
        await seeker.host.swarm.connect(liar.peer_id, liar.swarm.listen_addrs())
        await until(lambda: liar.peer_id in seeker.dht.table)
        await _finds_in_spite_of(nodes, seeker, nodes[6])


@on_loop
async def test_names_that_strangers_tell_lead_to_no_private_door() -> None:
    # Neither as somebody to ask nor as the peer that is sought: the name is this very machine's.
    knocks: list[int] = []
    trap = await asyncio.start_server(lambda _r, writer: (knocks.append(1), writer.close()), "127.0.0.1", 0)
    port = trap.sockets[0].getsockname()[1]
    sought = stranger()
    named = [
        KadPeer(peer, (Multiaddr.parse(f"/dns4/trap.example/tcp/{port}"),)) for peer in (stranger(), sought)
    ]
    with FakeDns() as dns:
        dns.hosts["trap.example."] = ["127.0.0.1"]
        async with network(3, clients=1) as nodes, hostile(lambda _r, _a: named) as liar:
            seeker = nodes[3]
            seeker.host.swarm.resolver._servers = NameServers((dns.address,))
            await seeker.host.swarm.connect(liar.peer_id, liar.swarm.listen_addrs())
            await until(lambda: liar.peer_id in seeker.dht.table)
            await seeker.dht.closest(stranger().to_bytes())
            with pytest.raises(DialFailed, match="told by others, and leads to no public address"):
                await seeker.host.swarm.connect(sought)
        assert ("trap.example.", "A") in dns.asked and knocks == []
    trap.close()
    await trap.wait_closed()
