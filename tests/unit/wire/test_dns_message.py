"""The DNS codec: bytes made by hand from RFC 1035, names that lead nowhere, bounds."""

from __future__ import annotations

import struct

import pytest

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import dns_message as dns
from p2pfwd.wire.dns_message import ANY, PTR, SRV, TXT, Message, Pointer, Question, Raw, Text, name_of

SERVICE = name_of("_p2p._udp.local")
SERVICE_BYTES = b"\x04_p2p\x04_udp\x05local\x00"
HEADER = struct.Struct(">6H")


def header(questions: int = 0, answers: int = 0, additional: int = 0, flags: int = 0x8400) -> bytes:
    return HEADER.pack(0, flags, questions, answers, 0, additional)


def record(name: bytes, kind: int, data: bytes, ttl: int = 120, class_: int = 1) -> bytes:
    return name + struct.pack(">HHIH", kind, class_, ttl, len(data)) + data


def test_a_question_byte_by_byte() -> None:
    """A question for a PTR is the header, the labels, type 12 and class IN."""
    data = bytes.fromhex(
        "1234 0000 0001 0000 0000 0000"  # id, flags, one question
        "04 5f703270 04 5f756470 05 6c6f63616c 00"
        "000c 0001"
    )
    message = Message(0x1234, False, questions=(Question(SERVICE, PTR),))
    assert dns.encode(message) == data
    assert dns.decode(data) == message


def test_an_answer_byte_by_byte() -> None:
    """The first record is the answer, the others are additional; a TXT is its strings, each with a length."""
    instance = (b"ab", *SERVICE)
    message = Message(0, True, records=(Pointer(SERVICE, 360, instance), Text(instance, 360, (b"x=1", b"y"))))
    expected = (
        bytes.fromhex("0000 8400 0000 0001 0000 0001")
        + SERVICE_BYTES
        + bytes.fromhex("000c 0001 00000168 0014")
        + b"\x02ab"
        + SERVICE_BYTES
        + b"\x02ab"
        + SERVICE_BYTES
        + bytes.fromhex("0010 0001 00000168 0006 03783d31 0179")
    )
    assert dns.encode(message) == expected
    assert dns.decode(expected) == message


def test_names_are_read_through_pointers_and_in_lower_case() -> None:
    """A name may end in a pointer to an earlier one, and that in another."""
    first = record(b"\x04_P2P\x04_udp\x05LOCAL\x00", PTR, b"\x02Ab\xc0\x0c")
    second = record(b"\xc0" + bytes((HEADER.size + 17 + 10,)), TXT, b"\x01z")
    message = dns.decode(header(answers=1, additional=1) + first + second)
    assert message is not None
    instance = (b"ab", *SERVICE)
    assert message.records == (Pointer(SERVICE, 120, instance), Text(instance, 120, (b"z",)))


def test_other_records_are_stepped_over() -> None:
    """An SRV, an A, a record of another class: unread, whatever is in them."""
    data = (
        header(answers=4)
        + record(SERVICE_BYTES, SRV, b"\xff" * 9)
        + record(SERVICE_BYTES, 1, b"1234")
        + record(SERVICE_BYTES, PTR, b"\xff\xff", class_=3)
        + record(SERVICE_BYTES, TXT, b"\x01t", class_=0x8001)  # the top bit: replaces what was known
    )
    assert dns.decode(data) == Message(0, True, records=(Text(SERVICE, 120, (b"t",)),))


def test_a_question_may_permit_a_unicast_answer() -> None:
    """The top bit of a question's class is no part of the class; class ANY asks for IN too."""
    data = header(questions=2, flags=0) + SERVICE_BYTES + struct.pack(">HH", PTR, 0x8001)
    data += b"\xc0\x0c" + struct.pack(">HH", ANY, 255)
    assert dns.decode(data) == Message(0, False, (Question(SERVICE, PTR), Question(SERVICE, ANY)))


def test_raw_records_are_written_and_not_read() -> None:
    """What `Raw` writes is stepped over by the reader: the other records stay where they are."""
    text = Text(SERVICE, 9, (b"t",))
    data = dns.encode(Message(0, True, records=(text, Raw(SERVICE, 9, SRV, b"srv"), text)))
    assert dns.decode(data) == Message(0, True, records=(text, text))


def test_other_kinds_of_messages_are_none() -> None:
    """A message with an opcode or a response code is for others (RFC 6762, section 18)."""
    for flags in (0x2800, 0x8403):
        assert dns.decode(header(flags=flags)) is None


BROKEN = {
    "a short header": header()[:-1],
    "a name without an end": header(questions=1, flags=0) + SERVICE_BYTES[:-1],
    "a question without a class": header(questions=1, flags=0) + SERVICE_BYTES + b"\0\x0c",
    "a record without a body": header(answers=1) + SERVICE_BYTES + b"\0\x0c\0\x01",
    "a record longer than the message": header(answers=1) + record(SERVICE_BYTES, TXT, b"\x01t")[:-1],
    "a string longer than its record": header(answers=1) + record(SERVICE_BYTES, TXT, b"\x09t"),
    "a pointer to itself": header(answers=1) + record(b"\xc0\x0c", TXT, b""),
    "a pointer forward": header(answers=1) + record(b"\xc0\x20", TXT, b"\x1f" + b"t" * 31),
    "two pointers in a ring": header(answers=1) + record(b"\x01a\xc0\x0c", TXT, b""),
    "a label of an unknown kind": header(answers=1) + record(b"\x41a\0", TXT, b""),
    "a name of 256 bytes": header(answers=1) + record((b"\x3f" + b"a" * 63) * 4 + b"\0", TXT, b""),
    "too many records": header(answers=dns.MAX_RECORDS, additional=1),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        dns.decode(data)


def test_a_name_of_255_bytes_is_read() -> None:
    name = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    message = dns.decode(header(answers=1) + record(name, TXT, b""))
    assert message is not None and len(message.records[0].name) == 4


def test_a_chain_of_pointers_is_bounded() -> None:
    """Each pointer leads to the one before: within the rules, and refused after a few."""
    start = HEADER.size + 1 + 10  # of the first record's data, behind its empty name
    chain = b"\0\0" + b"".join(struct.pack(">H", 0xC000 | start + 2 * i) for i in range(dns.MAX_JUMPS + 1))

    def message(jumps: int) -> bytes:
        last = struct.pack(">H", 0xC000 | start + 2 * (jumps - 1))
        return header(answers=2) + record(b"\0", 99, chain) + record(last, TXT, b"")

    assert dns.decode(message(dns.MAX_JUMPS)) == Message(0, True, records=(Text((), 120, (b"",)),))
    with pytest.raises(RemoteProtocolError):
        dns.decode(message(dns.MAX_JUMPS + 1))
