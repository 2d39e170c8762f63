"""Peers that a person gave a name: the table, its rules, and its file `peers.json`.

Rules: a name is lower case, begins with a letter, and is no peer ID, so whatever is asked for a PEER has one
meaning. A name has one peer and a peer one name. A change is in the file before it is answered, written
whole or not at all and off the event loop; it fails if the file cannot be written. A file that cannot be
understood is moved aside with a warning: its owner may mend it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.errors import InvalidPeerId, NotFound, PeerExists, ResourceLimitExceeded, UsageError
from p2pfwd.state.json_file import JsonFile, on_copy

log = logging.getLogger("p2pfwd.peers")

MAX_NAME_CHARS: Final = 32
"""Shorter than any peer ID in use: one that was mistyped is never taken for a name."""

MAX_NAMED: Final = 1024
MAX_FILE_BYTES: Final = 8 << 20
"""Longest file read; 1024 peers with 32 addresses of 128 characters each take 5 MB."""

_NAME: Final = re.compile(rf"[a-z](?:[a-z0-9._-]{{0,{MAX_NAME_CHARS - 2}}}[a-z0-9])?")
_RULE: Final = (
    f"a name has up to {MAX_NAME_CHARS} letters, digits, '.', '-' and '_'; "
    "it begins with a letter and ends with a letter or digit"
)


WORDS: Final[Mapping[str, str]] = {
    "any": "it means every peer, in allow and deny",
    "ls": "block ls shows the list",
}
"""What is said where a peer is asked, and means something else; files of earlier versions may have them."""


@dataclass(frozen=True, slots=True)
class NamedPeer:
    """One entry."""

    name: str
    peer_id: PeerId
    addrs: tuple[Multiaddr, ...]
    keep: bool


def is_name(text: str) -> bool:
    """Whether `text`, in any case, can be the name of a peer."""
    return _NAME.fullmatch(text.lower()) is not None  # no peer ID is as short as a name


def read_name(text: str) -> str:
    """The name that `text` is, in lower case; UsageError if it cannot be one."""
    if not is_name(text):
        raise UsageError(f"{quoted(text)} cannot be the name of a peer", hint=_RULE)
    if (meaning := WORDS.get(text.lower())) is not None:
        raise UsageError(f"{quoted(text)} cannot be the name of a peer: {meaning}", hint="another name")
    return text.lower()


class NamedPeers:
    """The table; `load` fills it from the file."""

    def __init__(self, path: Path) -> None:
        empty: dict[str, NamedPeer] = {}
        self._file = JsonFile(path, "named peers", empty, encode=_to_json, log=log)
        self._declared: Mapping[str, NamedPeer] = {}

    @property
    def typed(self) -> Mapping[str, NamedPeer]:
        """Those of the file, that commands gave a name."""
        return self._file.table

    def declare(self, named: Mapping[str, NamedPeer]) -> list[NamedPeer]:
        """Put these in the place of what config.toml named before; those that give way to them."""
        self._declared = dict(named)
        return [it for it in self.typed.values() if it not in self._in_force().values()]

    def _in_force(self) -> dict[str, NamedPeer]:
        taken = {it.peer_id for it in self._declared.values()}
        return {name: it for name, it in self.typed.items() if it.peer_id not in taken} | {**self._declared}

    def all(self) -> list[NamedPeer]:
        """Every entry, by name."""
        return sorted(self._in_force().values(), key=lambda named: named.name)

    def find(self, text: str) -> NamedPeer | None:
        """The peer of this name, in any case; None if there is none."""
        if (named := self._declared.get(text.lower())) is not None:
            return named
        named = self.typed.get(text.lower())
        if named is not None and any(it.peer_id == named.peer_id for it in self._declared.values()):
            return None  # that peer has the name that config.toml gives it
        return named

    async def add(self, named: NamedPeer) -> NamedPeer | None:
        """Enter a peer, or enter it anew; what it replaces, if anything.

        Raises PeerExists (the name has another peer, or the peer another name), ResourceLimitExceeded,
        StorageFailed; then nothing has changed.
        """
        replaced: NamedPeer | None = None

        def change(peers: dict[str, NamedPeer]) -> None:
            nonlocal replaced
            replaced = peers.get(named.name)
            self._refuse_declared(named.name, named.peer_id)
            _check_free(peers, named)
            peers[named.name] = named

        await self._file.change(on_copy(change))
        return replaced

    async def remove(self, text: str) -> NamedPeer:
        """Take a name away. Raises NotFound, StorageFailed."""
        removed: list[NamedPeer] = []

        def change(peers: dict[str, NamedPeer]) -> None:
            if text.lower() not in peers:
                self._refuse_declared(text.lower())
            found = peers.pop(text.lower(), None)
            if found is None:
                raise NotFound(f"no peer is named {quoted(text)}", hint="p2pfwd peer ls shows the names")
            removed.append(found)

        await self._file.change(on_copy(change))
        return removed[0]

    async def put(self, wanted: Mapping[str, NamedPeer]) -> None:
        """These names and no others in the file. Raises PeerExists, ResourceLimitExceeded, StorageFailed."""

        def change(peers: dict[str, NamedPeer]) -> None:
            peers.clear()
            for named in wanted.values():
                _check_free(peers, named)
                peers[named.name] = named

        await self._file.change(on_copy(change))

    def _refuse_declared(self, name: str, peer_id: PeerId | None = None) -> None:
        for it in self._declared.values():
            if it.name == name or it.peer_id == peer_id:
                raise PeerExists(
                    f"config.toml declares {it.name} as the name of {it.peer_id}",
                    hint="change it there, then p2pfwd reload",
                )

    @property
    def moved(self) -> Path | None:
        """Where `load` moved a damaged file."""
        return self._file.moved

    def load(self) -> None:
        """Read the file, if there is one.

        Raises InvalidConfig where a newer p2pfwd made it, StorageFailed when it cannot be read at all.
        """
        why = self._file.load(_from_json, max_bytes=MAX_FILE_BYTES, without="no peer has a name")
        if why is not None:
            self._file.set_aside(why)


def _check_free(peers: Mapping[str, NamedPeer], named: NamedPeer) -> None:
    old = peers.get(named.name)
    if old is not None and old.peer_id != named.peer_id:
        hint = f"another name, or p2pfwd peer rm {named.name} first"
        raise PeerExists(f"{named.name} is the name of another peer, {old.peer_id}", hint=hint)
    for other in peers.values():
        if other.peer_id == named.peer_id and other.name != named.name:
            hint = f"p2pfwd peer rm {other.name} takes that name away"
            raise PeerExists(f"{named.peer_id} has a name already: {other.name}", hint=hint)
    if old is None and len(peers) >= MAX_NAMED:
        raise ResourceLimitExceeded(
            f"there are {MAX_NAMED} named peers, which is the limit",
            hint="p2pfwd peer rm takes a name away",
        )


def _to_json(peers: Mapping[str, NamedPeer]) -> dict[str, Any]:
    entries = [
        {
            "name": named.name,
            "peer": str(named.peer_id),
            "addresses": [str(addr) for addr in named.addrs],
            "keep": named.keep,
        }
        for named in sorted(peers.values(), key=lambda named: named.name)
    ]
    return {"peers": entries}


def _from_json(document: dict[str, Any]) -> dict[str, NamedPeer]:
    """The table of a file. Raises ValueError, UsageError, PeerExists, ResourceLimitExceeded."""
    peers: dict[str, NamedPeer] = {}
    for entry in _list(document.get("peers")):
        if not isinstance(entry, dict):
            raise ValueError("an entry is no object")
        name = _text(entry.get("name")).lower()
        if name in WORDS:
            log.warning("named peers: %s cannot be meant by its name: %s", name, WORDS[name])
        else:
            read_name(name)
        addrs = tuple(Multiaddr.parse(_text(text)) for text in _list(entry.get("addresses")))
        try:
            peer_id = PeerId.parse(_text(entry.get("peer")))
        except InvalidPeerId as exc:  # earlier versions took some; the others keep their names
            log.warning("named peers: %s is left out: %s", name, exc.message)
            continue
        named = NamedPeer(
            name,
            peer_id,
            tuple(addr.without_peer_id() for addr in addrs),
            entry.get("keep") is True,
        )
        _check_free(peers, named)
        peers[named.name] = named
    return peers


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("a list is missing")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is missing")
    return value
