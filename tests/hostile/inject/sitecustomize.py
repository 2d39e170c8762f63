"""Loaded by a victim's Python: once the file of HOSTILE_SLOW is there, its disk hangs for seconds.

Each file of HOSTILE_HOME that is opened, and each statement of a database, waits in the thread that does it.
On the main thread it waits as well: a daemon whose loop waits for its disk stands still.
"""

import os
import sqlite3
import sys
import time
from typing import Any

SLOW_S = 5.0
_flag, _home = os.environ.get("HOSTILE_SLOW", ""), os.environ.get("HOSTILE_HOME", "")


def _hang(_statement: str = "") -> None:
    if os.path.exists(_flag):
        time.sleep(SLOW_S)


def _is_written(path: object, flags: int) -> bool:
    is_path = isinstance(path, str | os.PathLike)
    return is_path and bool(flags & os.O_CREAT) and str(path).startswith(_home)


def _heard(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and _is_written(args[0], args[2]):
        _hang()


def _connected(*args: Any, **more: Any) -> sqlite3.Connection:
    db: sqlite3.Connection = _connect(*args, **more)
    db.set_trace_callback(_hang)
    return db


if _flag:
    _connect = sqlite3.connect
    sqlite3.connect = _connected  # type: ignore[assignment]
    sys.addaudithook(_heard)
