"""Pins identify between hosts and against a raw peer: what is told, what is taken, what garbage costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import AddressClass, Multiaddr
from p2pfwd.core.record import PeerRecord
from p2pfwd.errors import TimedOut
from p2pfwd.host.host import Host
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.services import Service
from p2pfwd.net.visits import Visit
from p2pfwd.policy.service_bounds import PUSH
from p2pfwd.policy.visible import place, visible
from p2pfwd.protocols import identify as identify_module
from p2pfwd.wire import identify as wire
from p2pfwd.wire import ping
from p2pfwd.wire.multistream import HEADER, encode_token
from p2pfwd.wire.yamux import frame as f
from tests.net.swarm_rig import ECHO, echo, host, next_conn, stranger
from tests.support.loops import on_loop, until
from tests.support.raw_peer import RawPeer, delimited

LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")
PRIVATE = Multiaddr.parse("/ip4/192.168.1.2/tcp/4001")
PUBLIC = Multiaddr.parse("/ip4/198.51.100.7/tcp/4001")
NAME = Multiaddr.parse("/dns4/example.org/tcp/4001")


RELAY = Multiaddr.parse(f"/p2p/{stranger()}/p2p-circuit")


@pytest.mark.parametrize(
    ("over", "is_own", "expected"),
    [
        (LOOPBACK, False, [LOOPBACK, PRIVATE, PUBLIC, NAME]),
        (PRIVATE, False, [PRIVATE, PUBLIC, NAME]),
        (PUBLIC, True, [PUBLIC, NAME]),
        (PRIVATE.encapsulate(RELAY), False, [PUBLIC, NAME]),  # it may be anywhere
        (PRIVATE.encapsulate(RELAY), True, [PRIVATE, PUBLIC, NAME]),
        (PUBLIC.encapsulate(RELAY), True, [PUBLIC, NAME]),
    ],
)
def test_addresses_are_told_to_those_who_may_reach_them(
    over: Multiaddr, is_own: bool, expected: list[Multiaddr]
) -> None:
    assert visible([LOOPBACK, PRIVATE, PUBLIC, NAME], place(over, is_own=is_own)) == expected


@on_loop
async def test_two_hosts_know_each_other_after_connecting() -> None:
    async with host() as near, host() as far:
        far.swarm.services.serve(Service(name=ECHO, handler=echo))
        arrived = next_conn(far.swarm)
        conn = await near.swarm.connect(far.peer_id, far.swarm.listen_addrs())
        await conn.identified
        other = await arrived
        await other.identified
        for one, two, seen_at in ((near, far, other), (far, near, conn)):
            store = one.swarm.peerstore
            assert store.agent(two.peer_id) == two.identify.agent_version
            assert (
                store.agent(
                    two.peer_id,
                )
                is not None
            )
            assert {wire.ID, wire.PUSH, ping.ID} <= store.protocols(two.peer_id)
            assert set(two.swarm.listen_addrs()) <= set(store.addrs(two.peer_id))
            assert one.swarm.own_addresses.observed() == [seen_at.remote_addr]
        assert ECHO in near.swarm.peerstore.protocols(far.peer_id)


@on_loop
async def test_a_push_brings_what_changed() -> None:
    async with host() as near, host() as far:
        conn = await near.swarm.connect(far.peer_id, far.swarm.listen_addrs())
        await conn.identified
        await until(lambda: bool(far.swarm.conns()))
        await far.swarm.conns()[0].identified
        far.swarm.services.serve(Service(name=ECHO, handler=echo))
        assert ECHO not in near.swarm.peerstore.protocols(far.peer_id)
        far.identify.push()
        await until(lambda: ECHO in near.swarm.peerstore.protocols(far.peer_id))
        await until(lambda: not conn.streams)


@on_loop
async def test_of_many_changes_one_after_the_other_none_is_one_push_too_many() -> None:
    """Others take so many pushes at a time and no more: the last of them would be lost."""
    async with host() as near, host() as far:
        conn = await near.swarm.connect(far.peer_id, far.swarm.listen_addrs())
        await conn.identified
        await until(lambda: bool(far.swarm.conns()))
        await far.swarm.conns()[0].identified
        for number in range(8):
            far.swarm.services.serve(Service(name=f"/test/{number}", handler=echo))
            far.identify.push()
            await asyncio.sleep(0)
        await until(lambda: "/test/7" in near.swarm.peerstore.protocols(far.peer_id))
        await until(lambda: not conn.streams)
        assert not near.swarm.refusals.counts


@on_loop
async def test_a_push_that_was_not_taken_is_made_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identify_module, "PUSH_AGAIN_S", 0.05)
    async with host() as near, host() as far:
        conn = await near.swarm.connect(far.peer_id, far.swarm.listen_addrs())
        await conn.identified
        await until(lambda: bool(far.swarm.conns()))
        await far.swarm.conns()[0].identified
        real, tries = near.identify._pushed, 0

        async def not_at_first(visit: Visit) -> None:
            nonlocal tries
            tries += 1
            if tries == 2:
                await real(visit)
            else:
                visit.stream.reset()

        near.swarm.services.withdraw(wire.PUSH)
        near.swarm.services.serve(Service(name=wire.PUSH, talk=not_at_first, bounds=PUSH))
        far.swarm.services.serve(Service(name=ECHO, handler=echo))
        far.identify.push()
        await until(lambda: ECHO in near.swarm.peerstore.protocols(far.peer_id))
        await until(lambda: not far.identify._untold)
        tries = 2
        far.identify.push()
        await until(lambda: not far.identify._untold)
        assert tries == 4, "and not without an end"


@asynccontextmanager
async def asked() -> AsyncIterator[tuple[Host, Conn, RawPeer, int]]:
    """A host that has just asked a raw peer who it is: the host, its connection, the peer, the stream."""
    async with host() as node:
        arrived = next_conn(node.swarm)
        async with await RawPeer.dial(node.swarm.listen_addrs()[0]) as peer:
            stream_id, protocol = await peer.accept()
            assert protocol == wire.ID
            yield node, await arrived, peer, stream_id


def message(peer: RawPeer, **changes: object) -> wire.IdentifyMessage:
    fields: dict[str, object] = {
        "public_key": peer.identity.public_key.to_protobuf(),
        "listen_addrs": (LOOPBACK,),
        "protocols": ("/raw/1",),
        "observed_addr": LOOPBACK,
        "protocol_version": "x",
        "agent_version": "raw/1",
        "signed_peer_record": None,
    }
    return wire.IdentifyMessage(**(fields | changes))  # type: ignore[arg-type]


@on_loop
async def test_an_answer_in_pieces_is_put_together() -> None:
    # Kubo sends the length and the body in frames of their own .
    async with asked() as (node, conn, peer, stream_id):
        wire_bytes = delimited(wire.encode(message(peer)))
        for at in range(0, len(wire_bytes), 7):
            await peer.frame(f.DATA, 0, stream_id, body=wire_bytes[at : at + 7])
        await peer.frame(f.WINDOW_UPDATE, f.FIN, stream_id)
        await conn.identified
        assert node.swarm.peerstore.agent(peer.peer_id) == "raw/1"
        assert node.swarm.peerstore.addrs(peer.peer_id) == [LOOPBACK]


GARBAGE = (
    "nothing",
    "no protobuf",
    "a giant length",
    "an endless length",
    "cut short",
    "too long",
    "somebody else's record",
)


def garbage(peer: RawPeer) -> dict[str, bytes]:
    other = PrivateKey.generate()
    return {
        "nothing": b"",
        "no protobuf": delimited(b"\xff" * 40),
        "a giant length": b"\xff\xff\xff\xff\x0f",
        "an endless length": b"\x80" * 20,
        "cut short": delimited(wire.encode(message(peer)))[:-5],
        "too long": delimited(bytes(wire.MAX_MESSAGE_BYTES + 1)),
        "somebody else's record": delimited(
            wire.encode(
                message(
                    peer,
                    listen_addrs=(),
                    signed_peer_record=PeerRecord(peer.remote_peer, 1, (PUBLIC,)).to_signed(other),
                )
            )
        ),
    }


@pytest.mark.parametrize("what", GARBAGE)
@on_loop
async def test_garbage_leaves_the_peer_unknown_and_connected(what: str) -> None:
    async with asked() as (node, conn, peer, stream_id):
        await peer.frame(f.DATA, 0, stream_id, body=garbage(peer)[what])
        await peer.frame(f.WINDOW_UPDATE, f.FIN, stream_id)
        await conn.identified
        assert PUBLIC not in node.swarm.peerstore.addrs(peer.peer_id)
        assert not conn.closed.done()
        await peer.open(1, ping.ID)


@on_loop
async def test_a_peer_that_does_not_say_who_it_is_stays_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identify_module, "TIMEOUT_S", 0.05)
    async with asked() as (node, conn, peer, stream_id):
        await peer.until(f.WINDOW_UPDATE, f.RST, stream_id)
        await conn.identified
        assert node.swarm.peerstore.agent(peer.peer_id) is None
        await peer.open(1, ping.ID)


@on_loop
async def test_a_stream_waits_for_identify_no_longer_than_its_own_limit() -> None:
    async with asked() as (node, _conn, peer, _stream_id):
        begin = asyncio.get_running_loop().time()
        with pytest.raises(TimedOut):
            await node.swarm.open_stream(peer.peer_id, [ECHO], timeout_s=0.05)
        assert asyncio.get_running_loop().time() - begin < identify_module.TIMEOUT_S - 1


@on_loop
async def test_a_lost_connection_ends_the_wait_for_identify() -> None:
    async with asked() as (_node, conn, peer, _stream_id):
        peer.reset()
        await conn.identified


@on_loop
async def test_a_push_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identify_module, "PUSH", replace(PUSH, idle_s=0.05))
    async with asked() as (_node, _conn, peer, _stream_id):
        await peer.open(1, wire.PUSH)
        await peer.frame(f.DATA, 0, 1, body=delimited(wire.encode(message(peer))) + b"\x05ab")
        await peer.until(f.WINDOW_UPDATE, f.RST, 1)


@on_loop
async def test_more_messages_than_anybody_sends_are_not_read() -> None:
    async with asked() as (node, _conn, peer, _stream_id):
        await peer.open(1, wire.PUSH)
        one = delimited(wire.encode(message(peer, agent_version="pushed/1")))
        await peer.frame(f.DATA, 0, 1, body=one * 200)
        await until(lambda: node.swarm.peerstore.agent(peer.peer_id) == "pushed/1")


@on_loop
async def test_who_this_is_fits_one_small_message() -> None:
    # rust reads one message of at most 4096 bytes.
    async with host() as node, await RawPeer.dial(node.swarm.listen_addrs()[0]) as peer:
        hello = HEADER + encode_token(wire.ID)
        await peer.frame(f.DATA, f.SYN | f.FIN, 1, body=hello)
        got = b""
        while True:
            frame = await peer.next()
            if frame.stream_id == 1:
                got += frame.body
                if frame.flags & f.FIN:
                    break
        body = got.removeprefix(hello)
        told = wire.decode(body[2:])
        assert len(body) < 4096 and body[:2] == delimited(body[2:])[:2]
        assert told.protocol_version == "ipfs/0.1.0"
        assert told.listen_addrs == tuple(node.swarm.listen_addrs())
        assert told.public_key == node.swarm.identity.public_key.to_protobuf()
        assert told.signed_peer_record is not None
        assert PeerRecord.from_signed(told.signed_peer_record).peer_id == node.peer_id
        assert told.observed_addr is not None


@on_loop
async def test_each_record_is_newer_than_the_last() -> None:
    async with host() as node:
        numbers = []
        for _ in range(3):
            record = wire.decode(node.identify.message(LOOPBACK, AddressClass.LOOPBACK)).signed_peer_record
            assert record is not None
            numbers.append(PeerRecord.from_signed(record).seq)
        assert numbers == sorted(set(numbers))
        await asyncio.sleep(0)
