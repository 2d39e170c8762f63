"""The node's identity on disk: read, made on first use, exported, imported. The CLI needs no daemon for it.

The file is text: the base64 of the libp2p PrivateKey protobuf, as in `Identity.PrivKey` of a Kubo
configuration, and a newline. Rules: it is 0600; one that others can read is refused, for its secret may be
known already; nothing here prints or logs the key.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from p2pfwd.core.keys import PrivateKey
from p2pfwd.errors import InvalidKey, NotFound, StorageFailed, UsageError
from p2pfwd.system.private_files import private_directory, read_secret, write_atomically

MAX_BYTES = 16384
"""Longest key file read: an RSA key of 8192 bits takes 6.3 KB in base64."""

_WHAT = "identity file"


def load(path: Path) -> PrivateKey:
    """The key in the file. Raises NotFound, InvalidKey (corrupt, or readable by others), StorageFailed."""
    return decode(_read(path), f"{_WHAT} {path}")


def load_or_create(path: Path) -> tuple[PrivateKey, bool]:
    """The key in the file, and whether it was made just now: a new Ed25519 key where there was none."""
    try:
        return load(path), False
    except NotFound:
        key = PrivateKey.generate()
        save(path, key)
        return key, True


def save(path: Path, key: PrivateKey) -> None:
    """Write the key, 0600, whole or not at all. Raises StorageFailed."""
    private_directory(path.parent, "home directory")
    write_atomically(path, encode(key).encode() + b"\n", _WHAT)


def import_text(path: Path, text: str, *, replace: bool = False) -> PrivateKey:
    """Make the base64 PrivateKey protobuf `text` this home's identity, and return it.

    Raises InvalidKey, StorageFailed, and UsageError when another key is there and `replace` is false.
    """
    key = decode(text, "imported key")
    if os.path.lexists(path) and not replace:
        current = _read(path)
        if current.split() != [encode(key)]:
            raise UsageError(
                f"{_WHAT} {path}: this home has an identity already, and its peer ID would be lost",
                hint="keep a copy (p2pfwd key export), then say --force",
                path=str(path),
            )
    save(path, key)
    return key


def encode(key: PrivateKey) -> str:
    """Kubo's text of a private key: base64 of its protobuf."""
    return base64.b64encode(key.to_protobuf()).decode("ascii")


def decode(text: str, source: str) -> PrivateKey:
    """The key of that text, white space around it allowed; `source` names it in errors. Raises InvalidKey."""
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidKey(f"{source}: it is not base64 text", hint=_restore(source)) from None
    if not data:
        raise InvalidKey(f"{source}: it is empty", hint=_restore(source))
    try:
        return PrivateKey.from_protobuf(data)
    except InvalidKey as exc:
        raise InvalidKey(f"{source}: {exc.message}", hint=_restore(source)) from exc


def _restore(source: str) -> str:
    if source.startswith(_WHAT):
        return "restore it from a copy, or move it away to get a new identity (and a new peer ID)"
    return "give the base64 PrivateKey protobuf: Identity.PrivKey of Kubo, or what p2pfwd key export prints"


def _read(path: Path) -> str:
    try:
        data = read_secret(path, _WHAT, MAX_BYTES, _restore(_WHAT))
    except FileNotFoundError:
        if path.is_symlink():  # on a disk that is not mounted, perhaps: no reason to become somebody else
            raise StorageFailed(
                f"{_WHAT} {path}: it is a link to a file that does not exist", hint=_restore(_WHAT)
            ) from None
        raise NotFound(
            f"{_WHAT} {path}: there is none yet", hint="the daemon makes one when it first starts"
        ) from None
    return data.decode("utf-8", "replace")
