"""The address book's file: peers and addresses in sqlite3, written whole or not at all. Blocking.

Rules: a change is one transaction in a write-ahead log, so a process killed in the middle leaves the state
before or after it. The file is a cache, bounded in peers, addresses and bytes: what cannot be read is moved
aside, never repaired, and one that a newer p2pfwd made is left alone. Times in it are Unix seconds.
One thread at a time; sqlite3 (1.6 MB resident) is imported with the first use.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidMultiaddr, InvalidPeerId, StorageFailed
from p2pfwd.peers.store import MAX_ADDRESS_BYTES
from p2pfwd.policy.provenance import Provenance, Standing
from p2pfwd.system.private_files import storage_failed

if TYPE_CHECKING:
    from sqlite3 import Connection, Error

VERSION: Final = 2
"""`PRAGMA user_version`; another schema needs another number, and a step in `_MIGRATIONS`."""

MAX_STORED_PEERS: Final = 1000
"""Peers kept: those of the best standing first, then by when they were last seen."""

MAX_STORED_ADDRESSES: Final = 16
"""Addresses kept of one peer: those of the best provenance first, then the youngest."""

MAX_AGENT_CHARS: Final = 128

MAX_DHTS_CHARS: Final = 1024
"""Names of the DHTs that one peer has served, one a line; what is beyond it is not kept."""

MAX_FILE_BYTES: Final = 32 << 20
"""Backstop: 1000 peers with 16 of the longest addresses take 19 MB; everyday ones under 2."""

_PAGE_BYTES: Final = 4096

_SETUP: Final = (
    "PRAGMA locking_mode = EXCLUSIVE",  # the home has one daemon: no shared memory beside the log then
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA cache_size = -256",
    "PRAGMA wal_autocheckpoint = 256",
    f"PRAGMA journal_size_limit = {1 << 20}",
    f"PRAGMA max_page_count = {MAX_FILE_BYTES // _PAGE_BYTES}",
)

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
"""From each older version to the next; where one fails, the file is as it was."""

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


class DamagedFile(StorageFailed):
    """The file is no address book, or a broken one."""


class AddressFile:
    """The file at `path`; made with the first `save`. Methods raise StorageFailed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db: Connection | None = None

    def load(self) -> list[StoredPeer]:
        """Every peer in it, the latest seen first; nothing where there is no file."""
        if not self.path.exists():
            return []
        with self._working() as db:
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise self._damaged(verdict)
            rows = db.execute(
                "SELECT id, agent, was_connected, dhts, address, source, a.seen, expires FROM peers p"
                " JOIN addresses a ON a.peer = p.id ORDER BY p.seen DESC, p.id, a.seen DESC"
            )
            return list(_peers(rows))

    def save(self, peers: Iterable[StoredPeer]) -> None:
        """Replace what the file has of these peers, in one transaction, and keep its bounds.

        One without addresses is forgotten. None is by a date: the clock that wrote it may have been wrong.
        """
        with self._working() as db:
            db.execute("BEGIN IMMEDIATE")
            for peer in peers:
                _replace(db, peer)
            if db.execute(_PRUNE).rowcount:
                db.execute(_SWEEP)
            db.execute("COMMIT")

    def set_aside(self) -> Path:
        """Rename a damaged file, over one that was renamed before; its new name."""
        self.close()
        aside = self.path.with_name(self.path.name + ".damaged")
        try:
            os.replace(self.path, aside)
            for suffix in ("-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.unlink(f"{self.path}{suffix}")
        except OSError as exc:
            raise storage_failed("address book", self.path, exc) from exc
        return aside

    def close(self) -> None:
        """Close it; what is in the log goes into the file. Idempotent."""
        db, self._db = self._db, None
        if db is not None:
            import sqlite3

            with suppress(sqlite3.Error):  # what was committed is in the log, and stays there
                db.close()

    @contextmanager
    def _working(self) -> Iterator[Connection]:
        """The open database. After a failure it is closed: sqlite forgets what it knew of a sick disk."""
        try:
            import sqlite3  # which opens files: where no descriptor is left it fails, and works later
        except (OSError, ImportError) as exc:
            raise self._system_failure(exc) from exc
        try:
            if self._db is None:
                self._db = self._open()
            yield self._db
        except sqlite3.Error as exc:
            self._abandon()
            raise self._failure(exc) from exc
        except OSError as exc:
            self._abandon()
            raise self._system_failure(exc) from exc
        except BaseException:
            self._abandon()
            raise

    def _system_failure(self, exc: OSError | ImportError) -> StorageFailed:
        if isinstance(exc, OSError):
            return storage_failed("address book", self.path, exc)
        return StorageFailed(f"address book {self.path}: {exc}", path=str(self.path))

    def _abandon(self) -> None:
        if self._db is not None:
            import sqlite3

            with suppress(sqlite3.Error):
                self._db.rollback()
        self.close()

    def _open(self) -> Connection:
        import sqlite3

        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(self.path, flags, 0o600))
        db = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            db.text_factory = lambda data: data.decode("utf-8", "replace")
            for statement in _SETUP:
                db.execute(statement)
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA:
                    db.execute(statement)
                version = VERSION
            while version in _MIGRATIONS:
                for statement in _MIGRATIONS[version]:
                    db.execute(statement)
                version += 1
            if version != VERSION:
                raise StorageFailed(
                    f"address book {self.path}: it has the form {version}, of another version of p2pfwd",
                    hint="move it away to begin a new one",
                )
        except BaseException:
            db.close()
            raise
        return db

    def _damaged(self, reason: str) -> DamagedFile:
        return DamagedFile(f"address book {self.path}: {reason}", path=str(self.path))

    def _failure(self, exc: Error) -> StorageFailed:
        import sqlite3

        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            return self._damaged(str(exc))  # SQLITE_ERROR: our statements do not fit its tables
        hint = "free some space on that file system" if code == sqlite3.SQLITE_FULL else None
        return StorageFailed(f"address book {self.path}: {exc}", hint=hint, path=str(self.path))


def _replace(db: Connection, peer: StoredPeer) -> None:
    key = peer.peer_id.to_bytes()
    db.execute("DELETE FROM addresses WHERE peer = ?", (key,))
    best = sorted(peer.addrs, key=lambda a: (a.provenance, -a.seen))
    rows = [
        (key, encoded, a.provenance.text, a.seen, a.expires)
        for a in best
        if len(encoded := a.addr.to_bytes()) <= MAX_ADDRESS_BYTES
    ][:MAX_STORED_ADDRESSES]
    if not rows:
        db.execute("DELETE FROM peers WHERE id = ?", (key,))
        return
    agent = None if peer.agent is None else peer.agent[:MAX_AGENT_CHARS]
    db.execute(
        "INSERT OR REPLACE INTO peers VALUES (?, ?, ?, ?, ?)",
        (key, agent, int(peer.standing), max(seen for _, _, _, seen, _ in rows), _lines(peer.dhts)),
    )
    db.executemany("INSERT OR REPLACE INTO addresses VALUES (?, ?, ?, ?, ?)", rows)


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
