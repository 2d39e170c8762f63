"""The Salsa20 core in pure Python: single blocks and HSalsa20, for what is done once (libp2p spec: pnet).

A fingerprint needs one block, and XSalsa20 one HSalsa20 per direction, an eighth of a millisecond each;
streams of data are not for this module. After D. J. Bernstein's "Salsa20 specification" and "Extending the
Salsa20 nonce"; pinned by their test vectors.
"""

from __future__ import annotations

import struct
from typing import Final

from p2pfwd.errors import LocalProtocolError

KEY_BYTES: Final = 32
_DOUBLE_ROUNDS: Final = 10
_CONSTANTS: Final = struct.unpack("<4I", b"expand 32-byte k")

_COLUMNS: Final = ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11))
_ROWS: Final = ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14))
_QUARTERS: Final = _COLUMNS + _ROWS
_HALF_OF_KEY: Final = (0, 5, 10, 15, 6, 7, 8, 9)
"""Words that HSalsa20 gives out: those whose input is public."""


def block(key: bytes, nonce: bytes, counter: int = 0) -> bytes:
    """Block `counter` of the Salsa20 key stream. key: 32 bytes, nonce: 8."""
    state = _state(key, nonce + struct.pack("<Q", counter))
    mixed = _mixed(state)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(state, mixed, strict=True)))


def hsalsa20(key: bytes, nonce: bytes) -> bytes:
    """The 32-byte subkey that XSalsa20 derives from a key and the first 16 bytes of its nonce."""
    mixed = _mixed(_state(key, nonce))
    return struct.pack("<8I", *(mixed[word] for word in _HALF_OF_KEY))


def _state(key: bytes, middle: bytes) -> list[int]:
    if len(key) != KEY_BYTES or len(middle) != 16:
        raise LocalProtocolError(f"Salsa20: a key of {len(key)} bytes with {len(middle)} of nonce")
    k, n, c = struct.unpack("<8I", key), struct.unpack("<4I", middle), _CONSTANTS
    return [c[0], *k[:4], c[1], *n, c[2], *k[4:], c[3]]


def _mixed(state: list[int]) -> list[int]:
    x = state.copy()
    for _ in range(_DOUBLE_ROUNDS):
        for a, b, c, d in _QUARTERS:
            x[b] ^= _rotated(x[a] + x[d], 7)
            x[c] ^= _rotated(x[b] + x[a], 9)
            x[d] ^= _rotated(x[c] + x[b], 13)
            x[a] ^= _rotated(x[d] + x[c], 18)
    return x


def _rotated(word: int, bits: int) -> int:
    word &= 0xFFFFFFFF
    return (word << bits | word >> 32 - bits) & 0xFFFFFFFF
