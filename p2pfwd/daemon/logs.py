"""The daemon's log: one logger per subsystem below "p2pfwd", one handler for them all.

Rules: a line is `time LEVEL subsystem: message`, control characters escaped, since peers' words end up in it.
It goes to stderr, or to a file of bounded size, and to whoever follows the topic "log". systemd's journal has
the time already: there it is left out, and the level is told as journald reads it. Of lines that differ
only in their arguments at most RATE_PER_S a second are logged after a burst, and the rest is counted: a peer
that misbehaves costs one canonical line, not the disk. Logging never fails and never blocks on a subscriber.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from p2pfwd.errors import InvalidParams, NotFound

ROOT = "p2pfwd"
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

BURST = 20
"""Lines of one kind logged at once."""
RATE_PER_S = 1.0
"""Lines of one kind logged a second after the burst."""
MAX_KINDS = 1000
"""Kinds remembered; there are about as many as log calls in the program."""

Publish = Callable[[dict[str, Any]], None]

Form = Callable[[logging.LogRecord, str], str]
"""A record, and its lines without a time, as what is written."""

_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""syslog(3)'s, from which level on; debug is 7."""


class Sink(Protocol):
    """Where lines go."""

    def write(self, line: str) -> None: ...

    def close(self) -> None: ...


class StderrSink:
    """Standard error; what cannot be written is lost."""

    def write(self, line: str) -> None:
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # a closed pipe, a closed stream: nobody is left to tell
            return

    def close(self) -> None:
        return


class FileSink:
    """A file that is set aside as `.1` at `max_bytes`, one kept; `descriptors` (1, 2) follow it.

    Lines that cannot be written, the disk being full, are counted, and the count is told with the next.
    Where no new file can be opened the old one is written on, up to twice its size, and each line tries anew.
    """

    def __init__(self, path: Path, max_bytes: int, descriptors: tuple[int, ...] = ()) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._descriptors = descriptors
        self._lost = 0
        self._fd = -1
        self._size = 0
        self._use(_log_file(path))

    def _use(self, fd: int) -> None:
        old, self._fd = self._fd, fd
        if old >= 0:
            os.close(old)
        self._size = os.fstat(fd).st_size
        for number in self._descriptors:
            os.dup2(fd, number)

    def _rotate(self) -> None:
        # The new file first: when it cannot be had, nothing has changed.
        following = Path(f"{self._path}.new")
        fd = _log_file(following, os.O_TRUNC)
        try:
            with contextlib.suppress(FileNotFoundError):  # somebody has moved it away
                os.replace(self._path, f"{self._path}.1")
            os.replace(following, self._path)
        except OSError:
            os.close(fd)
            raise
        self._use(fd)

    def write(self, line: str) -> None:
        text = f"({self._lost} lines could not be written)\n{line}\n" if self._lost else f"{line}\n"
        data = text.encode("utf-8", "backslashreplace")
        if self._size and self._size + len(data) > self._max_bytes:
            with contextlib.suppress(OSError):
                self._rotate()
        try:
            if self._size and self._size + len(data) > 2 * self._max_bytes:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            self._size += os.write(self._fd, data)
            self._lost = 0
        except OSError:
            self._lost += 1

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _log_file(path: Path, flags: int = 0) -> int:
    flags |= os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o600)


