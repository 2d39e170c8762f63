"""Tokens of a relay: the table, its rules, and its file `relay-tokens.json`.

Rules: of a token only its digest is kept, so the file lets nobody in. A token is bound to the first peer that
shows it; an invitation (`many`) to each that does, up to `MAX_PEERS`. A binding is in the file before it is
answered, written whole or not at all and off the event loop. The file is the user's alone; one that cannot be
understood stops the start: to go on without it would let nobody in, and its owner would not know why.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from p2pfwd.core.durations import read_time
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.core.relay_token import SECRET_BYTES, digest, to_text
from p2pfwd.errors import (
    InvalidConfig,
    NotFound,
    PeerExists,
    ResourceLimitExceeded,
    StorageFailed,
)
from p2pfwd.peers.named import read_name
from p2pfwd.state.json_file import JsonFile, on_copy
from p2pfwd.wire.relay_token import TokenStatus

log = logging.getLogger("p2pfwd.relay")

MAX_TOKENS: Final = 256
MAX_PEERS: Final = 1024
"""Of one invitation."""

MAX_FILE_BYTES: Final = 32 << 20
"""Longest file read; 256 full invitations take 20 MB, one of 60 members 5 KB."""

_WHAT: Final = "relay tokens"
_WITHOUT: Final = "no token is known, and new ones have to be made"


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
        self._unix_time = unix_time
        empty: dict[str, RelayToken] = {}
        self._file = JsonFile(path, _WHAT, empty, encode=_to_json, log=log)

    def all(self) -> list[RelayToken]:
        """Every entry, by name."""
        return sorted(self._file.table.values(), key=lambda token: token.name)

    def peers(self) -> set[PeerId]:
        """Who has been let in."""
        return {peer for token in self._file.table.values() for peer in token.peers}

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

        await self._file.change(on_copy(change))
        return made[0], text

    async def claim(self, text: str, peer: PeerId) -> TokenStatus:
        """A peer shows a token: it is that peer's, if it is no other's."""
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
            await self._file.change(on_copy(change))
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

        await self._file.change(on_copy(change))
        return removed[0]

    def load(self) -> None:
        """Read the file, if there is one.

        Raises InvalidConfig where it cannot be understood, InvalidKey where others can read it, and
        StorageFailed.
        """
        why = self._file.load(_from_json, max_bytes=MAX_FILE_BYTES, without=_WITHOUT, secret=True)
        if why is not None:
            hint = f"mend it, or move it away: then {_WITHOUT}"
            raise InvalidConfig(f"{_WHAT} {self._file.path}: {why}", hint=hint, path=str(self._file.path))


def _free_name(tokens: dict[str, RelayToken], many: bool) -> str:
    base = "invitation" if many else "token"
    return next(name for n in range(1, MAX_TOKENS + 2) if (name := f"{base}-{n}") not in tokens)


def _to_json(tokens: dict[str, RelayToken]) -> dict[str, Any]:
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
    return {"tokens": entries}


def _from_json(document: dict[str, Any]) -> dict[str, RelayToken]:
    tokens: dict[str, RelayToken] = {}
    for entry in document["tokens"]:
        peers = tuple(PeerId.parse(text) for text in entry["peers"])
        made = int(read_time(entry["made"]))
        token = RelayToken(entry["name"], entry["digest"], entry["many"] is True, made, peers)
        tokens[token.name] = token
    return tokens
