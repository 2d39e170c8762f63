"""Streams that never get to a protocol: proposals without end, too long, too slow."""

from __future__ import annotations

import asyncio
from typing import Final

from p2pfwd.wire.multistream import HEADER, encode_token
from p2pfwd.wire.yamux import frame as f
from tests.hostile.kinds import EVERY, each
from tests.hostile.stage import Stage, draining, reset
from tests.support.raw_peer import opened

PROPOSALS: Final = 990
"""Of one stream; a listener answers 1,000."""

SLOW: Final = 500
"""Streams of one line that are slow at the same time."""


def _proposals(name: str, what: str, token: bytes, *, read: bool = True, fault: str = "") -> None:
    """A kind that proposes one name on ever new streams."""
    body_bytes = HEADER + token * PROPOSALS

    async def flood(stage: Stage) -> None:
        async def streams() -> None:
            for stream_id in range(1, 1 << 31, 2):
                fits = body_bytes[: f.INITIAL_WINDOW_BYTES]
                await stage.send(peer, opened(stream_id, fits) + reset(stream_id), PROPOSALS)

        async with await stage.peer() as peer:
            if not read:
                await streams()
            async with draining(peer):
                await streams()

    each(name, what, fault=fault)(flood)


_proposals("proposals", "990 proposals of 3 bytes a stream", b"\x03/a\n", fault="F1")
_proposals("proposals-unread", "the same, answers not read", b"\x03/a\n", read=False, fault="F1")
_proposals("proposals-ls", "990 times `ls`", b"\x03ls\n")
_proposals("proposals-na", "990 times `na`", b"\x03na\n")
_proposals("proposals-long", "names of 1,000 bytes, until the window is full", encode_token("/" + "n" * 999))


@each("proposals-unfinished", "4,000 streams with half a proposal, held", fault="F1", spreads=EVERY)
async def proposals_unfinished(stage: Stage) -> None:
    """They wait for their deadline; then come again."""
    async with await stage.peer() as peer, draining(peer):
        for start in range(1, 1 << 31, 8000):
            for stream_id in range(start, start + 8000, 2):
                await stage.send(peer, opened(stream_id, HEADER + b"\x09/te"))
            await asyncio.sleep(11)


@each("proposals-by-the-byte", "a proposal in frames of one byte, 500 streams side by side")
async def proposals_by_the_byte(stage: Stage) -> None:
    """Each frame wakes a negotiation that cannot go on."""
    words = HEADER + encode_token("/x/" + "y" * 200)
    async with await stage.peer() as peer, draining(peer):
        for start in range(1, 1 << 31, 2 * SLOW):
            ids = range(start, start + 2 * SLOW, 2)
            await stage.send(peer, b"".join(opened(n, words[:1]) for n in ids), SLOW)
            for at in range(1, len(words)):
                byte = words[at : at + 1]
                frames = (f.encode_header(f.DATA, 0, n, 1) + byte for n in ids)
                await stage.send(peer, b"".join(frames), SLOW)


@each("slow-proposals", "500 streams, a byte a second each: slowloris inside the connection")
async def slow_proposals(stage: Stage) -> None:
    """No deadline is met by accident: each byte comes in time for a careless timer."""
    words = HEADER + encode_token("/x/" + "y" * 200)
    ids = range(1, 2 * SLOW, 2)
    async with await stage.peer() as peer, draining(peer):
        await stage.send(peer, b"".join(opened(n, words[:1]) for n in ids), SLOW)
        for at in range(1, len(words)):
            await asyncio.sleep(1)
            byte = words[at : at + 1]
            await stage.send(peer, b"".join(f.encode_header(f.DATA, 0, n, 1) + byte for n in ids), SLOW)


@each("huge-lengths", "streams whose first length is a varint of many bytes", spreads=EVERY)
async def huge_lengths(stage: Stage) -> None:
    """Refused at once; the next stream says it again."""
    async with await stage.peer() as peer, draining(peer):
        for start in range(1, 1 << 31, 1000):
            ids = range(start, start + 1000, 2)
            await stage.send(peer, b"".join(opened(n, HEADER + b"\xff" * 9) for n in ids), 500)
