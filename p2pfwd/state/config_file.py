"""Changing `config.toml` for its owner: some keys are set, everything else stays as he wrote it.

Rules: the lines of other keys, comments and blank lines stay. A value of several lines that is replaced stays
as a comment above the new one. What is to be written is read back before the file is replaced, whole or not
at all: a file in which the keys cannot be set that way is left alone, with the lines to put there by hand.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from p2pfwd.errors import InvalidConfig
from p2pfwd.system.private_files import private_directory, storage_failed, write_atomically

Value = str | Sequence[str]

MAX_BYTES: Final = 1 << 20
"""As `daemon.config`."""

_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([^\[\]#]+?)\s*\]\]?\s*(#.*)?")
_KEY: Final = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*=")


@dataclass(frozen=True, slots=True)
class _Found:
    """One key with its value, as lines `begin` to `end` of the file."""

    key: str
    begin: int
    end: int


def shown(changes: Mapping[str, Value]) -> list[str]:
    """The lines that set these keys, one each, in the form that works anywhere above the tables."""
    return [f"{key} = {_toml(value)}" for key, value in changes.items()]


def change(path: Path, changes: Mapping[str, Value]) -> None:
    """Set these keys in the file, which may be absent. Raises InvalidConfig, StorageFailed."""
    text = _read(path)
    new = edited(text, changes, path)
    private_directory(path.parent, "directory of config.toml")
    write_atomically(path, new.encode("utf-8"), "config file")


def edited(text: str, changes: Mapping[str, Value], path: Path | str = "config.toml") -> str:
    """The file's text with these keys set. Raises InvalidConfig where that cannot be done."""
    cannot = InvalidConfig(
        f"config file {path}: it is written in a way that this command cannot change",
        hint="put there by hand: " + "; ".join(shown(changes)),
        path=str(path),
    )
    try:
        wanted = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidConfig(f"config file {path}: {exc}", hint="mend it first", path=str(path)) from None
    lines = text.splitlines()
    for key, value in changes.items():
        _set(lines, key, value)
        _put(wanted, key, value)
    new = "\n".join(lines) + "\n"
    try:
        if tomllib.loads(new) == wanted:
            return new
    except ValueError:
        pass  # said below
    raise cannot


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as exc:
        raise storage_failed("config file", path, exc) from exc
    try:
        text = data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError:
        raise InvalidConfig(f"config file {path}: it is not UTF-8 text", hint="mend it first") from None
    if len(data) > MAX_BYTES:
        raise InvalidConfig(f"config file {path}: longer than {MAX_BYTES} bytes", hint="shorten it first")
    return text


def _set(lines: list[str], key: str, value: Value) -> None:
    table, _, name = key.rpartition(".")
    found, tables = _scan(lines)
    for one in found:
        if one.key == key:
            old = lines[one.begin : one.end]
            head = old[0][: old[0].index("=")].rstrip()
            new = [f"{head} = {_toml(value)}{_comment(old[0]) if len(old) == 1 else ''}"]
            lines[one.begin : one.end] = new if len(old) == 1 else [*(f"# {it}" for it in old), *new]
            return
    if table in tables:
        at = _last(found, table, tables[table])
        lines.insert(at, f"{name} = {_toml(value)}")
    elif not table or any(one.key.startswith(f"{table}.") for one in found):  # written without a table
        at = _last(found, "", 0, before=min(tables.values(), default=None))
        if at + 1 in tables.values():
            at = _above_remarks(lines, at)
        lines.insert(at, f"{key} = {_toml(value)}")
    else:
        lines += [*([""] if lines and lines[-1].strip() else []), f"[{table}]", f"{name} = {_toml(value)}"]


def _scan(lines: Sequence[str]) -> tuple[list[_Found], dict[str, int]]:
    """Keys, each with its table's name in front, and where each table's first line is."""
    found: list[_Found] = []
    tables: dict[str, int] = {}
    table, at = "", 0
    while at < len(lines):
        line = lines[at]
        if (header := _HEADER.fullmatch(line)) is not None:
            # No key is set in one of several tables, so theirs are named as no key is.
            table = header[2] if header[1] == "[" else f"[[{header[2]}]]"
            tables[table] = at + 1
        elif (named := _KEY.match(line)) is not None:
            end = _end(lines, at)
            found.append(_Found(f"{table}.{named[1]}" if table else named[1], at, end))
            at = end
            continue
        at += 1
    return found, tables


def _end(lines: Sequence[str], begin: int) -> int:
    """Behind the last line of the value that begins here."""
    for end in range(begin + 1, len(lines) + 1):
        if _parsed("\n".join(lines[begin:end])) is not None:
            return end
    return begin + 1


def _last(found: Sequence[_Found], table: str, first: int, before: int | None = None) -> int:
    """Where a line of this table goes: behind its last key."""
    prefix = f"{table}." if table else ""
    inside = [one.end for one in found if one.begin >= first and one.key.startswith(prefix)]
    if not table and before is not None:
        inside = [end for end in inside if end < before]
        return max(inside, default=max(0, before - 1))
    return max(inside, default=first)


def _above_remarks(lines: Sequence[str], at: int) -> int:
    """What is said right above a table is about it."""
    while at > 0 and lines[at - 1].lstrip().startswith("#"):
        at -= 1
    return at


def _comment(line: str) -> str:
    """What stands behind the value of a line of one key."""
    whole = _parsed(line)
    for at in range(line.index("="), len(line)):
        if line[at] == "#" and _parsed(line[:at]) == whole:
            return f"  {line[at:]}"
    return ""


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except ValueError:
        return None


def _put(document: dict[str, Any], key: str, value: Value) -> None:
    table, _, name = key.rpartition(".")
    place = document.setdefault(table, {}) if table else document
    if isinstance(place, dict):
        place[name] = value if isinstance(value, str) else list(value)


def _toml(value: Value) -> str:
    # JSON's forms of strings and flat lists are TOML's too.
    return json.dumps(value if isinstance(value, str) else list(value), ensure_ascii=False)
