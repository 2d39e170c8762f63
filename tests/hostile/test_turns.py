"""Pins that one connection's flood is worked off in many turns: the others have theirs in between.

Counted, not timed: how many pings an honest connection has answered while a flood, all of which is there
already, is worked off. Whoever ends the flooder's connection instead has met the demand as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2pfwd.wire import identify
from p2pfwd.wire.yamux import frame as f
from tests.hostile import LAN_PROTOCOL
from tests.hostile.host_rig import victim
from tests.hostile.kinds import dht
from tests.hostile.stage import reset
from tests.hostile.victim import ECHO
from tests.support.loops import on_loop, until
from tests.support.raw_peer import RawPeer, hello, opened

TURNS = 20
"""Pings answered meanwhile, at least. A read brings 256 KiB: without a bound of work all this is one turn."""

FLOOD_BYTES = 200 * 1024
MARK = 4242


def _same(frame: bytes) -> bytes:
    return frame * (FLOOD_BYTES // len(frame))


def _streams(body: bytes, flags: int = f.SYN | f.FIN, *, then: bytes = b"") -> bytes:
    size = 12 + len(body) + len(then)
    return b"".join(
        opened(n, body, flags) + (reset(n) if then else b"")
        for n in range(3, 3 + 2 * (FLOOD_BYTES // size), 2)
    )


FLOODS = {
    "window updates": _same(f.encode_header(f.WINDOW_UPDATE, 0, 1, 1)),
    "empty data": _same(f.encode_header(f.DATA, 0, 1, 0)),
    "pings": _same(f.encode_header(f.PING, f.SYN, 0, 1)),
    "resets of unknown streams": _same(reset(999)),
    "open and reset": _streams(b"", f.SYN, then=reset(0)),
    "identify asks": _streams(hello(identify.ID)),
    "smallest pushes": _streams(hello(identify.PUSH) + b"\x00"),
    "refused proposals": _streams(hello("/a") + b"\x03/a\n" * 900),
    "one DHT stream": opened(3, hello(LAN_PROTOCOL)) + opened(3, dht.SMALL * (FLOOD_BYTES // 7), f.FIN),
    "tunnels opened and reset": _streams(hello(ECHO), f.SYN, then=reset(0)),
}


@asynccontextmanager
async def answered(peer: RawPeer) -> AsyncIterator[list[int]]:
    """The pings the host has answered to `peer` since the block began, one after the other."""
    done: list[int] = []

    async def run() -> None:
        for value in range(1 << 20):
            await peer.frame(f.PING, f.SYN, 0, value)
            while (await peer.until(f.PING, f.ACK)).length != value:
                pass
            done.append(value)

    task = asyncio.ensure_future(run())
    try:
        yield done
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _worked_off(peer: RawPeer, stream_id: int) -> bool:
    """Return when the host has worked off all of it: False; or has had enough of this peer: True.

    It has when it answers the ping behind the flood, and has ended the stream whose end the flood holds: what
    a service reads at its own pace waits in its stream, and the ping does not wait for it.
    """
    try:
        ended = marked = False
        while not (ended and marked):
            frame = await peer.next()
            marked = marked or (frame.type == f.PING and frame.length == MARK)
            is_end = frame.stream_id == stream_id and bool(frame.flags & (f.FIN | f.RST))
            ended = ended or not stream_id or is_end
    except (EOFError, ConnectionError):
        return True
    return False


@pytest.mark.parametrize("kind", FLOODS)
@on_loop
async def test_others_have_their_turns_while_a_flood_is_worked_off(kind: str) -> None:
    flood, ended_by_fin = FLOODS[kind], kind == "one DHT stream"
    async with (
        victim() as made,
        await RawPeer.dial(made.addr) as honest,
        await RawPeer.dial(made.addr) as peer,
    ):
        await peer.open(1, ECHO)
        async with answered(honest) as pings:
            await peer.send(flood + f.encode_header(f.PING, f.SYN, 0, MARK))
            before = len(pings)
            working = asyncio.ensure_future(_worked_off(peer, 3 if ended_by_fin else 0))
            await until(lambda: working.done() or len(pings) >= before + TURNS)
            ended = working.done() and working.result()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            assert ended or len(pings) >= before + TURNS
