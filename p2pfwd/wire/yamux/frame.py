"""Yamux frame headers: 12 bytes big-endian, version | type | flags | stream id | length.

DATA's length is its payload's; WINDOW_UPDATE's a credit delta; PING's an opaque value; GO_AWAY's a
code. Rules: ACK is never combined with FIN, RST or data (py-libp2p drops what rides on an ACK); a
FIN or RST of ours is a WINDOW_UPDATE of length 0, as go and js send it.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final

from p2pfwd.errors import RemoteProtocolError

HEADER_BYTES: Final = 12
VERSION: Final = 0
INITIAL_WINDOW_BYTES: Final = 256 * 1024
"""Credit of either side at the start of a stream; fixed by the specification."""

MAX_WINDOW: Final = 0xFFFF_FFFF
"""Largest send window a peer may grant: the field is 32 bits (CVE-2026-31814 was its overflow)."""

HEADER: Final = struct.Struct(">BBHII")
WORDS: Final = struct.Struct(">III")
"""The same with version, type and flags as one number: 0 is data without flags, nearly every frame."""


class FrameType(IntEnum):
    """Second byte of the header."""

    DATA = 0
    WINDOW_UPDATE = 1
    PING = 2
    GO_AWAY = 3


class Flag(IntFlag):
    """Third and fourth byte of the header."""

    SYN = 1
    ACK = 2
    FIN = 4
    RST = 8


class GoAwayCode(IntEnum):
    """Why a session ends."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


# Plain ints for the hot path: enum members cost an attribute look-up and a slower `&`.
DATA: Final = int(FrameType.DATA)
WINDOW_UPDATE: Final = int(FrameType.WINDOW_UPDATE)
PING: Final = int(FrameType.PING)
GO_AWAY: Final = int(FrameType.GO_AWAY)
SYN: Final = int(Flag.SYN)
ACK: Final = int(Flag.ACK)
FIN: Final = int(Flag.FIN)
RST: Final = int(Flag.RST)


def encode_header(frame_type: int, flags: int, stream_id: int, length: int) -> bytes:
    """The 12 bytes of one header."""
    return HEADER.pack(VERSION, frame_type, flags, stream_id, length)


def decode_header(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int, int, int]:
    """(type, flags, stream id, length) of the header at `offset`.

    Raises RemoteProtocolError on another version or an unknown type.
    """
    version, frame_type, flags, stream_id, length = HEADER.unpack_from(data, offset)
    if version != VERSION:
        raise RemoteProtocolError(f"yamux: frame version {version}, not {VERSION}")
    if frame_type > GO_AWAY:
        raise RemoteProtocolError(f"yamux: unknown frame type {frame_type}")
    return frame_type, flags, stream_id, length
