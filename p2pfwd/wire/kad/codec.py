"""Bytes of kad-DHT messages (libp2p spec: kad-dht).

Bytes are undelimited; on a stream each message follows its varint length.

Rules:
- A request has at most `MAX_REQUEST_BYTES`, an answer `MAX_RESPONSE_BYTES`; at most `MAX_SENT_BYTES` are
  sent, which is all that rust reads.
- A peer that cannot be understood costs that one peer, an address that one address, never the message.
- Enum fields are written even when 0: some readers require them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, assert_never

from google.protobuf.message import DecodeError

from p2pfwd.core.multiaddrs import readable
from p2pfwd.core.pb import kad_pb2
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidPeerId, LocalProtocolError, RemoteProtocolError
from p2pfwd.wire.kad.messages import (
    AddProvider,
    ConnectionType,
    FindNode,
    GetProviders,
    GetValue,
    K,
    KadPeer,
    MessageType,
    Ping,
    PutValue,
    Record,
    Request,
    Response,
)

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

    PeerList = RepeatedCompositeFieldContainer[kad_pb2.Message.Peer]

MAX_RESPONSE_BYTES: Final = 256 * 1024
"""Longest answer read. An honest one has under 64 KiB."""

MAX_REQUEST_BYTES: Final = 16 * 1024
"""Longest request read: the longest honest one stores an IPNS record of 10 KiB."""

MAX_SENT_BYTES: Final = 16 * 1024
"""Longest message sent: rust reads no more by default."""

MAX_PEERS: Final = 2 * K
"""Peers looked at in one list of a message: go takes as many of one answer."""

MAX_ADDRESSES: Final = 32
"""Addresses looked at for one peer; a go node with every transport on two networks has under 30."""

MAX_ADDRESS_BYTES: Final = 512
"""Longest address taken or sent: a relayed one with two certificate hashes has about 200 bytes."""

MAX_KEY_BYTES: Final = 256
"""Longest key asked for or stored: `/pk/` and `/ipns/` keys have under 50 bytes."""

MAX_PROVIDER_KEY_BYTES: Final = 80
"""Longest key of provider records (go's bound)."""

MAX_VALUE_BYTES: Final = 10 * 1024
"""Longest value taken: an IPNS record has at most 10 KiB, a public key at most 1.1."""

_TYPE_OF: Final[dict[type[Request], MessageType]] = {
    FindNode: MessageType.FIND_NODE,
    GetProviders: MessageType.GET_PROVIDERS,
    AddProvider: MessageType.ADD_PROVIDER,
    GetValue: MessageType.GET_VALUE,
    PutValue: MessageType.PUT_VALUE,
    Ping: MessageType.PING,
}


# --- out ------------------------------------------------------------------------------------------


def encode_request(request: Request) -> bytes:
    """The request's bytes; addresses are trimmed to MAX_SENT_BYTES."""
    message = _new(_TYPE_OF[type(request)])
    match request:
        case PutValue(record=record):
            message.key = record.key
            _put_record(message, record)
        case AddProvider(key=key, providers=providers):
            message.key = key
            _put_peers(message.provider_peers, providers)
        case FindNode(key=key) | GetProviders(key=key) | GetValue(key=key):
            message.key = key
        case Ping():
            pass
        case _:
            assert_never(request)
    return _fitted(message)


def encode_response(response: Response) -> bytes:
    """The response's bytes. While they are longer than MAX_SENT_BYTES, the peer with most addresses loses
    its last ones, then the last peers go: peers come nearest first, addresses best first."""
    message = _new(response.type)
    if response.key:
        message.key = response.key
    if response.record is not None:
        _put_record(message, response.record)
    _put_peers(message.closer_peers, response.closer_peers)
    _put_peers(message.provider_peers, response.provider_peers)
    return _fitted(message)


def _new(kind: MessageType) -> kad_pb2.Message:
    return kad_pb2.Message(type=kad_pb2.Message.Type.Name(kind))


def _put_record(message: kad_pb2.Message, record: Record) -> None:
    message.record.key = record.key
    message.record.value = record.value


def _put_peers(out: PeerList, peers: Sequence[KadPeer]) -> None:
    for peer in peers[:MAX_PEERS]:
        encoded = (addr.to_bytes() for addr in peer.addrs[:MAX_ADDRESSES])
        out.add(
            id=peer.peer_id.to_bytes(),
            addrs=[addr for addr in encoded if len(addr) <= MAX_ADDRESS_BYTES],
            connection=kad_pb2.Message.ConnectionType.Name(peer.connection),
        )


def _fitted(message: kad_pb2.Message) -> bytes:
    while message.ByteSize() > MAX_SENT_BYTES:
        peers = [*message.closer_peers, *message.provider_peers]
        most = max((len(peer.addrs) for peer in peers), default=0)
        if most > 1:
            for peer in peers:
                del peer.addrs[most - 1 :]
        elif peers:
            longer = max(message.closer_peers, message.provider_peers, key=len)
            del longer[-1]
        else:
            raise LocalProtocolError(f"kad: a message of {message.ByteSize()} bytes cannot be sent")
    return message.SerializeToString()


# --- in -------------------------------------------------------------------------------------------


def decode_request(data: bytes | bytearray | memoryview) -> Request:
    """The request in `data`; RemoteProtocolError if it is too long, none, or lacks what its type needs."""
    message = _parsed(data, MAX_REQUEST_BYTES)
    kind, key = MessageType(message.type), message.key
    if kind is MessageType.PING:
        return Ping()
    limit = MAX_KEY_BYTES
    if kind in (MessageType.ADD_PROVIDER, MessageType.GET_PROVIDERS):
        limit = MAX_PROVIDER_KEY_BYTES
    if not 0 < len(key) <= limit:
        raise RemoteProtocolError(f"kad: {kind.name} with a key of {len(key)} bytes, not 1 to {limit}")
    match kind:
        case MessageType.FIND_NODE:
            return FindNode(key)
        case MessageType.GET_PROVIDERS:
            return GetProviders(key)
        case MessageType.ADD_PROVIDER:
            return AddProvider(key, _peers(message.provider_peers))
        case MessageType.GET_VALUE:
            return GetValue(key)
        case MessageType.PUT_VALUE:
            record = _record(message)
            if record is None or record.key != key:
                raise RemoteProtocolError("kad: PUT_VALUE without a record of its key")
            return PutValue(record)
        case _:
            assert_never(kind)


def decode_response(data: bytes | bytearray | memoryview, request: Request) -> Response:
    """The response to `request`; RemoteProtocolError if it is too long, none, or one to another request.

    Its lists are cut to MAX_PEERS; who is told of twice counts once.
    """
    message = _parsed(data, MAX_RESPONSE_BYTES)
    kind = MessageType(message.type)
    if kind is not _TYPE_OF[type(request)]:
        raise RemoteProtocolError(f"kad: {kind.name} came in answer to {_TYPE_OF[type(request)].name}")
    return Response(
        kind, message.key, _record(message), _peers(message.closer_peers), _peers(message.provider_peers)
    )


def _parsed(data: bytes | bytearray | memoryview, most_bytes: int) -> kad_pb2.Message:
    if len(data) > most_bytes:
        raise RemoteProtocolError(f"kad: a message of {len(data)} bytes, {most_bytes} are allowed")
    message = kad_pb2.Message()
    try:
        message.ParseFromString(bytes(data))
    except DecodeError:
        raise RemoteProtocolError("kad: the peer's message cannot be decoded") from None
    return message  # without a type it is a PUT_VALUE of a writer that leaves zeros out


def _record(message: kad_pb2.Message) -> Record | None:
    if not message.HasField("record"):
        return None
    if len(message.record.value) > MAX_VALUE_BYTES:
        raise RemoteProtocolError(f"kad: a value of {len(message.record.value)} bytes")
    return Record(message.record.key, message.record.value)


def _peers(encoded: Iterable[kad_pb2.Message.Peer]) -> tuple[KadPeer, ...]:
    peers: dict[PeerId, KadPeer] = {}
    for entry in islice(encoded, MAX_PEERS):
        try:
            peer_id = PeerId.from_bytes(entry.id)
        except InvalidPeerId:
            continue
        if peer_id not in peers:
            addrs = readable(entry.addrs, MAX_ADDRESSES, MAX_ADDRESS_BYTES)
            peers[peer_id] = KadPeer(peer_id, addrs, ConnectionType(entry.connection))
    return tuple(peers.values())
