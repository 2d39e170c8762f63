"""Pins what a hostile or broken peer can do to a host on its yamux session: little, and to nobody else.

The peer is `RawPeer`: it has done its handshake and then writes what it likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2pfwd.errors import (
    ConnectionLost,
    RemoteProtocolError,
    ResourceLimitExceeded,
    StreamReset,
    TimedOut,
)
from p2pfwd.net.link import conn as conn_module
from p2pfwd.net.link import intake as intake_module
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.policy.pace import Rate
from p2pfwd.wire.multistream import HEADER, MAX_PROPOSALS, encode_token
from p2pfwd.wire.yamux import frame as f
from p2pfwd.wire.yamux import session as session_module
from p2pfwd.wire.yamux.session import MAX_UNACKED_OPENS
from tests.net.swarm_rig import ECHO, TAKE, Taken, echo, next_conn, read_all, swarm
from tests.support.loops import on_loop, turns
from tests.support.raw_peer import RawPeer

WINDOW = f.INITIAL_WINDOW_BYTES
OPEN = f.encode_header(f.WINDOW_UPDATE, f.SYN, 1, 0)


@asynccontextmanager
async def attacked(
    *, receive_buffer: int | None = None, **settings: int
) -> AsyncIterator[tuple[Swarm, Conn, RawPeer]]:
    """A swarm that echoes, its connection from a raw peer, and that peer."""
    async with swarm(**settings) as victim:
        victim.services.serve(Service(name=ECHO, handler=echo))
        arrived = next_conn(victim)
        async with await RawPeer.dial(victim.listen_addrs()[0], receive_buffer=receive_buffer) as peer:
            yield victim, await arrived, peer


async def alive(peer: RawPeer, value: int = 77) -> None:
    """The session still answers."""
    await peer.frame(f.PING, f.SYN, 0, value)
    while (await peer.until(f.PING, f.ACK)).length != value:
        pass


async def serves_others(victim: Swarm) -> None:
    """An honest peer is served while, or after, another misbehaved."""
    async with swarm() as honest:
        await honest.connect(victim.peer_id, victim.listen_addrs())
        stream = await honest.open_stream(victim.peer_id, [ECHO])
        await stream.write(b"still here?")
        stream.close_write()
        assert await read_all(stream) == b"still here?"


VIOLATIONS = {
    "first data over the initial credit (CVE-2026-32314)": f.encode_header(f.DATA, f.SYN, 1, WINDOW + 1),
    "data over credit (GHSA-hmj8-5xmh-5573)": OPEN + f.encode_header(f.DATA, 0, 1, 0xFFFF_FFFF),
    "window overflow (CVE-2026-31814)": OPEN + f.encode_header(f.WINDOW_UPDATE, 0, 1, 0xFFFF_FFFF),
    "a duplicate SYN": OPEN + OPEN,
    "a SYN of the other parity": f.encode_header(f.WINDOW_UPDATE, f.SYN, 2, 0),
    "data after FIN": OPEN + f.encode_header(f.DATA, f.FIN, 1, 0) + f.encode_header(f.DATA, 0, 1, 1),
    "another version": b"\x07" + bytes(11),
    "garbage": b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
}


@pytest.mark.parametrize("wire", VIOLATIONS.values(), ids=list(VIOLATIONS))
@on_loop
async def test_a_violation_is_answered_with_go_away_and_ends_only_this_connection(wire: bytes) -> None:
    async with attacked() as (victim, conn, peer):
        await peer.send(wire)
        last = (await peer.to_the_end())[-1]
        assert (last.type, last.length) == (f.GO_AWAY, f.GoAwayCode.PROTOCOL_ERROR)
        assert isinstance(await conn.closed, RemoteProtocolError)
        await serves_others(victim)


@on_loop
async def test_a_message_that_was_altered_ends_the_connection() -> None:
    async with attacked() as (victim, conn, peer):
        sealed = bytearray(peer.sealed(OPEN))
        sealed[5] ^= 1
        await peer.send_sealed(bytes(sealed))
        await peer.to_the_end()
        cause = await conn.closed
        assert isinstance(cause, RemoteProtocolError) and "altered" in cause.message
        await serves_others(victim)


@pytest.mark.parametrize("end", ["FIN", "RST", "FIN in the middle of a message"])
@on_loop
async def test_a_connection_that_ends_in_the_middle_is_lost_and_never_eof(end: str) -> None:
    async with attacked() as (victim, conn, peer):
        taken = Taken(victim)
        await peer.open(1, TAKE)
        stream = await taken.get()
        await peer.frame(f.DATA, 0, 1, body=b"half")
        assert await stream.read() == b"half"
        reading = asyncio.ensure_future(stream.read())
        await turns()
        if end == "RST":
            peer.reset()
        elif end == "FIN":
            peer.close()
        else:
            await peer.send_sealed(peer.sealed(bytes(100))[:50])
            peer.close()
        with pytest.raises(ConnectionLost):
            await reading
        assert isinstance(await conn.closed, ConnectionError)
        assert conn.streams == {}


FLOODS = {
    "pings (CVE-2024-32984)": lambda i: f.encode_header(f.PING, f.SYN, 0, i),
    "opens": lambda i: f.encode_header(f.WINDOW_UPDATE, f.SYN, 2 * i + 1, 0),
    "opens and resets": lambda i: (
        f.encode_header(f.WINDOW_UPDATE, f.SYN, 2 * i + 1, 0)
        + f.encode_header(f.WINDOW_UPDATE, f.RST, 2 * i + 1, 0)
    ),
    "refused proposals": lambda i: (
        f.encode_header(f.DATA, f.SYN, 2 * i + 1, 30) + HEADER + encode_token("/nobody")[:9] + b"\n"
    ),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=list(FLOODS))
@on_loop
async def test_a_flood_from_a_peer_that_does_not_read_ends_its_connection(
    flood: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(flood)
    monkeypatch.setattr(session_module, "MAX_CONTROL_BYTES", 32 * 1024)  # beside what the kernel holds
    monkeypatch.setattr(intake_module, "DROP_AFTER_S", 0.1)
    monkeypatch.setattr(intake_module, "HARD_TOLL", Rate(per_s=100_000.0, burst=1000.0))
    async with attacked(receive_buffer=4096) as (victim, conn, peer):
        for turn in range(1000):
            if conn.closed.done():
                break
            batch = b"".join(flood(turn * 1000 + i) for i in range(1000))
            try:
                await peer.send(batch)
            except ConnectionError:
                break
        cause = await conn.closed
        assert isinstance(cause, RemoteProtocolError | ResourceLimitExceeded)
        assert "does not read" in cause.message or "of no use" in cause.message
        assert conn.streams == {}
        await serves_others(victim)


@on_loop
async def test_a_flood_of_opens_is_bounded_for_a_peer_that_reads() -> None:
    async with attacked(max_streams_per_connection=10) as (victim, conn, peer):
        await peer.send(b"".join(f.encode_header(f.WINDOW_UPDATE, f.SYN, 2 * i + 1, 0) for i in range(2000)))
        resets = {(await peer.until(f.WINDOW_UPDATE, f.RST)).stream_id for _ in range(1990)}
        assert resets == set(range(21, 4000, 2))
        assert len(conn.streams) == 10
        await alive(peer)
        await serves_others(victim)


@on_loop
async def test_opening_and_resetting_for_ever_leaves_nothing() -> None:
    async with attacked() as (victim, conn, peer):
        served = 0

        async def count(stream: Stream) -> None:
            nonlocal served
            served += 1
            await stream.read()

        victim.services.withdraw(ECHO)
        victim.services.serve(Service(name=ECHO, handler=count))
        hello = HEADER + encode_token(ECHO)
        for start in range(1, 6000, 2000):
            wire = b""
            for stream_id in range(start, start + 2000, 2):
                wire += f.encode_header(f.DATA, f.SYN, stream_id, len(hello)) + hello
                wire += f.encode_header(f.WINDOW_UPDATE, f.RST, stream_id, 0)
            await peer.send(wire)
            await alive(peer)
        await turns()
        assert conn.streams == {} and served <= 3000
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("serve")]


@on_loop
async def test_frames_for_streams_that_do_not_exist_are_ignored() -> None:
    async with attacked() as (_, _conn, peer):
        await peer.frame(f.DATA, 0, 99, body=bytes(100_000))
        await peer.frame(f.DATA, f.FIN, 98, body=b"x")
        await peer.frame(f.WINDOW_UPDATE, 0, 97, 5)
        await peer.frame(f.WINDOW_UPDATE, f.RST, 96, 0)
        await peer.frame(f.DATA, 0, 0, body=b"x")
        await peer.frame(f.PING, f.ACK, 0, 123456)
        await peer.send_sealed(peer.sealed(b"") + b"".join(peer.sealed(b"")[:0] for _ in range(3)))
        await alive(peer)


@pytest.mark.parametrize(
    "body",
    [
        b"\x13/multistream/9.9.9\n",
        b"GET / HTTP/1.1\r\n\r\n",
        HEADER + b"\xff\xff\xff\xff\x7f",
        HEADER + b"\x81\x08" + bytes(1025),
        HEADER + b"\x05/abc!",
        HEADER + b"\x00",
        HEADER + encode_token("/nobody") * (MAX_PROPOSALS + 1),
    ],
)
@on_loop
async def test_a_broken_negotiation_resets_its_stream_and_no_other(body: bytes) -> None:
    async with attacked() as (_, conn, peer):
        await peer.open(1, ECHO)
        await peer.frame(f.DATA, f.SYN, 3, body=body)
        await peer.until(f.WINDOW_UPDATE, f.RST, 3)
        assert list(conn.streams) == [1]
        await peer.frame(f.DATA, 0, 1, body=b"unharmed")
        assert await peer.payload(1, 8) == b"unharmed"


@pytest.mark.parametrize("body", [b"", HEADER[:7], HEADER, HEADER + encode_token("/nobody") + b"\x09/te"])
@on_loop
async def test_a_negotiation_that_never_ends_is_reset_at_its_deadline(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conn_module, "INBOUND_NEGOTIATION_S", 0.05)
    async with attacked() as (_, conn, peer):
        await peer.frame(f.DATA, f.SYN, 1, body=body)
        await peer.until(f.WINDOW_UPDATE, f.RST, 1)
        assert conn.streams == {}
        await alive(peer)


@on_loop
async def test_a_stream_that_ends_before_its_protocol_is_known_is_reset() -> None:
    async with attacked() as (_, conn, peer):
        await peer.frame(f.DATA, f.SYN | f.FIN, 1, body=HEADER)
        await peer.until(f.WINDOW_UPDATE, f.RST, 1)
        assert conn.streams == {}
        await alive(peer)


@on_loop
async def test_everything_in_one_frame_with_the_fin_is_served() -> None:
    # rust opens lazily; a short request may come whole with SYN and FIN.
    async with attacked() as (_, _conn, peer):
        await peer.frame(f.DATA, f.SYN | f.FIN, 1, body=HEADER + encode_token(ECHO) + b"quick")
        hello = HEADER + encode_token(ECHO)
        got = b""
        while len(got) < len(hello) + 5:
            got += (await peer.until(f.DATA, 0, 1)).body
        assert got == hello + b"quick"
        await peer.until(f.WINDOW_UPDATE, f.FIN, 1)


@on_loop
async def test_a_peer_that_acknowledges_nothing_stops_new_opens_until_it_does() -> None:
    async with attacked() as (_, conn, peer):
        opening = [asyncio.ensure_future(conn.open_stream([ECHO], 10)) for _ in range(MAX_UNACKED_OPENS)]
        await turns()
        with pytest.raises(TimedOut):
            await conn.open_stream([ECHO], 0.02)
        one_more = asyncio.ensure_future(conn.open_stream([ECHO], 10))
        await turns()
        assert len(conn.streams) == MAX_UNACKED_OPENS
        await peer.frame(f.WINDOW_UPDATE, f.RST, 2, 0)
        with pytest.raises(StreamReset):
            await opening[0]
        while (await peer.until(f.WINDOW_UPDATE, f.SYN)).stream_id != 2 * MAX_UNACKED_OPENS + 2:
            pass
        peer.close()
        for task in (*opening[1:], one_more):
            with pytest.raises(ConnectionLost):
                await task


@on_loop
async def test_a_peer_that_never_answers_an_open_gets_a_reset() -> None:
    async with attacked() as (_, conn, peer):
        with pytest.raises(TimedOut, match=ECHO):
            await conn.open_stream([ECHO], 0.05)
        assert conn.streams == {}
        await peer.until(f.WINDOW_UPDATE, f.RST, 2)


@on_loop
async def test_after_go_away_streams_go_on_and_no_new_ones_are_opened() -> None:
    async with attacked() as (victim, conn, peer):
        await peer.open(1, ECHO)
        waiting = asyncio.ensure_future(conn.open_stream([ECHO], 10))
        await peer.frame(f.GO_AWAY, 0, 0, 0)
        await alive(peer)
        with pytest.raises(ConnectionLost, match="closing"):
            await conn.open_stream([ECHO])
        await peer.frame(f.DATA, 0, 1, body=b"old stream")
        assert await peer.payload(1, 10) == b"old stream"
        waiting.cancel()
        assert victim.conns() == [conn]
