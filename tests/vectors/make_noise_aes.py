"""Makes noise_aes.json, what p2pfwd-protocols(7) says of AES-256-GCM inside Noise, without a line of p2pfwd.

Noise and HKDF by hashlib and hmac, protobuf by hand; curves and ciphers from `cryptography`:

    python tests/vectors/make_noise_aes.py > tests/vectors/noise_aes.json
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

NAME = b"p2pfwd/aes-256-gcm/1"
INFO = b"p2pfwd noise transport aes-256-gcm"
WIDE_NAME = b"p2pfwd/aes-256-gcm-wide/1"
WIDE_INFO = b"p2pfwd noise transport aes-256-gcm-wide"
FIELD = 1025
REKEY_MESSAGES = 1 << 20
WIDE_REKEY_MESSAGES = 1 << 18
YAMUX = b"/yamux/1.0.0"
IDENTITIES = {"init": bytes([0x11]) * 32, "resp": bytes([0x22]) * 32}
STATICS = {"init": bytes([0x33]) * 32, "resp": bytes([0x44]) * 32}
EPHEMERALS = {"init": bytes([0x55]) * 32, "resp": bytes([0x66]) * 32}
SENT = ((0, b"hello"), (1, b""), (2, bytes(100)))
WIDE_SENT = (*SENT, (3, bytes(65519)), (4, bytes(65520)), (5, bytes((1 << 18) - 16)))
"""The longest that is not wide, the shortest and the longest that is."""


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def two_keys(salt: bytes, secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """HKDF of RFC 5869, 64 bytes in two halves."""
    prk = mac(salt, secret)
    first = mac(prk, info + b"\x01")
    return first, mac(prk, first + info + b"\x02")


def varint(n: int) -> bytes:
    return bytes([n]) if n < 128 else bytes([n & 0x7F | 0x80]) + varint(n >> 7)


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2 if len(message) <= 0xFFFF else 4, "big") + message


def payload(role: str, muxers: tuple[bytes, ...], ciphers: tuple[bytes, ...]) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(IDENTITIES[role])
    static = X25519PrivateKey.from_private_bytes(STATICS[role]).public_key().public_bytes_raw()
    extensions = b"".join(field(2, name) for name in muxers)
    extensions += b"".join(field(FIELD, name) for name in ciphers)
    return (
        field(1, b"\x08\x01" + field(2, key.public_key().public_bytes_raw()))
        + field(2, key.sign(b"noise-libp2p-static-key:" + static))
        + field(4, extensions)
    )


class Noise:
    """SymmetricState of the Noise specification, as both sides have it."""

    def __init__(self) -> None:
        self.h = self.ck = b"Noise_XX_25519_ChaChaPoly_SHA256"
        self.key = b""
        self.n = 0
        self.mix_hash(b"")

    def mix_hash(self, data: bytes) -> None:
        self.h = hashlib.sha256(self.h + data).digest()

    def mix_key(self, private: bytes, public: bytes) -> None:
        peer = X25519PublicKey.from_public_bytes(public)
        secret = X25519PrivateKey.from_private_bytes(private).exchange(peer)
        self.ck, self.key = two_keys(self.ck, secret, b"")
        self.n = 0

    def seal(self, plain: bytes) -> bytes:
        nonce = bytes(4) + self.n.to_bytes(8, "little")
        out = ChaCha20Poly1305(self.key).encrypt(nonce, plain, self.h)
        self.n += 1
        self.mix_hash(out)
        return out


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def entry(plain: bytes, frame: bytes) -> dict[str, Any]:
    """Of long ones, which are all zeros, what tells that they are right."""
    if len(plain) < 1000:
        return {"plaintext_hex": plain.hex(), "frame_hex": frame.hex()}
    digest = hashlib.sha256(frame).hexdigest()
    return {"zeros": len(plain), "frame_start_hex": frame[:32].hex(), "frame_sha256_hex": digest}


def direction(key: bytes, wide: bool) -> dict[str, Any]:
    """The keys that follow each other, and messages at either side of each change."""
    keys = [key]
    for _ in range(2):
        nonce = bytes(4) + (2**64 - 1).to_bytes(8, "big")
        keys.append(AESGCM(keys[-1]).encrypt(nonce, bytes(32), None)[:32])
    sent, rekey = (list(WIDE_SENT), WIDE_REKEY_MESSAGES) if wide else (list(SENT), REKEY_MESSAGES)
    for epoch in (1, 2):
        end = epoch * rekey
        sent += [(end - 1, b"the last of a key"), (end, b"the first of the next")]
    messages = []
    for count, plain in sent:
        nonce = bytes(4) + count.to_bytes(8, "big")
        message = AESGCM(keys[count // rekey]).encrypt(nonce, plain, None)
        messages.append({"count": count, "nonce_hex": nonce.hex()} | entry(plain, framed(message)))
    return {"keys_hex": [it.hex() for it in keys], "messages": messages}


def transcript(name: str, muxers: tuple[bytes, ...], *, wide: bool = False) -> dict[str, Any]:
    ciphers = (WIDE_NAME, NAME) if wide else (NAME,)
    payloads = {role: payload(role, muxers, ciphers) for role in ("init", "resp")}
    noise = Noise()
    first = public(EPHEMERALS["init"])
    noise.mix_hash(first)
    noise.mix_hash(b"")
    second = public(EPHEMERALS["resp"])
    noise.mix_hash(second)
    noise.mix_key(EPHEMERALS["resp"], public(EPHEMERALS["init"]))
    second += noise.seal(public(STATICS["resp"]))
    noise.mix_key(STATICS["resp"], public(EPHEMERALS["init"]))
    second += noise.seal(payloads["resp"])
    third = noise.seal(public(STATICS["init"]))
    noise.mix_key(STATICS["init"], public(EPHEMERALS["resp"]))
    third += noise.seal(payloads["init"])
    chacha = two_keys(noise.ck, b"", b"")
    aes = two_keys(noise.h, b"".join(chacha), WIDE_INFO if wide else INFO)
    return {
        "name": name,
        "wide": wide,
        "muxers": [it.decode() for it in muxers],
        "payload_2_hex": payloads["resp"].hex(),
        "payload_3_hex": payloads["init"].hex(),
        "frames_hex": [framed(message).hex() for message in (first, second, third)],
        "handshake_hash_hex": noise.h.hex(),
        "split_hex": [key.hex() for key in chacha],
        "from_init": direction(aes[0], wide),
        "from_resp": direction(aes[1], wide),
    }


def made() -> dict[str, Any]:
    """The whole document."""
    roles = ("init", "resp")
    return {
        "origin": "made by tests/vectors/make_noise_aes.py; frames include the length",
        "cipher": NAME.decode(),
        "info": INFO.decode(),
        "wide_cipher": WIDE_NAME.decode(),
        "wide_info": WIDE_INFO.decode(),
        "field": FIELD,
        "rekey_messages": REKEY_MESSAGES,
        "wide_rekey_messages": WIDE_REKEY_MESSAGES,
        "identity_seeds_hex": {role: IDENTITIES[role].hex() for role in roles},  # Ed25519
        "statics_hex": {role: STATICS[role].hex() for role in roles},  # X25519, private
        "ephemerals_hex": {role: EPHEMERALS[role].hex() for role in roles},
        "transcripts": [
            transcript("yamux offered by both", (YAMUX,)),
            transcript("no muxers offered", ()),
            transcript("wide messages listed by both", (YAMUX,), wide=True),
        ],
    }


if __name__ == "__main__":
    print(json.dumps(made(), indent=1))
