"""core.multibase and core.quoting: strict alphabets, bounded work, printable quotations."""

import pytest

from p2pfwd.core import multibase
from p2pfwd.core.quoting import MAX_CHARS, quoted


@pytest.mark.parametrize(
    "text", ["f796573", "F796573", "bpfsxg", "BPFSXG", "k4qir7", "K4QIR7", "zhmzS", "meWVz", "ueWVz"]
)
def test_each_base_gives_the_same_bytes(text: str) -> None:
    assert multibase.decode(text) == b"yes"


def test_base36_and_base58_keep_leading_zero_bytes() -> None:
    assert multibase.decode("k002s") == b"\0\0\x64"
    assert multibase.decode("K002S") == b"\0\0\x64"
    assert multibase.decode("z112j") == b"\0\0\x64"


@pytest.mark.parametrize(
    "text", ["", "xyz", "k1_0", "k-1", "k 1", "z0", "b1", "b\u0663", "u+/", "m-_", "f0", "fg0"]
)
def test_characters_outside_the_alphabet_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        multibase.decode(text)


def test_long_text_is_refused_before_quadratic_work() -> None:
    for prefix in ("z", "k", "b"):
        with pytest.raises(ValueError, match="longer than"):
            multibase.decode(prefix + "2" * multibase.MAX_CHARS)


def test_quotations_are_short_and_printable() -> None:
    assert quoted('a"b') == '"a\\"b"'
    assert quoted("\x1b[31m\n\udcff\u202e") == '"\\x1b[31m\\n\\udcff\\u202e"'
    assert len(quoted("x" * 10_000)) <= MAX_CHARS + 2
