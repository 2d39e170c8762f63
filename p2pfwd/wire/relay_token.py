"""What a client shows its relay to be let in: p2pfwd's own protocol, one message each way.

The request is a token's text in ASCII, the answer one byte; both have their length in front.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from p2pfwd.core.relay_token import read_token
from p2pfwd.errors import RemoteProtocolError, UsageError

PROTOCOL: Final = "/p2pfwd/relay-token/1.0.0"

MAX_MESSAGE_BYTES: Final = 256


class TokenStatus(IntEnum):
    """A relay's verdict."""

    OK = 0
    UNKNOWN = 1
    """No such token, or not any more."""
    TAKEN = 2
    """Another peer has shown it before."""
    BUSY = 3
    """It could not be kept in mind: try again."""


def encode_request(token: str) -> bytes:
    """Without its length."""
    return token.encode("ascii")


def decode_request(data: bytes) -> str:
    """Raises RemoteProtocolError."""
    try:
        return read_token(data.decode("ascii"))
    except (UnicodeDecodeError, UsageError):
        raise RemoteProtocolError("relay token: the peer shows what is none") from None


def encode_answer(status: TokenStatus) -> bytes:
    """Without its length."""
    return bytes([status])


def decode_answer(data: bytes) -> TokenStatus:
    """Raises RemoteProtocolError."""
    if len(data) != 1 or data[0] not in TokenStatus._value2member_map_:
        raise RemoteProtocolError("relay token: the relay's answer is none that is known here")
    return TokenStatus(data[0])
