"""Secure channels: a conduit plus the ciphers that a handshake agreed on.

A channel takes plaintext from the loop's staging buffer, seals it and sends it in one system call;
what comes in is opened in place and handed to its owner's `plaintext_received`, a piece at a time, then
`turn_ended` once per read, so that answers share one send. libp2p specs: noise, tls.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ProtocolError, without_frames
from p2pfwd.net.conduit.contract import Conduit
from p2pfwd.system.buffers import WIDE_PREFIX_BYTES, BufferPool
from p2pfwd.wire.noise import NOISE
from p2pfwd.wire.noise.cipher import (
    LENGTH_BYTES,
    MAX_MESSAGE,
    MAX_PLAINTEXT,
    TAG,
    WIDE_LENGTH_BYTES,
    OpenCipher,
    SealCipher,
    wide_length,
)
from p2pfwd.wire.tls import TLS

if TYPE_CHECKING:
    from p2pfwd.wire.tls.engine import TlsHandshake

OVERHEAD_BYTES: Final = LENGTH_BYTES + TAG
"""Of a Noise message."""


class ChannelOwner(Protocol):
    """Who sits on a channel: the muxed connection, or the upgrader while the muxer is negotiated."""

    def plaintext_received(self, view: memoryview) -> None:
        """A piece of plaintext, valid until `turn_ended`."""

    def more_follows(self) -> None:
        """The next piece may not be the last of its read."""

    def turn_ended(self) -> None:
        """All that one read brought has been handed over."""

    def channel_drained(self) -> None:
        """The channel is not congested any more."""

    def channel_lost(self, exc: Exception | None) -> None:
        """The conduit ended (`None`: by us), or the peer broke the security protocol. The last call."""


class Channel(ABC):
    """What Noise and TLS channels share: the conduit below, the owner above, and ending."""

    __slots__ = ("_cause", "_lost", "_owner", "_paused", "conduit", "pool", "read_at", "remote_peer", "timed")

    security: str
    cipher: str
    max_plaintext = MAX_PLAINTEXT
    """Largest `n` for `send_staged`."""
    missing = 0
    """See `Receiver.missing`."""

    def __init__(self, conduit: Conduit, pool: BufferPool, remote_peer: PeerId) -> None:
        self.conduit = conduit
        self.remote_peer = remote_peer
        self.pool = pool
        self.timed = False
        """Whether `read_at` is wanted."""
        self.read_at = 0.0
        """When the last read began to be opened while it was wanted, monotonic."""
        self._owner: ChannelOwner | None = None
        self._lost = False
        self._paused = False
        self._cause: Exception | None = None

    def pause(self) -> None:
        """Hand over nothing more, from within `plaintext_received` too, until `resume`."""
        self._paused = True
        self.conduit.pause()

    def resume(self) -> None:
        """Go on, with what was left first."""
        self._paused = False
        self.conduit.resume()

    @property
    def kept_bytes(self) -> int:
        """Bytes that wait here and in the conduit."""
        return self.conduit.kept_bytes

    @property
    def max_wide(self) -> int:
        """Largest `n` for `send_wide` now; 0 where there are no wide messages."""
        return 0

    @property
    def congested(self) -> bool:
        """Whether `send_staged` must wait for `channel_drained`."""
        return self.conduit.congested

    def start(self, owner: ChannelOwner, leftover: bytes) -> None:
        """Begin; `leftover` is ciphertext that the handshake read too much."""
        self._owner = owner
        self.conduit.start(self, leftover)

    def hand_over(self, owner: ChannelOwner) -> None:
        """Let another owner go on; it is told at once of a loss that came before it."""
        self._owner = owner
        if self._lost:
            owner.channel_lost(self._cause)

    @abstractmethod
    def rest(self) -> None:
        """Nothing is going on: let go of what the next message can have made anew."""

    @abstractmethod
    def send_staged(self, n: int, more: bool = False) -> None:
        """Seal and send the first `n` bytes of the pool's `staging`; `more`: see `Conduit.send`."""

    def send_wide(self, n: int) -> None:
        """Seal and send what lies at `wide[WIDE_PREFIX_BYTES:]` of the pool, `n` bytes, as one message.

        `n` is at most `max_wide`: where that is 0, as it is here, nothing is sent.
        """
        assert n <= self.max_wide

    def uncork(self) -> None:
        """Send what waits for more."""
        self.conduit.uncork()

    def data_received(self, view: memoryview) -> int:
        """Ciphertext from the conduit; how much was taken."""
        assert self._owner is not None
        if self.timed:
            self.read_at = time.monotonic()
        try:
            used = self._open(view)
        except ProtocolError as exc:
            self.fail(exc)
            return len(view)
        except Exception as exc:
            # A defect: the rest of the read is lost, and what was gathered lies where the next one goes.
            self.fail(exc)
            raise
        if not self._lost:
            self._owner.turn_ended()
        return used

    @abstractmethod
    def _open(self, view: memoryview) -> int:
        """Open what is whole and hand it over; how much was taken."""

    def eof_received(self) -> None:
        """The peer is gone; what it left open is an error there, which the owner knows."""
        self.conduit_lost(ConnectionResetError("the peer closed the connection"))
        self.conduit.abort()

    def fail(self, exc: Exception) -> None:
        """End at once: what has come cannot be gone on with."""
        self.conduit_lost(exc)
        self.conduit.abort()

    def drained(self) -> None:
        """From the conduit."""
        if self._owner is not None:
            self._owner.channel_drained()

    def conduit_lost(self, exc: Exception | None) -> None:
        """From the conduit, or on a violation: tell the owner, once."""
        if not self._lost:
            self._lost = True
            exc = None if exc is None else without_frames(exc)
            self._cause = exc
            if self._owner is not None:
                self._owner.channel_lost(exc)