class RateLimit:
    """Token buckets by kind of line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, int, str], tuple[float, float, int]] = {}  # tokens, when, suppressed

    def admit(self, record: logging.LogRecord) -> int | None:
        """None to suppress the record, else how many of its kind were suppressed before it."""
        kind = (record.name, record.levelno, str(record.msg))
        now = self._clock()
        tokens, when, suppressed = self._buckets.get(kind, (float(BURST), now, 0))
        tokens = min(float(BURST), tokens + (now - when) * RATE_PER_S)
        if tokens < 1:
            self._buckets[kind] = (tokens, now, suppressed + 1)
            return None
        if kind not in self._buckets and len(self._buckets) >= MAX_KINDS:
            self._buckets.pop(next(iter(self._buckets)))
        self._buckets[kind] = (tokens - 1, now, 0)
        return suppressed


class LogHandler(logging.Handler):
    """The one handler: limits, formats, writes, publishes."""

    def __init__(self, sink: Sink, limit: RateLimit | None = None, *, form: Form | None = None) -> None:
        super().__init__()
        self._sink = sink
        self._form = form or stamped_lines
        self._limit = limit or RateLimit()
        self._publish: Publish | None = None
        self._call_soon: Callable[..., object] | None = None
        self._thread = threading.get_ident()

    def publish_to(self, publish: Publish | None, call_soon: Callable[..., object] | None) -> None:
        """Also tell `publish` every line, in this thread; `call_soon` gets there from the others."""
        self._publish, self._call_soon = publish, call_soon
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        suppressed = self._limit.admit(record) if record.levelno > logging.DEBUG else 0
        if suppressed is None:
            return
        message = _message(record)
        if suppressed:
            message += f" (and {suppressed} like it, not logged)"
        trace = _trace(record)
        name = subsystem(record.name)
        text = f"{record.levelname} {name}: {message}" + (f"\n{trace}" if trace else "")
        self._sink.write(self._form(record, text))
        self._tell({"level": record.levelname.lower(), "logger": name, "message": message, "trace": trace})

    def _tell(self, data: dict[str, Any]) -> None:
        if self._publish is None:
            return
        if threading.get_ident() == self._thread:
            self._publish(data)
        elif self._call_soon is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: its followers are gone
                self._call_soon(self._publish, data)

    def close(self) -> None:
        self._sink.close()
        super().close()


def subsystem(logger_name: str) -> str:
    """The name people see for a logger: without the leading "p2pfwd."."""
    return logger_name.removeprefix(f"{ROOT}.")


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit the format: a defect, but not one to die of
        text = f"{record.msg} {record.args!r}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _trace(record: logging.LogRecord) -> str | None:
    if not record.exc_info or record.exc_info[0] is None:
        return None
    import traceback

    lines = "".join(traceback.format_exception(*record.exc_info)).splitlines()
    return "\n".join(f"    {line}" for line in lines)


def stamped_lines(record: logging.LogRecord, text: str) -> str:
    """`text` behind the time of day."""
    clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
    return f"{clock}.{int(record.msecs):03d} {text}"


def journal_lines(record: logging.LogRecord, text: str) -> str:
    """Each line of `text` behind its priority, as sd-daemon(3) wants it."""
    priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
    return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


def install(handler: LogHandler, level: str) -> None:
    """Make `handler` the only one of this process, at `level` for p2pfwd and warnings for the rest."""
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(LEVELS[level])
    logging.raiseExceptions = False


def uninstall(handler: LogHandler) -> None:
    """Undo `install`, and close the handler."""
    logging.getLogger().removeHandler(handler)
    logging.getLogger(ROOT).setLevel(logging.NOTSET)
    for name in _subsystems():
        logging.getLogger(f"{ROOT}.{name}").setLevel(logging.NOTSET)
    handler.close()


def levels() -> dict[str, str]:
    """The level in effect of every subsystem, and "all" for those not set by themselves."""
    names = {number: name for name, number in LEVELS.items()}

    def of(logger_name: str) -> str:
        number = logging.getLogger(logger_name).getEffectiveLevel()
        return names.get(number, str(number))

    return {"all": of(ROOT), **{name: of(f"{ROOT}.{name}") for name in _subsystems()}}


def set_level(name: str, level: str) -> dict[str, str]:
    """Set one subsystem's level, or with "all" every one's; returns `levels()`.

    Raises InvalidParams for an unknown level, NotFound for an unknown subsystem.
    """
    wanted = {"warn": "warning", "err": "error"}.get(level.lower(), level.lower())
    if wanted not in LEVELS:
        raise InvalidParams(f"log level {level!r}: it must be one of {', '.join(LEVELS)}")
    known = _subsystems()
    if name == "all":
        for each in known:
            logging.getLogger(f"{ROOT}.{each}").setLevel(logging.NOTSET)
        logging.getLogger(ROOT).setLevel(LEVELS[wanted])
    elif subsystem(name) in known:
        logging.getLogger(f"{ROOT}.{subsystem(name)}").setLevel(LEVELS[wanted])
    else:
        raise NotFound(f"log: no subsystem {name!r}", hint=f"there are all, {', '.join(known)}")
    return levels()


def _subsystems() -> list[str]:
    known = logging.Logger.manager.loggerDict
    return sorted(subsystem(name) for name in known if name.startswith(f"{ROOT}."))
