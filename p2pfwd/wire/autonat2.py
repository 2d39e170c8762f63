"""AutoNAT v2: a node asks another to dial one of its addresses back, with a number that proves it.

On a stream of the request: DialRequest; maybe DialDataRequest and data, so that nobody's bandwidth is lent to
strangers; DialResponse. On a stream of the new connection: DialBack, DialBackResponse. `encode_*` and
`decode_*` handle a message without its length prefix. (libp2p spec: autonat v2)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, is_relayed, readable, tcp_endpoint
from p2pfwd.core.pb import autonat_pb2
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError

REQUEST: Final = "/libp2p/autonat/2/dial-request"
BACK: Final = "/libp2p/autonat/2/dial-back"

MAX_MESSAGE_BYTES: Final = 8192
"""Longest message of a request's stream: go's bound."""

MAX_BACK_BYTES: Final = 1024
"""Longest message of a dial-back's stream: go's bound."""

MAX_ADDRESSES: Final = 50
"""Addresses of one request that are looked at: go's bound."""

MAX_DATA_BYTES: Final = 200 * 1024
"""What a client sends for one dial at most, as js; the spec lets a server ask for 100,000."""

CHUNK_BYTES: Final = 4096
"""Data in one message: the spec's bound."""

M = TypeVar("M", bound=Message)


class Status(IntEnum):
    """Whether the request was served."""

    INTERNAL_ERROR = 0
    REJECTED = 100
    """Too many of them."""
    REFUSED = 101
    """None of the addresses can or may be dialed."""
    OK = 200
    """One was tried."""


class DialStatus(IntEnum):
    """What came of the dial."""

    UNUSED = 0
    DIAL_ERROR = 100
    """No connection."""
    BACK_ERROR = 101
    """A connection, but the number was not delivered."""
    OK = 200


@dataclass(frozen=True, slots=True)
class Request:
    """Where to dial, best first; an address that cannot be understood is None, so that indexes stay right."""

    addrs: tuple[Multiaddr | None, ...]
    nonce: int


@dataclass(frozen=True, slots=True)
class Response:
    """What came of it; `index` is that of the one address that was tried."""

    status: Status
    index: int = 0
    dial: DialStatus = DialStatus.UNUSED


@dataclass(frozen=True, slots=True)
class DataRequest:
    """The server wants so much data before it dials an address."""

    index: int
    nbytes: int


def encode_request(request: Request) -> bytes:
    """A DialRequest."""
    addrs = [addr.to_bytes() for addr in request.addrs if addr is not None]
    dial = autonat_pb2.DialRequest(addrs=addrs, nonce=request.nonce)
    return autonat_pb2.MessageV2(dial_request=dial).SerializeToString()


def decode_request(data: bytes) -> Request:
    """Raises RemoteProtocolError."""
    message = _parsed(autonat_pb2.MessageV2(), data)
    if message.WhichOneof("msg") != "dial_request":
        raise RemoteProtocolError("autonat: no request for a dial")
    request = message.dial_request
    addrs = (readable([raw], 1) for raw in request.addrs[:MAX_ADDRESSES])
    return Request(tuple(each[0] if each else None for each in addrs), request.nonce)


def encode_response(response: Response) -> bytes:
    """A DialResponse."""
    made = autonat_pb2.DialResponseV2(
        status=int(response.status),  # type: ignore[arg-type]
        addr_idx=response.index,
        dial_status=int(response.dial),  # type: ignore[arg-type]
    )
    return autonat_pb2.MessageV2(dial_response=made).SerializeToString()


def encode_data_request(request: DataRequest) -> bytes:
    """A DialDataRequest."""
    made = autonat_pb2.DialDataRequest(addr_idx=request.index, num_bytes=request.nbytes)
    return autonat_pb2.MessageV2(dial_data_request=made).SerializeToString()


def decode_answer(data: bytes) -> Response | DataRequest:
    """What a server says to a request; a status that is none of the spec's reads as 0. So nothing follows
    from it. Raises RemoteProtocolError.
    """
    message = _parsed(autonat_pb2.MessageV2(), data)
    which = message.WhichOneof("msg")
    if which == "dial_data_request":
        wanted = message.dial_data_request
        return DataRequest(wanted.addr_idx, wanted.num_bytes)
    response = message.dial_response
    if which != "dial_response":
        raise RemoteProtocolError("autonat: not the message that belongs here")
    return Response(Status(response.status), response.addr_idx, DialStatus(response.dial_status))


def data_messages(nbytes: int) -> Iterator[bytes]:
    """DialDataResponse messages with so many bytes of data in all."""
    while nbytes > 0:
        made = autonat_pb2.DialDataResponse(data=bytes(min(nbytes, CHUNK_BYTES - 16)))
        yield autonat_pb2.MessageV2(dial_data_response=made).SerializeToString()
        nbytes -= len(made.data)


def encode_back(nonce: int) -> bytes:
    """A DialBack."""
    return autonat_pb2.DialBack(nonce=nonce).SerializeToString()


def decode_back(data: bytes) -> int:
    """The number. Raises RemoteProtocolError."""
    return _parsed(autonat_pb2.DialBack(), data).nonce


def encode_back_answer() -> bytes:
    """A DialBackResponse: OK, which is no byte at all."""
    return autonat_pb2.DialBackResponse(status=autonat_pb2.DialBackResponse.OK).SerializeToString()


def _parsed(message: M, data: bytes) -> M:
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise RemoteProtocolError("autonat: the peer's message cannot be decoded") from None
    return message


def address_to_dial(request: Request, peer: PeerId, seen_at: Multiaddr) -> int | None:
    """Which address a server dials for a client that it sees at `seen_at`; None: none of them.

    The first that is TCP, public and at the client's own IP. So nobody can send a server to somebody else's
    door, and no data need be asked for.
    """
    seen = tcp_endpoint(seen_at)
    if seen is None or is_relayed(seen_at) or address_class(seen_at) is not AddressClass.PUBLIC:
        return None
    for index, addr in enumerate(request.addrs):
        if addr is None or is_relayed(addr) or addr.peer_id() not in (None, peer):
            continue
        endpoint = tcp_endpoint(addr)
        if endpoint is None or not endpoint.port:
            continue
        if (endpoint.family, endpoint.host) == (seen.family, seen.host):
            return index
    return None
