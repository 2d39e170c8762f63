"""Circuit relay v2: what client, relay and target say to each other (libp2p spec: relay/circuit-v2).

One delimited message each way; `encode_*` and `decode_*` handle it without its length prefix. After an OK the
same stream is the circuit: a pipe of bytes between the two ends.

    client ──hop RESERVE──▶ relay ──STATUS, reservation──▶ client
    dialer ──hop CONNECT──▶ relay ──stop CONNECT──▶ target ──STATUS──▶ relay ──STATUS──▶ dialer

Between p2pfwd nodes a circuit without limits may get legs: a TCP connection of its own from each end to the
relay, which moves the bytes between them as they are. They are sealed between the two ends anyway. Each end
is given a ticket, which names the protocol that it proposes on the new connection. See p2pfwd-protocols(7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

from google.protobuf.message import DecodeError

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr, readable
from p2pfwd.core.pb import circuit_pb2
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.record import VOUCHER_DOMAIN, VOUCHER_TYPE, InvalidRecord, SignedEnvelope
from p2pfwd.errors import InvalidPeerId, RemoteProtocolError

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"

LEG: Final = "/p2pfwd/leg/1/"
"""What is proposed on a leg: this, and its ticket in hexadecimal digits."""

TICKET_BYTES: Final = 16
"""Of random, for one leg. Another length means none."""

READY: Final = b"\x01"
"""From the relay on both legs, once both are there: what is sent behind it comes out at the other end."""

MAX_MESSAGE_BYTES: Final = 4096
"""Longest message: the spec's bound."""

MAX_ADDRESSES: Final = 32
"""Of a relay, in one reservation; of a peer, in one message: more are not looked at."""

_Hop = circuit_pb2.HopMessage
_Stop = circuit_pb2.StopMessage
_Message = TypeVar("_Message", circuit_pb2.HopMessage, circuit_pb2.StopMessage)


class Status(IntEnum):
    """A relay's or a target's verdict."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, slots=True)
class Limit:
    """What a circuit may carry; 0: no bound."""

    duration_s: int = 0
    data_bytes: int = 0
    """Each way."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A place at a relay."""

    expires_at: int
    """Unix seconds, by the relay's clock."""
    addrs: tuple[Multiaddr, ...] = ()
    """Of the relay, without `/p2p-circuit`."""
    voucher: bytes = b""
    """A signed envelope, see `Voucher`; empty where the relay gives none."""


@dataclass(frozen=True, slots=True)
class HopAnswer:
    """A relay's answer to RESERVE or CONNECT. No `limit`: the circuit is not limited."""

    status: Status
    reservation: Reservation | None = None
    limit: Limit | None = None
    ticket: bytes | None = None
    """For a leg of the circuit."""


@dataclass(frozen=True, slots=True)
class HopRequest:
    """What is asked of a relay: a reservation, or a circuit to `peer`."""

    peer: PeerId | None = None
    """None: a reservation."""
    can_leg: bool = False
    """Whether a ticket would be used."""


@dataclass(frozen=True, slots=True)
class StopRequest:
    """A relay tells its client that `peer` has a circuit to it."""

    peer: PeerId
    limit: Limit | None = None
    ticket: bytes | None = None
    """For a leg of the circuit."""


def leg_name(ticket: bytes) -> str:
    """The protocol that is proposed on the leg of this ticket."""
    return LEG + ticket.hex()


# --- hop ------------------------------------------------------------------------------------------


def encode_hop_request(request: HopRequest) -> bytes:
    """A RESERVE or CONNECT message."""
    if request.peer is None:
        return _Hop(type=_Hop.RESERVE).SerializeToString()
    peer = circuit_pb2.Peer(id=request.peer.to_bytes())
    message = _Hop(type=_Hop.CONNECT, peer=peer)
    if request.can_leg:
        message.leg = b""
    return message.SerializeToString()


def decode_hop_request(data: bytes) -> HopRequest:
    """Raises RemoteProtocolError."""
    message = _parsed(_Hop(), data)
    if message.type == _Hop.RESERVE:
        return HopRequest()
    if message.type != _Hop.CONNECT:
        raise RemoteProtocolError("relay: an answer where a request belongs")
    return HopRequest(_peer(message.peer), message.HasField("leg"))


def encode_hop_answer(answer: HopAnswer) -> bytes:
    """A STATUS message."""
    message = _Hop(type=_Hop.STATUS, status=int(answer.status))  # type: ignore[arg-type]
    if answer.reservation is not None:
        message.reservation.expire = answer.reservation.expires_at
        message.reservation.addrs.extend(addr.to_bytes() for addr in answer.reservation.addrs)
        if answer.reservation.voucher:
            message.reservation.voucher = answer.reservation.voucher
    if answer.limit is not None:
        _put_limit(message.limit, answer.limit)
    if answer.ticket is not None:
        message.leg = answer.ticket
    return message.SerializeToString()


