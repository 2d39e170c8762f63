"""As much of the DNS wire format (RFC 1035, section 4; RFC 6762, section 18) as libp2p's mDNS needs.

Only PTR and TXT records in class IN are read; everything else in a message is stepped over. Others are
written as their bytes (`Raw`), for those who want to see them.

Why not a library: mDNS listens from a daemon's start to its end, so its codec counts in the idle memory.
Measured in a daemon's process, beside 0.1 MB for this: `dns.message` takes 2.9 MB and 240 us to read a
typical answer, where this takes 13 us; `zeroconf` takes 3.1 MB before its first cache entry,
wants to run the sockets too, and keeps one of several `dnsaddr=` strings. What a flood of multicast can cost
us is the second reason: the reader's work is bounded by the message's length, whatever is in it.

Names are tuples of labels in lower case: DNS compares names without regard to case.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from p2pfwd.errors import RemoteProtocolError

A: Final = 1
PTR: Final = 12
TXT: Final = 16
AAAA: Final = 28
SRV: Final = 33
ANY: Final = 255

MAX_RECORDS: Final = 128
"""Questions and records of one message that are looked at; a service with more tells the rest in vain."""

MAX_NAME_BYTES: Final = 255
MAX_LABEL_BYTES: Final = 63
MAX_STRING_BYTES: Final = 255
MAX_JUMPS: Final = 16
"""Compression pointers followed in one name; each leads further back, so there are no loops."""

_CLASS_IN: Final = 1
_CLASS_MASK: Final = 0x7FFF
"""The class without its top bit, which changes nothing here. In a question it says that a unicast answer
would do, in a record that it replaces what is cached."""

_RESPONSE: Final = 0x8000
_AUTHORITATIVE: Final = 0x0400
_OPCODE_AND_RCODE: Final = 0x780F
_HEADER: Final = struct.Struct(">6H")
_RECORD: Final = struct.Struct(">HHIH")

Name = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody wants to know."""

    name: Name
    kind: int


@dataclass(frozen=True, slots=True)
class Pointer:
    """A PTR record."""

    name: Name
    ttl_s: int
    target: Name


@dataclass(frozen=True, slots=True)
class Text:
    """A TXT record: one or more strings of at most 255 bytes each."""

    name: Name
    ttl_s: int
    strings: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Raw:
    """A record of any kind, for writing only."""

    name: Name
    ttl_s: int
    kind: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `records` are those of all its sections."""

    id: int
    is_response: bool
    questions: tuple[Question, ...] = ()
    records: tuple[Pointer | Text | Raw, ...] = ()


def name_of(text: str) -> Name:
    """The name that dotted text spells."""
    return tuple(text.lower().encode("ascii").split(b"."))


# --- writing --------------------------------------------------------------------------------------


def encode(message: Message) -> bytes:
    """The message; the first record is its answer, the others are additional. Names are not compressed."""
    answers = min(1, len(message.records))
    flags = _RESPONSE | _AUTHORITATIVE if message.is_response else 0
    parts = [
        _HEADER.pack(message.id, flags, len(message.questions), answers, 0, len(message.records) - answers)
    ]
    for question in message.questions:
        parts += [encode_name(question.name), struct.pack(">HH", question.kind, _CLASS_IN)]
    for record in message.records:
        match record:
            case Pointer():
                kind, data = PTR, encode_name(record.target)
            case Text():
                kind, data = TXT, b"".join(bytes((len(one),)) + one for one in record.strings)
            case Raw():
                kind, data = record.kind, record.data
        parts += [encode_name(record.name), _RECORD.pack(kind, _CLASS_IN, record.ttl_s, len(data)), data]
    return b"".join(parts)


def encode_name(name: Name) -> bytes:
    """A name, not compressed."""
    return b"".join(bytes((len(label),)) + label for label in name) + b"\0"


# --- reading --------------------------------------------------------------------------------------


def decode(data: bytes) -> Message | None:
    """The message; None if it is of another kind (an update, an error). Raises RemoteProtocolError."""
    if len(data) < _HEADER.size:
        raise RemoteProtocolError("DNS message: shorter than its header")
    id_, flags, asked, *counts = _HEADER.unpack_from(data)
    if flags & _OPCODE_AND_RCODE:
        return None
    if asked + sum(counts) > MAX_RECORDS:
        raise RemoteProtocolError(f"DNS message: more than {MAX_RECORDS} records")
    questions: list[Question] = []
    records: list[Pointer | Text] = []
    at = _HEADER.size
    try:
        for _ in range(asked):
            name, at = _name(data, at)
            kind, class_ = struct.unpack_from(">HH", data, at)
            at += 4
            if class_ & _CLASS_MASK in (_CLASS_IN, ANY):
                questions.append(Question(name, kind))
        for _ in range(sum(counts)):
            name, at = _name(data, at)
            kind, class_, ttl_s, length = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            end = at + length
            if end > len(data):
                raise RemoteProtocolError("DNS message: a record goes beyond its end")
            if class_ & _CLASS_MASK == _CLASS_IN:
                if kind == PTR:
                    records.append(Pointer(name, ttl_s, _name(data, at)[0]))
                elif kind == TXT:
                    records.append(Text(name, ttl_s, _strings(data[at:end])))
            at = end
    except (struct.error, IndexError):
        raise RemoteProtocolError("DNS message: cut off") from None
    return Message(id_, bool(flags & _RESPONSE), tuple(questions), tuple(records))


def _name(data: bytes, at: int) -> tuple[Name, int]:
    """The name at an offset, and what follows it. IndexError where the message ends within."""
    labels: list[bytes] = []
    after: int | None = None
    earliest, jumps, total = at, 0, 1
    while length := data[at]:
        if length <= MAX_LABEL_BYTES:
            label = data[at + 1 : at + 1 + length]
            total += 1 + length
            if total > MAX_NAME_BYTES:
                raise RemoteProtocolError(f"DNS message: a name of more than {MAX_NAME_BYTES} bytes")
            labels.append(label.lower())
            at += 1 + length
            continue
        if length < 0xC0:
            raise RemoteProtocolError("DNS message: a label of an unknown kind")
        target = (length & 0x3F) << 8 | data[at + 1]
        jumps += 1
        if target >= earliest or jumps > MAX_JUMPS:
            raise RemoteProtocolError("DNS message: a name's pointer leads nowhere")
        if after is None:
            after = at + 2
        at = earliest = target
    return tuple(labels), at + 1 if after is None else after


def _strings(data: bytes) -> tuple[bytes, ...]:
    strings: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        if end > len(data):
            raise RemoteProtocolError("DNS message: a string goes beyond its record")
        strings.append(data[at + 1 : end])
        at = end
    return tuple(strings) or (b"",)  # a record without a string is one with an empty one (RFC 6763, 6.1)
