"""multistream-select 1.0: two parties agree on one protocol name (libp2p spec: multistream-select).

A token is uvarint(n) followed by n bytes, the last of which is a newline that n counts. Both sides
open with the header token; the dialer proposes, the listener echoes what it supports and answers
`na` to everything else.

Rules:
- Header and first proposal leave in one write: go peeks the first bytes of a dial within 5 s, and
  every round trip saved is one less on each new stream.
- What follows the selection in the same read belongs to the next layer: `leftover()` hands it on.
- Names match byte for byte. `/libp2p/simultaneous-connect` (go-libp2p <= 0.31 sends it on every
  dial) and `ls` are just names we do not support.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from p2pfwd.core import varint
from p2pfwd.errors import LocalProtocolError, ProtocolNotSupported, RemoteProtocolError

MULTISTREAM: Final = "/multistream/1.0.0"

MAX_TOKEN_BYTES: Final = 1024
"""Longest token, newline included: what go and js read. A longer one is refused at its length."""

MAX_LENGTH_BYTES: Final = 2
"""Bytes of the uvarint that can express `MAX_TOKEN_BYTES`; more of them never become a legal token."""

MAX_PROPOSALS: Final = 1000
"""Proposals a listener answers. Nobody has that many; without a bound only a deadline ends a peer
that goes on proposing (go has no bound)."""


def encode_token(name: str) -> bytes:
    """One token: length, name, newline. Raises LocalProtocolError on a name that cannot be sent."""
    body = name.encode() + b"\n"
    if len(body) > MAX_TOKEN_BYTES:
        raise LocalProtocolError(f"multistream: the name {name[:40]!r}... is longer than a token may be")
    if b"\n" in body[:-1]:
        raise LocalProtocolError(f"multistream: the name {name!r} holds a newline")
    return varint.encode(len(body)) + body


HEADER: Final = encode_token(MULTISTREAM)
_NA: Final = encode_token("na")

KEPT_OPENINGS: Final = 128
"""Names whose bytes are kept: the owner's tunnels, most of the time."""


@lru_cache(maxsize=KEPT_OPENINGS)
def opening(name: str) -> bytes:
    """Header and token of a name: what proposes it, and what takes it at once. Raises as `encode_token`."""
    return HEADER + encode_token(name)


class _Tokens:
    """Cuts received bytes into tokens; holds at most one unfinished token between calls."""

    __slots__ = ("_buffer", "_offset")

    def __init__(self) -> None:
        self._buffer = b""
        self._offset = 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        self._buffer = self.rest() + data

    def next(self) -> bytes | None:
        """The next token without its newline, or None until more bytes come."""
        try:
            length, start = varint.decode(self._buffer, self._offset)
        except varint.VarintIncomplete:
            if len(self._buffer) - self._offset >= MAX_LENGTH_BYTES:
                raise RemoteProtocolError("multistream: a token of the peer is too long") from None
            return None
        if length > MAX_TOKEN_BYTES:
            raise RemoteProtocolError(
                f"multistream: the peer announced a token of {length} bytes, {MAX_TOKEN_BYTES} are allowed"
            )
        end = start + length
        if end > len(self._buffer):
            return None
        if length == 0 or self._buffer[end - 1] != 0x0A:
            raise RemoteProtocolError("multistream: a token of the peer does not end in a newline")
        self._offset = end
        return self._buffer[start : end - 1]

    def peek(self, size: int) -> bytes:
        """What is there of the next `size` bytes."""
        return self._buffer[self._offset : self._offset + size]

    def rest(self) -> bytes:
        """Takes all that is not cut yet."""
        rest = self._buffer[self._offset :]
        self._buffer = b""
        self._offset = 0
        return rest


class _Negotiation(ABC):
    """What both roles share: the header exchange, the selection and what came after it."""

    def __init__(self) -> None:
        self._tokens = _Tokens()
        self._header_seen = False
        self._handed_on = False
        self._selected: str | None = None
        self._out = b""

    @property
    def selected(self) -> str | None:
        """The agreed protocol, or None until there is one."""
        return self._selected

    @property
    def opened(self) -> bool:
        """Whether the peer's header has come: it speaks multistream."""
        return self._header_seen

    def leftover(self) -> bytes:
        """Bytes that followed the selection; they are handed on once."""
        if self._selected is None:
            raise LocalProtocolError("multistream: there is no leftover before a protocol is selected")
        self._handed_on = True
        return self._tokens.rest()

    def receive(self, data: bytes | bytearray | memoryview) -> bytes:
        """Takes received bytes in any chunking, returns bytes to send (maybe none).

        Once a protocol is selected, bytes are only kept for `leftover()`.
        """
        if self._handed_on:
            raise LocalProtocolError("multistream: bytes were fed after the leftover was handed on")
        self._tokens.feed(data)
        if not self._header_seen:
            # Byte by byte, so that a server of another kind fails at once and not at a deadline.
            opening = self._tokens.peek(len(HEADER))
            if not HEADER.startswith(opening):
                raise RemoteProtocolError(f"multistream: the peer opened with {opening!r}, not {HEADER!r}")
        while self._selected is None and (token := self._tokens.next()) is not None:
            if self._header_seen:
                self._out += self._on_token(token)
            else:
                self._header_seen = True
        return self.last_words()

    def last_words(self) -> bytes:
        """What was to be answered before the failure of `receive`: the `na` that says why it is over.

        A dialer that lets its data ride along with a proposal has this data taken for more proposals.
        """
        out, self._out = self._out, b""
        return out

    @abstractmethod
    def _on_token(self, token: bytes) -> bytes:
        """What is answered to one token of the peer's."""


