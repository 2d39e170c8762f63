"""Identify and identify push: what a peer says about itself (libp2p spec: identify).

`encode` and `decode` handle one message without its length prefix; the stream carries each message
delimited, at most `MAX_MESSAGE_BYTES` long, and a sender may spread its fields over several.

Rules:
- rust reads the first message only, and 4096 bytes of it: ours is one message that fits.
- Both address lists are filled: rust cannot open go's records, go ignores rust's.
- What cannot be understood is left out piece by piece; a peer with one odd address is still a peer.
- Texts are a stranger's: bounded here, escaped where they are shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from google.protobuf.message import DecodeError

from p2pfwd.core.multiaddrs import Multiaddr, readable
from p2pfwd.core.pb import identify_pb2
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.record import InvalidRecord, PeerRecord
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire.multistream import MAX_TOKEN_BYTES

ID: Final = "/ipfs/id/1.0.0"
PUSH: Final = "/ipfs/id/push/1.0.0"

PROTOCOL_VERSION: Final = "ipfs/0.1.0"
"""What every implementation on the public network says."""

MAX_MESSAGE_BYTES: Final = 8192
"""Longest message read from a peer: the bound of go and js."""

MAX_MESSAGES: Final = 10
"""Messages of one exchange that are merged: the bound of go and js."""

MAX_SENT_BYTES: Final = 4095
"""Longest message sent: rust reads 4096 bytes of the first and fails on more."""

MAX_SENT_RECORD_BYTES: Final = 2048
"""A longer signed record is not sent when the message is too long: it would crowd out all else.
Peers then use the plain addresses."""

MAX_ADDRESSES: Final = 128
"""Addresses looked at in one exchange, decodable or not; ten full messages could carry 8000, at 5 us each.
A go node with every transport on two networks has under 30."""

MAX_PROTOCOLS: Final = 1000
"""Protocol names looked at in one exchange: as many as a listener would let a peer propose."""

MAX_VERSION_CHARS: Final = 256
"""Characters kept of the two version texts: they are shown to people and kept per peer."""


@dataclass(frozen=True, slots=True)
class IdentifyMessage:
    """One message, or several merged. Absent fields are None or empty; nothing is verified yet."""

    public_key: bytes | None = None
    listen_addrs: tuple[Multiaddr, ...] = ()
    protocols: tuple[str, ...] = ()
    observed_addr: Multiaddr | None = None
    protocol_version: str | None = None
    agent_version: str | None = None
    signed_peer_record: bytes | None = None


def encode(msg: IdentifyMessage) -> bytes:
    """The message, undelimited, trimmed to MAX_SENT_BYTES.

    An oversized record goes first, then addresses from the end, then protocols from the end.
    """
    out = identify_pb2.Identify(
        public_key=msg.public_key,
        listen_addrs=[addr.to_bytes() for addr in msg.listen_addrs],
        protocols=msg.protocols,
        observed_addr=None if msg.observed_addr is None else msg.observed_addr.to_bytes(),
        protocol_version=msg.protocol_version,
        agent_version=msg.agent_version,
        signed_peer_record=msg.signed_peer_record,
    )
    if out.ByteSize() > MAX_SENT_BYTES and len(out.signed_peer_record) > MAX_SENT_RECORD_BYTES:
        out.ClearField("signed_peer_record")
    while out.ByteSize() > MAX_SENT_BYTES and out.listen_addrs:
        del out.listen_addrs[-1]
    while out.ByteSize() > MAX_SENT_BYTES and out.protocols:
        del out.protocols[-1]
    return out.SerializeToString()


def decode(*parts: bytes) -> IdentifyMessage:
    """One undelimited message, or several merged as protobuf does: lists are joined, of single fields the
    last counts. Bounds hold for all of them together.

    Raises RemoteProtocolError when one is too long or no message at all.
    """
    message = identify_pb2.Identify()
    for data in parts:
        if len(data) > MAX_MESSAGE_BYTES:
            raise RemoteProtocolError(
                f"identify: a message of {len(data)} bytes, {MAX_MESSAGE_BYTES} are allowed"
            )
        try:
            message.MergeFromString(data)
        except DecodeError:
            raise RemoteProtocolError("identify: the peer's message cannot be decoded") from None
    observed = readable([message.observed_addr], 1) if message.HasField("observed_addr") else ()
    return IdentifyMessage(
        public_key=message.public_key if message.HasField("public_key") else None,
        listen_addrs=readable(message.listen_addrs, MAX_ADDRESSES),
        protocols=_protocols(message.protocols),
        observed_addr=observed[0] if observed else None,
        protocol_version=_text(message.protocol_version) if message.HasField("protocol_version") else None,
        agent_version=_text(message.agent_version) if message.HasField("agent_version") else None,
        signed_peer_record=message.signed_peer_record if message.HasField("signed_peer_record") else None,
    )


def verify(msg: IdentifyMessage, remote_peer: PeerId) -> tuple[tuple[Multiaddr, ...], bool]:
    """(addresses to believe, whether `remote_peer` signed them).

    A valid record of that very peer is the only source; any other record is as good as none, and
    the plain list counts. The message's public key is not needed: the connection has proved it.
    """
    if msg.signed_peer_record is not None:
        try:
            record = PeerRecord.from_signed(msg.signed_peer_record)
        except InvalidRecord:
            return msg.listen_addrs, False  # rust signs under a domain of its own
        if record.peer_id == remote_peer:
            return record.addresses, True
    return msg.listen_addrs, False


def _protocols(names: Iterable[str | bytes]) -> tuple[str, ...]:
    # A name outside UTF-8 arrives as bytes; neither it nor one too long for a token can be proposed.
    tried = islice(names, MAX_PROTOCOLS)
    usable = (n for n in tried if isinstance(n, str) and 0 < len(n.encode()) < MAX_TOKEN_BYTES)
    return tuple(dict.fromkeys(usable))


def _text(value: str | bytes) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return text[:MAX_VERSION_CHARS]
