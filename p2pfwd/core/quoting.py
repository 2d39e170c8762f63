"""How a stranger's or a person's text appears inside an error sentence: quoted, short, printable.

Rule: no control character, escape sequence or lone surrogate reaches a terminal or a log this way.
"""

from __future__ import annotations

MAX_CHARS = 160
"""Longest quotation: a full relayed multiaddr with two peer IDs still fits."""


def quoted(text: str) -> str:
    """`text` in double quotes, cut to `MAX_CHARS`, unprintable characters as backslash escapes."""
    shown = text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"
    escaped = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in shown.replace('"', '\\"')
    )
    return f'"{escaped}"'
