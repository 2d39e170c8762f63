"""Whom a listen lets in, in words, and the lines that change it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from p2pfwd.cli.text import joined, short_peer

if TYPE_CHECKING:
    from p2pfwd.rpc.schema import Access, AccessPeer

MAX_NAMED = 4
"""Peers named in one sentence; `access ls --json` has all."""


def who(access: Access) -> str:
    """`any peer`, `laptop and 12D3…wvuTHr`, `nobody`."""
    if access.lets_in == "any":
        text = f"any peer{_end(access.any_ends_at)}"
    else:
        named = ["peers with a name here"] if access.lets_in == "named" else []
        parts = named + peers(access.allowed)
        if not parts:
            return "nobody"
        text = joined(parts)
    return f"{text}, but not {joined(peers(access.denied))}" if access.denied else text


def peers(listed: Sequence[AccessPeer]) -> list[str]:
    """The names of the first, and how many more there are."""
    names = [f"{it.name or short_peer(it.peer)}{_end(it.ends_at)}" for it in listed]
    more = len(names) - MAX_NAMED
    return names if more <= 0 else [*names[:MAX_NAMED], f"{more} more"]


def _end(ends_at: float | None) -> str:
    if ends_at is None:
        return ""
    from p2pfwd.cli.limits import ends_text

    return f" ({ends_text(ends_at)})"


def is_open(access: Access | None) -> bool:
    """Whether every peer is let in, as where nothing was said."""
    return access is None or (access.lets_in == "any" and not access.denied and access.any_ends_at is None)


def restrict_command(protocol: str) -> str:
    """The command line that lets in only those allowed, quoted for a POSIX shell."""
    return shlex.join(["p2pfwd", "deny", protocol, "any"])


def allow_command(protocol: str) -> str:
    """The command line that lets one more in, for whoever puts the peer in."""
    return f"{shlex.join(['p2pfwd', 'allow', protocol])} PEER"
