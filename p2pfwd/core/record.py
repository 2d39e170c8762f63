"""Signed envelopes and peer records (libp2p RFC 0002 and 0003).

The signature covers domain, payload type and payload, each behind its varint length. Rules: nothing of
an envelope is believed before `open` has verified it; a record counts only if the envelope's key hashes
to the record's own peer ID. Whether the sequence number is fresh, and whether the peer ID is the
connection's, is for the caller to judge. Every fault of the bytes is an InvalidRecord: remote blame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from google.protobuf.message import DecodeError

from p2pfwd.core import varint
from p2pfwd.core.keys import PrivateKey, PublicKey
from p2pfwd.core.multiaddrs import Multiaddr, readable
from p2pfwd.core.pb import envelope_pb2, keys_pb2, peer_record_pb2
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidKey, InvalidPeerId, RemoteProtocolError

MAX_ENVELOPE_BYTES = 8192
"""Longest envelope decoded: identify carries it in messages of at most 8 KiB."""

MAX_RECORD_ADDRESSES = 128
"""Addresses looked at in one record: four times what a go node with every transport has."""

PEER_RECORD_DOMAIN = "libp2p-peer-record"
PEER_RECORD_TYPE = b"\x03\x01"
VOUCHER_DOMAIN = "libp2p-relay-rsvp"
VOUCHER_TYPE = b"\x03\x02"


class InvalidRecord(RemoteProtocolError):
    """A signed envelope or the record in it cannot be believed."""

    code: ClassVar[str] = "invalid-record"


def _signed_bytes(domain: str, payload_type: bytes, payload: bytes) -> bytes:
    fields = (domain.encode("utf-8"), payload_type, payload)
    return b"".join(varint.encode(len(field)) + field for field in fields)


@dataclass(frozen=True, slots=True)
class SignedEnvelope:
    """A payload under its author's signature; unverified until `open`."""

    public_key: PublicKey
    payload_type: bytes
    payload: bytes
    signature: bytes

    @classmethod
    def seal(cls, key: PrivateKey, domain: str, payload_type: bytes, payload: bytes) -> SignedEnvelope:
        """`payload` signed with `key` for `domain`."""
        signature = key.sign(_signed_bytes(domain, payload_type, payload))
        return cls(key.public_key, payload_type, payload, signature)

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedEnvelope:
        """The envelope in `data`, not verified; InvalidRecord if it is none or its key cannot be used."""
        if len(data) > MAX_ENVELOPE_BYTES:
            raise InvalidRecord(f"signed envelope: longer than {MAX_ENVELOPE_BYTES} bytes")
        message = envelope_pb2.Envelope()
        try:
            message.ParseFromString(data)
            key = PublicKey.from_protobuf(message.public_key.SerializeToString())
        except (DecodeError, InvalidKey) as exc:
            raise InvalidRecord("signed envelope: no readable envelope with a usable public key") from exc
        return cls(key, message.payload_type, message.payload, message.signature)

    def to_bytes(self) -> bytes:
        """The serialised Envelope message."""
        public_key = keys_pb2.PublicKey()
        public_key.ParseFromString(self.public_key.to_protobuf())
        message = envelope_pb2.Envelope(
            public_key=public_key,
            payload_type=self.payload_type,
            payload=self.payload,
            signature=self.signature,
        )
        return message.SerializeToString(deterministic=True)

    def open(self, domain: str, payload_type: bytes) -> tuple[PublicKey, bytes]:
        """(author's key, payload) once type and signature are found right; InvalidRecord otherwise."""
        if self.payload_type != payload_type:
            raise InvalidRecord("signed envelope: it holds another type of payload")
        if not self.public_key.verify(_signed_bytes(domain, payload_type, self.payload), self.signature):
            raise InvalidRecord("signed envelope: the signature is wrong")
        return self.public_key, self.payload


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """The addresses a peer says it listens on; of two records the one with the higher `seq` counts."""

    peer_id: PeerId
    seq: int
    addresses: tuple[Multiaddr, ...]

    def to_bytes(self) -> bytes:
        """The serialised PeerRecord message, unsigned."""
        message = peer_record_pb2.PeerRecord(peer_id=self.peer_id.to_bytes(), seq=self.seq)
        for address in self.addresses:
            message.addresses.add(multiaddr=address.to_bytes())
        return message.SerializeToString(deterministic=True)

    def to_signed(self, key: PrivateKey) -> bytes:
        """A serialised envelope around the record; `key` must be the peer's own."""
        return SignedEnvelope.seal(key, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, self.to_bytes()).to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> PeerRecord:
        """The record in an unsigned PeerRecord message; addresses that cannot be decoded are left out."""
        message = peer_record_pb2.PeerRecord()
        try:
            message.ParseFromString(data)
            peer_id = PeerId.from_bytes(message.peer_id)
        except (DecodeError, InvalidPeerId) as exc:
            raise InvalidRecord("peer record: no readable record with a peer ID") from exc
        encoded = (info.multiaddr for info in message.addresses)
        return cls(peer_id, message.seq, readable(encoded, MAX_RECORD_ADDRESSES))

    @classmethod
    def from_signed(cls, data: bytes) -> PeerRecord:
        """The record in a serialised envelope, its signature and its author's peer ID verified."""
        key, payload = SignedEnvelope.from_bytes(data).open(PEER_RECORD_DOMAIN, PEER_RECORD_TYPE)
        record = cls.from_bytes(payload)
        if not record.peer_id.matches(key):
            raise InvalidRecord("peer record: signed by a key that is not the peer's")
        return record
