"""A sqlite3 file of this node: opened, brought forward, refused or found damaged. Blocking.

Rules: a change is one transaction in a write-ahead log, so a process killed in the middle leaves the state
before or after it. A damaged file is told apart from one that cannot be read now, and from one that another
version made, which is left alone. One thread at a time; sqlite3 (1.6 MB resident) is imported with the
first use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from p2pfwd.errors import StorageFailed
from p2pfwd.system.private_files import storage_failed, sync_directory

if TYPE_CHECKING:
    from sqlite3 import Connection, Error

_PAGE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Form:
    """What kind of file it is."""

    what: str
    """Its name in errors."""
    version: int
    """`PRAGMA user_version`; another schema needs another number, and a step in `migrations`."""
    schema: tuple[str, ...]
    """Makes the tables, in one transaction that sets the version."""
    migrations: Mapping[int, tuple[str, ...]]
    """From each older version to the next; where one fails, the file is as it was."""
    max_bytes: int
    synchronous: Literal["NORMAL", "FULL"]
    """FULL: what is committed outlives a power cut. NORMAL: it may be lost then, and the file is whole."""
    without: str
    """What it means to have none."""


class DamagedFile(StorageFailed):
    """The file is no database of its kind, or a broken one."""


class NewerFile(StorageFailed):
    """The file has a form that only a newer p2pfwd knows."""


class Database:
    """The file at `path`; made with the first use of `working`."""

    def __init__(self, path: Path, form: Form) -> None:
        self.path = path
        self._form = form
        self._db: Connection | None = None

    @contextmanager
    def working(self) -> Iterator[Connection]:
        """The open database, in autocommit. Raises StorageFailed, DamagedFile and NewerFile among them.

        After a failure it is closed, and what was begun undone: sqlite forgets what it knew of a sick disk.
        """
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

    def check(self, db: Connection) -> None:
        """Read the whole file. Raises DamagedFile."""
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise self.damaged(verdict)

    def damaged(self, reason: str) -> DamagedFile:
        """The error that says so."""
        return DamagedFile(f"{self._form.what} {self.path}: {reason}", path=str(self.path))

    @property
    def aside(self) -> Path:
        """Where a damaged file is moved to."""
        return self.path.with_name(self.path.name + ".damaged")

    def set_aside(self, aside: Path | None = None) -> Path:
        """Rename a damaged file, over one that was renamed before; its new name. Raises StorageFailed."""
        self.close()
        aside = aside or self.aside
        try:
            os.replace(self.path, aside)
            for suffix in ("-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.unlink(f"{self.path}{suffix}")
        except OSError as exc:
            raise storage_failed(self._form.what, self.path, exc) from exc
        return aside

    def close(self) -> None:
        """Close it; what is in the log goes into the file. Idempotent."""
        db, self._db = self._db, None
        if db is not None:
            import sqlite3

            with suppress(sqlite3.Error):  # what was committed is in the log, and stays there
                db.close()

    def _abandon(self) -> None:
        if self._db is not None:
            import sqlite3

            with suppress(sqlite3.Error):
                self._db.rollback()
        self.close()

    def _open(self) -> Connection:
        import sqlite3

        is_new = not self.path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(self.path, flags, 0o600))
        if is_new and self._form.synchronous == "FULL":
            sync_directory(self.path.parent)
        db = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            db.text_factory = lambda data: data.decode("utf-8", "replace")
            for statement in self._setup():
                db.execute(statement)
            self._bring_forward(db)
        except BaseException:
            db.close()
            raise
        return db

    def _setup(self) -> tuple[str, ...]:
        return (
            "PRAGMA locking_mode = EXCLUSIVE",  # one daemon has the home: no shared memory beside the log
            "PRAGMA journal_mode = WAL",
            f"PRAGMA synchronous = {self._form.synchronous}",
            "PRAGMA cache_size = -256",
            "PRAGMA wal_autocheckpoint = 256",
            f"PRAGMA journal_size_limit = {1 << 20}",
            f"PRAGMA max_page_count = {self._form.max_bytes // _PAGE_BYTES}",
        )

    def _bring_forward(self, db: Connection) -> None:
        form = self._form
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in form.schema:
                db.execute(statement)
            version = form.version
        while version in form.migrations:
            for statement in form.migrations[version]:
                db.execute(statement)
            version += 1
        if version != form.version:
            raise NewerFile(
                f"{form.what} {self.path}: it has the form {version}, of a newer version of p2pfwd",
                hint=f"use that version; or move the file away: then {form.without}",
                path=str(self.path),
            )

    def _system_failure(self, exc: OSError | ImportError) -> StorageFailed:
        if isinstance(exc, OSError):
            return storage_failed(self._form.what, self.path, exc)
        return StorageFailed(f"{self._form.what} {self.path}: {exc}", path=str(self.path))

    def _failure(self, exc: Error) -> StorageFailed:
        import sqlite3

        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            return self.damaged(str(exc))  # SQLITE_ERROR: our statements do not fit its tables
        hint = {
            sqlite3.SQLITE_FULL: "free some space on that file system",
            sqlite3.SQLITE_IOERR: "see that the file system has room and its disk works: `df`, `dmesg`",
            sqlite3.SQLITE_READONLY: "see that its file system is writable, and the file yours",
        }.get(code)
        return StorageFailed(f"{self._form.what} {self.path}: {exc}", hint=hint, path=str(self.path))
