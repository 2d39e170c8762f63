"""What a security handshake is to whoever runs one: bytes in, bytes out, until both identities are proved."""

from __future__ import annotations

from typing import Protocol

from p2pfwd.core.keys import PublicKey
from p2pfwd.core.peer_id import PeerId


class Handshake(Protocol):
    """`wire.noise.handshake.NoiseHandshake` and `wire.tls.engine.TlsHandshake`, either role."""

    def start(self) -> bytes:
        """What is sent first; maybe nothing."""

    def receive(self, data: bytes) -> bytes:
        """Take what the peer sent, in any cut; what to send. Raises HandshakeFailed, PeerIdMismatch."""

    @property
    def done(self) -> bool:
        """Both identities are proved."""

    @property
    def remote_key(self) -> PublicKey:
        """The identity key the peer proved."""

    @property
    def remote_peer(self) -> PeerId:
        """Its peer ID."""

    @property
    def muxer(self) -> str | None:
        """The muxer agreed in the handshake; None: negotiate it inside the channel."""

    def leftover(self) -> bytes:
        """Bytes that followed the handshake; they are handed on once."""
