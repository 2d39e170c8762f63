"""core.varint: the unsigned-varint vectors, minimality, the 9-byte bound."""

import json
from pathlib import Path

import pytest

from p2pfwd.core import varint
from p2pfwd.errors import LocalProtocolError, RemoteProtocolError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/varint.json").read_text())


@pytest.mark.parametrize(("value", "encoded"), VECTORS["valid"])
def test_spec_values_encode_and_decode(value: int, encoded: str) -> None:
    assert varint.encode(value).hex() == encoded
    assert varint.decode(bytes.fromhex(encoded)) == (value, len(encoded) // 2)


@pytest.mark.parametrize(("encoded", "why"), VECTORS["invalid_hex"])
def test_spec_refusals(encoded: str, why: str) -> None:
    expected = varint.VarintIncomplete if why == "truncated" else varint.VarintInvalid
    with pytest.raises(expected):
        varint.decode(bytes.fromhex(encoded))


def test_decode_starts_at_the_offset_and_leaves_what_follows() -> None:
    assert varint.decode(memoryview(b"\xff\xac\x02\x07"), 1) == (300, 3)


def test_every_proper_prefix_is_incomplete_not_invalid() -> None:
    encoded = varint.encode(varint.MAX_VALUE)
    assert len(encoded) == varint.MAX_BYTES
    for end in range(len(encoded)):
        with pytest.raises(varint.VarintIncomplete):
            varint.decode(encoded[:end])


def test_nine_continuation_bytes_are_refused_without_waiting_for_a_tenth() -> None:
    with pytest.raises(varint.VarintInvalid):
        varint.decode(b"\x80" * 9)


@pytest.mark.parametrize("value", [-1, 1 << 63])
def test_values_outside_63_bits_are_our_own_fault(value: int) -> None:
    with pytest.raises(LocalProtocolError):
        varint.encode(value)


def test_decoding_errors_blame_the_peer() -> None:
    assert issubclass(varint.VarintIncomplete, RemoteProtocolError)
    assert issubclass(varint.VarintInvalid, RemoteProtocolError)
