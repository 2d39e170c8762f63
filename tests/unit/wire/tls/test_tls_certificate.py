"""libp2p TLS certificates: the vectors of the specification and of rust, and every rule broken once."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from p2pfwd.core.keys import KeyType, PrivateKey
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import HandshakeFailed, LocalProtocolError
from p2pfwd.wire.tls import ENTROPY_BYTES
from p2pfwd.wire.tls import certificate as tls_cert
from p2pfwd.wire.tls.certificate import (
    EXTENSION_OID,
    MAX_CERTIFICATE_BYTES,
    SIGNATURE_PREFIX,
    VALID_FROM,
    VALID_UNTIL,
    make_certificate,
    verify_certificate,
)

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "tls_certs.json").read_text())
NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
NAME = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, "1")])


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda v: v["name"])
def test_the_vectors_of_the_specification_and_of_rust(vector: dict[str, Any]) -> None:
    der = bytes.fromhex(vector["der_hex"])
    if vector["valid"]:
        assert str(PeerId.from_public_key(verify_certificate(der, NOW))) == vector["peer_id"]
    else:
        with pytest.raises(HandshakeFailed, match="did not sign"):
            verify_certificate(der, NOW)


@pytest.mark.parametrize("asset", VECTORS["signature_algorithm_assets"], ids=lambda a: a["name"])
def test_every_self_signature_algorithm_is_verified(asset: dict[str, str]) -> None:
    """All are rightly self-signed; only the PSS asset goes on to prove an identity."""
    der = bytes.fromhex(asset["der_hex"])
    valid_then = x509.load_der_x509_certificate(der).not_valid_before_utc
    if asset["name"] == "rsa_pss_sha384.der":
        assert verify_certificate(der, valid_then).type is KeyType.ED25519
    else:
        with pytest.raises(HandshakeFailed, match="did not sign"):
            verify_certificate(der, valid_then)
    altered = der[:-1] + bytes([der[-1] ^ 1])
    with pytest.raises(HandshakeFailed, match="not signed by its own key"):
        verify_certificate(altered, valid_then)


@pytest.mark.parametrize("key_type", list(KeyType))
def test_our_certificate_proves_our_identity_and_has_one_extension(key_type: KeyType) -> None:
    identity = PrivateKey.generate(key_type)
    der, key = make_certificate(identity, os.urandom(ENTROPY_BYTES))
    assert verify_certificate(der, NOW) == identity.public_key
    certificate = x509.load_der_x509_certificate(der)
    assert [e.oid for e in certificate.extensions] == [EXTENSION_OID]
    assert not certificate.extensions[0].critical
    assert certificate.public_key() == key.public_key()
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (VALID_FROM, VALID_UNTIL)


def test_two_certificates_share_no_key() -> None:
    identity = PrivateKey.generate()
    one, other = (make_certificate(identity, os.urandom(ENTROPY_BYTES))[1] for _ in range(2))
    assert one.public_key() != other.public_key()


def test_the_key_and_the_serial_number_are_those_of_the_randomness_given() -> None:
    identity = PrivateKey.generate()
    der, key = make_certificate(identity, bytes(range(ENTROPY_BYTES)))
    again, same = make_certificate(identity, bytes(range(ENTROPY_BYTES)))
    assert key.public_key() == same.public_key()
    one, other = map(x509.load_der_x509_certificate, (der, again))
    assert one.serial_number == other.serial_number > 0
    with pytest.raises(LocalProtocolError, match="5 random bytes"):
        make_certificate(identity, bytes(5))


@pytest.mark.parametrize("year", [1970, 1999, 2026, 2037, 2050, 2106, 4095])
def test_our_certificate_counts_whatever_the_clocks_say(year: int) -> None:
    identity = PrivateKey.generate()
    der, _ = make_certificate(identity, os.urandom(ENTROPY_BYTES))
    assert verify_certificate(der, datetime(year, 1, 1, tzinfo=UTC)) == identity.public_key


@pytest.mark.parametrize("when", [NOW - timedelta(seconds=1), NOW + timedelta(days=1, seconds=1)])
def test_a_certificate_counts_only_within_its_time_and_both_clocks_are_told(when: datetime) -> None:
    """Others' certificates begin with their clock."""
    forge = Forge()
    forge.valid = (NOW, NOW + timedelta(days=1))
    with pytest.raises(HandshakeFailed, match=rf"valid from 2026-06-01.*here it is {when:%Y-%m-%d}.*clocks"):
        verify_certificate(forge.der(), when)


class Forge:
    """A certificate that is right but for what a test changes."""

    def __init__(self) -> None:
        self.identity = PrivateKey.generate()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.signer: Any = self.key
        self.hash: Any = SHA256()
        self.issuer = NAME
        self.critical = False
        self.spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.signed = SIGNATURE_PREFIX + self.spki
        self.extra: list[tuple[x509.ExtensionType, bool]] = []
        self.content: bytes | None = None
        self.with_extension = True
        self.valid = (VALID_FROM, VALID_UNTIL)

    def der(self) -> bytes:
        content = self.content
        if content is None:
            content = signed_key(self.identity.public_key.to_protobuf(), self.identity.sign(self.signed))
        builder = (
            x509.CertificateBuilder()
            .subject_name(NAME)
            .issuer_name(self.issuer)
            .serial_number(1)
            .public_key(self.key.public_key())
            .not_valid_before(self.valid[0])
            .not_valid_after(self.valid[1])
        )
        if self.with_extension:
            builder = builder.add_extension(x509.UnrecognizedExtension(EXTENSION_OID, content), self.critical)
        for extension, critical in self.extra:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.signer, self.hash).public_bytes(Encoding.DER)


