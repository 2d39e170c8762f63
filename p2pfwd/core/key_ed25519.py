"""Ed25519 identity keys, and the shape every key scheme has (libp2p spec: peer-ids).

Public Data: the 32-byte point. Private Data: seed and point, 64 bytes; the legacy form with the point
twice, 96 bytes, is read and never written.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Public = TypeVar("Public")
Private = TypeVar("Private")


class Scheme(Protocol[Public, Private]):
    """What one key type can do; loading raises ValueError with the reason."""

    def load_public(self, data: bytes) -> Public:
        """The key in a PublicKey message's Data."""

    def dump_public(self, key: Public) -> bytes:
        """Canonical Data of `key`."""

    def verify(self, key: Public, message: bytes, signature: bytes) -> bool:
        """Whether `signature` over `message` was made with `key`'s private half."""

    def load_private(self, data: bytes) -> Private:
        """The key in a PrivateKey message's Data."""

    def dump_private(self, key: Private) -> bytes:
        """Canonical Data of `key`."""

    def sign(self, key: Private, message: bytes) -> bytes:
        """A signature over `message`."""

    def public(self, key: Private) -> Public:
        """The public half."""

    def generate(self) -> Private:
        """A fresh key from the operating system's randomness."""


class _Ed25519:
    def load_public(self, data: bytes) -> Ed25519PublicKey:
        if len(data) != 32:
            raise ValueError(f"an Ed25519 public key has 32 bytes, not {len(data)}")
        return Ed25519PublicKey.from_public_bytes(data)

    def dump_public(self, key: Ed25519PublicKey) -> bytes:
        return key.public_bytes_raw()

    def verify(self, key: Ed25519PublicKey, message: bytes, signature: bytes) -> bool:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def load_private(self, data: bytes) -> Ed25519PrivateKey:
        if len(data) not in (64, 96):
            raise ValueError(f"an Ed25519 private key has 64 bytes, not {len(data)}")
        key = Ed25519PrivateKey.from_private_bytes(data[:32])
        public = self.dump_public(key.public_key())
        if data[32:] not in (public, public * 2):
            raise ValueError("the Ed25519 public half does not belong to the private half")
        return key

    def dump_private(self, key: Ed25519PrivateKey) -> bytes:
        return key.private_bytes_raw() + self.dump_public(key.public_key())

    def sign(self, key: Ed25519PrivateKey, message: bytes) -> bytes:
        return key.sign(message)

    def public(self, key: Ed25519PrivateKey) -> Ed25519PublicKey:
        return key.public_key()

    def generate(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.generate()


ED25519: Scheme[Ed25519PublicKey, Ed25519PrivateKey] = _Ed25519()
