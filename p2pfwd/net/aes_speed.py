"""Whether this machine's processor does AES in hardware, by what counts: the time a seal takes.

No portable call tells. With hardware AES-256-GCM takes a quarter to three quarters of ChaCha20-Poly1305's
time, up to one and a half times on a loaded machine; without, three to fifteen times.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Final

from p2pfwd.wire.noise.cipher import AES, CHACHA, KEY_BYTES, TAG

TRIES: Final = 5
SAMPLE_BYTES: Final = 16 * 1024

BORDER: Final = 2.0
"""AES-256-GCM's time in ChaCha20-Poly1305's, above which it is done in software."""


@cache
def has_fast_aes() -> bool:
    """Measured once per process, at its first handshake: takes 0.1 ms, or 1 ms without hardware."""
    return time_ratio() < BORDER


def time_ratio() -> float:
    """AES-256-GCM's time in ChaCha20-Poly1305's: of either the quickest of a few seals, in turn."""
    plain = memoryview(bytes(SAMPLE_BYTES))
    out = memoryview(bytearray(SAMPLE_BYTES + TAG))
    nonce = AES.pack_nonce(0)
    seals = [suite.aead(bytes(KEY_BYTES)).encrypt_into for suite in (AES, CHACHA)]
    least = [float("inf")] * len(seals)
    for _ in range(TRIES):
        for index, seal in enumerate(seals):
            begin = time.perf_counter()
            seal(nonce, plain, None, out)
            least[index] = min(least[index], time.perf_counter() - begin)
    return least[0] / least[1]