def signed_key(public_key: bytes, signature: bytes) -> bytes:
    return asn1.encode_der(tls_cert._SignedKey(public_key=public_key, signature=signature))


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def test_harmless_variations_are_accepted() -> None:
    """rust marks the extension critical; others add X.509's usual ones."""
    forge = Forge()
    forge.critical = True
    forge.extra = [
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (UNKNOWN, False),
        (x509.SubjectAlternativeName([x509.DNSName("localhost")]), False),
    ]
    assert verify_certificate(forge.der(), NOW) == forge.identity.public_key


def broken() -> dict[str, Forge]:
    cases: dict[str, Forge] = {}

    def case(name: str) -> Forge:
        cases[name] = forge = Forge()
        return forge

    case("unknown critical extension").extra = [(UNKNOWN, True)]
    case("no libp2p extension").with_extension = False
    case("not signed by its own key").signer = ec.generate_private_key(ec.SECP256R1())
    case("not signed by its own key ").issuer = x509.Name([])
    forge = case("not signed by its own key  ")
    forge.signer, forge.hash = ed25519.Ed25519PrivateKey.generate(), None
    case("did not sign").signed = SIGNATURE_PREFIX + bytes(91)
    forge = case("did not sign ")
    forge.signed = forge.spki
    forge = case("identity key is not valid")
    forge.content = signed_key(b"\x08\x01\x12\x05short", b"")
    good = signed_key(b"k", b"s")
    for i, content in enumerate(
        [b"", b"\x30", good[:-1], good + b"\x00", b"\x31" + good[1:], b"\x30\x80\x00\x00"]
    ):
        case("cannot be parsed" + " " * i).content = content
    case("extensions").extra = [
        (x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{i}"), b""), False) for i in range(16)
    ]
    return cases


@pytest.mark.parametrize(("reason", "forge"), broken().items())
def test_every_broken_rule_is_refused_with_its_reason(reason: str, forge: Forge) -> None:
    with pytest.raises(HandshakeFailed, match=reason.strip()):
        verify_certificate(forge.der(), NOW)


SHA1_CERTIFICATE = bytes.fromhex(
    "308201263081cea00302010202142c88bd804fb91f7031e1ca8cf5d4592d8d95f731300906072a8648ce3d0401300c31"
    "0a300806035504030c01613020170d3236313132323232303730355a180f32313039303131313232303730355a300c31"
    "0a300806035504030c01613059301306072a8648ce3d020106082a8648ce3d03010703420004904bb34c63bb4a2a5053"
    "f54978cff9e9f65b39e8e5aca60715b5334b789c3fb2e5026043aaf2816b997d8de428143ad5ef575699552d53715aba"
    "8e515fc9d778a30d300b30090603551d1304023000300906072a8648ce3d040103480030450220705c00ca6b709cde28"
    "ccee7858cd6751a1d0e3fe73b6d278bb32f0556a0815d1022100bea28c963f32df0c60578648604e9098cafffa12b9c4"
    "a95ec2c42be56a11fbd1"
)
"""Rightly self-signed with ECDSA and SHA-1, by openssl's command."""


def test_a_signature_with_a_broken_hash_is_refused() -> None:
    valid_then = x509.load_der_x509_certificate(SHA1_CERTIFICATE).not_valid_before_utc
    with pytest.raises(HandshakeFailed, match="not signed by its own key"):
        verify_certificate(SHA1_CERTIFICATE, valid_then)


def test_what_the_parser_only_warns_of_is_refused_without_a_warning() -> None:
    der, _ = make_certificate(PrivateKey.generate(), os.urandom(ENTROPY_BYTES))
    serial = x509.load_der_x509_certificate(der).serial_number
    encoded = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    at = der.index(bytes([2, len(encoded)]) + encoded) + 2
    negative = der[:at] + bytes([der[at] | 0x80]) + der[at + 1 :]
    with pytest.raises(HandshakeFailed, match="serial number"):
        verify_certificate(negative, NOW)


def test_every_cut_and_every_altered_byte_is_refused_or_changes_nothing() -> None:
    """The self-signature covers all that matters; the rest is the encoding of the signature itself."""
    identity = PrivateKey.generate()
    der, _ = make_certificate(identity, os.urandom(ENTROPY_BYTES))
    for n in range(0, len(der), 3):
        with pytest.raises(HandshakeFailed):
            verify_certificate(der[:n], NOW)
    for n in range(len(der)):
        with pytest.raises(HandshakeFailed):
            verify_certificate(der[:n] + bytes([der[n] ^ 0x10]) + der[n + 1 :], NOW)
    for data in (der + b"\x00", b"", bytes(MAX_CERTIFICATE_BYTES + 1)):
        with pytest.raises(HandshakeFailed):
            verify_certificate(data, NOW)