def decode_hop_answer(data: bytes) -> HopAnswer:
    """Raises RemoteProtocolError."""
    message = _parsed(_Hop(), data)
    if message.type != _Hop.STATUS:
        raise RemoteProtocolError("relay: a request where an answer belongs")
    reservation = None
    if message.HasField("reservation"):
        told = message.reservation
        reservation = Reservation(told.expire, readable(told.addrs, MAX_ADDRESSES), told.voucher)
    limit = _limit(message.limit) if message.HasField("limit") else None
    return HopAnswer(_status(message), reservation, limit, _ticket(message.leg))


# --- stop -----------------------------------------------------------------------------------------


def encode_stop_request(request: StopRequest) -> bytes:
    """A CONNECT message."""
    message = _Stop(type=_Stop.CONNECT, peer=circuit_pb2.Peer(id=request.peer.to_bytes()))
    if request.limit is not None:
        _put_limit(message.limit, request.limit)
    if request.ticket is not None:
        message.leg = request.ticket
    return message.SerializeToString()


def decode_stop_request(data: bytes) -> StopRequest:
    """Raises RemoteProtocolError."""
    message = _parsed(_Stop(), data)
    if message.type != _Stop.CONNECT:
        raise RemoteProtocolError("relay: an answer where a request belongs")
    limit = _limit(message.limit) if message.HasField("limit") else None
    return StopRequest(_peer(message.peer), limit, _ticket(message.leg))


def encode_stop_answer(status: Status) -> bytes:
    """A STATUS message."""
    return _Stop(type=_Stop.STATUS, status=int(status)).SerializeToString()  # type: ignore[arg-type]


def decode_stop_answer(data: bytes) -> Status:
    """Raises RemoteProtocolError."""
    message = _parsed(_Stop(), data)
    if message.type != _Stop.STATUS:
        raise RemoteProtocolError("relay: a request where an answer belongs")
    return _status(message)


# --- vouchers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Voucher:
    """A relay's signed word that `peer` has a reservation with it until `expires_at` (Unix seconds)."""

    relay: PeerId
    peer: PeerId
    expires_at: int

    def to_signed(self, key: PrivateKey) -> bytes:
        """A serialised envelope; `key` must be the relay's own."""
        payload = circuit_pb2.ReservationVoucher(
            relay=self.relay.to_bytes(), peer=self.peer.to_bytes(), expiration=self.expires_at
        ).SerializeToString()
        return SignedEnvelope.seal(key, VOUCHER_DOMAIN, VOUCHER_TYPE, payload).to_bytes()

    @classmethod
    def from_signed(cls, data: bytes) -> Voucher:
        """The verified voucher in an envelope that its relay has signed; InvalidRecord otherwise."""
        key, payload = SignedEnvelope.from_bytes(data).open(VOUCHER_DOMAIN, VOUCHER_TYPE)
        message = circuit_pb2.ReservationVoucher()
        try:
            message.ParseFromString(payload)
            relay, peer = PeerId.from_bytes(message.relay), PeerId.from_bytes(message.peer)
        except (DecodeError, InvalidPeerId):
            raise InvalidRecord("relay voucher: it cannot be decoded") from None
        if PeerId.from_public_key(key) != relay:
            raise InvalidRecord("relay voucher: another than its relay has signed it")
        return cls(relay, peer, message.expiration)


# --- parts ----------------------------------------------------------------------------------------


def relayed(relay_addrs: Sequence[Multiaddr], relay: PeerId) -> list[Multiaddr]:
    """Where a client of the relay is reached: its addresses, each with `/p2p/<relay>/p2p-circuit`."""
    circuit = Multiaddr.parse("/p2p-circuit")
    return [addr.with_peer_id(relay).encapsulate(circuit) for addr in relay_addrs]


def _parsed(message: _Message, data: bytes) -> _Message:
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise RemoteProtocolError("relay: the peer's message cannot be decoded") from None
    if not message.HasField("type"):
        raise RemoteProtocolError("relay: a message without a type")
    return message


def _status(message: circuit_pb2.HopMessage | circuit_pb2.StopMessage) -> Status:
    if not message.HasField("status") or message.status not in Status._value2member_map_:
        raise RemoteProtocolError("relay: an answer without a status that is known here")
    return Status(message.status)


def _peer(peer: circuit_pb2.Peer) -> PeerId:
    try:
        return PeerId.from_bytes(peer.id)
    except InvalidPeerId as exc:
        raise RemoteProtocolError(f"relay: {exc.message}") from None


def _ticket(told: bytes) -> bytes | None:
    return told if len(told) == TICKET_BYTES else None


def _limit(limit: circuit_pb2.Limit) -> Limit | None:
    """None where neither bound is set: as go, and js."""
    return Limit(limit.duration, limit.data) if limit.duration or limit.data else None


def _put_limit(message: circuit_pb2.Limit, limit: Limit) -> None:
    message.duration, message.data = limit.duration_s, limit.data_bytes
