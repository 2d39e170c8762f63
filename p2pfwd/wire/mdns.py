"""What libp2p nodes say to each other over multicast DNS (libp2p's mdns spec; RFC 6762).

A node asks for PTR `_p2p._udp.local`. An answer points to a random name below it, and carries a TXT record
of that name with one string `dnsaddr=<multiaddr>/p2p/<peer ID>` for each address. It has SRV, A and AAAA
records too: go-libp2p overlooks an answer in which the service has no host with an address.

Rules:
- What is heard is a hint from anybody on the segment: the handshake proves who is there, nothing here does.
- Addresses told and taken are private ones, plain TCP and literal: no node is sent into the Internet by its
  neighbour. Loopback ones are taken from processes of this machine alone, and told to nobody.
- The instance name says nothing of who we are, and is another one after each start.
- Of others' records only TXT is read: it alone says what a peer is.
- Bounds: what one answer can make us hold is MAX_PEERS times MAX_TOLD_ADDRESSES.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidMultiaddr, InvalidPeerId
from p2pfwd.wire import dns_message
from p2pfwd.wire.dns_message import (
    AAAA,
    ANY,
    MAX_STRING_BYTES,
    PTR,
    SRV,
    A,
    Message,
    Pointer,
    Question,
    Raw,
    Text,
)

GROUP_IP4: Final = "224.0.0.251"
GROUP_IP6: Final = "ff02::fb"
PORT: Final = 5353

SERVICE: Final = dns_message.name_of("_p2p._udp.local")
DIRECTORY: Final = dns_message.name_of("_services._dns-sd._udp.local")
"""Who asks for this wants to know which kinds of services there are (RFC 6763, section 9)."""

TTL_S: Final = 360
"""Of our answers, and how long others' are believed."""

GOODBYE_TTL_S: Final = 0
"""An answer with this says that it is over."""

MAX_SENT_BYTES: Final = 1400
"""Below what one Ethernet frame carries, over IPv6 too; fragments of multicast get lost."""

MAX_RECEIVED_BYTES: Final = 9000
"""RFC 6762, section 17: the longest message there may be."""

MAX_PEERS: Final = 8
"""Peers taken from one answer; each node speaks for itself."""

MAX_TOLD_ADDRESSES: Final = 16
"""Addresses taken of one peer from one answer."""

MAX_DNSADDRS: Final = 64
"""Strings of one answer that are looked at: a millisecond or two of work."""

INSTANCE_BYTES: Final = 16
"""Random bytes to make an instance name of: 32 characters, the fewest there may be."""

_PREFIX: Final = b"dnsaddr="
_MARKS: Final = (b"_p2p", b"_dns-sd")
_HERE: Final = frozenset({AddressClass.PRIVATE, AddressClass.LOOPBACK})


@dataclass(frozen=True, slots=True)
class NearPeer:
    """A peer that was heard: where it says it is, or that it is leaving."""

    peer_id: PeerId
    addrs: tuple[Multiaddr, ...]  # without the peer ID at their end
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Heard:
    """What one message says that concerns us."""

    id: int
    asks_for_peers: bool = False
    asks_for_services: bool = False
    peers: tuple[NearPeer, ...] = ()


NOTHING: Final = Heard(0)


def instance_name(randomness: bytes) -> bytes:
    """A name for this start, of INSTANCE_BYTES random bytes."""
    if len(randomness) != INSTANCE_BYTES:
        raise ValueError(f"an instance name is made of {INSTANCE_BYTES} bytes")
    return randomness.hex().encode("ascii")


# --- saying ---------------------------------------------------------------------------------------


def query(id_: int) -> bytes:
    """The question for peers. `id_` is how the asker knows its own question when it hears it."""
    return dns_message.encode(Message(id_, False, questions=(Question(SERVICE, PTR),)))


def answer(instance: bytes, peer_id: PeerId, addrs: Iterable[Multiaddr], ttl_s: int = TTL_S) -> bytes:
    """Where `peer_id` is: those of `addrs` that may be told, the first ones if there is no room for all."""
    name, told = (instance, *SERVICE), tellable(addrs)
    strings: list[bytes] = []

    def message() -> bytes:
        records = (Pointer(SERVICE, ttl_s, name), Text(name, ttl_s, tuple(strings) or (b"",)))
        return dns_message.encode(Message(0, True, records=records + _host_records(instance, told, ttl_s)))

    room = MAX_SENT_BYTES - len(message())
    for addr in told:
        string = _PREFIX + str(addr.with_peer_id(peer_id)).encode("utf-8")
        if len(string) <= min(MAX_STRING_BYTES, room - 1):
            strings.append(string)
            room -= 1 + len(string)
    return message()


