"""Pins a node's bounds on real sockets: work a turn, bytes and streams in all; and that no byte is lost."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from p2pfwd.errors import StreamReset
from p2pfwd.net.channel import NOISE, TLS
from p2pfwd.net.link import intake as intake_module
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.intake import Taking
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.system.buffers import LARGE_BYTES
from p2pfwd.wire.multistream import HEADER, encode_token
from p2pfwd.wire.noise.cipher import MAX_WIDE_MESSAGE
from p2pfwd.wire.yamux import frame as f
from tests.net.swarm_rig import ECHO, TAKE, Taken, conn_of, echo, next_conn, read_all, swarm
from tests.support.loops import on_both_loops, on_loop, until
from tests.support.raw_peer import RawPeer

WINDOW = f.INITIAL_WINDOW_BYTES
MB = 1 << 20

FLOODS = {
    "credit of a byte": lambda n: f.encode_header(f.WINDOW_UPDATE, 0, 1, 1),
    "empty data": lambda n: f.encode_header(f.DATA, 0, 1, 0),
    "opens and resets": lambda n: (
        f.encode_header(f.WINDOW_UPDATE, f.SYN, 2 * n + 3, 0)
        + f.encode_header(f.WINDOW_UPDATE, f.RST, 2 * n + 3, 0)
    ),
    "proposals": lambda n: f.encode_header(f.DATA, f.SYN, 2 * n + 3, 30) + HEADER + bytes(10),
}


async def conn_with(victim: Swarm, peer: RawPeer) -> Conn:
    await until(lambda: bool(victim.conns(peer.peer_id)))
    return victim.conns(peer.peer_id)[0]


@pytest.mark.parametrize("flood", FLOODS.values(), ids=list(FLOODS))
@on_both_loops
async def test_others_have_their_turn_while_one_read_of_a_flood_is_taken(flood: object) -> None:
    # FAULTS F1: 256 KiB of cheap frames in one step, 40 to 600 ms, again and again.
    assert callable(flood)
    async with swarm() as victim, swarm() as honest:
        victim.services.serve(Service(name=ECHO, handler=echo))
        await honest.connect(victim.peer_id, victim.listen_addrs())
        stream = await honest.open_stream(victim.peer_id, [ECHO])
        await stream.write(b"ready")
        await stream.read()
        async with await RawPeer.dial(victim.listen_addrs()[0]) as peer:
            conn = await conn_with(victim, peer)
            await peer.open(1, ECHO)
            wire = b"".join(map(flood, range(20_000)))
            sending = asyncio.ensure_future(peer.send(wire[: 1 * MB]))
            await until(lambda: conn._intake.state is not Taking.READING)
            for _ in range(3):
                await stream.write(b"still here?")
                assert await stream.read() == b"still here?"
            assert conn._intake.held_bytes + conn._channel.kept_bytes, "most of it waits"
            sending.cancel()


@pytest.mark.parametrize("security", [NOISE, TLS])
@pytest.mark.parametrize("budget", [1, 50])
@on_both_loops
async def test_however_small_the_turns_every_byte_arrives_in_order(
    security: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "TURN_WORK", budget)
    monkeypatch.setattr(intake_module, "SLICE_WORK", budget)
    sent = hashlib.sha256()
    async with swarm(security=(security,)) as near, swarm() as far:
        far.services.serve(Service(name=ECHO, handler=echo))
        await near.connect(far.peer_id, far.listen_addrs())
        stream = await near.open_stream(far.peer_id, [ECHO])

        async def write() -> None:
            for n in range(300):
                data = bytes([n & 0xFF]) * (1 + 37 * n % 9000)
                sent.update(data)
                await stream.write(data)
            stream.close_write()

        writing = asyncio.ensure_future(write())
        got = await read_all(stream)
        await writing
        assert hashlib.sha256(got).digest() == sent.digest()
        assert conn_of(stream).holdings.held_bytes < WINDOW


@on_loop
async def test_bytes_that_wait_have_one_budget_and_the_heaviest_gives_way() -> None:
    # FAULTS F5: 107 MB for each identity, without end.
    async with swarm() as victim, swarm() as honest:
        victim.limits.ledger.total = 4 * MB
        taken = Taken(victim)
        await honest.connect(victim.peer_id, victim.listen_addrs())
        kept = await honest.open_stream(victim.peer_id, [TAKE])
        await kept.write(bytes(100_000))
        held = await taken.get()
        hello = HEADER + encode_token(TAKE)
        peers = [await RawPeer.dial(victim.listen_addrs()[0]) for _ in range(3)]
        for peer in peers:
            body = bytes(WINDOW - len(hello))
            for stream_id in range(1, 21, 2):
                await peer.frame(f.DATA, f.SYN, stream_id, body=hello)
                await peer.frame(f.DATA, 0, stream_id, body=body)
            await peer.frame(f.PING, f.SYN, 0, 5)
            await peer.until(f.PING, f.ACK)
            assert victim.limits.used_bytes <= victim.limits.ledger.total + WINDOW + 64 * 1024
        assert victim.refusals.counts["memory-shed"] >= 12
        assert kept.error is None and held.error is None
        assert any(conn._intake._slow for conn in victim.conns()), "and who goes on is slowed"
        assert len(await held.read(100_000)) > 0
        for peer in peers:
            peer.close()
        await until(lambda: len(victim.conns()) == 1)
        assert victim.limits.used_bytes < MB


@on_loop
async def test_a_stream_that_gave_way_is_reset_on_both_sides() -> None:
    async with swarm() as victim, swarm() as greedy:
        victim.limits.ledger.total = 300_000
        taken = Taken(victim)
        await greedy.connect(victim.peer_id, victim.listen_addrs())
        streams = [await greedy.open_stream(victim.peer_id, [TAKE], confirm=True) for _ in range(2)]
        for stream in streams:
            for _ in range(4):  # a wide message that has come in part would hold more than all of this
                await stream.write(bytes(50_000))
        held = [await taken.get() for _ in streams]
        await until(lambda: any(stream.error is not None for stream in streams))
        (lost,) = [stream for stream in held if stream.error is not None]
        assert isinstance(lost.error, StreamReset)


@on_loop
async def test_streams_that_peers_open_are_bounded_in_all() -> None:
    async with swarm() as victim:
        victim.limits.ledger.max_streams = 100
        peers = [await RawPeer.dial(victim.listen_addrs()[0]) for _ in range(3)]
        for peer in peers:
            await peer.send(
                b"".join(f.encode_header(f.WINDOW_UPDATE, f.SYN, 2 * n + 1, 0) for n in range(60))
            )
            await peer.frame(f.PING, f.SYN, 0, 5)
            await peer.until(f.PING, f.ACK)
            assert victim.limits.ledger.streams <= 100 + 20
        for peer in peers:
            peer.close()
        await until(lambda: not victim.conns())
        assert victim.limits.ledger.streams == 0


@on_loop
async def test_a_peer_that_reads_nothing_makes_us_hold_little() -> None:
    async with swarm() as victim:
        arrived = next_conn(victim)
        async with await RawPeer.dial(victim.listen_addrs()[0], receive_buffer=4096) as peer:
            conn = await arrived
            pings = b"".join(f.encode_header(f.PING, f.SYN, 0, n) for n in range(5000))

            async def flood() -> None:
                while True:
                    await peer.send(pings)

            flooding = asyncio.ensure_future(flood())
            await until(lambda: conn._intake.state is Taking.UNREAD)
            assert len(conn._session.control) < 2 * intake_module.CHOKED_BYTES + 64 * 1024
            flooding.cancel()


@on_both_loops
async def test_a_wide_message_that_never_ends_holds_one_buffer_and_what_is_none_ends_it() -> None:
    async with swarm(aes=True) as victim, swarm() as honest:
        victim.services.serve(Service(name=ECHO, handler=echo))
        await honest.connect(victim.peer_id, victim.listen_addrs())
        stream = await honest.open_stream(victim.peer_id, [ECHO])
        peers = [await RawPeer.dial(victim.listen_addrs()[0], aes=True, wide=True) for _ in range(2)]
        conns = [await conn_with(victim, peer) for peer in peers]
        for peer in peers:
            await peer.send_sealed(MAX_WIDE_MESSAGE.to_bytes(4, "big") + bytes(100_000))
        await until(lambda: all(conn.holdings.held_bytes == LARGE_BYTES for conn in conns))
        assert victim.limits.used_bytes == 2 * LARGE_BYTES
        for _ in range(100):
            await peers[0].send_sealed(b"x")
            await stream.write(b"still here?")
            assert await stream.read() == b"still here?"
        assert victim.limits.used_bytes == 2 * LARGE_BYTES
        await peers[0].send_sealed(bytes(MAX_WIDE_MESSAGE))  # its end, which is no message that was sealed
        await until(conns[0].closed.done)
        await until(lambda: victim.limits.used_bytes == LARGE_BYTES)
        victim.limits.ledger.total = LARGE_BYTES - 1  # it is the node's budget that it counts in
        await peers[1].send_sealed(b"x")
        await until(conns[1].closed.done)
        assert victim.limits.used_bytes == 0
        for peer in peers:
            peer.close()


@on_both_loops
async def test_a_flood_in_one_wide_message_is_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "TURN_WORK", 50)
    monkeypatch.setattr(intake_module, "SLICE_WORK", 50)
    async with swarm(aes=True) as victim:
        victim.services.serve(Service(name=ECHO, handler=echo))
        async with await RawPeer.dial(victim.listen_addrs()[0], aes=True, wide=True) as peer:
            conn = await conn_with(victim, peer)
            await peer.open(1, ECHO)
            flood = f.encode_header(f.PING, f.SYN, 0, 7) * 8000
            await peer.send_sealed(peer.sealed_each([flood]))
            await until(lambda: conn._intake.held_bytes > 0)
            for _ in range(8000):
                await peer.until(f.PING, f.ACK)
            await until(lambda: victim.limits.used_bytes == 0)
