"""The state file `state.db`: the listens and forwards that outlive the daemon. Blocking.

Rules: what a call has returned from is on the disk. A damaged file is set aside and its owner told: nothing
of it is repaired, and what is known of it goes into the new one, as where the file was removed. Then nothing
is lost, and it has another name aside. Bounded in tunnels and bytes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from p2pfwd.core.durations import read_time
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import ForwardTerms, ListenTerms, terms_from_json, terms_to_json
from p2pfwd.errors import InvalidConfig, InvalidMultiaddr, InvalidPeerId, ResourceLimitExceeded
from p2pfwd.state.database import DamagedFile, Database, Form, NewerFile

if TYPE_CHECKING:
    from sqlite3 import Connection

log = logging.getLogger("p2pfwd.state")

VERSION: Final = 2

MAX_SAVED: Final = 1024
"""Tunnels saved: each that is saved is made at every start."""

MAX_SAVED_ADDRESSES: Final = 32
"""Addresses saved of one forward's peer: as many as a command can name."""

MAX_FILE_BYTES: Final = 64 << 20
"""Backstop: 1024 forwards with 32 of the longest addresses take 38 MB; everyday ones half a megabyte."""

_TABLE: Final = (
    # name: the protocol of a listen, the local address of a forward. peer: of a forward, otherwise NULL.
    "CREATE TABLE tunnels (id INTEGER PRIMARY KEY, direction TEXT NOT NULL, name TEXT NOT NULL,"
    " protocol TEXT NOT NULL, address TEXT NOT NULL, peer TEXT, addresses TEXT NOT NULL, terms TEXT NOT NULL,"
    " created REAL NOT NULL, UNIQUE (direction, name))"
)
_COLUMNS: Final = "direction, name, protocol, address, peer, addresses, terms, created"
_SEALED: Final = (f"PRAGMA user_version = {VERSION}", "COMMIT")

_SCHEMA: Final = ("BEGIN IMMEDIATE", _TABLE, *_SEALED)

_TERMS_IN_ONE: Final = (
    "BEGIN IMMEDIATE",
    "ALTER TABLE tunnels RENAME TO before",
    _TABLE,
    f"INSERT INTO tunnels (id, {_COLUMNS}) SELECT id, direction, name, protocol, address, peer, addresses,"
    " CASE direction WHEN 'listen' THEN json_object("
    "'any_loopback', json(CASE any_loopback WHEN 0 THEN 'false' ELSE 'true' END),"
    " 'report_peer_id', json(CASE report_peer_id WHEN 0 THEN 'false' ELSE 'true' END),"
    " 'custom_protocol', json(CASE custom_protocol WHEN 0 THEN 'false' ELSE 'true' END))"
    " ELSE json_object('path', path,"
    " 'limited_relay', json(CASE limited_relay WHEN 0 THEN 'false' ELSE 'true' END),"
    " 'custom_protocol', json(CASE custom_protocol WHEN 0 THEN 'false' ELSE 'true' END)) END,"
    " created FROM before",
    "DROP TABLE before",
    *_SEALED,
)
"""From form 1, where each term had a column."""

_WITHOUT: Final = "no tunnel is saved"

_FORM: Final = Form("state file", VERSION, _SCHEMA, {1: _TERMS_IN_ONE}, MAX_FILE_BYTES, "FULL", _WITHOUT)


Key = tuple[Literal["listen", "forward"], str]


@dataclass(frozen=True, slots=True)
class SavedTunnel:
    """One listen or forward, as it is to be made again."""

    direction: Literal["listen", "forward"]
    protocol: str
    address: Multiaddr
    """Of a listen the target, of a forward the local address, with the real port."""
    terms: ListenTerms | ForwardTerms
    peer: PeerId | None = None  # of a forward
    peer_addrs: tuple[Multiaddr, ...] = ()
    created: float = 0.0  # unix seconds

    @property
    def key(self) -> Key:
        """What no second tunnel may have."""
        return self.direction, self.protocol if self.direction == "listen" else str(self.address)


