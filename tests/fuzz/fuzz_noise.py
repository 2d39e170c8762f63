"""Any bytes, to either side of a Noise handshake: HandshakeFailed or a wait, never done without proof.

Bytes are taken as the framed answer to message 1, as message 1 itself, as the decrypted payload of
message 2, as a transport message of each cipher, and as the length of a wide one. In every chunking the
outcome is the same.
"""

from __future__ import annotations

import json
from pathlib import Path

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.pb.noise_pb2 import NoiseExtensions, NoiseHandshakePayload
from p2pfwd.errors import HandshakeFailed, RemoteProtocolError
from p2pfwd.wire.noise.cipher import (
    AES,
    AES_WIDE,
    CHACHA,
    MAX_MESSAGE,
    MAX_WIDE_MESSAGE,
    TAG,
    OpenCipher,
    wide_length,
)
from p2pfwd.wire.noise.handshake import (
    AES_CIPHER,
    MAX_CIPHER_NAME,
    MAX_CIPHERS,
    WIDE_CIPHER,
    NoiseHandshake,
)
from p2pfwd.wire.noise.xx import NoiseXX

VECTORS = Path(__file__).parents[1] / "vectors/noise_libp2p_transcript.json"
VECTOR = json.loads(VECTORS.read_text())["transcripts"][0]
FRAMES = [bytes.fromhex(frame["frame_hex"]) for frame in VECTOR["frames"]]
PAYLOAD = bytes.fromhex(VECTOR["frames"][1]["payload_hex"])
AES_VECTORS = json.loads(VECTORS.with_name("noise_aes.json").read_text())["transcripts"]
FROM_INIT, _, WIDE_FROM_INIT = [vector["from_init"] for vector in AES_VECTORS]
FIRSTS = (
    (CHACHA, VECTOR["init_send_key_hex"], VECTOR["frames"][3]["frame_hex"]),
    (AES, FROM_INIT["keys_hex"][0], FROM_INIT["messages"][0]["frame_hex"]),
    (AES_WIDE, WIDE_FROM_INIT["keys_hex"][0], WIDE_FROM_INIT["messages"][0]["frame_hex"]),
)
"""Of each cipher a key, and the one frame that it opens first."""

LISTED = NoiseExtensions(ciphers=["p2pfwd/other/1", AES_CIPHER]).SerializeToString()
WIDE_LISTED = NoiseExtensions(ciphers=[AES_CIPHER, WIDE_CIPHER]).SerializeToString()
SEEDS = [
    FRAMES[0],
    FRAMES[1],
    FRAMES[1] + FRAMES[3],
    PAYLOAD,
    PAYLOAD + b"\x22" + bytes((len(LISTED),)) + LISTED,
    PAYLOAD + b"\x22" + bytes((len(WIDE_LISTED),)) + WIDE_LISTED,
    MAX_WIDE_MESSAGE.to_bytes(4, "big"),
    *(bytes.fromhex(frame)[2:] for _, _, frame in FIRSTS),
]
YAMUX = "/yamux/1.0.0"
KEYS = {
    role: PrivateKey.from_protobuf(bytes.fromhex(VECTOR[f"{role}_identity_private_pb_hex"]))
    for role in ("init", "resp")
}


def side(role: str, *, aes: bool = False, wide: bool = False) -> NoiseHandshake:
    return NoiseHandshake(
        initiator=role == "init",
        identity=KEYS[role],
        expected_peer=None,
        muxers=[YAMUX],
        entropy=bytes.fromhex(VECTOR[f"{role}_static_hex"] + VECTOR[f"{role}_ephemeral_hex"]),
        aes=aes,
        wide=wide,
    )


def outcome(role: str, data: bytes, step: int) -> object:
    handshake = side(role)
    handshake.start()
    out = b""
    try:
        for start in range(0, len(data), step):
            out += handshake.receive(data[start : start + step])
    except HandshakeFailed as exc:
        assert not handshake.done
        assert exc.message.isprintable()
        return type(exc)
    if not handshake.done:
        return out, None
    assert role == "init", "a responder is never done after bytes that answer nothing"
    assert data.startswith(FRAMES[1])
    assert handshake.remote_key == KEYS["resp"].public_key
    return out, handshake.leftover()


def payload(data: bytes) -> None:
    init = side("init", aes=True, wide=True)
    xx = NoiseXX(
        initiator=False,
        entropy=bytes.fromhex(VECTOR["resp_static_hex"] + VECTOR["resp_ephemeral_hex"]),
    )
    xx.read_message(init.start()[2:])
    message = xx.write_message(data)
    try:
        init.receive(len(message).to_bytes(2, "big") + message)
    except HandshakeFailed as exc:
        assert exc.message.isprintable()
    else:
        assert init.remote_key == KEYS["resp"].public_key
        assert init.muxer in (YAMUX, None)
        names = NoiseHandshakePayload.FromString(data).extensions.ciphers
        counts = len(names) <= MAX_CIPHERS and all(len(name) <= MAX_CIPHER_NAME for name in names)
        best = AES_WIDE if WIDE_CIPHER in names else AES if AES_CIPHER in names else CHACHA
        assert init.seal.suite is init.open.suite is (best if counts else CHACHA)


def length(data: bytes) -> None:
    number = int.from_bytes(data, "big")
    try:
        assert wide_length(memoryview(data)) == number
    except RemoteProtocolError:
        assert not MAX_MESSAGE < number <= MAX_WIDE_MESSAGE
    else:
        assert MAX_MESSAGE < number <= MAX_WIDE_MESSAGE and int.from_bytes(data[:2], "big") < TAG


def one(data: bytes) -> None:
    """Take `data` in all five ways and check the invariant."""
    if len(data) >= 4:
        length(data[:4])
    for role in ("init", "resp"):
        assert outcome(role, data, len(data) + 1) == outcome(role, data, 1)
    payload(data)
    for suite, key, frame in FIRSTS:
        buffer = bytearray(len(data))
        opener = OpenCipher(bytes.fromhex(key), suite=suite)
        try:
            n = opener.open_into(memoryview(data), memoryview(buffer))
        except RemoteProtocolError:
            continue
        assert (data, n) == (bytes.fromhex(frame)[2:], len(data) - TAG)


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
