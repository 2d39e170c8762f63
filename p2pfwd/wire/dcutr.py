"""Direct connection upgrade through relay: how two peers on a circuit agree to dial each other (spec: dcutr).

B is who listened for the circuit, A who dialed it. One stream on it, delimited messages; `encode` and
`decode` handle a message without its length prefix.

    B ──CONNECT, B's addresses──▶ A        B measures
    B ◀─CONNECT, A's addresses── A         the round trip
    B ──SYNC──▶ A                          A dials as it comes, B after half a round trip
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from google.protobuf.message import DecodeError

from p2pfwd.core.multiaddrs import Multiaddr, readable
from p2pfwd.core.pb import dcutr_pb2
from p2pfwd.errors import RemoteProtocolError

PROTOCOL: Final = "/libp2p/dcutr"

MAX_MESSAGE_BYTES: Final = 4096
"""Longest message: the spec's bound."""

MAX_ADDRESSES: Final = 16
"""Addresses of one message that are looked at, and sent."""

MAX_ADDRESS_BYTES: Final = 128
"""Longest address that is looked at: a direct one is short."""

_Message = dcutr_pb2.HolePunch


class Kind(IntEnum):
    """Of a message."""

    CONNECT = 100
    SYNC = 300


@dataclass(frozen=True, slots=True)
class HolePunch:
    """One message. `addrs`: where the sender may be dialed; a SYNC has none."""

    kind: Kind
    addrs: tuple[Multiaddr, ...] = ()


def encode(message: HolePunch) -> bytes:
    """The message's bytes; addresses too many are left out."""
    addrs = [addr.to_bytes() for addr in message.addrs[:MAX_ADDRESSES]]
    return _Message(type=int(message.kind), obs_addrs=addrs).SerializeToString()  # type: ignore[arg-type]


def decode(data: bytes, wanted: Kind) -> HolePunch:
    """Addresses that cannot be understood are left out.

    Raises RemoteProtocolError, also where the message is not of the kind that belongs here.
    """
    message = _Message()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise RemoteProtocolError("dcutr: the peer's message cannot be decoded") from None
    if not message.HasField("type") or int(message.type) != wanted:
        raise RemoteProtocolError(f"dcutr: not the {wanted.name} that belongs here")
    if wanted is Kind.SYNC:
        return HolePunch(Kind.SYNC)
    return HolePunch(wanted, readable(message.obs_addrs, MAX_ADDRESSES, MAX_ADDRESS_BYTES))
