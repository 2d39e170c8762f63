"""The floor's arithmetic half: an AEAD alone, in place, 64 KiB at a time, about a Noise frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

CHUNK_BYTES = 64 * 1024
TAG_BYTES = 16
NONCE = bytes(12)
BATCH = 64

CIPHERS: Mapping[str, tuple[str, type[AESGCM] | type[ChaCha20Poly1305]]] = {
    "chacha": ("ChaCha20-Poly1305", ChaCha20Poly1305),
    "aes": ("AES-256-GCM", AESGCM),
}
"""How a cipher's figures begin, its name, and the cipher. Both have keys of 32 bytes."""


def aead_s_per_gb(seconds: float) -> dict[str, float]:
    """CPU seconds per GB (10^9 bytes) of sealing and of opening, each measured for about `seconds`."""
    found: dict[str, float] = {}
    for short, (_, cipher) in CIPHERS.items():
        found |= _one(short, cipher(bytes(32)), seconds)
    return found


def _one(short: str, cipher: AESGCM | ChaCha20Poly1305, seconds: float) -> dict[str, float]:
    plain, sealed = bytearray(CHUNK_BYTES), bytearray(CHUNK_BYTES + TAG_BYTES)

    def seal() -> None:
        cipher.encrypt_into(NONCE, plain, None, sealed)

    def open_again() -> None:
        cipher.decrypt_into(NONCE, sealed, None, plain)

    seal()
    return {f"{short}_seal": _cost(seal, seconds), f"{short}_open": _cost(open_again, seconds)}


def _cost(work: Callable[[], None], seconds: float) -> float:
    done = 0
    start = time.process_time()
    while (spent := time.process_time() - start) < seconds:
        for _ in range(BATCH):
            work()
        done += BATCH * CHUNK_BYTES
    return spent / done * 1e9