class TunnelFile:
    """The file at `path`; made with the first `change`. All raise StorageFailed."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path, _FORM)
        self._known: dict[Key, SavedTunnel] = {}
        self.moved: Path | None = None
        """Where `load` moved a damaged file: what was saved in it is not known."""

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._db.path

    @property
    def aside(self) -> Path:
        """Where it is moved to where what was saved in it is lost."""
        return self._db.aside

    def load(self) -> list[SavedTunnel]:
        """Every tunnel in it, in the order in which they were saved; nothing where there is no file.

        Raises InvalidConfig where a newer p2pfwd made it: trying again does not help.
        """
        if not self.path.exists():
            return []
        try:
            with self._db.working() as db:
                self._db.check(db)
                rows = db.execute(f"SELECT {_COLUMNS} FROM tunnels ORDER BY id").fetchall()
                tunnels = [self._tunnel(row) for row in rows]
        except NewerFile as exc:
            raise InvalidConfig(exc.message, hint=exc.hint, **exc.details) from exc
        except DamagedFile as exc:
            self._set_aside(exc, self.aside)
            self.moved = self.aside
            return []
        self._known = {tunnel.key: tunnel for tunnel in tunnels}
        return tunnels

    def change(self, put: Collection[SavedTunnel] = (), drop: Collection[Key] = ()) -> None:
        """Forget `drop` and save `put`, in one transaction; a tunnel that is there already keeps its place.

        Raises ResourceLimitExceeded; after any error nothing has changed.
        """
        after = dict(self._known)
        for key in drop:
            after.pop(key, None)
        for tunnel in put:
            after[tunnel.key] = tunnel
        if len(after) > max(MAX_SAVED, len(self._known)):
            raise ResourceLimitExceeded(
                f"there are {MAX_SAVED} saved tunnels, which is the limit",
                hint="close some, or give --ephemeral for one that need not outlive the daemon",
            )
        if self._known and not self.path.exists():
            log.error("state file %s: it was removed; it is made anew", self.path)
            self._db.close()
            put = after.values()
        try:
            self._write(lambda db: _change(db, put, drop))
        except DamagedFile as exc:
            self._set_aside(exc, self.path.with_name(self.path.name + ".replaced"))
            self._write(lambda db: _change(db, after.values(), ()))
        self._known = after

    def close(self) -> None:
        """Idempotent."""
        self._db.close()

    def _write(self, work: Callable[[Connection], None]) -> None:
        with self._db.working() as db:
            db.execute("BEGIN IMMEDIATE")
            work(db)
            db.execute("COMMIT")

    def _set_aside(self, exc: DamagedFile, aside: Path) -> None:
        self._db.set_aside(aside)
        log.error("%s; it was moved to %s, and a new one begun", exc.message, aside)

    def _tunnel(self, row: tuple[Any, ...]) -> SavedTunnel:
        """Raises DamagedFile for a row that this program did not write."""
        try:
            return _from_row(row)
        except (InvalidMultiaddr, InvalidPeerId, TypeError, ValueError) as exc:
            raise self._db.damaged(f"the saved tunnel {row[2]!r} makes no sense: {exc}") from exc


def _change(db: Connection, put: Collection[SavedTunnel], drop: Collection[Key]) -> None:
    db.executemany("DELETE FROM tunnels WHERE direction = ? AND name = ?", drop)
    columns = _COLUMNS.split(", ")
    marks = ", ".join("?" * len(columns))
    news = ", ".join(f"{column} = excluded.{column}" for column in columns[2:])
    insert = f"INSERT INTO tunnels ({_COLUMNS}) VALUES ({marks})"
    db.executemany(f"{insert} ON CONFLICT (direction, name) DO UPDATE SET {news}", map(_to_row, put))


def _to_row(tunnel: SavedTunnel) -> tuple[Any, ...]:
    return (
        *tunnel.key,
        tunnel.protocol,
        str(tunnel.address),
        None if tunnel.peer is None else str(tunnel.peer),
        json.dumps([str(addr) for addr in tunnel.peer_addrs[:MAX_SAVED_ADDRESSES]]),
        json.dumps(terms_to_json(tunnel.terms)),
        tunnel.created,
    )


def _from_row(row: tuple[Any, ...]) -> SavedTunnel:
    direction, name, protocol, address, peer, addrs, terms, created = row
    if (direction, peer is None) not in (("listen", True), ("forward", False)):
        raise ValueError(f"it is no {direction}")
    tunnel = SavedTunnel(
        direction=direction,
        protocol=protocol,
        address=Multiaddr.parse(address),
        terms=_terms(direction, json.loads(terms)),
        peer=None if peer is None else PeerId.parse(peer),
        peer_addrs=tuple(Multiaddr.parse(text) for text in json.loads(addrs)),
        created=read_time(created),
    )
    if tunnel.key != (direction, name):
        raise ValueError(f"it is not the one of {name}")
    return tunnel


def _terms(direction: str, found: object) -> ListenTerms | ForwardTerms:
    if direction == "listen":
        return terms_from_json(ListenTerms, found)
    return terms_from_json(ForwardTerms, found)
