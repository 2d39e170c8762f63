"""Whether bytes are a point of a curve, told without a crypto library (RFC 8032 5.1.3, SEC 1 2.3.4).

A peer ID with its key inlined has no check sum; that the key must be a point finds half of all slips.
"""

from __future__ import annotations

_P25519 = 2**255 - 19
_D = -121665 * pow(121666, -1, _P25519) % _P25519
_P256K1 = 2**256 - 2**32 - 977


def is_ed25519(data: bytes) -> bool:
    """Whether 32 bytes are the compressed form of a point of edwards25519."""
    number = int.from_bytes(data, "little")
    y, sign = number & ((1 << 255) - 1), number >> 255
    if y >= _P25519:
        return False
    u, v = y * y - 1, _D * y * y + 1
    if u % _P25519 == 0:  # x is 0, which has no sign
        return sign == 0
    return _is_square(u * v, _P25519)  # u/v is one when u*v is


def is_secp256k1(data: bytes) -> bool:
    """Whether 33 bytes are the compressed form of a point of secp256k1."""
    x = int.from_bytes(data[1:], "big")
    return data[0] in (2, 3) and x < _P256K1 and _is_square(x**3 + 7, _P256K1)


def _is_square(number: int, prime: int) -> bool:
    return pow(number, (prime - 1) // 2, prime) <= 1
