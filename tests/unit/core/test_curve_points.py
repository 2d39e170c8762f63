"""core.curve_points agrees with the crypto library about what is a point."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, EllipticCurvePublicKey
from hypothesis import example, given
from hypothesis import strategies as st

from p2pfwd.core.curve_points import is_ed25519, is_secp256k1
from p2pfwd.core.keys import KeyType, PrivateKey
from p2pfwd.core.peer_id import PeerId

P = 2**255 - 19
HEADS = st.sampled_from((b"\x02", b"\x03", b"\x04"))
SECP256K1_P = 2**256 - 2**32 - 977


@pytest.mark.parametrize("kind", [KeyType.ED25519, KeyType.SECP256K1, KeyType.ECDSA])
def test_every_key_has_a_possible_id(kind: KeyType) -> None:
    for _ in range(20):
        assert PeerId.from_public_key(PrivateKey.generate(kind).public_key).is_possible()


@given(st.builds(bytes.__add__, HEADS, st.binary(min_size=32, max_size=32)))
@example(b"\x02" + SECP256K1_P.to_bytes(32, "big"))  # not reduced
@example(b"\x02" + b"\xff" * 32)
def test_secp256k1_as_the_library(data: bytes) -> None:
    try:
        EllipticCurvePublicKey.from_encoded_point(SECP256K1(), data)
        expected = True
    except ValueError:
        expected = False
    # The library also takes other lengths and forms, whose first byte is another.
    assert is_secp256k1(data) is (expected and data[0] in (2, 3))


@pytest.mark.parametrize(
    ("y", "sign", "possible"),
    [
        (1, 0, True),  # the neutral element
        (1, 1, False),  # whose x has no sign
        (P - 1, 0, True),
        (P - 1, 1, False),
        (P, 0, False),  # not reduced
        (4 * pow(5, -1, P) % P, 0, True),  # the base point
        (4 * pow(5, -1, P) % P, 1, True),
        (2, 0, False),
        (0, 0, True),
    ],
)
def test_ed25519_by_its_definition(y: int, sign: int, possible: bool) -> None:
    assert is_ed25519((y | sign << 255).to_bytes(32, "little")) is possible


def test_half_of_all_slips_in_a_key_are_found() -> None:
    whole = bytearray(PeerId.from_public_key(PrivateKey.generate().public_key).to_bytes())
    found = 0
    for index in range(6, 38):
        for bit in range(8):
            whole[index] ^= 1 << bit
            found += not PeerId.from_bytes(bytes(whole)).is_possible()
            whole[index] ^= 1 << bit
    assert 90 <= found <= 166, "of 256, within five standard deviations of half"
