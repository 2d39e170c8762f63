"""Printing: one JSON document, plain aligned lines for programs, tables for people.

Data goes to stdout, talk to stderr. On a terminal a list is a table with a header; elsewhere it is Kubo's
plain aligned lines, so that scripts written for `ipfs p2p ls` keep working. rich is imported only for a
table on a terminal: it costs a third of the whole run of `ls`. Colour is off with NO_COLOR and never
carries meaning.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, NamedTuple

from p2pfwd.cli.text import printable
from p2pfwd.errors import StorageFailed

_GAP = 2
"""Cells between two columns."""

_NARROWEST = 7
"""What a text column keeps when there is no room at all."""

_STATE_STYLES = {"ready": "green", "unknown": ""}


class Column(NamedTuple):
    """One column of a table for people; numbers are `right` and never fold, text folds after `keep` cells."""

    title: str
    right: bool = False
    state: bool = False
    keep: int = 0


def document(value: Any) -> Any:
    """Results, and mappings and sequences of them, as JSON-able values under their names on the wire."""
    from p2pfwd.rpc.codec import result_to_json

    if is_dataclass(value):
        return result_to_json(value)
    if isinstance(value, Mapping):
        return {str(key): document(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [document(item) for item in value]
    return value


def write(text: str) -> None:
    """Text and a newline on stdout; a closed pipe ends the process as it ends any filter, without a word."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    except OSError as error:
        _silence(1)
        raise StorageFailed(f"standard output: {error.strerror}") from error


def talk(text: str) -> None:
    """Text and a newline on stderr; nothing can be done when nobody reads it."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        _silence(2)


def _silence(descriptor: int) -> None:
    # What could not be written stays in the buffer: Python must not try again, and complain, at its exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), descriptor)


def write_json(value: Any, *, line: bool = False) -> None:
    """One JSON document on stdout; on a single line when more will follow."""
    import json

    write(json.dumps(document(value), indent=None if line else 2))


def write_lines(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None) -> None:
    """Plain aligned lines, one per row: cells padded to the widest plus one space, the last one unpadded."""
    lines = [[printable(cell) for cell in row] for row in ([header] if header else []) + list(rows)]
    if not lines:
        return
    widths = [max(len(row[index]) for row in lines) + 1 for index in range(len(lines[0]) - 1)]
    for row in lines:
        write("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1])


def write_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], *, limit: int, colour: bool
) -> None:
    """A table for people, at most `limit` cells wide where that can be; text folds, numbers do not."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(
        file=sys.stdout,
        color_system="auto" if colour else None,
        width=max(limit, 1000),  # the columns' widths are set: nothing may be cut
        highlight=False,
        markup=False,
        emoji=False,
    )
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for column, width in zip(columns, widths(columns, rows, limit), strict=True):
        table.add_column(
            column.title, justify="right" if column.right else "left", overflow="fold", width=width
        )
    for row in rows:
        cells = []
        for column, cell in zip(columns, row, strict=True):
            style = _STATE_STYLES.get(cell, "yellow") if column.state else ""
            cells.append(Text(printable(cell), style=style))
        table.add_row(*cells)
    with console.capture() as capture:
        console.print(table)
    write("\n".join(line.rstrip() for line in capture.get().splitlines()))


def widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], limit: int) -> list[int]:
    """Widths of the columns of a table that is to fit into `limit` cells.

    Text columns give way, the one with most to give first, down to `keep`, and then below it. Numbers never
    do: a table that fits in no way is left to the terminal to wrap.
    """
    from rich.cells import cell_len

    longest = [max(cell_len(printable(row[index])) for row in rows) for index in range(len(columns))]
    found = [max(len(column.title), length) for column, length in zip(columns, longest, strict=True)]
    excess = sum(found) + _GAP * (len(columns) - 1) - limit
    for keeping in (True, False):
        floors = [
            width if column.right else max(_NARROWEST, min(width, column.keep if keeping else 0))
            for column, width in zip(columns, found, strict=True)
        ]
        while excess > 0:
            spare, index = max(
                (width - floor, i) for i, (width, floor) in enumerate(zip(found, floors, strict=True))
            )
            if spare <= 0:
                break
            found[index] -= 1
            excess -= 1
    return found


def write_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """`name  value` lines; an empty name continues the one above."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        write(f"{name.ljust(width)}  {printable(value)}".rstrip())
