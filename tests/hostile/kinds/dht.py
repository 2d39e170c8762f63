"""The DHT: every request there is, on one stream and on many, small and as long as is read."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Final

from p2pfwd.core import varint
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.pb import kad_pb2
from p2pfwd.wire.kad.codec import encode_request
from p2pfwd.wire.kad.messages import (
    AddProvider,
    GetProviders,
    GetValue,
    KadPeer,
    Ping,
    PutValue,
    Record,
    Request,
)
from p2pfwd.wire.yamux import frame as f
from tests.hostile import LAN_PROTOCOL
from tests.hostile.kinds import EVERY, each
from tests.hostile.stage import Credit, Stage
from tests.support.raw_peer import RawPeer, delimited, hello, opened

STREAMS: Final = 32
"""Request streams a peer may have."""


async def _ask_for_ever(
    stage: Stage, peer: RawPeer, credit: Credit, stream_id: int, messages: bytes, n: int
) -> None:
    """Send `messages`, which are `n` requests, on one stream as its credit allows; then again."""
    first = hello(LAN_PROTOCOL)
    credit.opened(stream_id, len(first))
    await stage.send(peer, opened(stream_id, first), 0)
    size = len(messages)
    at = 0
    while length := await credit.take(stream_id, min(size - at, 32_000)):
        part = messages[at : at + length]
        at = (at + length) % size
        await stage.send(peer, f.encode_header(f.DATA, 0, stream_id, length) + part, 0 if at else n)


def _requests(name: str, what: str, messages: bytes, n: int, *, streams: int = STREAMS, **how: Any) -> None:
    """A kind that sends these requests on as many streams as are allowed, answers read, new ones after."""

    async def flood(stage: Stage) -> None:
        async with await stage.peer() as peer, asyncio.TaskGroup() as group:
            credit = Credit(peer)
            group.create_task(credit.run())
            ids = itertools.count(1, 2)

            async def one() -> None:
                while True:
                    await _ask_for_ever(stage, peer, credit, next(ids), messages, n)

            for _ in range(streams):
                group.create_task(one())

    each(name, what, **how)(flood)


def _encoded(requests: list[Request]) -> bytes:
    return b"".join(delimited(encode_request(request)) for request in requests)


def _plain(kind: str, request: Request, **how: Any) -> None:
    _requests(kind, f"{type(request).__name__} on 32 streams", _encoded([request] * 500), 500, **how)


_KEYS: Final = [n.to_bytes(34, "big") for n in range(1, 500)]
SMALL: Final = delimited(kad_pb2.Message(type="FIND_NODE", key=b"k").SerializeToString())

_requests("find-node-1", "FIND_NODE of 6 bytes on one stream", SMALL * 5000, 5000, streams=1, fault="F2")
_requests("find-node", "FIND_NODE of 6 bytes on 32 streams", SMALL * 5000, 5000, fault="F2", spreads=EVERY)
_plain("get-value", GetValue(b"/pk/" + _KEYS[0]))
_plain("get-providers", GetProviders(_KEYS[0]))
_plain("dht-ping", Ping())
_requests(
    "put-value",
    "PUT_VALUE of ever other keys",
    _encoded([PutValue(Record(b"/pk/" + key, b"v" * 100)) for key in _KEYS]),
    len(_KEYS),
    fault="F1",
)


@each("add-provider", "ADD_PROVIDER of ever other keys", fault="F1", spreads=EVERY)
async def add_provider(stage: Stage) -> None:
    """Each line says that it provides 500 keys, again and again."""
    async with await stage.peer() as peer, asyncio.TaskGroup() as group:
        me = KadPeer(peer.peer_id, (Multiaddr.parse("/ip4/10.99.7.1/tcp/4001"),))
        messages = _encoded([AddProvider(key, (me,)) for key in _KEYS])
        credit = Credit(peer)
        group.create_task(credit.run())
        for stream_id in range(1, 2 * STREAMS, 2):
            group.create_task(_ask_for_ever(stage, peer, credit, stream_id, messages, len(_KEYS)))


_LONG_BYTES: Final = 1 << 20
_LONG: Final = varint.encode(_LONG_BYTES)


@each("dht-long-bodies", "32 requests of 1 MiB that stop a byte before their end", fault="M1", spreads=EVERY)
async def dht_long_bodies(stage: Stage) -> None:
    """Each stream holds its megabyte until its deadline."""
    async with await stage.peer() as peer, asyncio.TaskGroup() as group:
        credit = Credit(peer)
        group.create_task(credit.run())

        async def one(stream_id: int) -> None:
            first = hello(LAN_PROTOCOL) + _LONG
            credit.opened(stream_id, len(first))
            await stage.send(peer, opened(stream_id, first))
            left = _LONG_BYTES - 1
            while left and (length := await credit.take(stream_id, min(left, 32_000))):
                await stage.send(peer, f.encode_header(f.DATA, 0, stream_id, length) + bytes(length))
                left -= length
            await asyncio.Event().wait()

        for stream_id in range(1, 2 * STREAMS, 2):
            group.create_task(one(stream_id))


def _worst() -> bytes:
    """The costliest message there is to decode: 1 MiB of peers with empty addresses."""
    message = kad_pb2.Message(type="ADD_PROVIDER", key=b"k" * 32)
    for _ in range(40):
        message.provider_peers.add(id=b"x", addrs=[b""] * 12_000)
    return delimited(message.SerializeToString())


_requests("dht-decode-bombs", "ADD_PROVIDER of 1 MB: half a million empty addresses", _worst(), 1, fault="M1")
_requests("dht-garbage", "requests that are none", delimited(b"\xff" * 40) * 500, 500)
_requests("dht-empty", "requests of no bytes", b"\x00" * 10_000, 10_000)
