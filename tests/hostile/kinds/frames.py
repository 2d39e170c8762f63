"""Cheap frames: twelve bytes that cost the sender nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from p2pfwd.wire.yamux import frame as f
from tests.hostile.kinds import EVERY, each
from tests.hostile.stage import Stage, draining, reset
from tests.hostile.victim import ECHO, SINK
from tests.support.raw_peer import hello, opened

BATCH: Final = 2000
"""Frames of one send."""

STREAM: Final = 1
UNKNOWN: Final = 999_999


def _same(
    name: str, what: str, frame: bytes, *, read: bool = True, open_first: bool = False, **how: Any
) -> None:
    """A kind that sends one frame over and over."""
    batch = frame * BATCH

    async def body(stage: Stage) -> None:
        async with await stage.peer() as peer:
            if open_first:
                await peer.open(STREAM, ECHO)
            if not read:
                await stage.flood(peer, batch, BATCH)
            async with draining(peer):
                await stage.flood(peer, batch, BATCH)

    each(name, what, **how)(body)


def _numbered(name: str, what: str, frames: Callable[[int], bytes], *, read: bool = True, **how: Any) -> None:
    """A kind that sends frames for ever new stream ids; a line begins anew when they are used up."""

    async def body(stage: Stage) -> None:
        async def flood() -> None:
            for start in range(1, 1 << 31, 2 * BATCH):
                ids = range(start, start + 2 * BATCH, 2)
                await stage.send(peer, b"".join(map(frames, ids)), BATCH)

        async with await stage.peer() as peer:
            if not read:
                await flood()
            async with draining(peer):
                await flood()

    each(name, what, **how)(body)


def _update(flags: int, stream_id: int, credit: int = 0) -> bytes:
    return f.encode_header(f.WINDOW_UPDATE, flags, stream_id, credit)


_same(
    "window-updates-of-1",
    "credit of one byte for an open stream",
    _update(0, STREAM, 1),
    open_first=True,
    fault="F1",
    spreads=EVERY,
)
_same("window-updates-of-0", "credit of nothing for an open stream", _update(0, STREAM), open_first=True)
_same("window-updates-unknown", "credit for a stream that is not there", _update(0, UNKNOWN, 1))
_same("empty-data", "data of no bytes", f.encode_header(f.DATA, 0, STREAM, 0), open_first=True, fault="F1")
_same("empty-data-unknown", "data of no bytes for no stream", f.encode_header(f.DATA, 0, UNKNOWN, 0))
_same("pings", "pings, answers read", f.encode_header(f.PING, f.SYN, 0, 7), fault="F1", spreads=EVERY)
_same("pings-unread", "pings, answers not read", f.encode_header(f.PING, f.SYN, 0, 7), read=False, fault="F1")
_same("pongs", "answers to pings nobody sent", f.encode_header(f.PING, f.ACK, 0, 7))
_same("go-aways", "GO_AWAY again and again", f.encode_header(f.GO_AWAY, 0, 0, 0))
_same("resets-unknown", "RST for a stream that is not there", _update(f.RST, UNKNOWN))
_same("acks", "ACK again and again for an open stream", _update(f.ACK, STREAM), open_first=True)
_same("fins-unknown", "FIN for a stream that is not there", f.encode_header(f.DATA, f.FIN, UNKNOWN, 0))

_numbered("syns", "opens beyond every limit, resets read", lambda n: _update(f.SYN, n), spreads=EVERY)
_numbered("syns-unread", "opens, ACKs not read", lambda n: _update(f.SYN, n), read=False, fault="F1")
_numbered("syn-fins", "opens that end at once", lambda n: _update(f.SYN | f.FIN, n))
_numbered(
    "open-reset",
    "open and reset",
    lambda n: _update(f.SYN, n) + reset(n),
    fault="F1",
    spreads=EVERY,
)
_HELLO: Final = hello(ECHO)
_numbered(
    "propose-reset",
    "open, propose a served protocol, reset",
    lambda n: opened(n, _HELLO) + reset(n),
    fault="F1",
)


@each(
    "open-abandon", "10,000 streams opened and left, on a connection that goes on", fault="C1", spreads=EVERY
)
async def open_abandon(stage: Stage) -> None:
    """No proposal comes on any of them."""
    async with await stage.peer() as peer, draining(peer):
        for start in range(1, 20_000, 2 * BATCH):
            ids = range(start, start + 2 * BATCH, 2)
            await stage.send(peer, b"".join(_update(f.SYN, n) for n in ids), BATCH)
        await asyncio.Event().wait()


@each("small-data", "data a byte a frame into a tunnel that takes it", fault="F1")
async def small_data(stage: Stage) -> None:
    """As much as the window allows; then the stream is reset and another opened."""
    frames = f.INITIAL_WINDOW_BYTES // 2
    async with await stage.peer() as peer, draining(peer):
        for stream_id in range(1, 1 << 31, 2):
            await stage.send(peer, opened(stream_id, hello(SINK)), 0)
            await stage.send(peer, (f.encode_header(f.DATA, 0, stream_id, 1) + b"x") * frames, frames)
            await stage.send(peer, reset(stream_id), 0)


@each("empty-messages", "Noise messages with nothing in them")
async def empty_messages(stage: Stage) -> None:
    """The cheapest there is below the frames: 18 bytes that have to be decrypted."""
    async with await stage.peer() as peer, draining(peer):
        while True:
            await stage.send_raw(peer.sock, peer.sealed_each([b""] * BATCH), BATCH)


@each("split-messages", "pings, a byte a Noise message")
async def split_messages(stage: Stage) -> None:
    """Every frame comes in twelve pieces."""
    ping = f.encode_header(f.PING, f.SYN, 0, 1)
    pieces = [ping[at : at + 1] for at in range(len(ping))]
    async with await stage.peer() as peer, draining(peer):
        while True:
            await stage.send_raw(peer.sock, peer.sealed_each(pieces * 200), 200)
