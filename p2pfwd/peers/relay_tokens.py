"""Tokens of a relay: the table, its rules, and its file `relay-tokens.json`.

Rules: of a token only its digest is kept, so the file lets nobody in. A token is bound to the first peer that
shows it; an invitation (`many`) to each that does, up to `MAX_PEERS`. A binding is in the file before it is
answered, written whole or not at all and off the event loop. The file is the user's alone; one that cannot be
understood stops the start: to go on without it would let nobody in, and its owner would not know why.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.core.relay_token import SECRET_BYTES, digest, to_text
from p2pfwd.errors import (
    InvalidConfig,
    InvalidPeerId,
    NotFound,
    PeerExists,
    ResourceLimitExceeded,
    StorageFailed,
)
from p2pfwd.peers.named import read_name
from p2pfwd.system.private_files import read_secret, storage_failed, sweep, write_atomically
from p2pfwd.wire.relay_token import TokenStatus

MAX_TOKENS: Final = 256
MAX_PEERS: Final = 1024
"""Of one invitation."""

MAX_FILE_BYTES: Final = 32 << 20
"""Longest file read; 256 full invitations take 20 MB, one of 60 members 5 KB."""

_VERSION: Final = 1
_WHAT: Final = "relay tokens"
_RESTORE: Final = "mend it, or move it away: then no token is known, and new ones have to be made"


@dataclass(frozen=True, slots=True)
class RelayToken:
    """One entry."""

    name: str
    digest: str
    many: bool
    """An invitation: whoever shows it is let in."""
    made: int
    """Unix seconds."""
    peers: tuple[PeerId, ...] = ()
    """Those who have shown it."""


class RelayTokens:
    """The table; `load` fills it from the file."""

    def __init__(self, path: Path, unix_time: Callable[[], float] = time.time) -> None:
        self._path = path
        self._unix_time = unix_time
        self._tokens: dict[str, RelayToken] = {}
        self._lock = asyncio.Lock()

    def all(self) -> list[RelayToken]:
        """Every entry, by name."""
        return sorted(self._tokens.values(), key=lambda token: token.name)

    def peers(self) -> set[PeerId]:
        """Who has been let in."""
        return {peer for token in self._tokens.values() for peer in token.peers}

    async def make(self, name: str | None, *, many: bool = False) -> tuple[RelayToken, str]:
        """A new token: its entry, and its text, which is kept nowhere.

        Raises UsageError, PeerExists (the name has a token), ResourceLimitExceeded, StorageFailed.
        """
        text = to_text(secrets.token_bytes(SECRET_BYTES))
        made: list[RelayToken] = []

        def change(tokens: dict[str, RelayToken]) -> None:
            chosen = _free_name(tokens, many) if name is None else read_name(name)
            if chosen in tokens:
                hint = f"another name, or p2pfwd relay token revoke {chosen} first"
                raise PeerExists(f"there is a token {chosen} already", hint=hint)
            if len(tokens) >= MAX_TOKENS:
                raise ResourceLimitExceeded(f"there are {MAX_TOKENS} relay tokens, which is the limit")
            tokens[chosen] = RelayToken(chosen, digest(text), many, int(self._unix_time()))
            made.append(tokens[chosen])

        await self._update(change)
        return made[0], text

    async def claim(self, text: str, peer: PeerId) -> TokenStatus:
        """Somebody shows a token: it is his, if it is nobody else's."""
        shown = digest(text)
        verdict = TokenStatus.UNKNOWN

        def change(tokens: dict[str, RelayToken]) -> None:
            nonlocal verdict
            verdict = TokenStatus.UNKNOWN
            for token in tokens.values():
                if token.digest != shown:
                    continue
                verdict = TokenStatus.OK
                if peer in token.peers:
                    return
                if token.peers and (not token.many or len(token.peers) >= MAX_PEERS):
                    verdict = TokenStatus.TAKEN
                    return
                tokens[token.name] = replace(token, peers=(*token.peers, peer))
                return

        try:
            await self._update(change)
        except StorageFailed:
            return TokenStatus.BUSY
        return verdict

    async def revoke(self, name: str) -> RelayToken:
        """Take a token away. Raises NotFound, StorageFailed."""
        removed: list[RelayToken] = []

        def change(tokens: dict[str, RelayToken]) -> None:
            found = tokens.pop(name.lower(), None)
            if found is None:
                hint = "p2pfwd relay token ls shows the names"
                raise NotFound(f"no relay token is named {quoted(name)}", hint=hint)
            removed.append(found)

        await self._update(change)
        return removed[0]

    async def _update(self, change: Callable[[dict[str, RelayToken]], None]) -> None:
        async with self._lock:
            before, after = self._tokens, dict(self._tokens)
            change(after)
            if after == before:
                return
            self._tokens = after
            write = asyncio.to_thread(write_atomically, self._path, _to_json(after), _WHAT)
            writing = asyncio.create_task(write)
            try:
                await asyncio.shield(writing)
            finally:
                await asyncio.wait([writing])  # the caller may be cancelled: table and file agree even so
                if writing.cancelled() or writing.exception() is not None:
                    self._tokens = before

    def load(self) -> None:
        """Read the file, if there is one.

        Raises InvalidConfig where it cannot be understood, InvalidKey where others can read it, and
        StorageFailed.
        """
        try:
            sweep(self._path)
            data = read_secret(self._path, _WHAT, MAX_FILE_BYTES, _RESTORE)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise storage_failed(_WHAT, self._path, exc) from exc
        try:
            self._tokens = _from_json(data)
        except (ValueError, KeyError, TypeError, RecursionError, InvalidPeerId) as exc:
            raise InvalidConfig(f"{_WHAT} {self._path}: {exc}", hint=_RESTORE, path=str(self._path)) from exc


def _free_name(tokens: dict[str, RelayToken], many: bool) -> str:
    base = "invitation" if many else "token"
    return next(name for n in range(1, MAX_TOKENS + 2) if (name := f"{base}-{n}") not in tokens)


def _to_json(tokens: dict[str, RelayToken]) -> bytes:
    entries = [
        {
            "name": token.name,
            "digest": token.digest,
            "many": token.many,
            "made": token.made,
            "peers": [str(peer) for peer in token.peers],
        }
        for token in sorted(tokens.values(), key=lambda token: token.name)
    ]
    return (json.dumps({"version": _VERSION, "tokens": entries}, indent=1) + "\n").encode()


def _from_json(data: bytes) -> dict[str, RelayToken]:
    document: Any = json.loads(data)
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise ValueError(f"it is not of the form {_VERSION}")
    tokens: dict[str, RelayToken] = {}
    for entry in document["tokens"]:
        peers = tuple(PeerId.parse(text) for text in entry["peers"])
        token = RelayToken(entry["name"], entry["digest"], entry["many"] is True, int(entry["made"]), peers)
        tokens[token.name] = token
    return tokens
