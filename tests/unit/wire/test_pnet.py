"""wire.pnet: the key stream is NaCl's, in any cut; without its package the cure is named."""

import json
import sys
from pathlib import Path

import pytest

from p2pfwd.core.swarm_key import SwarmKey
from p2pfwd.errors import InvalidConfig, LocalProtocolError
from p2pfwd.wire.pnet import NONCE_BYTES, KeyStream, require_cipher

VECTOR = json.loads((Path(__file__).parents[2] / "vectors/pnet.json").read_text())
PSK = SwarmKey.parse(VECTOR["swarm_key"].encode()).psk
SAMPLE = {name: bytes.fromhex(VECTOR["xsalsa20"][name + "_hex"]) for name in ("nonce", "plaintext", "wire")}
NONCE, PLAIN = SAMPLE["nonce"], SAMPLE["plaintext"]
CODED = SAMPLE["wire"][NONCE_BYTES:]


def test_the_wire_begins_with_the_nonce_and_goes_on_with_the_stream() -> None:
    assert SAMPLE["wire"] == NONCE + KeyStream(PSK, NONCE).xor(PLAIN)


@pytest.mark.parametrize("step", [1, 7, 63, 64, 65, 200])
def test_the_stream_runs_on_over_any_cut_in_place_or_not(step: int) -> None:
    coding, decoding = KeyStream(PSK, NONCE), KeyStream(PSK, NONCE)
    coded = b"".join(coding.xor(memoryview(PLAIN)[at : at + step]) for at in range(0, len(PLAIN), step))
    assert coded == CODED
    view = memoryview(bytearray(coded))
    for at in range(0, len(view), step):
        decoding.xor_in_place(view[at : at + step])
    assert view == PLAIN


@pytest.mark.parametrize("length", [0, 8, NONCE_BYTES - 1, NONCE_BYTES + 1])
def test_a_nonce_of_another_length_is_our_own_fault(length: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"a nonce of {length} bytes"):
        KeyStream(PSK, bytes(length))


def test_without_the_package_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Crypto.Cipher", None)
    with pytest.raises(InvalidConfig, match="needs the package pycryptodome") as caught:
        require_cipher()
    assert caught.value.hint == "pip install 'p2pfwd[pnet]'"
