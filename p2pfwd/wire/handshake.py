"""A security handshake: bytes in, bytes out, until the peer has proved its identity; of Noise and of TLS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from p2pfwd.core.keys import PublicKey
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import LocalProtocolError, PeerIdMismatch


class Handshake(ABC):
    """One side of one handshake: `wire.noise.handshake.NoiseHandshake` or `wire.tls.engine.TlsHandshake`."""

    _layer: ClassVar[str]
    """What errors begin with."""

    def __init__(self, *, initiator: bool, expected_peer: PeerId | None, muxers: Sequence[str]) -> None:
        self._initiator = initiator
        self._expected_peer = expected_peer
        self._muxers = tuple(muxers)
        self._buffer = bytearray()
        self._started = False
        self._handed_on = False
        self._remote: tuple[PublicKey, PeerId] | None = None
        self._muxer: str | None = None

    def start(self) -> bytes:
        """What an initiator sends first; nothing for a responder."""
        if self._started:
            raise LocalProtocolError(f"{self._layer}: the handshake was started twice")
        self._started = True
        return self._first()

    def receive(self, data: bytes | bytearray | memoryview) -> bytes:
        """Takes received bytes in any chunking, returns bytes to send (maybe none).

        Once done, bytes are only kept for `leftover()`. Raises HandshakeFailed or PeerIdMismatch.
        """
        if not self._started:
            raise LocalProtocolError(f"{self._layer}: bytes were fed before the start")
        if self._handed_on:
            raise LocalProtocolError(f"{self._layer}: bytes were fed after the leftover was handed on")
        self._buffer += data
        return self._consume()

    @property
    @abstractmethod
    def done(self) -> bool:
        """The peer's identity is proved, and data may be sent."""

    @property
    def remote_key(self) -> PublicKey:
        """The identity key the peer proved."""
        return self._proved()[0]

    @property
    def remote_peer(self) -> PeerId:
        """The peer ID the peer proved."""
        return self._proved()[1]

    @property
    def muxer(self) -> str | None:
        """The muxer agreed in the handshake; None: negotiate it inside the channel."""
        return self._muxer

    def leftover(self) -> bytes:
        """Raw bytes that followed the handshake; they are handed on once."""
        self._check_done()
        self._handed_on = True
        rest = bytes(self._buffer)
        self._buffer = bytearray()
        return rest

    @abstractmethod
    def _first(self) -> bytes:
        """For `start`."""

    @abstractmethod
    def _consume(self) -> bytes:
        """Take what is complete in the buffer, until done; what to send."""

    def _expected(self, key: PublicKey) -> PeerId:
        """Whose key it is, where that is who was expected. Raises PeerIdMismatch."""
        peer = PeerId.from_public_key(key)
        if self._expected_peer is not None and peer != self._expected_peer:
            raise PeerIdMismatch(
                f"{self._layer}: the node proved to be {peer}, not {self._expected_peer}",
                expected=str(self._expected_peer),
                actual=str(peer),
            )
        return peer

    def _check_done(self) -> None:
        if not self.done:
            raise LocalProtocolError(f"{self._layer}: the handshake is not done")

    def _proved(self) -> tuple[PublicKey, PeerId]:
        if self._remote is None:
            raise LocalProtocolError(f"{self._layer}: the peer has not proved its identity yet")
        return self._remote
