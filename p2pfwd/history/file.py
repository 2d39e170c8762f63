"""The history's file `events.db`. Blocking; one thread at a time.

It is a file of its own beside `state.db`: events are many and may be lost, tunnels are few and may not. So
no event waits for a disk that a tunnel is being saved on, or the other way round; a full history refuses no
tunnel, and a damaged one takes none along. Bounded in events of each share, and in bytes; nothing is
forgotten by a date, for the clock that wrote it may have been wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from p2pfwd.core.durations import read_time
from p2pfwd.history.digest import Digest
from p2pfwd.history.folding import Event, Share
from p2pfwd.state.database import Database, Form
from p2pfwd.state.json_file import read_json

if TYPE_CHECKING:
    from sqlite3 import Connection

VERSION: Final = 1
"""See `Form`."""

MOST: Final[dict[Share, int]] = {"own": 10_000, "streams": 10_000, "strangers": 2_000}
"""Events kept of each share, the latest: a home's own make a few hundred a day."""

MAX_DATA_CHARS: Final = 800
"""Of one event's fields, in JSON; what is beyond is not kept."""

MAX_FILE_BYTES: Final = 48 << 20
"""Backstop: 22,000 of the longest events take 35 MB; everyday ones 5."""

_SCHEMA: Final = (
    "BEGIN IMMEDIATE",
    # time, until: of the first and of the last, unix seconds. data: a JSON object.
    "CREATE TABLE events (id INTEGER PRIMARY KEY, share TEXT NOT NULL, code TEXT NOT NULL,"
    " time REAL NOT NULL, until REAL NOT NULL, peer TEXT, protocol TEXT, count INTEGER NOT NULL,"
    " data TEXT NOT NULL)",
    "CREATE INDEX of_share ON events (share, id)",
    f"PRAGMA user_version = {VERSION}",
    "COMMIT",
)

_WITHOUT: Final = "nothing is known of what happened before"

_FORM: Final = Form("history", VERSION, _SCHEMA, {}, MAX_FILE_BYTES, "NORMAL", _WITHOUT)

_COLUMNS: Final = "id, share, code, time, until, peer, protocol, count, data"

_PRUNE: Final = (
    "DELETE FROM events WHERE share = ? AND id <="
    " (SELECT id FROM events WHERE share = ? ORDER BY id DESC LIMIT 1 OFFSET ?)"
)


@dataclass(frozen=True, slots=True)
class Query:
    """Which events are wanted; the newest `limit` of those that fit everything given."""

    limit: int
    since: float | None = None
    """Unix seconds: of the last time it happened."""
    after: int | None = None
    """An event's id."""
    peer: str | None = None
    protocol: str | None = None
    codes: frozenset[str] | None = None

    def fits(self, event: Event) -> bool:
        """Whether this one is wanted."""
        return (
            (self.since is None or event.until >= self.since)
            and (self.after is None or event.id > self.after)
            and self.peer in (None, event.peer)
            and self.protocol in (None, event.protocol)
            and (self.codes is None or event.code in self.codes)
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a daemon that starts has to know of the time before."""

    last_id: int = 0
    lost_at: float | None = None
    """When the daemon before was last heard, if it did not stop in order."""
    digest: Digest | None = None


class HistoryFile(Database):
    """The file at `path`; made with the first `save`. Methods raise StorageFailed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _FORM)

    def load(self, now: float) -> Loaded:
        """See `Loaded`; nothing where there is no file. `now`: unix seconds."""
        if not self.path.exists():
            return Loaded()
        with self.working() as db:
            self.check(db)
            (last_id,) = db.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()
            digest = Digest()
            for event in self._events(db, "until >= ? ORDER BY id", (now - Digest.SPAN_S,)):
                digest.note(event, event.count, event.until)
            return Loaded(last_id, _lost_at(db), digest)

    def save(self, events: Iterable[Event]) -> None:
        """Write these, in place of those with their ids, in one transaction, and keep the bounds."""
        with self.working() as db:
            cursor = db.cursor()  # one: sqlite3 remembers each until there were two hundred
            cursor.execute("BEGIN IMMEDIATE")
            cursor.executemany(
                f"INSERT OR REPLACE INTO events ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)", map(_row, events)
            )
            for share, most in MOST.items():
                cursor.execute(_PRUNE, (share, share, most))
            cursor.execute("COMMIT")

    def find(self, query: Query) -> list[Event]:
        """Those that are wanted, the oldest first; nothing where there is no file."""
        if not self.path.exists():
            return []
        terms: list[str] = ["1"]
        values: list[Any] = []
        for term, value in (
            ("until >= ?", query.since),
            ("id > ?", query.after),
            ("peer = ?", query.peer),
            ("protocol = ?", query.protocol),
        ):
            if value is not None:
                terms.append(term)
                values.append(value)
        if query.codes is not None:
            terms.append(f"code IN ({','.join('?' * len(query.codes))})")
            values += sorted(query.codes)
        where = f"{' AND '.join(terms)} ORDER BY id DESC LIMIT ?"
        with self.working() as db:
            return self._events(db, where, (*values, query.limit))[::-1]

    def _events(self, db: Connection, where: str, values: Sequence[Any]) -> list[Event]:
        rows = db.execute(f"SELECT {_COLUMNS} FROM events WHERE {where}", values)
        return [event for row in rows if (event := _event(row)) is not None]


def _lost_at(db: Connection) -> float | None:
    """The last sign of life, where the last daemon has not said that it stops."""
    last = db.execute(
        "SELECT code FROM events WHERE code IN ('daemon-started', 'daemon-stopped') ORDER BY id DESC LIMIT 1"
    ).fetchone()
    if last == ("daemon-stopped",):
        return None
    # Its start is forgotten by now where it ran for long.
    (until,) = db.execute("SELECT max(until) FROM events WHERE share != 'strangers'").fetchone()
    try:
        return read_time(until)
    except ValueError:
        return None


def _row(event: Event) -> tuple[Any, ...]:
    data = json.dumps(event.data, ensure_ascii=False, separators=(",", ":"), default=str)
    if len(data) > MAX_DATA_CHARS:
        data = "{}"
    head = (event.id, event.share, event.code, event.time, event.until)
    return (*head, event.peer, event.protocol, event.count, data)


def _event(row: tuple[Any, ...]) -> Event | None:
    """None of a row that makes no sense."""
    number, share, code, first, until, peer, protocol, count, text = row
    try:
        data = read_json(text)
        times = read_time(first), read_time(until)
        event = Event(code, share, *times, peer, protocol, int(count), data, int(number))
    except (TypeError, ValueError):
        return None
    return event if isinstance(data, dict) and share in MOST else None