class NoiseChannel(Channel):
    """Noise transport messages: a length, then plaintext sealed, at most 65519 bytes or 262128 (wide)."""

    __slots__ = ("_max_message", "_opener", "_seal", "_wide", "cipher", "max_plaintext", "missing")

    security = NOISE

    def __init__(
        self,
        conduit: Conduit,
        pool: BufferPool,
        remote_peer: PeerId,
        seal: SealCipher,
        opener: OpenCipher,
    ) -> None:
        super().__init__(conduit, pool, remote_peer)
        segment = conduit.segment_bytes
        self.max_plaintext = MAX_PLAINTEXT if segment is None else segment - OVERHEAD_BYTES
        self._max_message = seal.suite.max_message
        self._wide = False
        self.missing = 0
        self.cipher = seal.suite.name
        self._seal = seal
        self._opener = opener

    def rest(self) -> None:
        """See Channel.rest."""
        self._seal.rest()
        self._opener.rest()

    def send_staged(self, n: int, more: bool = False) -> None:
        """Seal and send the first `n` bytes of the pool's `staging` as one message."""
        pool = self.pool
        sealed = self._seal.seal_into(pool.staging[:n], pool.frame)
        self.conduit.send(pool.frame[:sealed], framed=True, more=more)

    def hand_over(self, owner: ChannelOwner) -> None:
        """Let another owner go on. Wide messages begin here: whoever is still in a handshake sends none."""
        self._wide = self._max_message > MAX_MESSAGE
        super().hand_over(owner)

    @property
    def max_wide(self) -> int:
        """See Channel.max_wide."""
        if not self._wide:
            return 0
        return max(0, min(self._max_message, self.conduit.wide_bytes - WIDE_LENGTH_BYTES) - TAG)

    def send_wide(self, n: int) -> None:
        """See Channel.send_wide."""
        wide = self.pool.wide
        first = 0 if n > MAX_PLAINTEXT else WIDE_PREFIX_BYTES - LENGTH_BYTES
        sealed = self._seal.seal_into(wide[WIDE_PREFIX_BYTES : WIDE_PREFIX_BYTES + n], wide[first:])
        self.conduit.send(wide[first : first + sealed], framed=True)

    def _open(self, view: memoryview) -> int:
        owner, opener, pos, end = self._owner, self._opener, 0, len(view)
        assert owner is not None
        self.missing = 0
        while end - pos >= LENGTH_BYTES:
            start = pos + LENGTH_BYTES
            length = view[pos] << 8 | view[pos + 1]
            if length < TAG and self._wide:
                start = pos + WIDE_LENGTH_BYTES
                if start > end:
                    break
                length = wide_length(view[pos:start])
                self.missing = max(0, start + length - end)
            stop = start + length
            if stop > end:
                break
            message = view[start:stop]
            n = opener.open_into(message, message)
            pos = stop
            if stop < end:
                owner.more_follows()
            owner.plaintext_received(message[:n])  # also of an empty message: it is legal, and costs
            if self._lost:
                return end
            if self._paused:
                return pos
        return pos


class TlsChannel(Channel):
    """TLS 1.3 records through memory BIOs."""

    __slots__ = ("_kept", "_opened", "_tls", "cipher")

    security = TLS

    def __init__(self, conduit: Conduit, pool: BufferPool, remote_peer: PeerId, tls: TlsHandshake) -> None:
        super().__init__(conduit, pool, remote_peer)
        self._tls = tls
        self.cipher = tls.cipher
        self._opened: deque[bytes] = deque()
        """Records opened and not handed over: the engine opens all that one read brings."""
        self._kept = 0
        """Their bytes, as far as the pool counts them: between turns that is all."""

    def resume(self) -> None:
        """Go on, with what was left first."""
        self._paused = False
        if self._opened:
            self._hand_over()
            if self._owner is not None and not self._lost:
                self._owner.turn_ended()
        if not self._paused:
            self.conduit.resume()

    @property
    def kept_bytes(self) -> int:
        """Bytes that wait here and in the conduit."""
        return self.conduit.kept_bytes + self._kept

    def rest(self) -> None:
        """See Channel.rest; what OpenSSL has cannot be had back."""

    def send_staged(self, n: int, more: bool = False) -> None:
        """Seal and send the first `n` bytes of the pool's `staging` as records, at once."""
        self.conduit.send(memoryview(self._tls.write(self.pool.staging[:n])))

    def eof_received(self) -> None:
        """An alert may have come just before."""
        self.data_received(memoryview(b""))
        super().eof_received()

    def _open(self, view: memoryview) -> int:
        self._opened.extend(self._tls.read(view))
        self._hand_over()
        return len(view)

    def _hand_over(self) -> None:
        while self._opened and not (self._lost or self._paused):
            plain = self._opened.popleft()
            if self._owner is not None:
                if self._opened:
                    self._owner.more_follows()
                self._owner.plaintext_received(memoryview(plain))
        self._count()

    def _count(self) -> None:
        kept = sum(map(len, self._opened))
        self.pool.kept_bytes += kept - self._kept
        self._kept = kept

    def conduit_lost(self, exc: Exception | None) -> None:
        """Nobody takes what is left."""
        self._opened.clear()
        self._count()
        super().conduit_lost(exc)
