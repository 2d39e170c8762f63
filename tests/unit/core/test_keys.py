"""core.keys: spec and go fixtures of all four types, canonical encoding, what is refused."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from p2pfwd.core.keys import MAX_PRIVATE_KEY_BYTES, MAX_SIGNATURE_BYTES, KeyType, PrivateKey, PublicKey
from p2pfwd.core.pb import keys_pb2
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidKey

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/keys_peerids.json").read_text())
KEYS = {vector["name"]: vector for vector in VECTORS["vectors"]}
SIGNED = {name: vector for name, vector in KEYS.items() if "signature_hex" in vector}
SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def private(name: str) -> PrivateKey:
    return PrivateKey.from_protobuf(bytes.fromhex(KEYS[name]["private_pb_hex"]))


@pytest.mark.parametrize("vector", KEYS.values(), ids=KEYS)
def test_fixtures_reencode_to_the_same_bytes(vector: dict[str, Any]) -> None:
    key = PrivateKey.from_protobuf(bytes.fromhex(vector["private_pb_hex"]))
    assert key.to_protobuf().hex() == vector["private_pb_hex"]
    assert key.public_key.to_protobuf().hex() == vector["public_pb_hex"]
    assert key.type == vector["key_type"]
    assert PublicKey.from_protobuf(bytes.fromhex(vector["public_pb_hex"])) == key.public_key


@pytest.mark.parametrize("vector", SIGNED.values(), ids=SIGNED)
def test_go_signatures_verify_and_deterministic_ones_are_reproduced(vector: dict[str, Any]) -> None:
    key = PrivateKey.from_protobuf(bytes.fromhex(vector["private_pb_hex"]))
    message, signature = bytes.fromhex(vector["message_hex"]), bytes.fromhex(vector["signature_hex"])
    assert key.public_key.verify(message, signature)
    assert not key.public_key.verify(message + b"!", signature)
    if vector["deterministic"]:
        assert key.sign(message) == signature


@pytest.mark.parametrize("key_type", list(KeyType))
def test_generated_keys_sign_and_survive_their_encoding(key_type: KeyType) -> None:
    key = PrivateKey.generate(key_type)
    again = PrivateKey.from_protobuf(key.to_protobuf())
    signature = again.sign(b"message")
    assert key.public_key.verify(b"message", signature)
    assert not key.public_key.verify(b"massage", signature)
    assert again.public_key == key.public_key and hash(again.public_key) == hash(key.public_key)


@pytest.mark.parametrize("name", list(KEYS))
@pytest.mark.parametrize(
    "signature", [b"", b"\0", bytes(64), b"0\x06\x02\x01\0\x02\x01\0", bytes(MAX_SIGNATURE_BYTES + 1)]
)
def test_a_malformed_signature_is_false_not_an_exception(name: str, signature: bytes) -> None:
    assert not private(name).public_key.verify(b"message", signature)


@pytest.mark.parametrize(("name", "order"), [("spec-secp256k1", SECP256K1_ORDER), ("spec-ecdsa", P256_ORDER)])
def test_ecdsa_signatures_are_low_s_because_js_and_rust_refuse_the_other(name: str, order: int) -> None:
    key = private(name)
    for message in range(16):
        signature = key.sign(bytes([message]))
        assert decode_dss_signature(signature)[1] <= order // 2
        assert key.public_key.verify(bytes([message]), signature)


def test_kubo_identity_is_read() -> None:
    identity = VECTORS["kubo_identity"]
    key = PrivateKey.from_protobuf(base64.b64decode(identity["PrivKey_base64"]))
    assert str(PeerId.from_public_key(key.public_key)) == identity["PeerID"]


def test_legacy_ed25519_is_read_and_written_in_the_present_form() -> None:
    legacy = VECTORS["legacy_ed25519_96"]
    key = PrivateKey.from_protobuf(bytes.fromhex(legacy["private_pb_hex"]))
    assert key.public_key.to_protobuf().hex() == legacy["public_pb_hex"]
    assert len(key.to_protobuf()) == 68
    with pytest.raises(InvalidKey, match="does not belong"):
        PrivateKey.from_protobuf(bytes.fromhex(legacy["bad_private_pb_hex"]))


def test_an_uncompressed_secp256k1_point_is_the_same_key() -> None:
    key = private("spec-secp256k1").public_key
    point = bytes.fromhex(KEYS["spec-secp256k1"]["public_pb_hex"])[4:]
    x = int.from_bytes(point[1:], "big")
    p = (1 << 256) - (1 << 32) - 977
    y = pow(x**3 + 7, (p + 1) // 4, p)
    y = y if y & 1 == point[0] & 1 else p - y
    uncompressed = b"\x04" + point[1:] + y.to_bytes(32, "big")
    assert PublicKey.from_protobuf(b"\x08\x02\x12\x41" + uncompressed) == key


def test_field_order_and_unknown_fields_do_not_change_the_key() -> None:
    point = bytes.fromhex(KEYS["spec-ed25519"]["public_pb_hex"])[4:]
    shuffled = b"\x1a\x01x" + b"\x12\x20" + point + b"\x08\x01"
    assert PublicKey.from_protobuf(shuffled).to_protobuf().hex() == KEYS["spec-ed25519"]["public_pb_hex"]


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ("", "no complete protobuf"),
        ("0801", "no complete protobuf"),
        ("0809120100", "no complete protobuf"),
        ("08011205deadbeef00", "32 bytes"),
        ("0802122102" + "ff" * 32, "secp256k1"),
        ("08001203300100", "SubjectPublicKeyInfo"),
        ("0803" + KEYS["spec-rsa"]["public_pb_hex"][4:], "not ECDSA"),
        ("0800" + KEYS["spec-ecdsa"]["public_pb_hex"][4:], "not RSA"),
    ],
)
def test_unusable_public_keys_are_refused_with_the_reason(encoded: str, reason: str) -> None:
    with pytest.raises(InvalidKey, match=reason):
        PublicKey.from_protobuf(bytes.fromhex(encoded))


@pytest.mark.parametrize("bits", [1024, 2047, 8193])
def test_rsa_keys_outside_2048_to_8192_bits_are_refused(bits: int) -> None:
    numbers = rsa.RSAPublicNumbers(65537, (1 << bits - 1) + (1 << 512) + 0x1235)
    der = numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(InvalidKey, match=rf"2048\.\.8192 bits, this one has {bits}"):
        PublicKey.from_protobuf(keys_pb2.PublicKey(type=keys_pb2.RSA, data=der).SerializeToString())


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ("0801124000", "no complete protobuf"),
        ("08011202aabb", "64 bytes"),
        ("08021220" + "00" * 32, "group order"),
        ("08021220" + "ff" * 32, "group order"),
        ("08021201aa", "32 bytes"),
        ("08031201aa", "DER"),
        ("0803" + KEYS["go-fixture-0"]["private_pb_hex"][4:], "not ECDSA"),
    ],
)
def test_unusable_private_keys_are_refused_with_the_reason(encoded: str, reason: str) -> None:
    with pytest.raises(InvalidKey, match=reason):
        PrivateKey.from_protobuf(bytes.fromhex(encoded))


def test_oversized_keys_are_refused_undecoded() -> None:
    with pytest.raises(InvalidKey, match="more than"):
        PrivateKey.from_protobuf(bytes(MAX_PRIVATE_KEY_BYTES + 1))


def test_repr_shows_no_secret() -> None:
    assert repr(private("spec-ed25519")) == "<PrivateKey ED25519>"
