"""DHT requests over libp2p streams, both sides (libp2p spec: kad-dht).

Each request of ours has a stream of its own: where identify lists the protocol, proposal and request
leave in one flight, so a kept stream would save nothing. Peers that reuse a stream are served in order.
"""

from __future__ import annotations

from collections.abc import Callable

from p2pfwd.net.exchange import exchange
from p2pfwd.net.link.contract import DuplexStream, Link
from p2pfwd.net.visits import Visit
from p2pfwd.wire.kad.codec import (
    MAX_RESPONSE_BYTES,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from p2pfwd.wire.kad.messages import Request, Response


async def ask(
    conn: Link, protocol: str, request: Request, timeout_s: float, *, known: bool = False
) -> Response:
    """Send one request, of those that have a response, and read that.

    `known`: the peer lists the protocol. Raises TimeoutError, ProtocolNotSupported, RemoteProtocolError,
    StreamReset, ConnectionLost.
    """
    async with exchange(conn, protocol, timeout_s, known=known) as stream:
        await stream.write_delimited(encode_request(request))
        return decode_response(await stream.read_delimited(MAX_RESPONSE_BYTES), request)


async def answer(visit: Visit, respond: Callable[[Request, DuplexStream], Response | None]) -> None:
    """The requests of one inbound stream, until the peer closes it."""
    stream = visit.stream
    while (message := await visit.message()) is not None:
        response = respond(decode_request(message), stream)
        if response is not None:
            await visit.answer(encode_response(response))
    await stream.close()
