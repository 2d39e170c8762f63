"""Pins when a peer counts as dead: silence after a ping, or no byte taken; and what is not death.

The real times are 20 and 15 seconds; the tests turn the module's constants down.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from p2pfwd.errors import ConnectionLost, TimedOut
from p2pfwd.net.link import conn as conn_module
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.policy import doubt
from p2pfwd.wire.yamux import frame as f
from tests.net.swarm_rig import ECHO, TAKE, Taken, echo, next_conn, read_all, swarm
from tests.support.loops import on_loop, turns, until
from tests.support.raw_peer import RawPeer

HOUR_S = 3600.0
BULK = random.Random(2).randbytes(8 << 20)
GRANT = 64 << 20


def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_IDLE_S", "LOOK_BUSY_S", "LOOK_WAITING_S"):
        monkeypatch.setattr(doubt, name, 0.01)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    looks(monkeypatch)
    monkeypatch.setattr(doubt, "SELDOM_S", 0.02)
    monkeypatch.setattr(doubt, "IDLE_S", 0.03)
    monkeypatch.setattr(doubt, "BUSY_IDLE_S", 0.03)
    monkeypatch.setattr(doubt, "PONG_S", 0.5)


@pytest.fixture
def no_keepalive(monkeypatch: pytest.MonkeyPatch) -> None:
    looks(monkeypatch)
    monkeypatch.setattr(doubt, "IDLE_S", HOUR_S)
    monkeypatch.setattr(doubt, "BUSY_IDLE_S", HOUR_S)
    monkeypatch.setattr(doubt, "PONG_S", HOUR_S)


def test_the_real_times_find_a_dead_peer_within_45_seconds() -> None:
    assert doubt.IDLE_S + doubt.PONG_S + 2 * doubt.LOOK_IDLE_S <= 45
    assert doubt.STALL_S + doubt.LOOK_IDLE_S <= 45


@on_loop
async def test_a_silent_peer_is_dead_and_its_streams_fail(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubt, "PONG_S", 0.05)
    async with swarm() as node:
        taken, arrived = Taken(node), next_conn(node)
        async with await RawPeer.dial(node.listen_addrs()[0]) as peer:
            await peer.open(1, TAKE)
            stream = await taken.get()
            with pytest.raises(ConnectionLost, match="no sign of life"):
                await stream.read()
            assert isinstance((await arrived).closed.result(), TimedOut)
            assert node.conns() == []


@on_loop
async def test_a_peer_that_answers_pings_lives_however_idle(quick: None) -> None:
    async with swarm() as node:
        arrived = next_conn(node)
        async with await RawPeer.dial(node.listen_addrs()[0]) as peer:
            for _ in range(5):
                ping = await peer.until(f.PING, f.SYN)
                await peer.frame(f.PING, f.ACK, 0, ping.length)
            conn = await arrived
            assert not conn.closed.done() and conn.rtt_s is not None


@on_loop
async def test_pings_have_fresh_values_and_one_is_outstanding(quick: None) -> None:
    async with swarm() as node, await RawPeer.dial(node.listen_addrs()[0]) as peer:
        values = []
        for _ in range(4):
            ping = await peer.until(f.PING, f.SYN)
            values.append(ping.length)
            await peer.frame(f.PING, f.ACK, 0, ping.length ^ 0xFF)  # a wrong answer is no answer
            await peer.frame(f.PING, f.ACK, 0, ping.length)
        assert len(set(values)) == 4


async def congested_stream(node: Swarm, peer: RawPeer, taken: Taken) -> tuple[Stream, asyncio.Task[None]]:
    """A stream of 8 MiB towards a peer that grants credit and reads nothing."""
    await peer.open(1, TAKE)
    await peer.frame(f.WINDOW_UPDATE, 0, 1, GRANT)
    stream = await taken.get()
    writing = asyncio.get_running_loop().create_task(stream.write(BULK))
    await until(lambda: stream.conn.congested)
    return stream, writing


@on_loop
async def test_a_peer_that_takes_no_byte_is_dead_although_it_speaks(
    no_keepalive: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubt, "STALL_S", 0.05)
    async with swarm() as node:
        taken = Taken(node)
        async with await RawPeer.dial(node.listen_addrs()[0], receive_buffer=4096) as peer:
            _, writing = await congested_stream(node, peer, taken)
            while not writing.done():
                try:
                    await peer.frame(f.WINDOW_UPDATE, 0, 1, 1)
                except ConnectionError:
                    break
                await asyncio.wait([writing], timeout=0.01)
            with pytest.raises(ConnectionLost, match="took no data"):
                await writing


@on_loop
async def test_a_peer_that_does_not_read_costs_the_sockets_buffer_and_gets_it_all_later(
    no_keepalive: None,
) -> None:
    async with swarm() as node:
        taken = Taken(node)
        async with await RawPeer.dial(node.listen_addrs()[0], receive_buffer=4096) as peer:
            stream, writing = await congested_stream(node, peer, taken)
            await turns()
            accepted = f.INITIAL_WINDOW_BYTES + GRANT - stream.core.send_window
            assert accepted < 4 << 20, "the rest of the 8 MiB is still the writer's"
            got = b""
            while len(got) < len(BULK):
                got += (await peer.until(f.DATA, 0, 1)).body
            await writing
            assert got == BULK


@on_loop
async def test_a_graceful_close_behind_a_full_socket_still_brings_data_fin_and_go_away(
    no_keepalive: None,
) -> None:
    async with swarm() as node:
        taken, arrived = Taken(node), next_conn(node)
        async with await RawPeer.dial(node.listen_addrs()[0], receive_buffer=4096) as peer:
            stream, writing = await congested_stream(node, peer, taken)
            writing.cancel()
            accepted = f.INITIAL_WINDOW_BYTES + GRANT - stream.core.send_window
            stream.close_write()
            conn = await arrived
            closing = asyncio.get_running_loop().create_task(conn.close())
            frames = await peer.to_the_end()
            got = b"".join(frame.body for frame in frames if frame.stream_id == 1)
            assert got == BULK[: len(got)] and accepted - 100 < len(got) <= accepted
            ends = [(frame.type, frame.flags) for frame in frames[-2:]]
            assert ends == [(f.WINDOW_UPDATE, f.FIN), (f.GO_AWAY, 0)]
            peer.close()
            await closing
            assert conn.closed.result() is None


@on_loop
async def test_a_graceful_close_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conn_module, "CLOSE_TIMEOUT_S", 0.05)
    async with swarm() as node:
        arrived = next_conn(node)
        async with await RawPeer.dial(node.listen_addrs()[0]):
            conn = await arrived
            await conn.close()
            assert conn.closed.result() is None


@on_loop
async def test_small_writes_pass_a_bulk_transfer(no_keepalive: None) -> None:
    # An ssh keystroke must not wait behind a copy: one frame of each stream per turn.
    async with swarm() as near, swarm() as far:
        taken = Taken(far)
        far.services.serve(Service(name=ECHO, handler=echo))
        await near.connect(far.peer_id, far.listen_addrs())
        bulk = await near.open_stream(far.peer_id, [TAKE])
        keys = await near.open_stream(far.peer_id, [ECHO])
        copying = asyncio.get_running_loop().create_task(bulk.write(BULK * 4))
        receiving = asyncio.get_running_loop().create_task(read_all(await taken.get()))
        for _ in range(3):  # each waits behind what the kernel holds, some MiB on loopback
            await keys.write(b"k")
            assert await keys.read() == b"k"
        assert not copying.done(), "three keystrokes came back before 32 MiB had gone"
        await copying
        bulk.close_write()
        assert len(await receiving) == len(BULK) * 4
