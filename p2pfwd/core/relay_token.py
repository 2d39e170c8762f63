"""A relay's token as text, and as what the relay keeps of it."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from p2pfwd.errors import UsageError

SECRET_BYTES: Final = 16
"""128 bits: nobody guesses one."""

TEXT_CHARS: Final = 26
_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz234567")


def to_text(secret: bytes) -> str:
    """A token's text: 26 letters and digits."""
    return base64.b32encode(secret).decode("ascii").rstrip("=").lower()


def read_token(text: str) -> str:
    """The token that somebody typed or sent, in its one form. Raises UsageError."""
    token = text.strip().lower()
    if len(token) != TEXT_CHARS or not _LETTERS.issuperset(token):
        raise UsageError(
            "that is no relay token",
            hint=f"a token has {TEXT_CHARS} letters and digits: copy it again from where it was made",
        )
    return token


def digest(token: str) -> str:
    """What a relay keeps in place of a token: who reads its file cannot show the token."""
    return hashlib.sha256(b"p2pfwd relay token " + token.encode("ascii")).hexdigest()
