"""The address book's file: peers and addresses in sqlite3, written whole or not at all. Blocking.

Rules: the file is a cache, bounded in peers, addresses and bytes: what cannot be read is moved aside, never
repaired, and one that a newer p2pfwd made is left alone (`state.database`). Times in it are Unix seconds.
One thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidMultiaddr, InvalidPeerId
from p2pfwd.peers.store import MAX_ADDRESS_BYTES
from p2pfwd.policy.provenance import Provenance, Standing
from p2pfwd.state.database import Database, Form

if TYPE_CHECKING:
    from sqlite3 import Cursor

VERSION: Final = 2
"""See `Form`."""

MAX_STORED_PEERS: Final = 1000
"""Peers kept: those of the best standing first, then by when they were last seen."""

MAX_STORED_ADDRESSES: Final = 16
"""Addresses kept of one peer: those of the best provenance first, then the youngest."""

MAX_AGENT_CHARS: Final = 128

MAX_DHTS_CHARS: Final = 1024
"""Names of the DHTs that one peer has served, one a line; what is beyond it is not kept."""

MAX_FILE_BYTES: Final = 32 << 20
"""Backstop: 1000 peers with 16 of the longest addresses take 19 MB; everyday ones under 2."""

_SCHEMA: Final = (
    "BEGIN IMMEDIATE",
    # was_connected is the peer's Standing: it was 0 or 1 once, which are HEARD_OF and MET.
    "CREATE TABLE peers (id BLOB PRIMARY KEY, agent TEXT, was_connected INTEGER NOT NULL, seen REAL NOT NULL,"
    " dhts TEXT NOT NULL DEFAULT '') WITHOUT ROWID",
    "CREATE TABLE addresses (peer BLOB NOT NULL, address BLOB NOT NULL, source TEXT NOT NULL,"
    " seen REAL NOT NULL, expires REAL NOT NULL, PRIMARY KEY (peer, address)) WITHOUT ROWID",
    f"PRAGMA user_version = {VERSION}",
    "COMMIT",
)

_MIGRATIONS: Final = {
    1: (
        "BEGIN IMMEDIATE",
        "ALTER TABLE peers ADD COLUMN dhts TEXT NOT NULL DEFAULT ''",
        "PRAGMA user_version = 2",
        "COMMIT",
    ),
}

_WITHOUT: Final = "nothing is known of peers met before"

_FORM: Final = Form("address book", VERSION, _SCHEMA, _MIGRATIONS, MAX_FILE_BYTES, "NORMAL", _WITHOUT)

_PRUNE: Final = (
    "DELETE FROM peers WHERE id IN ("
    f"SELECT id FROM peers ORDER BY was_connected DESC, seen DESC LIMIT -1 OFFSET {MAX_STORED_PEERS})"
)
_SWEEP: Final = "DELETE FROM addresses WHERE peer NOT IN (SELECT id FROM peers)"


@dataclass(frozen=True, slots=True)
class StoredAddress:
    """One address of a peer; times in Unix seconds."""

    addr: Multiaddr
    provenance: Provenance
    seen: float
    expires: float


@dataclass(frozen=True, slots=True)
class StoredPeer:
    """What the file has of one peer."""

    peer_id: PeerId
    agent: str | None
    standing: Standing
    addrs: tuple[StoredAddress, ...]
    dhts: tuple[str, ...] = ()
    """DHTs that it has served: see `Peerstore.note_dht`."""


class AddressFile(Database):
    """The file at `path`; made with the first `save`. Methods raise StorageFailed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _FORM)

    def load(self) -> list[StoredPeer]:
        """Every peer in it, the latest seen first; nothing where there is no file."""
        if not self.path.exists():
            return []
        with self.working() as db:
            self.check(db)
            rows = db.execute(
                "SELECT id, agent, was_connected, dhts, address, source, a.seen, expires FROM peers p"
                " JOIN addresses a ON a.peer = p.id ORDER BY p.seen DESC, p.id, a.seen DESC"
            )
            return list(_peers(rows))

    def save(self, peers: Iterable[StoredPeer]) -> None:
        """Replace what the file has of these peers, in one transaction, and keep its bounds.

        One without addresses is forgotten. None is by a date: the clock that wrote it may have been wrong.
        """
        with self.working() as db:
            cursor = db.cursor()  # one: sqlite3 remembers each until there were two hundred
            cursor.execute("BEGIN IMMEDIATE")
            for peer in peers:
                _replace(cursor, peer)
            if cursor.execute(_PRUNE).rowcount:
                cursor.execute(_SWEEP)
            cursor.execute("COMMIT")


def _replace(cursor: Cursor, peer: StoredPeer) -> None:
    key = peer.peer_id.to_bytes()
    cursor.execute("DELETE FROM addresses WHERE peer = ?", (key,))
    best = sorted(peer.addrs, key=lambda a: (a.provenance, -a.seen))
    rows = [
        (key, encoded, a.provenance.text, a.seen, a.expires)
        for a in best
        if len(encoded := a.addr.to_bytes()) <= MAX_ADDRESS_BYTES
    ][:MAX_STORED_ADDRESSES]
    if not rows:
        cursor.execute("DELETE FROM peers WHERE id = ?", (key,))
        return
    agent = None if peer.agent is None else peer.agent[:MAX_AGENT_CHARS]
    cursor.execute(
        "INSERT OR REPLACE INTO peers VALUES (?, ?, ?, ?, ?)",
        (key, agent, int(peer.standing), max(seen for _, _, _, seen, _ in rows), _lines(peer.dhts)),
    )
    cursor.executemany("INSERT OR REPLACE INTO addresses VALUES (?, ?, ?, ?, ?)", rows)


def _lines(names: Iterable[str]) -> str:
    kept = ""
    for name in names:
        if len(kept) + len(name) + 1 <= MAX_DHTS_CHARS:
            kept += name + "\n"
    return kept


def _peers(rows: Iterable[tuple[Any, ...]]) -> Iterator[StoredPeer]:
    """Rows of addresses, those of one peer side by side, as peers; a row that makes no sense is left out."""
    current: StoredPeer | None = None
    addrs: list[StoredAddress] = []
    for key, agent, standing, dhts, address, source, seen, expires in rows:
        try:
            peer_id = PeerId.from_bytes(bytes(key))
            addr, provenance = Multiaddr.from_bytes(address), Provenance.from_text(str(source))
            stored = StoredAddress(addr, provenance, float(seen), float(expires))
            peer = StoredPeer(peer_id, agent, Standing(standing), (), tuple(str(dhts).splitlines()))
        except (InvalidPeerId, InvalidMultiaddr, TypeError, ValueError):
            continue
        if not (isfinite(stored.seen) and isfinite(stored.expires)):
            continue
        if current is None or peer_id != current.peer_id:
            if current is not None:
                yield replace(current, addrs=tuple(addrs))
            current, addrs = peer, []
        addrs.append(stored)
    if current is not None:
        yield replace(current, addrs=tuple(addrs))
