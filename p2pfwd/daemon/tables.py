"""The tables of a TOML file that say what tunnels, names and rules there are to be: raw, each with its place.

`[[listen]]`, `[[forward]]`, `[[peer]]`, `[[rule]]` and `[[block]]`, in config.toml beside the settings and in
a file for `p2pfwd apply`; `daemon.declared` reads what they mean. Imports no asyncio: the CLI shows settings
without a daemon.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from p2pfwd.errors import InvalidConfig
from p2pfwd.rpc.setup_values import MAX_APPLIED_BYTES

LISTEN: Final = "listen"
FORWARD: Final = "forward"
PEER: Final = "peer"
RULE: Final = "rule"
BLOCK: Final = "block"
TABLES: Final = (LISTEN, FORWARD, PEER, RULE, BLOCK)

BYTE_ORDER_MARK: Final = "\ufeff"
"""Some editors begin a file with it: TOML does not know it."""

_HEADER: Final = re.compile(r"\s*\[\[\s*(\w+)\s*\]\]\s*(?:#.*)?")


@dataclass(frozen=True, slots=True)
class Entry:
    """One table."""

    place: str
    """The file, as people are told it."""
    table: str
    number: int
    """Among the tables of this name, from 1."""
    line: int | None
    """Of its header; None where it has none of its own."""
    values: Mapping[str, Any]

    @property
    def where(self) -> str:
        """As errors begin."""
        line = "" if self.line is None else f" (line {self.line})"
        return f"{self.place}, [[{self.table}]] {self.number}{line}"

    def wrong(self, key: str | None, what: str, right: str | None) -> InvalidConfig:
        """The error for one of its keys, or for the whole; `right`: what would be right."""
        at = "" if key is None else f"{key}: "
        return InvalidConfig(f"{self.where}: {at}{what}", hint=right, table=self.table, key=key)


def take(document: dict[str, Any], text: str, place: str) -> tuple[Entry, ...]:
    """Take the tables out of a document of this text. Raises InvalidConfig for one that is no table."""
    entries: list[Entry] = []
    for name in TABLES:
        if name not in document or (name == FORWARD and isinstance(document[name], dict)):
            continue  # [forward] has settings
        found = document.pop(name)
        if not isinstance(found, list) or not all(isinstance(it, dict) for it in found):
            other = "; addresses of this node are `listen` under [swarm]" if name == LISTEN else ""
            hint = f"write [[{name}]] above each{other}"
            raise InvalidConfig(f"{place}: {name} must be tables", hint=hint, key=name)
        lines = _lines(text, name)
        for index, values in enumerate(found):
            line = lines[index] if len(lines) == len(found) else None
            entries.append(Entry(place, name, index + 1, line, values))
    return tuple(entries)


def parse(text: str, place: str) -> tuple[Entry, ...]:
    """The tables of a text that has nothing else. Raises InvalidConfig."""
    import tomllib

    if len(text.encode()) > MAX_APPLIED_BYTES:
        raise InvalidConfig(
            f"{place}: longer than {MAX_APPLIED_BYTES} bytes", hint="apply it in several files"
        )
    text = text.removeprefix(BYTE_ORDER_MARK)
    try:
        document = tomllib.loads(text)
    except ValueError as exc:
        raise InvalidConfig(f"{place}: {wrong(exc)}", hint="nothing was changed: mend it first") from None
    except RecursionError:
        raise InvalidConfig(f"{place}: it is nested too deeply", hint="nothing was changed") from None
    entries = take(document, text, place)
    if document:
        tables = ", ".join(f"[[{name}]]" for name in TABLES)
        raise InvalidConfig(
            f"{place}: {next(iter(document))} is not what apply takes",
            hint=f"it takes {tables}; settings belong into config.toml, for p2pfwd reload",
            key=next(iter(document)),
        )
    return entries


def wrong(exc: ValueError) -> str:
    """What is wrong with a text that is no TOML."""
    import tomllib

    return str(exc) if isinstance(exc, tomllib.TOMLDecodeError) else "a number in it has thousands of digits"


def _lines(text: str, table: str) -> list[int]:
    """Numbers of the lines with a header of this table; a text value may look like one."""
    found = enumerate(map(_HEADER.fullmatch, text.splitlines()), start=1)
    return [number for number, header in found if header is not None and header[1] == table]
