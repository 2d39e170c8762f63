"""Multibase decoding for the bases met in peer IDs and certificate hashes (multibase spec).

base16, base32, base36, base58btc and base64 (both alphabets, without padding). `py-multibase` is not
used: it costs 3 MB of memory by way of `py-multihash`, and accepts characters outside the alphabet.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

import base58

MAX_CHARS = 512
"""Longest text decoded: base36 and base58 cost quadratic time, and no hash is near this size."""

_BASE32 = frozenset("abcdefghijklmnopqrstuvwxyz234567")
_BASE36 = frozenset("0123456789abcdefghijklmnopqrstuvwxyz")
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")


def base58btc(text: str) -> bytes:
    """The bytes of base58btc `text`; ValueError if it is too long or not base58."""
    if len(text) > MAX_CHARS:
        raise ValueError(f"longer than {MAX_CHARS} characters")
    if not text.isascii() or text != text.strip():  # the library drops blanks at the end
        raise ValueError("not base58")
    try:
        return base58.b58decode(text)
    except ValueError as exc:
        raise ValueError("not base58") from exc


def _require(text: str, alphabet: frozenset[str], base: str) -> None:
    if not alphabet.issuperset(text):
        raise ValueError(f"not {base}")


def _base16(text: str) -> bytes:
    _require(text.lower(), frozenset("0123456789abcdef"), "base16")
    return bytes.fromhex(text)


def _base32(text: str) -> bytes:
    _require(text, _BASE32, "base32")
    try:
        return base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except ValueError as exc:
        raise ValueError("not base32") from exc


def _base36(text: str) -> bytes:
    _require(text, _BASE36, "base36")
    digits = text.lstrip("0")
    zeros = len(text) - len(digits)
    number = int(digits, 36) if digits else 0
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _base64(text: str, altchars: str) -> bytes:
    _require(text, _BASE64.union(altchars), "base64")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=altchars.encode("ascii"))
    except ValueError as exc:
        raise ValueError("not base64") from exc


_DECODERS: dict[str, Callable[[str], bytes]] = {
    "f": _base16,
    "F": _base16,
    "b": _base32,
    "B": lambda text: _base32(text.lower()),
    "k": _base36,
    "K": lambda text: _base36(text.lower()),
    "z": base58btc,
    "m": lambda text: _base64(text, "+/"),
    "u": lambda text: _base64(text, "-_"),
}


def decode(text: str) -> bytes:
    """The bytes of multibase `text` (prefix character, then digits); ValueError says what is wrong."""
    if len(text) > MAX_CHARS:
        raise ValueError(f"longer than {MAX_CHARS} characters")
    decoder = _DECODERS.get(text[:1])
    if decoder is None:
        raise ValueError("unknown multibase prefix")
    return decoder(text[1:])


def base64url(data: bytes) -> str:
    """Multibase base64url (`u…`, no padding): the form certificate hashes are printed in."""
    return "u" + base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")
