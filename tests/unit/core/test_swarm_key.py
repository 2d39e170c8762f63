"""core.swarm_key: the three encodings as go reads them, Kubo's fingerprint, and secrets in no message."""

import base64
import json
from pathlib import Path

import pytest

from p2pfwd.core.swarm_key import PSK_BYTES, SwarmKey
from p2pfwd.errors import InvalidKey

VECTOR = json.loads((Path(__file__).parents[2] / "vectors/pnet.json").read_text())
TEXT = VECTOR["swarm_key"].encode()
KEY = SwarmKey.parse(TEXT)
HEX = KEY.psk.hex().encode()
BASE64 = base64.b64encode(KEY.psk)
TYPE = b"/key/swarm/psk/1.0.0/\n"
SPACED = bytes([32, 10, 13, 9] * 8)
"""A key of white space alone."""

GOOD = {
    "base16": TYPE + b"/base16/\n" + HEX,
    "upper case": TYPE + b"/base16/\n" + HEX.upper() + b"\n",
    "CRLF": TYPE.replace(b"\n", b"\r\n") + b"/base16/\r\n" + HEX + b"\r\n",
    "blank lines after": TYPE + b"/base16/\n" + HEX + b"\n\n \n",
    "base64": TYPE + b"/base64/\n" + BASE64 + b"\n",
    "base64 on two lines": TYPE + b"/base64/\n" + BASE64[:20] + b"\n" + BASE64[20:],
    "bin": TYPE + b"/bin/\n" + KEY.psk,
    "bin with a newline": TYPE + b"/bin/\n" + KEY.psk + b"\n",
}

BAD = {
    "empty": (b"", "the first line"),
    "the key alone": (HEX + b"\n", "the first line"),
    "another type": (b"/key/swarm/psk/2.0.0/\n/base16/\n" + HEX, "the first line"),
    "space before": (b" " + TEXT, "the first line"),
    "no encoding": (TYPE, "the second line"),
    "the key for an encoding": (TYPE + HEX, "the second line"),
    "unknown encoding": (TYPE + b"/base32/\n" + HEX, "the second line"),
    "no key": (TYPE + b"/base16/\n", "has 0 bytes"),
    "short": (TYPE + b"/base16/\n" + HEX[:-2], "has 31 bytes"),
    "odd": (TYPE + b"/base16/\n" + HEX[:-1], "follows /base16/ is not in that encoding"),
    "long": (TYPE + b"/base16/\n" + HEX + b"00", "has 33 bytes"),
    "not hexadecimal": (TYPE + b"/base16/\n" + b"g" * 64, "follows /base16/"),
    "not text": (TYPE + b"/base64/\n\xff\xfe" + BASE64, "follows /base64/"),
    "unpadded": (TYPE + b"/base64/\n" + BASE64[:-1], "follows /base64/"),
    "hexadecimal as base64": (TYPE + b"/base64/\n" + HEX, "has 48 bytes"),
    "short bin": (TYPE + b"/bin/\n" + KEY.psk[:-1], "has 31 bytes"),
    "long bin": (TYPE + b"/bin/\n" + KEY.psk + b"x", "has 33 bytes"),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_every_form_of_the_file_gives_the_key(data: bytes) -> None:
    assert SwarmKey.parse(data) == KEY


@pytest.mark.parametrize(("data", "said"), BAD.values(), ids=BAD)
def test_what_is_no_key_is_told_without_showing_any_of_it(data: bytes, said: str) -> None:
    with pytest.raises(InvalidKey, match=said) as caught:
        SwarmKey.parse(data)
    assert HEX[:8].decode() not in caught.value.message
    assert BASE64[:8].decode() not in caught.value.message


@pytest.mark.parametrize("text", VECTOR["bad_files"])
def test_what_rust_refuses_is_refused(text: str) -> None:
    with pytest.raises(InvalidKey):
        SwarmKey.parse(text.encode())


def test_a_binary_key_may_be_white_space() -> None:
    assert SwarmKey.parse(TYPE + b"/bin/\n" + SPACED).psk == SPACED
    assert SwarmKey.parse(TYPE + b"/bin/\n" + SPACED + b"\r\n").psk == SPACED


def test_it_is_written_as_kubos_tools_write_it() -> None:
    assert KEY.encode() == TEXT


def test_the_fingerprint_is_kubos_and_all_that_is_shown() -> None:
    assert KEY.fingerprint() == VECTOR["fingerprint_hex"]
    assert repr(KEY) == str(KEY) == f"SwarmKey({VECTOR['fingerprint_hex']})"


@pytest.mark.parametrize("length", [0, PSK_BYTES - 1, PSK_BYTES + 1])
def test_another_length_is_no_key(length: int) -> None:
    with pytest.raises(InvalidKey, match=f"has {length} bytes"):
        SwarmKey(bytes(length))
