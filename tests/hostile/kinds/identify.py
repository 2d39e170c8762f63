"""Identify: asked without end, pushed without end, pushed too much, fed what it never reads."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from p2pfwd.core import varint
from p2pfwd.core.pb import identify_pb2
from p2pfwd.wire import identify
from p2pfwd.wire.yamux import frame as f
from tests.hostile.kinds import EVERY, each
from tests.hostile.stage import Stage, draining, filled
from tests.support.raw_peer import delimited, hello, opened

ASKS: Final = 200
"""Streams opened in one send."""

UNREAD_BYTES: Final = 200 * 1024
UNREAD_STREAMS: Final = 500


def _in_messages(items: list[bytes], field: str) -> bytes:
    """Ten delimited messages, each as long as is read, filled with `items` in turn."""
    out, at = b"", 0
    for _ in range(identify.MAX_MESSAGES):
        message = identify_pb2.Identify()
        size = 0
        while size + len(items[at]) + 4 < identify.MAX_MESSAGE_BYTES:
            getattr(message, field).append(items[at] if field == "listen_addrs" else items[at].decode())
            size += len(items[at]) + 2
            at += 1
        out += delimited(message.SerializeToString())
    return out


ADDRESSES: Final = _in_messages(
    [b"\x04\x0a" + n.to_bytes(3, "big") + b"\x06\x0f\xa1" for n in range(10_000)], "listen_addrs"
)
NAMES: Final = _in_messages([b"/n%x" % n for n in range(20_000)], "protocols")


def _streams(name: str, what: str, protocol: str, body: bytes, *, read: bool = True, **how: Any) -> None:
    """A kind that opens streams of one protocol, says `body`, and ends them."""
    first = hello(protocol) + body

    async def flood(stage: Stage) -> None:
        async def ask() -> None:
            at_once = max(1, min(ASKS, (1 << 20) // len(first)))
            for start in range(1, 1 << 31, 2 * at_once):
                ids = range(start, start + 2 * at_once, 2)
                await stage.send(peer, b"".join(opened(n, first, f.SYN | f.FIN) for n in ids), at_once)

        async with await stage.peer() as peer:
            if not read:
                await ask()
            async with draining(peer):
                await ask()

    each(name, what, **how)(flood)


_streams("identify-asks", "identify asked, answers read", identify.ID, b"", fault="F1", spreads=EVERY)
_streams("identify-asks-unread", "identify asked, answers not read", identify.ID, b"", read=False, fault="H2")
_streams("pushes", "the smallest pushes", identify.PUSH, delimited(b""), fault="F1", spreads=EVERY)
_streams("push-bombs", "pushes of as many addresses as are read, 80 KB", identify.PUSH, ADDRESSES, fault="F1")
_streams("push-names", "pushes of 11,000 protocol names", identify.PUSH, NAMES, fault="F1")
_streams("push-garbage", "pushes that are no message", identify.PUSH, delimited(b"\xff" * 100))
_streams("push-too-long", "pushes that announce 2^60 bytes", identify.PUSH, varint.encode(1 << 60))


@each("identify-unread", "500 identify streams, 200 KiB of input each", fault="H2", spreads=EVERY)
async def identify_unread(stage: Stage) -> None:
    """The answer waits for a peer that never reads it, and what he sent waits with it."""
    async with await stage.peer(receive_buffer=4096) as peer:
        for stream_id in range(1, 2 * UNREAD_STREAMS, 2):
            await stage.send(peer, filled(stream_id, identify.ID, UNREAD_BYTES))
        await asyncio.Event().wait()


@each("pushes-unfinished", "2,000 pushes of 8 KB that stop a byte before their end, every 5 s", spreads=EVERY)
async def pushes_unfinished(stage: Stage) -> None:
    """Each holds what it has sent until its deadline."""
    said = hello(identify.PUSH) + varint.encode(identify.MAX_MESSAGE_BYTES)
    part = said + bytes(identify.MAX_MESSAGE_BYTES - 1)
    async with await stage.peer() as peer, draining(peer):
        for start in range(1, 1 << 31, 4000):
            for stream_id in range(start, start + 4000, 2):
                await stage.send(peer, opened(stream_id, part))
            await asyncio.sleep(5)