class DialerNegotiation(_Negotiation):
    """The side that proposes, in order of preference, until one proposal is echoed.

    `receive` raises ProtocolNotSupported once all were refused, RemoteProtocolError on anything that
    is neither the echo nor `na`.
    """

    def __init__(self, proposals: Sequence[str]) -> None:
        super().__init__()
        if not proposals:
            raise LocalProtocolError("multistream: nothing to propose")
        self._proposals = tuple(proposals)
        self._tokens_out = tuple(encode_token(name) for name in self._proposals)
        self._index = 0

    def start(self) -> bytes:
        """Header and first proposal, for one write."""
        return HEADER + self.proposal()

    def proposal(self) -> bytes:
        """The first proposal alone, for who has sent the header already."""
        return self._tokens_out[0]

    def _on_token(self, token: bytes) -> bytes:
        proposal = self._proposals[self._index]
        if token == proposal.encode():
            self._selected = proposal
            return b""
        if token != b"na":
            raise RemoteProtocolError(f"multistream: the peer answered {token[:40]!r} to {proposal}")
        self._index += 1
        if self._index == len(self._proposals):
            names = ", ".join(self._proposals)
            raise ProtocolNotSupported(
                f"multistream: the peer does not support {names}", protocols=list(self._proposals)
            )
        return self._tokens_out[self._index]


class SoleProposal:
    """As `DialerNegotiation` of one name, of which nearly every answer is known beforehand.

    What comes is compared with it; at the first difference the negotiation is made, and goes on.
    """

    __slots__ = ("_came", "_full", "_leftover", "_name", "_opening", "selected")

    def __init__(self, name: str) -> None:
        self._name = name
        self._opening = opening(name)
        self._came = 0  # bytes of the answer, as expected
        self._full: DialerNegotiation | None = None
        self._leftover = b""
        self.selected: str | None = None
        """The agreed protocol, or None until there is one."""

    def start(self) -> bytes:
        """See `DialerNegotiation`."""
        return self._opening

    def receive(self, data: bytes | bytearray | memoryview) -> bytes:
        """See `DialerNegotiation`. Call it no more once `selected` is set."""
        if self._full is None:
            came = bytes(data)
            rest = self._opening[self._came :]
            if came.startswith(rest):
                self.selected = self._name
                self._leftover = came[len(rest) :]
                return b""
            if rest.startswith(came):
                self._came += len(came)
                return b""
            self._full = DialerNegotiation((self._name,))
            data = self._opening[: self._came] + came
        answer = self._full.receive(data)
        self.selected = self._full.selected
        if self.selected is not None:
            self._leftover = self._full.leftover()
        return answer

    def leftover(self) -> bytes:
        """Bytes that followed the selection."""
        return self._leftover

    def last_words(self) -> bytes:
        """See `DialerNegotiation`."""
        return self._full.last_words() if self._full is not None else b""


class ListenerNegotiation(_Negotiation):
    """The side that answers: echoes the first name `supported` accepts, `na` to all before it."""

    def __init__(self, supported: Callable[[str], bool]) -> None:
        super().__init__()
        self._supported = supported
        self._proposals_seen = 0

    def start(self) -> bytes:
        """The header; it may be sent before anything is read."""
        return HEADER

    def receive(self, data: bytes | bytearray | memoryview) -> bytes:
        """See `DialerNegotiation`. A dialer's whole opening, which mostly comes in one, goes a short way."""
        if not self._header_seen and not self._tokens.peek(1):
            data = bytes(data)
            start = len(HEADER) + 1
            stop = start + data[start - 1] if data.startswith(HEADER) and len(data) >= start else 0
            if start < stop <= len(data) and stop < start + 0x80 and data[stop - 1] == 0x0A:
                self._header_seen = True
                self._out += self._on_token(data[start : stop - 1])
                data = data[stop:]
        return super().receive(data)

    def _on_token(self, token: bytes) -> bytes:
        self._proposals_seen += 1
        if self._proposals_seen > MAX_PROPOSALS:
            raise RemoteProtocolError(f"multistream: the peer made more than {MAX_PROPOSALS} proposals")
        # No name of ours is without a slash or outside UTF-8; `ls` and `na` end here too.
        if not token.startswith(b"/"):
            return _NA
        try:
            name = token.decode()
        except UnicodeDecodeError:
            return _NA
        if not self._supported(name):
            return _NA
        self._selected = name
        return opening(name)[len(HEADER) :]
