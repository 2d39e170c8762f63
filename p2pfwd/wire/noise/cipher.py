"""The transport phase of Noise: frames of 2-byte length, ciphertext and tag (libp2p spec: noise).

One cipher per direction, of a suite that both sides know: ChaCha20-Poly1305, or between two p2pfwd
AES-256-GCM (`wire.noise.handshake`), with wide messages or without. A wide message is longer than two bytes
can say and has a length of four, big-endian: its first two, taken as a length, are less than a tag, and so
no other message's. Nonce: 4 zero bytes and a 64-bit counter from 0, little-endian with
ChaCha and big-endian with AES (Noise specification, 12.3 and 12.4); empty associated data. A suite may bound
what one key seals: then both sides rekey at the same count, as Noise says (4.2), and the counter goes on.

This is the hot path: both calls work on buffers of the caller and allocate nothing that grows with the
data. A plaintext that already lies at `out[2:]` is sealed in place, a ciphertext may be opened into its
own buffer; any other overlap is the caller's defect. What becomes a wide message lies at `out[4:]`.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from p2pfwd.errors import LocalProtocolError, RemoteProtocolError

LENGTH_BYTES: Final = 2
"""Big-endian length in front of every Noise message; it counts the tag, not itself."""

TAG: Final = 16
"""Bytes of a tag, of either suite."""

MAX_MESSAGE: Final = 0xFFFF
"""Longest Noise message: what the length field can say, and Noise's own limit."""

MAX_PLAINTEXT: Final = MAX_MESSAGE - TAG
"""Plaintext bytes that fit one message: 65519."""

WIDE_LENGTH_BYTES: Final = 4
"""The same in front of a message that is longer."""

MAX_WIDE_MESSAGE: Final = 1 << 18
"""Longest wide message: one pass through Python at each end instead of four. Twice as long does not fit a
processor's cache."""

NONCE_END: Final = 0xFFFF_FFFF_FFFF_FFFF
"""Noise reserves the last counter value, for rekeying; a direction that reaches it is over."""

KEY_BYTES: Final = 32
"""Bytes of a key, of either suite."""

REKEY_MESSAGES: Final = 1 << 20
"""Messages that one AES-256-GCM key seals: 64 GiB, where TLS 1.3 takes 2^24.5 records of 16 KiB for a safe
margin (RFC 8446, 5.5), 0.4 TB."""

REKEY_WIDE_MESSAGES: Final = REKEY_MESSAGES * (MAX_MESSAGE + 1) // MAX_WIDE_MESSAGE
"""The same of wide ones: what wears a key are its blocks, and these are as many bytes."""

_LENGTH: Final = struct.Struct(">H")
_WIDE_LENGTH: Final = struct.Struct(">I")


class Aead(Protocol):
    """What is used of `cryptography`'s ciphers."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: None) -> bytes: ...
    def encrypt_into(
        self, nonce: bytes, data: memoryview, associated_data: None, buf: memoryview
    ) -> int: ...
    def decrypt_into(
        self, nonce: bytes, data: memoryview, associated_data: None, buf: memoryview
    ) -> int: ...


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher, its nonces, and how long a key of its lasts."""

    name: str
    """As it is shown and set."""
    aead: Callable[[bytes], Aead]
    pack_nonce: Callable[[int], bytes]
    rekey_every: int
    """Messages of one direction under one key."""
    max_message: int = MAX_MESSAGE
    """Longest message, with its tag."""


CHACHA: Final = Suite("chacha20-poly1305", ChaCha20Poly1305, struct.Struct("<4xQ").pack, NONCE_END)
AES: Final = Suite("aes-256-gcm", AESGCM, struct.Struct(">4xQ").pack, REKEY_MESSAGES)
AES_WIDE: Final = replace(AES, rekey_every=REKEY_WIDE_MESSAGES, max_message=MAX_WIDE_MESSAGE)


def wide_length(prefix: memoryview) -> int:
    """The length of a wide message, of its 4 bytes.

    Raises RemoteProtocolError where the message need not be wide, or is too long.
    """
    length: int
    (length,) = _WIDE_LENGTH.unpack(prefix)
    if not MAX_MESSAGE < length <= MAX_WIDE_MESSAGE:
        raise RemoteProtocolError(f"noise: a wide message of {length} bytes")
    return length


