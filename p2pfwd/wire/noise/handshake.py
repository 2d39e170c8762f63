"""The libp2p Noise handshake: XX, and in it each side's identity (libp2p spec: noise).

Messages 2 and 3 carry a NoiseHandshakePayload: the identity's public key, its signature over the
sender's static Noise key, the muxers the sender speaks, and from a p2pfwd the ciphers it wants the transport
phase to be keyed with. Bytes in, bytes out; both roles.

Rules:
- The peer ID is compared before the signature is verified, as in go: a wrong peer costs no RSA.
- Message 1 carries nothing (rust refuses it otherwise); what a peer puts there is ignored.
- The muxer is the first of the initiator's list that the responder lists too. None in common means
  None here: multistream-select then runs inside the channel, as go falls back.
- AES-256-GCM keys the transport phase when both sides list it, with wide messages when both list it so; else
  ChaCha20-Poly1305, which every libp2p node speaks and nobody lists. Both lists are part of the transcript
  that the messages authenticate.
- After a failure nothing is sent to the peer and the object is not used again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from p2pfwd.core.keys import PrivateKey, PublicKey
from p2pfwd.core.pb.noise_pb2 import NoiseExtensions, NoiseHandshakePayload
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import HandshakeFailed, InvalidKey, LocalProtocolError
from p2pfwd.wire.handshake import Handshake
from p2pfwd.wire.noise.cipher import AES, AES_WIDE, CHACHA, LENGTH_BYTES, OpenCipher, SealCipher, Suite
from p2pfwd.wire.noise.xx import NoiseXX, hkdf2

SIGNATURE_PREFIX: Final = b"noise-libp2p-static-key:"

MAX_HANDSHAKE_MESSAGE_BYTES: Final = 16 * 1024
"""Longest handshake message taken from a peer. An RSA-8192 identity needs about 2.3 KiB, a hundred
muxer names 3 KiB more; the 64 KiB that the length field allows would only serve a stranger."""

MAX_MUXERS: Final = 100
"""A longer stream_muxers list is ignored, as go does: the list is searched once per own muxer."""

AES_CIPHER: Final = "p2pfwd/aes-256-gcm/1"
"""In the list of ciphers."""

WIDE_CIPHER: Final = "p2pfwd/aes-256-gcm-wide/1"
"""The same with wide messages (`wire.noise.cipher`)."""

AES_INFO: Final = b"p2pfwd noise transport aes-256-gcm"
"""What tells its keys from all others derived of the same secrets."""

WIDE_INFO: Final = b"p2pfwd noise transport aes-256-gcm-wide"
"""Keys of their own: two who took each other's word differently could not read each other."""

AGREED: Final = ((WIDE_CIPHER, AES_WIDE, WIDE_INFO), (AES_CIPHER, AES, AES_INFO))
"""Name, suite, and what its keys are derived with; the first that both list is taken."""

MAX_CIPHERS: Final = 16
"""A longer list counts as empty, for who sends it as well: of all lists it is known what they lead to."""

MAX_CIPHER_NAME: Final = 64
"""Characters. A list with a longer name counts as empty."""