def _host_records(instance: bytes, addrs: Iterable[Multiaddr], ttl_s: int) -> tuple[Raw, ...]:
    """SRV of the service, A and AAAA of the host it names: the first address of each kind."""
    host = (instance, b"local")
    hosts: dict[int, bytes] = {}
    port = 0
    for addr in addrs:
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        address = ipaddress.ip_address(endpoint.host)
        hosts.setdefault(A if address.version == 4 else AAAA, address.packed)
        port = port or endpoint.port
    service = struct.pack(">3H", 0, 0, port) + dns_message.encode_name(host)  # priority, weight, port, host
    return (
        Raw((instance, *SERVICE), ttl_s, SRV, service),
        *(Raw(host, ttl_s, kind, packed) for kind, packed in hosts.items()),
    )


def directory_answer() -> bytes:
    """That there is such a service as ours."""
    return dns_message.encode(Message(0, True, records=(Pointer(DIRECTORY, TTL_S, SERVICE),)))


def tellable(addrs: Iterable[Multiaddr]) -> list[Multiaddr]:
    """Those of a node's own addresses that may be told on a segment."""
    return [addr for addr in addrs if _is_near(addr) and address_class(addr) is AddressClass.PRIVATE]


def _is_near(addr: Multiaddr) -> bool:
    endpoint = tcp_endpoint(addr)
    return (
        endpoint is not None
        and endpoint.family in ("ip4", "ip6")
        and endpoint.port != 0
        and address_class(addr) in _HERE
    )


# --- hearing --------------------------------------------------------------------------------------


def hear(data: bytes, from_here: bool) -> Heard:
    """What a datagram says; `from_here`: this machine sent it. Raises RemoteProtocolError.

    Other services' messages, which are the most on many networks, are set aside without a look inside.
    """
    if not any(mark in data for mark in _MARKS):
        return NOTHING
    message = dns_message.decode(data)
    if message is None:
        return NOTHING
    if not message.is_response:
        asked = {question.name for question in message.questions if question.kind in (PTR, ANY)}
        return Heard(message.id, SERVICE in asked, DIRECTORY in asked)
    return Heard(message.id, peers=_peers(message, from_here))


def _peers(message: Message, from_here: bool) -> tuple[NearPeer, ...]:
    addrs: dict[PeerId, dict[Multiaddr, None]] = {}
    staying: set[PeerId] = set()
    ids: dict[str, PeerId | None] = {}  # reading one costs more than the rest of its address
    for ttl_s, text in _dnsaddrs(message):
        rest, _, id_text = text.rpartition("/p2p/")
        if id_text not in ids:
            ids[id_text] = _peer_id(id_text) if len(ids) < MAX_PEERS else None
        peer_id = ids[id_text]
        if peer_id is None:
            continue
        known = addrs.setdefault(peer_id, {})
        if ttl_s != GOODBYE_TTL_S:
            staying.add(peer_id)
        addr = _address(rest)
        if addr is None or not _is_near(addr) or len(known) >= MAX_TOLD_ADDRESSES:
            continue
        if from_here or address_class(addr) is not AddressClass.LOOPBACK:
            known[addr] = None
    return tuple(NearPeer(peer, tuple(found), peer not in staying) for peer, found in addrs.items())


def _dnsaddrs(message: Message) -> Iterator[tuple[int, str]]:
    """(time to live, text) of what the answer's TXT records say of peers, as much of it as counts."""
    strings = (
        (record.ttl_s, string[len(_PREFIX) :].decode("utf-8", "replace"))
        for record in message.records
        if isinstance(record, Text) and len(record.name) == len(SERVICE) + 1 and record.name[1:] == SERVICE
        for string in record.strings
        if string.startswith(_PREFIX)
    )
    return islice(strings, MAX_DNSADDRS)


def _peer_id(text: str) -> PeerId | None:
    try:
        return PeerId.parse(text)
    except InvalidPeerId:
        return None


def _address(text: str) -> Multiaddr | None:
    try:
        return Multiaddr.parse(text)
    except InvalidMultiaddr:  # of a transport we do not know, or nonsense: it costs this one address
        return None
