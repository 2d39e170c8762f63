"""Identity keys: the four libp2p key types in their protobuf form (libp2p spec: peer-ids).

Rules: decoding is lenient about the protobuf and strict about the key; encoding is canonical, since
the peer ID hashes it. RSA moduli have 2048..8192 bits. A `PrivateKey` never shows its secret in `repr`.
Ed25519 is loaded with this module; RSA and ECDSA code is loaded when such a key is first met.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, TypeVar, final

from google.protobuf.message import DecodeError

from p2pfwd.core import key_ed25519
from p2pfwd.core.key_ed25519 import Scheme
from p2pfwd.core.pb import keys_pb2
from p2pfwd.errors import InvalidKey

MAX_PUBLIC_KEY_BYTES = 2048
"""Longest PublicKey protobuf decoded: RSA with 8192 bits has 1,067."""

MAX_PRIVATE_KEY_BYTES = 8192
"""Longest PrivateKey protobuf decoded: RSA with 8192 bits has about 4,700."""

MAX_SIGNATURE_BYTES = 1024
"""Longest signature looked at: RSA with 8192 bits."""

_INCOMPLETE = "the bytes are no complete protobuf of a libp2p key of a known type"

_Message = TypeVar("_Message", keys_pb2.PublicKey, keys_pb2.PrivateKey)


class KeyType(IntEnum):
    """Number of a key type in the protobuf."""

    RSA = 0
    ED25519 = 1
    SECP256K1 = 2
    ECDSA = 3


def _scheme(key_type: KeyType) -> Scheme[Any, Any]:
    if key_type is KeyType.ED25519:
        return key_ed25519.ED25519
    from p2pfwd.core import key_der  # costs another 1.5 MB, and most nodes never meet such a key

    if key_type is KeyType.RSA:
        return key_der.RSA
    return key_der.SECP256K1 if key_type is KeyType.SECP256K1 else key_der.ECDSA


def _decode(message: _Message, data: bytes, limit: int, kind: str) -> _Message:
    if len(data) > limit:
        raise InvalidKey(f"{kind} key: {len(data)} bytes, more than the {limit} any libp2p key needs")
    try:
        message.ParseFromString(data)
    except DecodeError as exc:
        raise InvalidKey(f"{kind} key: {_INCOMPLETE}") from exc
    if not (message.HasField("type") and message.HasField("data")):
        # An unknown type is an unknown enum value, which protobuf keeps apart: the field is absent.
        raise InvalidKey(f"{kind} key: {_INCOMPLETE}")
    return message


@final
class PublicKey:
    """A public identity key: an immutable, hashable value, compared by its canonical protobuf."""

    __slots__ = ("_encoded", "_key", "type")

    type: KeyType
    _key: Any
    _encoded: bytes

    def __init__(self, key_type: KeyType, data: bytes) -> None:
        """The key with protobuf fields Type and Data; InvalidKey if Data is no such key."""
        scheme = _scheme(key_type)
        try:
            self._key = scheme.load_public(data)
        except ValueError as exc:
            raise InvalidKey(f"public key: {exc}") from exc
        self.type = key_type
        message = keys_pb2.PublicKey(type=key_type.name, data=scheme.dump_public(self._key))
        self._encoded = message.SerializeToString(deterministic=True)

    @classmethod
    def from_protobuf(cls, data: bytes) -> PublicKey:
        """The key in a serialised PublicKey message; InvalidKey if it cannot be used."""
        message = _decode(keys_pb2.PublicKey(), data, MAX_PUBLIC_KEY_BYTES, "public")
        return cls(KeyType(message.type), message.data)

    def to_protobuf(self) -> bytes:
        """The canonical PublicKey message."""
        return self._encoded

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether `signature` over `data` was made with this key's private half; never raises."""
        if len(signature) > MAX_SIGNATURE_BYTES:
            return False
        return _scheme(self.type).verify(self._key, data, signature)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other._encoded == self._encoded

    def __hash__(self) -> int:
        return hash(self._encoded)

    def __repr__(self) -> str:
        return f"PublicKey({self.type.name}, {self._encoded.hex()})"


@final
class PrivateKey:
    """A private identity key."""

    __slots__ = ("_key", "_public")

    _key: Any
    _public: PublicKey

    def __init__(self, key_type: KeyType, key: Any) -> None:
        """Wraps a loaded key; callers use `generate` or `from_protobuf`."""
        scheme = _scheme(key_type)
        self._key = key
        self._public = PublicKey(key_type, scheme.dump_public(scheme.public(key)))

    @classmethod
    def generate(cls, type: KeyType = KeyType.ED25519) -> PrivateKey:
        """A fresh key from the operating system's randomness (RSA 2048 bits, ECDSA P-256)."""
        return cls(type, _scheme(type).generate())

    @classmethod
    def from_protobuf(cls, data: bytes) -> PrivateKey:
        """The key in a serialised PrivateKey message; InvalidKey if it cannot be used."""
        message = _decode(keys_pb2.PrivateKey(), data, MAX_PRIVATE_KEY_BYTES, "private")
        key_type = KeyType(message.type)
        try:
            key = _scheme(key_type).load_private(message.data)
        except ValueError as exc:
            raise InvalidKey(f"private key: {exc}") from exc
        return cls(key_type, key)

    def to_protobuf(self) -> bytes:
        """The canonical PrivateKey message: a secret."""
        data = _scheme(self.type).dump_private(self._key)
        message = keys_pb2.PrivateKey(type=self.type.name, data=data)
        return message.SerializeToString(deterministic=True)

    @property
    def type(self) -> KeyType:
        """The key's type."""
        return self._public.type

    @property
    def public_key(self) -> PublicKey:
        """The public half."""
        return self._public

    def sign(self, data: bytes) -> bytes:
        """A signature over `data`, in the form of the key's type."""
        return _scheme(self.type).sign(self._key, data)

    def __repr__(self) -> str:
        return f"<PrivateKey {self.type.name}>"
