"""Unsigned varints of multiformats: length prefixes and multiaddr codes (unsigned-varint spec).

Rules: least significant group first, minimal encoding only, at most 9 bytes (63 bits). Protobuf's own
varints are laxer and are not read with this module.
"""

from __future__ import annotations

from typing import ClassVar

from p2pfwd.errors import LocalProtocolError, RemoteProtocolError

MAX_BYTES = 9
"""Longest encoding: 63 bits; the spec forbids more, so a tenth byte is never waited for."""

MAX_VALUE = (1 << 63) - 1


class VarintIncomplete(RemoteProtocolError):
    """The bytes end inside a varint; more of them may complete it."""

    code: ClassVar[str] = "varint-incomplete"


class VarintInvalid(RemoteProtocolError):
    """The bytes can never become a varint: not minimal, or longer than 9 bytes."""

    code: ClassVar[str] = "varint-invalid"


_ONE_BYTE = tuple(bytes((value,)) for value in range(0x80))


def encode(value: int) -> bytes:
    """The minimal encoding of `value`; LocalProtocolError outside 0..2**63-1."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if not 0 <= value <= MAX_VALUE:
        raise LocalProtocolError(f"varint: {value} is outside 0..2**63-1 and cannot be encoded")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(data: bytes | memoryview, offset: int = 0) -> tuple[int, int]:
    """The varint at `offset` as (value, offset behind it); VarintIncomplete or VarintInvalid otherwise."""
    value = 0
    available = len(data)
    for index in range(MAX_BYTES):
        position = offset + index
        if position >= available:
            raise VarintIncomplete(f"varint: the data ends after {index} bytes of it")
        byte = data[position]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index:
                raise VarintInvalid("varint: the encoding is not minimal")
            return value, position + 1
    raise VarintInvalid(f"varint: longer than {MAX_BYTES} bytes")
