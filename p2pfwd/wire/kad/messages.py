"""Kad-DHT messages as values: requests and responses (libp2p spec: kad-dht).

One protobuf message serves all on the wire; here each request is a type of its own, so that what it must
carry is checked once, when `codec` decodes it. Nothing proves the addresses in a message; `address_filter`
says which of them are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId

K: Final = 20
"""Peers of one answer, and entries of one bucket."""


class MessageType(IntEnum):
    """What a message asks or answers."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


class ConnectionType(IntEnum):
    """How the sender stands to a peer it tells of."""

    NOT_CONNECTED = 0
    CONNECTED = 1
    CAN_CONNECT = 2
    CANNOT_CONNECT = 3


@dataclass(frozen=True, slots=True)
class KadPeer:
    """A peer as one message tells of it; addresses in order of preference, best first."""

    peer_id: PeerId
    addrs: tuple[Multiaddr, ...] = ()
    connection: ConnectionType = ConnectionType.NOT_CONNECTED


@dataclass(frozen=True, slots=True)
class Record:
    """A value under its key; nothing is validated yet."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class FindNode:
    """Who is nearest to `key`: a peer ID's multihash."""

    key: bytes


@dataclass(frozen=True, slots=True)
class GetProviders:
    """Who provides `key`, and who is nearer to it."""

    key: bytes


@dataclass(frozen=True, slots=True)
class AddProvider:
    """The sender provides `key`. Has no response."""

    key: bytes
    providers: tuple[KadPeer, ...]


@dataclass(frozen=True, slots=True)
class GetValue:
    """The value of `key`, and who is nearer to it."""

    key: bytes


@dataclass(frozen=True, slots=True)
class PutValue:
    """Store `record`. The response repeats it."""

    record: Record


@dataclass(frozen=True, slots=True)
class Ping:
    """The response is another one."""


Request = FindNode | GetProviders | AddProvider | GetValue | PutValue | Ping


@dataclass(frozen=True, slots=True)
class Response:
    """An answer to the request of the same type."""

    type: MessageType
    key: bytes = b""
    record: Record | None = None
    closer_peers: tuple[KadPeer, ...] = ()
    provider_peers: tuple[KadPeer, ...] = ()