class NoiseHandshake(Handshake):
    """One side of one handshake.

    expected_peer: the identity the peer must prove; None takes any (listeners).
    muxers: what to offer, in order of preference.
    aes: offer AES-256-GCM. With neither no extension is sent.
    wide: and with wide messages.
    entropy: `xx.ENTROPY_BYTES` random bytes, never used before.
    """

    _layer = "noise"

    def __init__(
        self,
        *,
        initiator: bool,
        identity: PrivateKey,
        expected_peer: PeerId | None,
        muxers: Sequence[str],
        entropy: bytes,
        aes: bool = False,
        wide: bool = False,
    ) -> None:
        super().__init__(initiator=initiator, expected_peer=expected_peer, muxers=muxers)
        self._identity = identity
        self._listed = ((WIDE_CIPHER, AES_CIPHER) if wide else (AES_CIPHER,)) if aes else ()
        self._suite, self._info = CHACHA, b""
        self._xx = NoiseXX(initiator=initiator, entropy=entropy)
        self.remote_muxers: tuple[str, ...] = ()
        """What the peer listed, once `done`; nothing where it left the choice to multistream-select."""
        self._ciphers: tuple[SealCipher, OpenCipher] | None = None

    def _first(self) -> bytes:
        return _frame(self._xx.write_message(b"")) if self._initiator else b""

    def _consume(self) -> bytes:
        out = b""
        while not self.done and (message := self._next_message()) is not None:
            out += self._on_message(message)
        return out

    @property
    def done(self) -> bool:
        """Both identities are proved and the ciphers are ready."""
        return self._ciphers is not None

    @property
    def seal(self) -> SealCipher:
        """The cipher of what we send."""
        return self._ready()[0]

    @property
    def open(self) -> OpenCipher:
        """The cipher of what we receive."""
        return self._ready()[1]

    @property
    def handshake_hash(self) -> bytes:
        """The transcript hash, 32 bytes; equal on both sides once done."""
        return self._xx.handshake_hash

    def _next_message(self) -> bytes | None:
        if len(self._buffer) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
        if length > MAX_HANDSHAKE_MESSAGE_BYTES:
            raise HandshakeFailed(f"noise: the peer announced a handshake message of {length} bytes")
        end = LENGTH_BYTES + length
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[LENGTH_BYTES:end])
        del self._buffer[:end]
        return message

    def _on_message(self, message: bytes) -> bytes:
        payload = self._xx.read_message(message)
        if self._initiator:
            self._check_payload(payload)
            out = _frame(self._xx.write_message(self._payload()))
            self._finish()
            return out
        if self._xx.done:
            self._check_payload(payload)
            self._finish()
            return b""
        return _frame(self._xx.write_message(self._payload()))

    def _payload(self) -> bytes:
        message = NoiseHandshakePayload(
            identity_key=self._identity.public_key.to_protobuf(),
            identity_sig=self._identity.sign(SIGNATURE_PREFIX + self._xx.local_static),
        )
        if self._muxers or self._listed:
            message.extensions.CopyFrom(NoiseExtensions(stream_muxers=self._muxers, ciphers=self._listed))
        return message.SerializeToString()

    def _check_payload(self, payload: bytes) -> None:
        message = NoiseHandshakePayload()
        try:
            message.ParseFromString(payload)
        except DecodeError:
            raise HandshakeFailed("noise: the peer's handshake payload cannot be decoded") from None
        try:
            key = PublicKey.from_protobuf(message.identity_key)
        except InvalidKey as exc:
            raise HandshakeFailed(f"noise: the peer's identity key is not valid: {exc.message}") from exc
        peer = self._expected(key)
        if not key.verify(SIGNATURE_PREFIX + self._xx.remote_static, message.identity_sig):
            raise HandshakeFailed("noise: the peer's identity signature is wrong", peer=str(peer))
        self._remote = (key, peer)
        self._muxer = self._agree(message.extensions.stream_muxers)
        self._suite, self._info = _suite(self._listed, message.extensions.ciphers)

    def _agree(self, remote: Sequence[str]) -> str | None:
        if len(remote) > MAX_MUXERS:
            return None
        self.remote_muxers = tuple(remote)
        ours, theirs = (self._muxers, remote) if self._initiator else (remote, self._muxers)
        return next((name for name in ours if name in theirs), None)

    def _finish(self) -> None:
        suite, keys = self._suite, self._xx.split()
        if self._info:
            keys = hkdf2(self.handshake_hash, b"".join(keys), self._info)
        ours, theirs = keys if self._initiator else reversed(keys)
        self._ciphers = (SealCipher(ours, suite=suite), OpenCipher(theirs, suite=suite))

    def _ready(self) -> tuple[SealCipher, OpenCipher]:
        if self._ciphers is None:
            raise LocalProtocolError("noise: the handshake is not done")
        return self._ciphers


def _suite(ours: Sequence[str], theirs: Sequence[str]) -> tuple[Suite, bytes]:
    """What both lists lead to, and what its keys are derived with: nothing, where they are Noise's own."""
    if len(theirs) <= MAX_CIPHERS and all(len(name) <= MAX_CIPHER_NAME for name in theirs):
        for name, suite, info in AGREED:
            if name in ours and name in theirs:
                return suite, info
    return CHACHA, b""


def _frame(message: bytes) -> bytes:
    return len(message).to_bytes(LENGTH_BYTES, "big") + message
