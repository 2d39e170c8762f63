"""RSA, ECDSA and secp256k1 identity keys (libp2p spec: peer-ids); imported when such a key is met.

| type | public Data | private Data | signature |
|---|---|---|---|
| RSA | SubjectPublicKeyInfo DER | PKCS#1 DER | PKCS#1 v1.5, SHA-256 |
| ECDSA | SubjectPublicKeyInfo DER | SEC1 DER | ECDSA, SHA-256, DER |
| secp256k1 | compressed point, 33 bytes | scalar, 32 bytes | ECDSA, SHA-256, DER |

Signatures are deterministic (RFC 6979) and low-S, because js and rust refuse high S; either is verified.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from p2pfwd.core.key_ed25519 import Scheme

MIN_RSA_BITS = 2048
"""Weaker keys can be forged; go refuses them too."""

MAX_RSA_BITS = 8192
"""Larger keys make one verification cost milliseconds; go's bound."""

_STDLIB_CURVES = (ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_ORDERS = {
    "secp224r1": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFF16A2E0B8F03E13DD29455C5C2A3D,
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": int(
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
        16,
    ),
    "secp521r1": int(
        "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
        "fa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        16,
    ),
    "secp256k1": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
}


def _public_der(data: bytes) -> object:
    try:
        return load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ValueError("the public key is no readable SubjectPublicKeyInfo") from exc


def _private_der(data: bytes) -> object:
    try:
        return load_der_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ValueError("the private key is no readable DER") from exc


class _Rsa:
    def load_public(self, data: bytes) -> rsa.RSAPublicKey:
        key = _public_der(data)
        if not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("the key data are not RSA, as its type says")
        self._check_size(key.key_size)
        return key

    def dump_public(self, key: rsa.RSAPublicKey) -> bytes:
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def verify(self, key: rsa.RSAPublicKey, message: bytes, signature: bytes) -> bool:
        try:
            key.verify(signature, message, padding.PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True

    def load_private(self, data: bytes) -> rsa.RSAPrivateKey:
        key = _private_der(data)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError("the key data are not RSA, as its type says")
        self._check_size(key.key_size)
        return key

    def dump_private(self, key: rsa.RSAPrivateKey) -> bytes:
        return key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())

    def sign(self, key: rsa.RSAPrivateKey, message: bytes) -> bytes:
        return key.sign(message, padding.PKCS1v15(), SHA256())

    def public(self, key: rsa.RSAPrivateKey) -> rsa.RSAPublicKey:
        return key.public_key()

    def generate(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(public_exponent=65537, key_size=MIN_RSA_BITS)

    def _check_size(self, bits: int) -> None:
        if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
            raise ValueError(f"RSA keys need {MIN_RSA_BITS}..{MAX_RSA_BITS} bits, this one has {bits}")


class _Ecdsa:
    """ECDSA over a NIST curve."""

    def load_public(self, data: bytes) -> ec.EllipticCurvePublicKey:
        key = _public_der(data)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _STDLIB_CURVES):
            raise ValueError("the key data are not ECDSA on a NIST curve, as its type says")
        return key

    def dump_public(self, key: ec.EllipticCurvePublicKey) -> bytes:
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def verify(self, key: ec.EllipticCurvePublicKey, message: bytes, signature: bytes) -> bool:
        try:
            key.verify(signature, message, ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True

    def load_private(self, data: bytes) -> ec.EllipticCurvePrivateKey:
        key = _private_der(data)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, _STDLIB_CURVES):
            raise ValueError("the key data are not ECDSA on a NIST curve, as its type says")
        return key

    def dump_private(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())

    def sign(self, key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
        signature = key.sign(message, ec.ECDSA(SHA256(), deterministic_signing=True))
        r, s = decode_dss_signature(signature)
        return encode_dss_signature(r, min(s, _ORDERS[key.curve.name] - s))

    def public(self, key: ec.EllipticCurvePrivateKey) -> ec.EllipticCurvePublicKey:
        return key.public_key()

    def generate(self) -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256R1())


class _Secp256k1(_Ecdsa):
    """ECDSA over secp256k1, with raw points and scalars."""

    def load_public(self, data: bytes) -> ec.EllipticCurvePublicKey:
        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), data)
        except ValueError as exc:
            raise ValueError("the key data are no point on secp256k1") from exc

    def dump_public(self, key: ec.EllipticCurvePublicKey) -> bytes:
        return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    def load_private(self, data: bytes) -> ec.EllipticCurvePrivateKey:
        if len(data) != 32:
            raise ValueError(f"a secp256k1 private key has 32 bytes, not {len(data)}")
        scalar = int.from_bytes(data, "big")
        if not 0 < scalar < _ORDERS["secp256k1"]:
            raise ValueError("the secp256k1 private key is outside the group order")
        return ec.derive_private_key(scalar, ec.SECP256K1())

    def dump_private(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.private_numbers().private_value.to_bytes(32, "big")

    def generate(self) -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256K1())


RSA: Scheme[rsa.RSAPublicKey, rsa.RSAPrivateKey] = _Rsa()
ECDSA: Scheme[ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey] = _Ecdsa()
SECP256K1: Scheme[ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey] = _Secp256k1()
