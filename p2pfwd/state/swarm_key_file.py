"""The key of a private network on disk: read, and made. The CLI needs no daemon for it.

The file is Kubo's `swarm.key`, in the home directory unless the setting `private.swarm_key` says where.
Rules: it is 0600, and one that others can read is refused; one that is there is never overwritten, for the
network would be lost with it; nothing here prints or logs the key.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from p2pfwd.core.swarm_key import PSK_BYTES, SwarmKey
from p2pfwd.errors import InvalidKey, NotFound, UsageError
from p2pfwd.system.private_files import create_atomically, private_directory, read_secret

MAX_BYTES = 4096
"""Longest file read: 95 bytes in base16, as all tools write it."""

WHAT = "swarm key"
_NAME = "swarm.key"
_GET_ONE = "copy it from another machine of the network, or make one for a new network: p2pfwd swarm key new"
_RESTORE = "copy it again from another machine of the network"


def location(home: Path, setting: str) -> Path:
    """Where the file is: `setting` (of `private.swarm_key`), from `home` if relative, or the usual place."""
    return home / os.path.expanduser(setting or _NAME)


def load(path: Path) -> SwarmKey:
    """The key in the file. Raises NotFound, InvalidKey (no key, or readable by others), StorageFailed."""
    try:
        data = read_secret(path, WHAT, MAX_BYTES, _RESTORE)
    except FileNotFoundError:
        raise NotFound(f"{WHAT} {path}: there is none", hint=_GET_ONE, path=str(path)) from None
    try:
        return SwarmKey.parse(data)
    except InvalidKey as exc:
        raise InvalidKey(f"{WHAT} {path}: {exc.message}", hint=_RESTORE, path=str(path)) from exc


def keep(path: Path, key: SwarmKey) -> bool:
    """Have this key in the file: True where it was not there before.

    Raises UsageError where another network's is there, InvalidKey and StorageFailed as `load`.
    """
    private_directory(path.parent, "directory of the swarm key")
    try:
        create_atomically(path, key.encode(), WHAT)
    except FileExistsError:
        if load(path) == key:
            return False
        raise UsageError(
            f"{WHAT} {path}: there is one already, of another network",
            hint="p2pfwd --home DIR has room for a node in each network; or move the key away first",
            path=str(path),
        ) from None
    return True


def create(path: Path) -> SwarmKey:
    """Make a key for a new network, and its file. Raises UsageError when a file is there, StorageFailed."""
    key = SwarmKey(secrets.token_bytes(PSK_BYTES))
    private_directory(path.parent, "directory of the swarm key")
    try:
        create_atomically(path, key.encode(), WHAT)
    except FileExistsError:
        raise UsageError(
            f"{WHAT} {path}: there is one already, and its network would be lost",
            hint="move it away first, or make the other network's elsewhere",
            path=str(path),
        ) from None
    return key
