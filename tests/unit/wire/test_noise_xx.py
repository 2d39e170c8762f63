"""The raw XX pattern against the vectors of cacophony, snow and flynn/noise (go-libp2p's library)."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.errors import HandshakeFailed, LocalProtocolError
from p2pfwd.wire.noise.cipher import TAG, OpenCipher, SealCipher
from p2pfwd.wire.noise.xx import ENTROPY_BYTES, NoiseXX

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "noise_xx.json").read_text())
Message = tuple[bool, bytes, bytes]
"""(from the initiator, payload, ciphertext)"""


def snow_style(vector: dict[str, Any]) -> tuple[dict[str, bytes], list[Message], str | None]:
    keys = {
        name: bytes.fromhex(vector[name])
        for name in vector
        if name.startswith(("init_", "resp_")) and isinstance(vector[name], str)
    }
    messages = [
        (i % 2 == 0, bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"]))
        for i, m in enumerate(vector["messages"])
    ]
    return keys, messages, vector.get("handshake_hash")


def flynn_style(vector: dict[str, Any]) -> tuple[dict[str, bytes], list[Message], str | None]:
    prologue = bytes.fromhex(vector.get("prologue", ""))
    keys = {
        "init_static": bytes.fromhex(vector["init_static"]),
        "init_ephemeral": bytes.fromhex(vector["gen_init_ephemeral"]),
        "resp_static": bytes.fromhex(vector["resp_static"]),
        "resp_ephemeral": bytes.fromhex(vector["gen_resp_ephemeral"]),
        "init_prologue": prologue,
        "resp_prologue": prologue,
    }
    # flynn counts on: message 3 is again the initiator's, 4 the responder's.
    directions = [True, False, True, True, False]
    messages = [
        (direction, bytes.fromhex(vector[f"msg_{i}_payload"]), bytes.fromhex(vector[f"msg_{i}_ciphertext"]))
        for i, direction in enumerate(directions)
    ]
    return keys, messages, None


CASES = [snow_style(v) for v in VECTORS["snow_style"]] + [flynn_style(v) for v in VECTORS["flynn_style"]]


def pair(keys: dict[str, bytes]) -> tuple[NoiseXX, NoiseXX]:
    def side(role: str) -> NoiseXX:
        return NoiseXX(
            initiator=role == "init",
            entropy=keys[f"{role}_static"] + keys[f"{role}_ephemeral"],
            prologue=keys.get(f"{role}_prologue", b""),
        )

    return side("init"), side("resp")


def check_transport(key: bytes, messages: list[tuple[bytes, bytes]]) -> None:
    sealer, opener = SealCipher(key), OpenCipher(key)
    for payload, ciphertext in messages:
        out = bytearray(len(payload) + TAG + 2)
        sealer.seal_into(memoryview(payload), memoryview(out))
        assert out[2:] == ciphertext
        assert opener.open_into(memoryview(ciphertext), memoryview(out)) == len(payload)
        assert out[: len(payload)] == payload


@pytest.mark.parametrize(("keys", "messages", "handshake_hash"), CASES)
def test_both_roles_reproduce_the_vector(
    keys: dict[str, bytes], messages: list[Message], handshake_hash: str | None
) -> None:
    init, resp = pair(keys)
    for from_init, payload, ciphertext in messages[:3]:
        writer, reader = (init, resp) if from_init else (resp, init)
        assert writer.write_message(payload) == ciphertext
        assert reader.read_message(ciphertext) == payload
    assert init.done and resp.done
    assert init.handshake_hash == resp.handshake_hash
    if handshake_hash is not None:
        assert init.handshake_hash.hex() == handshake_hash
    assert init.split() == resp.split()
    assert (init.remote_static, resp.remote_static) == (resp.local_static, init.local_static)
    for from_init, key in zip((True, False), init.split(), strict=True):
        check_transport(key, [(p, c) for side, p, c in messages[3:] if side is from_init])


def test_every_altered_or_cut_message_is_refused() -> None:
    keys, messages, _ = flynn_style(VECTORS["flynn_style"][0])
    for victim in (1, 2):
        good = messages[victim][2]
        bad = [good[:n] for n in range(0, len(good), 7)]
        bad += [good[:n] + bytes([good[n] ^ 0x40]) + good[n + 1 :] for n in range(0, len(good), 5)]
        for message in bad:
            init, resp = pair(keys)
            resp.read_message(init.write_message(b""))
            answer = resp.write_message(b"")
            if victim == 2:
                init.read_message(answer)
                init.write_message(b"")
            with pytest.raises(HandshakeFailed):
                (init if victim == 1 else resp).read_message(message)


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_a_point_of_small_order_is_refused(point: bytes) -> None:
    resp = NoiseXX(initiator=False, entropy=os.urandom(ENTROPY_BYTES))
    resp.read_message(point)
    with pytest.raises(HandshakeFailed):
        resp.write_message(b"")


def test_randomness_that_is_short_is_local_blame() -> None:
    with pytest.raises(LocalProtocolError, match="31 random bytes instead of 64"):
        NoiseXX(initiator=True, entropy=bytes(31))


def test_a_call_out_of_turn_is_local_blame() -> None:
    for initiator in (True, False):
        side = NoiseXX(initiator=initiator, entropy=os.urandom(ENTROPY_BYTES))
        with pytest.raises(LocalProtocolError):
            side.read_message(bytes(32)) if initiator else side.write_message(b"")
        with pytest.raises(LocalProtocolError):
            side.split()
        with pytest.raises(LocalProtocolError):
            _ = side.remote_static
