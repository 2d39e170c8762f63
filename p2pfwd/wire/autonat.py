"""AutoNAT v1: a node asks another to dial it back (libp2p spec: autonat).

One delimited message each way on a stream of its own. `encode_*` and `decode_*` handle the message without
its length prefix. `addresses_to_dial` is the server's rule: only addresses at the very IP the request came
from are dialed, public ones, so that nobody can send a server to knock on somebody else's door.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from google.protobuf.message import DecodeError

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, is_relayed, readable, tcp_endpoint
from p2pfwd.core.pb import autonat_pb2
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidPeerId, RemoteProtocolError

PROTOCOL: Final = "/libp2p/autonat/1.0.0"

MAX_MESSAGE_BYTES: Final = 4096
"""Longest message: go's bound."""

MAX_ADDRESSES: Final = 16
"""Addresses of one request that are looked at: go's bound."""

MAX_STATUS_CHARS: Final = 200
"""Kept of a server's words."""

_Message = autonat_pb2.Message


class Status(IntEnum):
    """A server's verdict."""

    OK = 0
    DIAL_ERROR = 100
    DIAL_REFUSED = 101
    BAD_REQUEST = 200
    INTERNAL_ERROR = 300


@dataclass(frozen=True, slots=True)
class DialRequest:
    """Who wants to be dialed, and where."""

    peer_id: PeerId
    addrs: tuple[Multiaddr, ...]


@dataclass(frozen=True, slots=True)
class DialAnswer:
    """What came of it; `addr` is the address that worked."""

    status: Status
    text: str = ""
    addr: Multiaddr | None = None


def encode_request(request: DialRequest) -> bytes:
    """A DIAL message."""
    peer = _Message.PeerInfo(id=request.peer_id.to_bytes(), addrs=[addr.to_bytes() for addr in request.addrs])
    return _Message(type=_Message.DIAL, dial=_Message.Dial(peer=peer)).SerializeToString()


def decode_request(data: bytes) -> DialRequest:
    """Addresses that cannot be understood are left out. Raises RemoteProtocolError."""
    message = _parse(data, _Message.DIAL)
    try:
        peer_id = PeerId.from_bytes(message.dial.peer.id)
    except InvalidPeerId as exc:
        raise RemoteProtocolError(f"autonat: {exc.message}") from None
    return DialRequest(peer_id, readable(message.dial.peer.addrs, MAX_ADDRESSES))


def encode_answer(answer: DialAnswer) -> bytes:
    """A DIAL_RESPONSE message; the status is written even where it is 0."""
    response = _Message.DialResponse(status=int(answer.status), status_text=answer.text)  # type: ignore[arg-type]
    if answer.addr is not None:
        response.addr = answer.addr.to_bytes()
    return _Message(type=_Message.DIAL_RESPONSE, dial_response=response).SerializeToString()


def decode_answer(data: bytes) -> DialAnswer:
    """Raises RemoteProtocolError."""
    response = _parse(data, _Message.DIAL_RESPONSE).dial_response
    if not response.HasField("status"):
        raise RemoteProtocolError("autonat: an answer without a status")
    addrs = readable([response.addr], 1) if response.addr else ()
    said: str | bytes = response.status_text  # bytes where it is not UTF-8
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return DialAnswer(Status(response.status), text[:MAX_STATUS_CHARS], addrs[0] if addrs else None)


def _parse(data: bytes, wanted: int) -> autonat_pb2.Message:
    message = _Message()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise RemoteProtocolError("autonat: the peer's message cannot be decoded") from None
    if not message.HasField("type") or message.type != wanted:
        raise RemoteProtocolError("autonat: not the message that belongs here")
    return message


def addresses_to_dial(request: DialRequest, seen_at: Multiaddr) -> tuple[Multiaddr, ...]:
    """Those a server may dial for a client whose connection comes from `seen_at`: TCP, public, at its IP."""
    seen = tcp_endpoint(seen_at)
    if seen is None or is_relayed(seen_at) or address_class(seen_at) is not AddressClass.PUBLIC:
        return ()
    allowed: dict[Multiaddr, None] = {}
    for addr in request.addrs:
        endpoint = tcp_endpoint(addr)
        if addr.peer_id() not in (None, request.peer_id) or is_relayed(addr) or endpoint is None:
            continue
        if (endpoint.family, endpoint.host) == (seen.family, seen.host) and endpoint.port:
            allowed[addr.without_peer_id()] = None
    return tuple(allowed)


def candidates(
    bound: Sequence[Multiaddr],
    observed: Iterable[Multiaddr],
    proved: Iterable[Multiaddr] = (),
    mapped: Iterable[Multiaddr] = (),
) -> tuple[Multiaddr, ...]:
    """Where this node may be reachable: public and mapped addresses, and our ports at the IPs others see.

    `observed` begins with what is best founded: a request takes no more than MAX_ADDRESSES. A router that
    forwards a port mostly forwards it under its own number. What was proved before goes last: a place that
    nobody sees us at any more must not keep the new one out.
    """
    found: dict[Multiaddr, None] = {}
    for addr in (*bound, *mapped):
        if address_class(addr) is AddressClass.PUBLIC:
            found[addr] = None
    ports: dict[str, dict[int, None]] = {}
    for addr in bound:
        endpoint = tcp_endpoint(addr)
        if endpoint is not None and address_class(addr) is not AddressClass.LOOPBACK:
            ports.setdefault(endpoint.family, {})[endpoint.port] = None
    for addr in observed:
        endpoint = tcp_endpoint(addr)
        if endpoint is None or is_relayed(addr) or address_class(addr) is not AddressClass.PUBLIC:
            continue
        for port in ports.get(endpoint.family, ()):
            found[Multiaddr.parse(f"/{endpoint.family}/{endpoint.host}/tcp/{port}")] = None
    found.update(dict.fromkeys(proved))
    return tuple(found)[:MAX_ADDRESSES]
