"""How a listen watches its target, as people write it: `tcp`, or `http:/path`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from p2pfwd.core.quoting import quoted
from p2pfwd.errors import UsageError

MAX_PATH: Final = 1024
MAX_WAIT_S: Final = 600.0
"""The longest that a stream may wait for its target."""

_WRITE: Final = "tcp asks whether the service listens, http:/path expects 2xx or 3xx of a GET of that path"


@dataclass(frozen=True, slots=True)
class TargetCheck:
    """What is to be asked; `path` of `tcp` is None."""

    path: str | None = None


def read_check(text: str) -> TargetCheck:
    """Raises UsageError for what is neither."""
    if text == "tcp":
        return TargetCheck()
    kind, _, path = text.partition(":")
    if kind != "http" or not path.startswith("/") or path.startswith("//"):
        raise UsageError(f"{quoted(text)} is no check of a target", hint=_WRITE)
    if len(path) > MAX_PATH or not path.isascii() or not path.isprintable() or " " in path:
        hint = f"at most {MAX_PATH} printable ASCII characters; others are written %XX"
        raise UsageError(f"{quoted(text)}: a path like that cannot be asked for", hint=hint)
    return TargetCheck(path)


def check_wait(wait_s: float) -> None:
    """Raises UsageError for a time that a stream cannot wait for its target."""
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise UsageError(
            f"{wait_s:g} s is no time to wait for a target", hint=f"give 0 to {MAX_WAIT_S:g} seconds"
        )
