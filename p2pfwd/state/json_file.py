"""A small table in a JSON file of its own: read with care, changed whole, durably and off the event loop.

Rules: a change is in the file before it holds and is answered, also where the caller is gone by then, and
changes come one after the other. A number is finite, and fits what it is for. A file of a newer p2pfwd stops
the start. One that cannot be understood is moved aside, or stops the start where the table says so. What a
writer that was killed left is removed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from p2pfwd.errors import InvalidConfig, P2PForwardError
from p2pfwd.system.private_files import read_secret, storage_failed, sweep, write_atomically

T = TypeVar("T")
V = TypeVar("V")

VERSION: Final = 1
"""The form of all of them."""

_DAMAGE: Final = (ValueError, KeyError, TypeError, RecursionError, P2PForwardError)


class JsonFile(Generic[T]):
    """Of one table; `load` fills it. `table` is what holds."""

    def __init__(
        self, path: Path, what: str, table: T, *, encode: Callable[[T], dict[str, Any]], log: logging.Logger
    ) -> None:
        """`what` names the file in errors; `encode` gives the members of its object, but the version."""
        self.path = path
        self.table = table
        self.moved: Path | None = None
        """Where a damaged file was moved: what it said is not known."""
        self._what = what
        self._encode = encode
        self._log = log
        self._lock = asyncio.Lock()

    @property
    def aside(self) -> Path:
        """Where a damaged file is moved to."""
        return self.path.with_name(self.path.name + ".damaged")

    async def change(self, change: Callable[[T], T], apply: Callable[[], object] = lambda: None) -> None:
        """Put what `change` makes of the table into the file, then into `table`, and call `apply`.

        The same object means that there is no change, and nothing is written. Raises what `change` raises,
        StorageFailed; then nothing has changed.
        """
        async with self._lock:
            after = change(self.table)
            if after is self.table:
                apply()
                return
            writing = asyncio.create_task(self._write(after))
            try:
                await asyncio.shield(writing)
            finally:
                await asyncio.wait([writing])  # the caller may be cancelled: table and file agree even so
                if not writing.cancelled() and writing.exception() is None:
                    self.table = after
                    apply()

    async def change_at_once(self, change: Callable[[T], T], apply: Callable[[], object]) -> None:
        """As `change`, and it holds before it is in the file. Raises StorageFailed: it holds all the same."""
        async with self._lock:
            self.table = change(self.table)
            apply()
            writing = asyncio.create_task(self._write(self.table))
            try:
                await asyncio.shield(writing)
            finally:
                await asyncio.wait([writing])

    async def _write(self, table: T) -> None:
        data = (json.dumps({"version": VERSION, **self._encode(table)}, indent=1) + "\n").encode()
        await asyncio.to_thread(write_atomically, self.path, data, self._what)

    def load(
        self, decode: Callable[[dict[str, Any]], T], *, max_bytes: int, without: str, secret: bool = False
    ) -> Exception | None:
        """Read the file, if there is one; what is wrong with it, if it cannot be understood.

        `decode` raises ValueError and its like for what it does not understand. `without`: what it means to
        move the file away. `secret`: others may not be able to read it. Raises InvalidConfig where a newer
        p2pfwd made it, InvalidKey where others can read a secret, StorageFailed.
        """
        try:
            sweep(self.path)
            data = self._read(max_bytes, without, secret)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise storage_failed(self._what, self.path, exc) from exc
        try:
            if len(data) > max_bytes:
                raise ValueError(f"it is longer than {max_bytes} bytes")
            document = read_json(data)
            if not isinstance(document, dict):
                raise ValueError("it is no object")
            version = document["version"]
        except _DAMAGE as exc:
            return _plain(exc)
        if isinstance(version, int) and version > VERSION:
            raise InvalidConfig(
                f"{self._what} {self.path}: it has the form {version}, of a newer version of p2pfwd",
                hint=f"use that version; or move the file away: then {without}",
                path=str(self.path),
            )
        try:
            if version != VERSION:
                raise ValueError(f"it is not of the form {VERSION}")
            self.table = decode(document)
        except _DAMAGE as exc:
            return _plain(exc)
        return None

    def _read(self, max_bytes: int, without: str, secret: bool) -> bytes:
        if secret:
            return read_secret(self.path, self._what, max_bytes, f"mend it, or move it away: then {without}")
        with self.path.open("rb") as file:
            return file.read(max_bytes + 1)

    def set_aside(self, why: Exception) -> Path:
        """Move the damaged file to `aside`, and say so. Raises StorageFailed."""
        try:
            os.replace(self.path, self.aside)
        except OSError as exc:
            raise storage_failed(self._what, self.path, exc) from exc
        self.moved = self.aside
        self._log.error("%s %s: %s; the file was moved to %s", self._what, self.path, why, self.aside)
        return self.aside


def on_copy(change: Callable[[dict[str, V]], None]) -> Callable[[dict[str, V]], dict[str, V]]:
    """A change in place of a dict, as `JsonFile.change` takes it."""

    def changed(before: dict[str, V]) -> dict[str, V]:
        after = dict(before)
        change(after)
        return before if after == before else after

    return changed


def read_json(data: str | bytes) -> Any:
    """What a JSON text says. Raises ValueError, RecursionError."""
    return json.loads(data, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    """JSON has neither NaN nor Infinity, but Python reads both, and takes 1e999 for the latter."""
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is no number")
    return number


def _plain(exc: Exception) -> Exception:
    return ValueError("it is nested too deeply") if isinstance(exc, RecursionError) else exc
