"""What a service is made of, and how a file that `service install` wrote is told from others.

Every such file has one line with `mark`, which names the home too: nothing without it is overwritten, removed
or started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from p2pfwd.errors import StorageFailed
from p2pfwd.system.private_files import storage_failed

MAX_FILE_BYTES = 65536
"""Most that is read of a file that may be one of ours."""

_WRITTEN = "Written by p2pfwd service install; p2pfwd service uninstall removes it."


@dataclass(frozen=True, slots=True)
class Program:
    """The daemon's command, and the variables that it needs besides what the service manager sets."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Definition:
    """One file of a service; `label` is what its manager calls the service."""

    label: str
    path: Path
    home: Path
    is_system: bool
    text: str = ""


def mark(home: Path) -> str:
    """The line that says who wrote a file, and for which home; fit for a comment of XML too."""
    shown = json.dumps(str(home)).replace("--", "-\\u002d")
    return f"{_WRITTEN} Home: {shown}"


def suffix(home: Path, *, is_default: bool) -> str:
    """What tells one user's services apart: nothing for the usual home, else a dash and eight hex digits."""
    import hashlib  # slow to import: it loads OpenSSL

    return "" if is_default else "-" + hashlib.sha256(str(home).encode()).hexdigest()[:8]


def content(path: Path) -> str | None:
    """What is in a service's file, None where there is none. Raises StorageFailed."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise storage_failed("service file", path, exc) from exc


def is_ours(definition: Definition) -> bool:
    """Whether its file is there and was written by `service install` for its home."""
    text = content(definition.path)
    return text is not None and mark(definition.home) in text


def refuse_foreign(path: Path) -> None:
    """Raise StorageFailed where somebody else's file is at `path`."""
    text = content(path)
    if text is not None and _WRITTEN not in text:
        raise StorageFailed(
            f"service file {path}: it was not written by p2pfwd service install",
            hint="move it away (systemctl disable it first), then p2pfwd service install again",
            path=str(path),
        )
