"""The transport phase of Noise: frames of 2-byte length, ciphertext and tag (libp2p spec: noise).

One cipher per direction. Nonce: 4 zero bytes and a 64-bit little-endian counter from 0; empty
associated data; no rekeying. This is the hot path: both calls work on buffers of the caller and
allocate nothing that grows with the data. A plaintext that already lies at `out[2:]` is sealed in
place, a ciphertext may be opened into its own buffer; any other overlap is the caller's defect.
"""

from __future__ import annotations

import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2pfwd.errors import LocalProtocolError, RemoteProtocolError

LENGTH_BYTES: Final = 2
"""Big-endian length in front of every Noise message; it counts the tag, not itself."""

TAG: Final = 16
"""Bytes of a Poly1305 tag."""

MAX_MESSAGE: Final = 0xFFFF
"""Longest Noise message: what the length field can say, and Noise's own limit."""

MAX_PLAINTEXT: Final = MAX_MESSAGE - TAG
"""Plaintext bytes that fit one message: 65519."""

NONCE_END: Final = 0xFFFF_FFFF_FFFF_FFFF
"""Noise reserves the last counter value; a direction that reaches it is over."""

_LENGTH: Final = struct.Struct(">H")
_NONCE: Final = struct.Struct("<4xQ")


class SealCipher:
    """Encrypts one direction. `nonce` other than 0 is for tests."""

    __slots__ = ("_encrypt_into", "_nonce")

    def __init__(self, key32: bytes, nonce: int = 0) -> None:
        self._encrypt_into = ChaCha20Poly1305(key32).encrypt_into
        self._nonce = nonce

    def seal_into(self, plain: memoryview, out: memoryview) -> int:
        """Writes length, ciphertext and tag of one frame to the start of `out`; returns the bytes written.

        `plain` holds at most MAX_PLAINTEXT bytes, `out` 18 more than `plain`. Calls must be made in
        the order in which the frames are sent. Raises LocalProtocolError when the counter is used up
        or a size is wrong.
        """
        size = len(plain) + TAG
        end = size + LENGTH_BYTES
        nonce = self._nonce
        if size > MAX_MESSAGE or end > len(out):
            raise LocalProtocolError(f"noise: {len(plain)} bytes do not fit a frame in {len(out)} bytes")
        if nonce >= NONCE_END:
            raise LocalProtocolError("noise: the nonces of this connection are used up")
        self._nonce = nonce + 1
        _LENGTH.pack_into(out, 0, size)
        self._encrypt_into(_NONCE.pack(nonce), plain, None, out[LENGTH_BYTES:end])
        return end


class OpenCipher:
    """Decrypts one direction. `nonce` other than 0 is for tests."""

    __slots__ = ("_decrypt_into", "_nonce")

    def __init__(self, key32: bytes, nonce: int = 0) -> None:
        self._decrypt_into = ChaCha20Poly1305(key32).decrypt_into
        self._nonce = nonce

    def open_into(self, ciphertext: memoryview, out: memoryview) -> int:
        """Decrypts one message (without its length prefix) to the start of `out`; returns plaintext bytes.

        0 is a legal result. Raises RemoteProtocolError when the message is shorter than a tag, was
        altered, or comes after the last nonce; the connection is then over. LocalProtocolError when
        `out` is too small.
        """
        size = len(ciphertext) - TAG
        nonce = self._nonce
        if size < 0:
            raise RemoteProtocolError(f"noise: a message of {len(ciphertext)} bytes is shorter than its tag")
        if size > len(out):
            raise LocalProtocolError(f"noise: {size} bytes do not fit a buffer of {len(out)}")
        if nonce >= NONCE_END:
            raise RemoteProtocolError("noise: the peer used up its nonces")
        try:
            self._decrypt_into(_NONCE.pack(nonce), ciphertext, None, out[:size])
        except InvalidTag:
            raise RemoteProtocolError("noise: a message was altered or is out of order") from None
        self._nonce = nonce + 1
        return size
