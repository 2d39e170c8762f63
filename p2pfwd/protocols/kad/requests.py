"""DHT requests over libp2p streams, both sides (libp2p spec: kad-dht).

Each request of ours has a stream of its own: where identify lists the protocol, proposal and request
leave in one flight, so a kept stream would save nothing. Peers that reuse a stream are served in order.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.stream import Stream
from p2pfwd.wire.kad.codec import (
    MAX_RECEIVED_BYTES,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from p2pfwd.wire.kad.messages import AddProvider, Request, Response

IDLE_S: Final = 60.0
"""A request stream silent for this long is closed."""

MAX_STREAMS_PER_PEER: Final = 32
"""Request streams one peer may have open to us: three lookups of alpha 10."""

MAX_STREAMS: Final = 512
"""Request streams in all."""


async def ask(
    conn: Conn, protocol: str, request: Request, timeout_s: float, *, known: bool = False
) -> Response | None:
    """Send one request and read its response; None for the one request that has none.

    `known`: the peer lists the protocol. Raises TimeoutError, ProtocolNotSupported, RemoteProtocolError,
    StreamReset, ConnectionLost.
    """
    async with asyncio.timeout(timeout_s):
        stream = await conn.open_stream([protocol], timeout_s, known=known)
        try:
            await stream.write_delimited(encode_request(request))
            response = None
            if not isinstance(request, AddProvider):
                response = decode_response(await stream.read_delimited(MAX_RECEIVED_BYTES), request)
            await stream.close()
        except BaseException:
            stream.reset()
            raise
        return response


class Server:
    """Answers request streams with `respond`."""

    def __init__(self, respond: Callable[[Request, Stream], Response | None]) -> None:
        self._respond = respond
        self._open: Counter[PeerId] = Counter()

    async def serve(self, stream: Stream) -> None:
        """One inbound stream, until the peer closes it."""
        peer = stream.remote_peer
        if self._open[peer] >= MAX_STREAMS_PER_PEER or self._open.total() >= MAX_STREAMS:
            stream.reset()
            return
        self._open[peer] += 1
        try:
            async with asyncio.timeout(IDLE_S) as idle:
                while first := await stream.read(1):
                    request = decode_request(await stream.read_delimited(MAX_RECEIVED_BYTES, first))
                    response = self._respond(request, stream)
                    if response is not None:
                        await stream.write_delimited(encode_response(response))
                    idle.reschedule(asyncio.get_running_loop().time() + IDLE_S)
            await stream.close()
        except TimeoutError:
            stream.reset()
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]
