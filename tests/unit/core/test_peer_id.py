"""core.peer_id: every text form, the inlined key, the sentences for what is no peer ID."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.core.keys import PublicKey
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidPeerId

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/keys_peerids.json").read_text())
ED25519 = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
RSA = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_a_key_hashes_to_its_published_id(vector: dict[str, Any]) -> None:
    key = PublicKey.from_protobuf(bytes.fromhex(vector["public_pb_hex"]))
    peer_id = PeerId.from_public_key(key)
    assert peer_id.to_bytes().hex() == vector["peer_id_multihash_hex"]
    assert str(peer_id) == vector["base58"]
    assert peer_id.matches(key)
    inlined = peer_id.public_key()
    assert inlined == (key if vector["key_type"] in (1, 2) else None)


@pytest.mark.parametrize("vector", VECTORS["text_forms"] + VECTORS["vectors"])
@pytest.mark.parametrize("form", ["base58", "cid_base32", "cid_base36"])
@pytest.mark.parametrize("prefix", ["", "/p2p/", "/ipfs/"])
def test_all_text_forms_are_one_id(vector: dict[str, Any], form: str, prefix: str) -> None:
    peer_id = PeerId.parse(prefix + vector[form])
    assert str(peer_id) == vector["base58"]
    assert peer_id == PeerId.parse(vector["base58"]) and hash(peer_id) == hash(PeerId.parse(vector["base58"]))


def test_cid_in_base58_is_read() -> None:
    import base58

    cid = "z" + base58.b58encode(b"\x01\x72" + PeerId.parse(RSA).to_bytes()).decode()
    assert str(PeerId.parse(cid)) == RSA


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("/p2p/", "is empty"),
        ("foo", "neither base58 nor a CIDv1"),
        ("127.0.0.1:22", "neither base58 nor a CIDv1"),
        (ED25519[:-1], "incomplete or mistyped"),
        ("12D3KooWnope", "incomplete or mistyped"),
        (ED25519 + "x", "incomplete or mistyped"),
        (ED25519.replace("K", "0"), "neither base58 nor a CIDv1"),
        ("QmxoHT6iViN5xAjoz1VZ553cL31U9F94ht3QvWR1FrEbZY", "incomplete or mistyped"),
        # a CID of a file, not of a key
        ("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi", "no CIDv1 of a libp2p key"),
        ("1" * 129, "longer than"),
        ("\udcff", "neither base58 nor a CIDv1"),
        (" " + ED25519, "neither base58 nor a CIDv1"),
        (ED25519 + " ", "neither base58 nor a CIDv1"),
        (ED25519 + "\n", "neither base58 nor a CIDv1"),
    ],
)
def test_what_is_no_peer_id_is_said_in_one_sentence_with_a_hint(text: str, reason: str) -> None:
    with pytest.raises(InvalidPeerId) as caught:
        PeerId.parse(text)
    assert reason in caught.value.message and "is no peer ID" in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.hint


@pytest.mark.parametrize(
    "multihash",
    [
        "",
        "00",
        "0000",
        "1220" + "aa" * 31,
        "1220" + "aa" * 33,
        "1214" + "aa" * 20,
        "002b" + "aa" * 43,
        "1340" + "aa" * 64,
    ],
)
def test_only_identity_and_whole_sha256_multihashes_are_ids(multihash: str) -> None:
    with pytest.raises(InvalidPeerId):
        PeerId.from_bytes(bytes.fromhex(multihash))


@pytest.mark.parametrize(
    "inlined", [b"abc", b"\x08\x01\x12\x20" + bytes(31), b"\x08\x00\x12\x20" + bytes(32)]
)
def test_what_inlines_no_key_is_no_id(inlined: bytes) -> None:
    with pytest.raises(InvalidPeerId, match="there is no key in it"):
        PeerId.from_bytes(bytes((0, len(inlined))) + inlined)


def test_short_form_is_first_four_and_last_six() -> None:
    assert PeerId.parse(ED25519).short() == "12D3…AJU5SA"


def test_a_peer_id_is_no_other_value() -> None:
    peer_id = PeerId.parse(RSA)
    assert peer_id != PeerId.parse(ED25519)
    assert peer_id != RSA
    with pytest.raises(AttributeError):
        peer_id.name = "x"  # type: ignore[attr-defined]


def test_importing_it_loads_neither_protobuf_nor_openssl() -> None:
    """The CLI imports peer IDs and multiaddrs at every start."""
    heavy = ("google.protobuf", "cryptography", "netaddr", "cid", "multihash", "asyncio")
    script = f"import sys, p2pfwd.core.multiaddrs; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
