"""Pins ping: a round trip, every wrong answer, and how much of it one peer may have."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfwd.errors import ConnectionLost, ProtocolNotSupported, RemoteProtocolError, TimedOut
from p2pfwd.host import host as host_module
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.swarm import Swarm
from p2pfwd.policy.service_bounds import PING
from p2pfwd.protocols.ping import Ping
from p2pfwd.wire import ping as wire
from p2pfwd.wire.yamux import frame as f
from tests.net.swarm_rig import host, next_conn, swarm
from tests.support.loops import on_both_loops, on_loop, turns, until
from tests.support.raw_peer import RawListener, RawPeer

PAYLOAD = bytes(range(wire.PAYLOAD_BYTES))


@on_loop
async def test_a_host_is_pinged_connecting_first() -> None:
    async with host() as near, host() as far:
        outcome = await near.ping(far.peer_id, far.swarm.listen_addrs(), 5)
        assert 0 < outcome.rtt_s < 5 and outcome.conn.remote_peer == far.peer_id
        again = await near.ping(far.peer_id)
        assert again.conn is outcome.conn
        await settled(far.swarm)


@on_both_loops
async def test_a_round_trip_is_measured_in_microseconds_and_not_by_the_loops_clock() -> None:
    # uvloop's has whole milliseconds, of which a round trip on this machine has none.
    async with host() as near, host() as far:
        await near.swarm.connect(far.peer_id, far.swarm.listen_addrs())
        measured = [(await near.ping(far.peer_id)).rtt_s * 1000 for _ in range(5)]
        assert all(rtt_ms > 0 for rtt_ms in measured)
        assert any(abs(rtt_ms - round(rtt_ms)) > 0.001 for rtt_ms in measured)


@on_loop
async def test_the_time_limit_of_a_ping_is_for_the_dial_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with host() as near, host() as far:
        given: list[float] = []
        connect = near.swarm.connect

        async def slowly(*args: Any, **options: Any) -> Conn:
            clock.append(clock[-1] + 3)
            return await connect(*args, **options)

        async def ping(_conn: Conn, timeout_s: float) -> float:
            given.append(timeout_s)
            return 0.1

        clock = [100.0]
        monkeypatch.setattr(host_module, "time", SimpleNamespace(monotonic=lambda: clock[-1]))
        monkeypatch.setattr(near.swarm, "connect", slowly)
        monkeypatch.setattr(near._ping, "ping", ping)
        await near.ping(far.peer_id, far.swarm.listen_addrs(), 5)
        assert given == [pytest.approx(2)]


async def settled(node: Swarm) -> None:
    """No ping stream counts any more."""
    await until(lambda: not node.services.room(PING.label).held.total)

@on_loop
async def test_a_ping_stream_echoes_round_after_round_in_any_pieces() -> None:
    async with swarm() as node:
        Ping(node)
        async with await RawPeer.dial(node.listen_addrs()[0]) as peer:
            await peer.open(1, wire.ID)
            for turn in range(50):
                if turn % 2:
                    await peer.frame(f.DATA, 0, 1, body=PAYLOAD[:5])
                    await peer.frame(f.DATA, 0, 1, body=PAYLOAD[5:])
                else:
                    await peer.frame(f.DATA, 0, 1, body=PAYLOAD)
                assert await peer.payload(1, 32) == PAYLOAD
            await peer.frame(f.WINDOW_UPDATE, f.FIN, 1)
            await peer.until(f.WINDOW_UPDATE, f.FIN, 1)


@on_loop
async def test_a_payload_that_is_cut_short_resets_the_stream() -> None:
    async with swarm() as node:
        Ping(node)
        async with await RawPeer.dial(node.listen_addrs()[0]) as peer:
            await peer.open(1, wire.ID)
            await peer.frame(f.DATA, f.FIN, 1, body=PAYLOAD[:5])
            await peer.until(f.WINDOW_UPDATE, f.RST, 1)
            await settled(node)


@on_loop
async def test_one_peer_has_two_ping_streams_and_a_third_is_reset() -> None:
    async with swarm() as node:
        Ping(node)
        async with await RawPeer.dial(node.listen_addrs()[0]) as peer:
            await peer.open(1, wire.ID)
            await peer.open(3, wire.ID)
            await peer.open(5, wire.ID)
            await peer.until(f.WINDOW_UPDATE, f.RST, 5)
            await peer.frame(f.WINDOW_UPDATE, f.RST, 3, 0)
            await turns()
            await peer.open(7, wire.ID)
            await peer.frame(f.DATA, 0, 7, body=PAYLOAD)
            assert await peer.payload(7, 32) == PAYLOAD
        await settled(node)


@on_loop
async def test_an_idle_ping_stream_is_reset() -> None:
    async with swarm() as node:
        Ping(node, replace(PING, idle_s=0.05))
        async with await RawPeer.dial(node.listen_addrs()[0]) as peer:
            await peer.open(1, wire.ID)
            await peer.frame(f.DATA, 0, 1, body=PAYLOAD[:5])
            await peer.until(f.WINDOW_UPDATE, f.RST, 1)
            await settled(node)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("wrong", RemoteProtocolError),
        ("short", RemoteProtocolError),
        ("none", TimedOut),
        ("lost", ConnectionLost),
    ],
)
@on_loop
async def test_a_peer_that_answers_wrong_is_told_from_one_that_is_slow(
    answer: str, error: type[Exception]
) -> None:
    async with swarm() as node:
        ping = Ping(node)
        with RawListener() as listener:
            loop = asyncio.get_running_loop()
            connecting = loop.create_task(node.connect(listener.peer_id, [listener.addr]))
            async with await listener.accept() as peer:
                conn = await connecting
                pinging = loop.create_task(ping.ping(conn, 0.1 if answer == "none" else 10))
                stream_id, protocol = await peer.accept()
                assert protocol == wire.ID
                sent = (await peer.until(f.DATA, 0, stream_id)).body
                assert len(sent) == wire.PAYLOAD_BYTES
                if answer == "wrong":
                    await peer.frame(f.DATA, 0, stream_id, body=bytes(32))
                elif answer == "short":
                    await peer.frame(f.DATA, f.FIN, stream_id, body=sent[:31])
                elif answer == "lost":
                    peer.close()
                with pytest.raises(error):
                    await pinging
                await turns()
                assert conn.streams == {} or answer == "wrong", "the stream is not left open"


@on_loop
async def test_a_peer_without_ping_says_so() -> None:
    async with swarm() as near, swarm() as far:
        arrived = next_conn(far)
        conn = await near.connect(far.peer_id, far.listen_addrs())
        await arrived
        with pytest.raises(ProtocolNotSupported):
            await Ping(near).ping(conn, 5)
