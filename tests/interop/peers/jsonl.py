"""The control protocol of the real peers: JSON lines on stdin and stdout.

A peer prints one line `{"id": ..., "addrs": [...]}` when it is ready, takes one command object per line
(`{"cmd": "listen", "proto": "/x/echo", ...}`), answers `{"ok": true, ...}` or `{"ok": false, "error": ...}`
in order, and ends when its stdin closes. js/peer.mjs speaks the same.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

Message = dict[str, Any]


def claim_stdout() -> TextIO:
    """stdout for us alone: what a native library prints goes to stderr from now on."""
    mine = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return mine


def write_line(out: TextIO, message: Mapping[str, Any]) -> None:
    """One message, at once."""
    out.write(json.dumps(message) + "\n")
    out.flush()


def read_command(line: str) -> tuple[str, Message]:
    """A command line -> (name, arguments)."""
    message: Message = json.loads(line)
    return message.pop("cmd"), message


def failure(exc: Exception) -> Message:
    """The answer to a command that failed."""
    return {"ok": False, "error": f"{type(exc).__name__}: {exc}"}


def refuse_routes() -> None:
    """End this process where anything but loopback could be reached from it."""
    from tests.support.netns import is_loopback_only

    if not is_loopback_only():
        sys.exit("refusing to start: this network namespace has more than loopback")


def refuse_a_way_out() -> None:
    """End this process where a packet could leave the networks it is in."""
    from tests.support.netns import has_default_route

    if has_default_route():
        sys.exit("refusing to start: a route leads out of this network namespace")