def _resting(nonce: bytes, data: memoryview, associated_data: None, buf: memoryview) -> int:
    raise AssertionError("a resting cipher is renewed before it is used")


class _Cipher(ABC):
    """One direction: the key and the count of its messages."""

    __slots__ = ("_into", "_key", "_max_message", "_nonce", "_pack_nonce", "_until", "suite")

    def __init__(self, key32: bytes, nonce: int = 0, suite: Suite = CHACHA) -> None:
        self.suite = suite
        self._pack_nonce = suite.pack_nonce
        self._max_message = suite.max_message
        self._nonce = nonce
        self._use(key32)

    def _use(self, key32: bytes) -> None:
        """Go on with this key, up to the next multiple of the suite's bound."""
        every = self.suite.rekey_every
        self._key = key32
        self._until = min((self._nonce // every + 1) * every, NONCE_END)
        self._into: Callable[[bytes, memoryview, None, memoryview], int] = self._function(
            self.suite.aead(key32)
        )

    @staticmethod
    @abstractmethod
    def _function(aead: Aead) -> Callable[[bytes, memoryview, None, memoryview], int]:
        """What seals, or opens."""

    def rest(self) -> None:
        """Let go of what the library makes of the key, 2.5 KB with AES: the next message has it made anew."""
        if self._nonce < self._until:  # else the key is to be replaced, which is known by this bound
            self._until = 0
            self._into = _resting

    def _renew(self) -> bool:
        """After a rest: the same key. Else Noise's REKEY(k): what the key makes of 32 zero bytes under the
        last nonce.

        False when the counter is used up.
        """
        if self._nonce >= NONCE_END:
            return False
        key = self._key
        if self._until:
            aead = self.suite.aead(key)
            key = aead.encrypt(self._pack_nonce(NONCE_END), bytes(KEY_BYTES), None)[:KEY_BYTES]
        self._use(key)
        return True


class SealCipher(_Cipher):
    """Encrypts one direction. `nonce` other than 0 is for tests."""

    __slots__ = ()

    @staticmethod
    def _function(aead: Aead) -> Callable[[bytes, memoryview, None, memoryview], int]:
        return aead.encrypt_into

    def seal_into(self, plain: memoryview, out: memoryview) -> int:
        """Writes length, ciphertext and tag of one frame to the start of `out`; returns the bytes written.

        `plain` holds at most MAX_PLAINTEXT bytes, `out` 18 more than `plain`; with a suite that has wide
        messages up to 262128, and 20 more. Calls must be made in the order in which the frames are sent.
        Raises LocalProtocolError when the counter is used up or a size is wrong.
        """
        size = len(plain) + TAG
        start = LENGTH_BYTES if size <= MAX_MESSAGE else WIDE_LENGTH_BYTES
        end = start + size
        nonce = self._nonce
        if size > self._max_message or end > len(out):
            raise LocalProtocolError(f"noise: {len(plain)} bytes do not fit a frame in {len(out)} bytes")
        if nonce >= self._until and not self._renew():
            raise LocalProtocolError("noise: the nonces of this connection are used up")
        self._nonce = nonce + 1
        (_LENGTH if start == LENGTH_BYTES else _WIDE_LENGTH).pack_into(out, 0, size)
        encrypt_into, pack_nonce = self._into, self._pack_nonce  # calls by a slot cost 30 ns more
        encrypt_into(pack_nonce(nonce), plain, None, out[start:end])
        return end


class OpenCipher(_Cipher):
    """Decrypts one direction. `nonce` other than 0 is for tests."""

    __slots__ = ()

    @staticmethod
    def _function(aead: Aead) -> Callable[[bytes, memoryview, None, memoryview], int]:
        return aead.decrypt_into

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
        if nonce >= self._until and not self._renew():
            raise RemoteProtocolError("noise: the peer used up its nonces")
        decrypt_into, pack_nonce = self._into, self._pack_nonce
        try:
            decrypt_into(pack_nonce(nonce), ciphertext, None, out[:size])
        except InvalidTag:
            raise RemoteProtocolError("noise: a message was altered or is out of order") from None
        self._nonce = nonce + 1
        return size
