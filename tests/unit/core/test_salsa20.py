"""core.salsa20: the papers' own vectors, and blocks equal to those of the library that streams."""

import random

import pytest
from Crypto.Cipher import Salsa20

from p2pfwd.core import salsa20
from p2pfwd.errors import LocalProtocolError

# "Salsa20 specification", section 9: the expansion function's example.
SPEC_KEY = bytes([*range(1, 17), *range(201, 217)])
SPEC_INPUT = bytes(range(101, 117))
SPEC_BLOCK = bytes.fromhex(
    "45254427290f6bc1ff8b7a06aae9d9625990b66a1533c841ef31de22d772287e"
    "68c507e1c5991f02664e4cb054f5f6b8b1a0858206489577c0c384ecea67f64a"
)

BLOCK_BYTES = 64

# "Cryptography in NaCl", section 8: shared secret -> first key -> second key.
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
FIRST = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
NONCE = bytes.fromhex("69696ee955b62b73cd62bda875fc73d6")
SECOND = bytes.fromhex("dc908dda0b9344a953629b733820778880f3ceb421bb61b91cbd4c3e66256ce4")


def test_the_block_of_the_specification() -> None:
    counter = int.from_bytes(SPEC_INPUT[8:], "little")
    assert salsa20.block(SPEC_KEY, SPEC_INPUT[:8], counter) == SPEC_BLOCK


def test_the_subkeys_of_nacl() -> None:
    assert salsa20.hsalsa20(SHARED, bytes(16)) == FIRST
    assert salsa20.hsalsa20(FIRST, NONCE) == SECOND


def test_blocks_are_those_of_the_streaming_cipher() -> None:
    rng = random.Random(20)
    for _ in range(20):
        key, nonce = rng.randbytes(32), rng.randbytes(8)
        stream = Salsa20.new(key=key, nonce=nonce).encrypt(bytes(3 * BLOCK_BYTES))
        assert b"".join(salsa20.block(key, nonce, i) for i in range(3)) == stream


@pytest.mark.parametrize(("key", "nonce"), [(31, 8), (33, 8), (16, 8), (32, 7), (32, 16)])
def test_wrong_lengths_are_our_own_fault(key: int, nonce: int) -> None:
    with pytest.raises(LocalProtocolError, match="Salsa20: a key of"):
        salsa20.block(bytes(key), bytes(nonce))
