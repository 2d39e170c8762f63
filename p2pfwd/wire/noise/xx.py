"""The Noise pattern XX with X25519, ChaCha20-Poly1305 and SHA-256 (Noise specification, revision 34).

    -> e          -> is towards the responder; both static keys are proved,
    <- e, ee, s, es    and the initiator's is hidden from everybody but the responder
    -> s, se

Rules: messages come without a length prefix; a call out of turn is a LocalProtocolError; whatever a
peer can do wrong is a HandshakeFailed, after which the object is not used again.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2pfwd.errors import HandshakeFailed, LocalProtocolError

PROTOCOL_NAME: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"
"""Exactly one hash long, so it is the first hash as it stands."""

KEY_BYTES: Final = 32
"""Bytes of an X25519 key, of a cipher key and of a hash."""

ENTROPY_BYTES: Final = 2 * KEY_BYTES
"""Random bytes of one handshake."""

MESSAGES: Final = 3
_TAG: Final = 16
_SEALED_KEY: Final = KEY_BYTES + _TAG
_NONCE: Final = struct.Struct("<4xQ")


def hkdf2(salt: bytes, secret: bytes, info: bytes = b"") -> tuple[bytes, bytes]:
    """RFC 5869 with SHA-256 and 64 bytes, as two keys; Noise's HKDF with two outputs has no info."""
    okm = HKDF(algorithm=SHA256(), length=2 * KEY_BYTES, salt=salt, info=info).derive(secret)
    return okm[:KEY_BYTES], okm[KEY_BYTES:]


class _Symmetric:
    """Noise's SymmetricState: chaining key, transcript hash, and the cipher of the handshake."""

    __slots__ = ("_cipher", "_ck", "_nonce", "h")

    def __init__(self, prologue: bytes) -> None:
        self.h = PROTOCOL_NAME
        self._ck = PROTOCOL_NAME
        self._cipher: ChaCha20Poly1305 | None = None
        self._nonce = 0
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        self.h = hashlib.sha256(self.h + data).digest()

    def mix_key(self, secret: bytes) -> None:
        self._ck, key = hkdf2(self._ck, secret)
        self._cipher = ChaCha20Poly1305(key)
        self._nonce = 0

    def encrypt_and_hash(self, plain: bytes) -> bytes:
        out = plain if self._cipher is None else self._cipher.encrypt(self._next_nonce(), plain, self.h)
        self.mix_hash(out)
        return out

    def decrypt_and_hash(self, data: bytes) -> bytes:
        if self._cipher is None:
            out = data
        else:
            try:
                out = self._cipher.decrypt(self._next_nonce(), data, self.h)
            except InvalidTag:
                raise HandshakeFailed("noise: a handshake message does not decrypt") from None
        self.mix_hash(data)
        return out

    def split(self) -> tuple[bytes, bytes]:
        return hkdf2(self._ck, b"")

    def _next_nonce(self) -> bytes:
        nonce = _NONCE.pack(self._nonce)
        self._nonce += 1
        return nonce


class NoiseXX:
    """One side of one XX handshake.

    entropy: `ENTROPY_BYTES` random bytes, never used before: the static and the ephemeral private key.
    """

    def __init__(
        self,
        *,
        initiator: bool,
        entropy: bytes,
        prologue: bytes = b"",
    ) -> None:
        self._initiator = initiator
        if len(entropy) != ENTROPY_BYTES:
            raise LocalProtocolError(f"noise: {len(entropy)} random bytes instead of {ENTROPY_BYTES}")
        self._static = X25519PrivateKey.from_private_bytes(entropy[:KEY_BYTES])
        self._ephemeral = X25519PrivateKey.from_private_bytes(entropy[KEY_BYTES:])
        self._symmetric = _Symmetric(prologue)
        self._messages = 0
        self._remote_static: X25519PublicKey | None = None
        self._remote_ephemeral: X25519PublicKey | None = None

    @property
    def local_static(self) -> bytes:
        """Our static public key, 32 bytes."""
        return self._static.public_key().public_bytes_raw()

    @property
    def remote_static(self) -> bytes:
        """The peer's static public key, 32 bytes; known after the message that carries it."""
        if self._remote_static is None:
            raise LocalProtocolError("noise: the peer's static key is not known yet")
        return self._remote_static.public_bytes_raw()

    @property
    def done(self) -> bool:
        """All three messages have passed."""
        return self._messages == MESSAGES

    @property
    def handshake_hash(self) -> bytes:
        """The transcript hash: after the last message it names this session."""
        return self._symmetric.h

    def split(self) -> tuple[bytes, bytes]:
        """(key of the initiator's messages, key of the responder's), once `done`."""
        if not self.done:
            raise LocalProtocolError("noise: split before the handshake is done")
        return self._symmetric.split()

    def write_message(self, payload: bytes) -> bytes:
        """The next message, carrying `payload` (in clear in the first message)."""
        self._check_turn(ours=True)
        s = self._symmetric
        out = b""
        if self._messages < 2:
            out = self._ephemeral.public_key().public_bytes_raw()
            s.mix_hash(out)
        if self._messages == 1:
            s.mix_key(self._dh(self._ephemeral, self._remote_ephemeral))
        if self._messages > 0:
            out += s.encrypt_and_hash(self.local_static)
            s.mix_key(self._dh(self._static, self._remote_ephemeral))
        self._messages += 1
        return out + s.encrypt_and_hash(payload)

    def read_message(self, message: bytes) -> bytes:
        """Takes the peer's next message, returns its payload. Raises HandshakeFailed."""
        self._check_turn(ours=False)
        s = self._symmetric
        offset = 0
        if self._messages < 2:
            public = _cut(message, offset, KEY_BYTES)
            self._remote_ephemeral = X25519PublicKey.from_public_bytes(public)
            s.mix_hash(public)
            offset += KEY_BYTES
        if self._messages == 1:
            s.mix_key(self._dh(self._ephemeral, self._remote_ephemeral))
        if self._messages > 0:
            public = s.decrypt_and_hash(_cut(message, offset, _SEALED_KEY))
            self._remote_static = X25519PublicKey.from_public_bytes(public)
            s.mix_key(self._dh(self._ephemeral, self._remote_static))
            offset += _SEALED_KEY
        payload = s.decrypt_and_hash(message[offset:])
        self._messages += 1
        return payload

    def _check_turn(self, *, ours: bool) -> None:
        initiators_turn = self._messages % 2 == 0
        if self.done or (initiators_turn == self._initiator) != ours:
            verb = "write" if ours else "read"
            raise LocalProtocolError(f"noise: message {self._messages + 1} is not ours to {verb}")

    @staticmethod
    def _dh(private: X25519PrivateKey, public: X25519PublicKey | None) -> bytes:
        assert public is not None, "the pattern reads a key before it uses it"
        try:
            return private.exchange(public)
        except ValueError:
            # An all-zero result: the peer sent a point of small order.
            raise HandshakeFailed("noise: the peer sent a degenerate key") from None


def _cut(message: bytes, offset: int, size: int) -> bytes:
    part = message[offset : offset + size]
    if len(part) != size:
        raise HandshakeFailed(f"noise: a handshake message of {len(message)} bytes is too short")
    return part
