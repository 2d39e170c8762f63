"""Certificates of libp2p TLS: a throw-away key, vouched for by the identity key (libp2p spec: tls).

The certificate is self-signed and carries one extension, OID 1.3.6.1.4.1.53594.1.1:

    SignedKey ::= SEQUENCE { publicKey OCTET STRING, signature OCTET STRING }

publicKey is the identity's PublicKey protobuf; the signature is the identity's, over a prefix and the
certificate key's SubjectPublicKeyInfo.

Rules: time and randomness come in as parameters. X.509's own trust (chains, names, key usage) means
nothing here; everything that does is checked by `verify_certificate`. This module loads cryptography's
X.509 code (about 2 MB), so only what speaks TLS imports it.
"""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID, NameOID

from p2pfwd.core.keys import PrivateKey, PublicKey
from p2pfwd.errors import HandshakeFailed, InvalidKey, LocalProtocolError
from p2pfwd.wire.tls import ENTROPY_BYTES, KEY_ENTROPY_BYTES

EXTENSION_OID: Final = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")

SIGNATURE_PREFIX: Final = b"libp2p-tls-handshake:"

MAX_CERTIFICATE_BYTES: Final = 16 * 1024
"""Longest certificate parsed. An RSA-8192 identity takes 2.1 KiB and an RSA-8192 certificate key as
much again; nothing needs more than 6 KiB."""

MAX_EXTENSIONS: Final = 16
"""Extensions looked at; libp2p needs one, go's and OpenSSL's habits add three."""

VALID_FROM: Final = datetime(1970, 1, 1, tzinfo=UTC)
VALID_UNTIL: Final = datetime(4096, 1, 1, tzinfo=UTC)
"""Our certificates hold always, as rust-libp2p's: neither our clock nor the peer's need be right (a board
without a battery wakes up in 1970). Their key lives only as long as the handshake."""

_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

_HARMLESS_CRITICAL: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
"""Critical extensions we understand well enough to say that they restrict nothing here."""


@asn1.sequence
class _SignedKey:
    public_key: bytes
    signature: bytes


def make_certificate(identity: PrivateKey, entropy: bytes) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    """A P-256 key and its certificate (DER) in the name of `identity`.

    entropy: `ENTROPY_BYTES` random bytes, never used before, for the key and the serial number.
    """
    if len(entropy) != ENTROPY_BYTES:
        raise LocalProtocolError(f"tls: {len(entropy)} random bytes instead of {ENTROPY_BYTES}")
    # With 16 bytes more than the order has, taking the remainder favours no key (FIPS 186-5, A.2.1).
    secret = int.from_bytes(entropy[:KEY_ENTROPY_BYTES], "big") % (_P256_ORDER - 1) + 1
    key = ec.derive_private_key(secret, ec.SECP256R1())
    signed_key = _SignedKey(
        public_key=identity.public_key.to_protobuf(),
        signature=identity.sign(SIGNATURE_PREFIX + _spki(key.public_key())),
    )
    serial = int.from_bytes(entropy[KEY_ENTROPY_BYTES:], "big") | 1  # positive, at most 20 bytes (RFC 5280)
    # go puts nothing but a serial number into the subject; X.509 wants a non-empty issuer.
    name = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, str(serial))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(serial)
        .public_key(key.public_key())
        .not_valid_before(VALID_FROM)
        .not_valid_after(VALID_UNTIL)
        .add_extension(x509.UnrecognizedExtension(EXTENSION_OID, asn1.encode_der(signed_key)), critical=False)
        .sign(key, SHA256())
    )
    return certificate.public_bytes(Encoding.DER), key


def verify_certificate(der: bytes, now: datetime) -> PublicKey:
    """The identity key a peer's certificate proves at `now` (timezone-aware). Raises HandshakeFailed.

    The caller compares the peer ID, and that the peer sent exactly one certificate.
    """
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise HandshakeFailed(f"tls: the peer's certificate has {len(der)} bytes")
    try:
        certificate = _load(der)
        key = certificate.public_key()
        starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        extensions = certificate.extensions
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as exc:
        raise HandshakeFailed(f"tls: the peer's certificate cannot be parsed: {exc}") from exc
    if not starts <= now <= ends:
        raise HandshakeFailed(
            f"tls: the peer's certificate is valid from {starts} to {ends} only, and here it is "
            f"{now:%Y-%m-%d %H:%M} UTC: one of the two clocks may be wrong"
        )
    _check_self_signature(certificate)
    return _check_identity(_signed_key(extensions), key)


def _load(der: bytes) -> x509.Certificate:
    """The certificate; ValueError also where the parser only warns, as for a serial number below 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CryptographyDeprecationWarning)
        try:
            return x509.load_der_x509_certificate(der)
        except CryptographyDeprecationWarning as exc:
            raise ValueError(str(exc)) from exc


def _check_self_signature(certificate: x509.Certificate) -> None:
    try:
        # Refuses MD5 and SHA-1 too.
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise HandshakeFailed("tls: the peer's certificate is not signed by its own key") from exc


def _signed_key(extensions: x509.Extensions) -> bytes:
    found: bytes | None = None
    if len(extensions) > MAX_EXTENSIONS:
        raise HandshakeFailed(f"tls: the peer's certificate has {len(extensions)} extensions")
    for extension in extensions:
        if extension.oid == EXTENSION_OID:
            assert isinstance(extension.value, x509.UnrecognizedExtension)
            found = extension.value.value
        elif extension.critical and extension.oid not in _HARMLESS_CRITICAL:
            oid = extension.oid.dotted_string
            raise HandshakeFailed(f"tls: the peer's certificate has the unknown critical extension {oid}")
    if found is None:
        raise HandshakeFailed("tls: the peer's certificate has no libp2p extension")
    return found


def _check_identity(extension: bytes, key: CertificatePublicKeyTypes) -> PublicKey:
    try:
        signed_key = asn1.decode_der(_SignedKey, extension)
    except ValueError as exc:
        raise HandshakeFailed("tls: the libp2p extension of the peer's certificate cannot be parsed") from exc
    try:
        identity = PublicKey.from_protobuf(signed_key.public_key)
    except InvalidKey as exc:
        raise HandshakeFailed(f"tls: the peer's identity key is not valid: {exc.message}") from exc
    if not identity.verify(SIGNATURE_PREFIX + _spki(key), signed_key.signature):
        raise HandshakeFailed("tls: the peer's identity did not sign its certificate's key")
    return identity


def _spki(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
