"""daemon.logs: one safe line a record, bounded files, bounded repetition, levels by subsystem."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.daemon import logs
from p2pfwd.errors import InvalidParams, NotFound


class Lines:
    """A sink that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line)

    def close(self) -> None:
        self.lines.append("closed")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def sink() -> Iterator[Lines]:
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    raising = logging.raiseExceptions
    lines = Lines()
    handler = logs.LogHandler(lines)
    logs.install(handler, "info")
    yield lines
    logs.uninstall(handler)
    logging.raiseExceptions = raising
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


def handler() -> logs.LogHandler:
    found = logging.getLogger().handlers[0]
    assert isinstance(found, logs.LogHandler)
    return found


def test_a_record_is_time_level_subsystem_message(sink: Lines) -> None:
    logging.getLogger("p2pfwd.net").info("connected to %s", "12D3")
    logging.getLogger("p2pfwd.net").debug("not at this level")
    logging.getLogger("elsewhere").info("not ours, and no warning")
    logging.getLogger("asyncio").error("not ours, and worse")
    stamps, rest = zip(*(line.split(" ", 1) for line in sink.lines), strict=True)
    assert rest == ("INFO net: connected to 12D3", "ERROR asyncio: not ours, and worse")
    assert len(stamps[0]) == len("2026-01-01T00:00:00.000")


def test_what_a_peer_says_cannot_forge_lines_or_drive_a_terminal(sink: Lines) -> None:
    logging.getLogger("p2pfwd.net").warning("agent %s", "evil\nERROR net: \x1b[2Jgone \x9b é")
    assert len(sink.lines) == 1
    assert sink.lines[0].endswith(r"agent evil\nERROR net: \x1b[2Jgone \x9b é")


def test_a_trace_follows_its_line_indented(sink: Lines) -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("p2pfwd.rpc").exception("defect")
    first, *trace = sink.lines[0].split("\n")
    assert first.endswith("ERROR rpc: defect")
    assert trace[-1] == "    ValueError: boom"
    assert all(line.startswith("    ") for line in trace)


def test_a_record_with_wrong_arguments_is_still_told(sink: Lines) -> None:
    text, arguments = "%d of %d", ("x",)
    logging.getLogger("p2pfwd.rpc").warning(text, *arguments)
    assert "%d of %d ('x',)" in sink.lines[0]


def test_lines_of_one_kind_are_limited_and_the_rest_counted() -> None:
    clock, lines = Clock(), Lines()
    limited = logs.LogHandler(lines, logs.RateLimit(clock))

    def tell(text: str, *args: Any) -> None:
        limited.emit(logging.LogRecord("p2pfwd.net", logging.WARNING, "", 0, text, args, None))

    for number in range(logs.BURST + 500):
        tell("peer %d misbehaved", number)
    assert len(lines.lines) == logs.BURST
    tell("another kind")
    assert len(lines.lines) == logs.BURST + 1
    clock.now = 1.0
    tell("peer %d misbehaved", 1000)
    tell("peer %d misbehaved", 1001)
    assert len(lines.lines) == logs.BURST + 2
    assert lines.lines[-1].endswith("peer 1000 misbehaved (and 500 like it, not logged)")


def test_kinds_remembered_are_bounded() -> None:
    limit = logs.RateLimit(Clock())
    for number in range(logs.MAX_KINDS * 2):
        limit.admit(logging.LogRecord("p2pfwd.net", logging.WARNING, "", 0, f"kind {number}", (), None))
    assert len(limit._buckets) == logs.MAX_KINDS


def test_followers_are_told_from_any_thread(sink: Lines) -> None:
    told: list[dict[str, Any]] = []
    elsewhere: list[Any] = []
    handler().publish_to(told.append, lambda callback, data: elsewhere.append((callback, data)))
    log = logging.getLogger("p2pfwd.dns")
    log.warning("here")
    thread = threading.Thread(target=log.warning, args=("there",))
    thread.start()
    thread.join()
    assert told == [{"level": "warning", "logger": "dns", "message": "here", "trace": None}]
    assert [data["message"] for _, data in elsewhere] == ["there"]
    handler().publish_to(None, None)
    log.warning("nowhere")
    assert len(told) == 1


def test_a_closed_loop_does_not_fail_the_thread_that_logs(sink: Lines) -> None:
    def closed(*args: object) -> None:
        raise RuntimeError("Event loop is closed")

    handler().publish_to(lambda data: None, closed)
    thread = threading.Thread(target=logging.getLogger("p2pfwd.dns").warning, args=("late",))
    thread.start()
    thread.join()
    assert sink.lines[-1].endswith("late")


def test_levels_are_set_by_subsystem_and_all(sink: Lines) -> None:
    net, rpc = logging.getLogger("p2pfwd.net"), logging.getLogger("p2pfwd.rpc")
    assert logs.set_level("net", "debug")["net"] == "debug"
    assert (net.isEnabledFor(logging.DEBUG), rpc.isEnabledFor(logging.DEBUG)) == (True, False)
    found = logs.set_level("all", "WARN")
    assert found["all"] == found["net"] == found["rpc"] == "warning"
    assert logs.set_level("p2pfwd.rpc", "error")["rpc"] == "error"


def test_unknown_levels_and_subsystems_are_refused(sink: Lines) -> None:
    logging.getLogger("p2pfwd.net")
    with pytest.raises(InvalidParams, match="one of debug, info, warning, error"):
        logs.set_level("net", "loud")
    with pytest.raises(NotFound) as caught:
        logs.set_level("nett", "info")
    assert "net" in str(caught.value.hint)


def test_the_file_is_private_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    sink = logs.FileSink(path, 1000)
    for number in range(100):
        sink.write(f"{number:099}")
    sink.close()
    sink.close()
    kept = sorted(p.name for p in tmp_path.iterdir())
    assert kept == ["daemon.log", "daemon.log.1"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert all((tmp_path / name).stat().st_size <= 1000 for name in kept)
    assert path.read_text().endswith(f"{99:099}\n")


def test_the_file_is_continued(tmp_path: Path) -> None:
    for text in ("one", "two"):
        sink = logs.FileSink(tmp_path / "log", 1000)
        sink.write(text)
        sink.close()
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


@pytest.mark.parametrize("operation", ["open", "replace"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC])
def test_a_rotation_that_fails_costs_no_line_and_is_tried_again(
    tmp_path: Path, operation: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    sink = logs.FileSink(path, 100)
    sink.write("a" * 90)
    real, times = getattr(os, operation), []

    def fails(*args: Any) -> Any:
        times.append(args)
        if operation == "replace" and len(times) == 1:
            return real(*args)  # the old one was set aside, and the new one did not come into its place
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, fails)
        sink.write("b" * 20)
        sink.write("c" * 20)
    sink.write("d" * 20)
    sink.close()
    assert "b" * 20 in (tmp_path / "log.1").read_text() and "c" * 20 in (tmp_path / "log.1").read_text()
    assert path.read_text() == "d" * 20 + "\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1"]


def test_a_file_that_cannot_be_set_aside_does_not_grow_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = logs.FileSink(tmp_path / "log", 100)

    def out_of_descriptors(*args: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", out_of_descriptors)
        for _ in range(50):
            sink.write("x" * 19)
    assert (tmp_path / "log").stat().st_size == 200
    sink.write("kept")
    sink.close()
    assert (tmp_path / "log").read_text() == "(40 lines could not be written)\nkept\n"


def test_a_log_moved_away_by_somebody_is_begun_anew(tmp_path: Path) -> None:
    sink = logs.FileSink(tmp_path / "log", 100)
    sink.write("x" * 90)
    (tmp_path / "log").rename(tmp_path / "mine")
    sink.write("y" * 90)
    sink.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "mine"]


def test_descriptors_follow_the_file(tmp_path: Path) -> None:
    number = os.open(os.devnull, os.O_WRONLY)
    sink = logs.FileSink(tmp_path / "log", 20, (number,))
    os.write(number, b"first\n")
    sink.write("x" * 18)
    sink.write("y" * 18)
    os.write(number, b"after\n")
    sink.close()
    os.close(number)
    assert (tmp_path / "log").read_text().startswith("y" * 18)
    assert (tmp_path / "log").read_text().endswith("after\n")


def test_a_full_disk_loses_lines_and_tells_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = logs.FileSink(tmp_path / "log", 1000)

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        sink.write("lost")
        sink.write("lost")
    sink.write("kept")
    sink.close()
    assert (tmp_path / "log").read_text() == "(2 lines could not be written)\nkept\n"


def test_the_journal_gets_the_priority_of_each_line_and_no_time() -> None:
    lines = Lines()
    own = logs.LogHandler(lines, form=logs.journal_lines)
    for level, priority in [(10, 7), (20, 6), (30, 4), (40, 3)]:
        record = logging.LogRecord("p2pfwd.net", level, "f", 1, "said %s", ("a\nb",), None)
        own.emit(record)
        assert lines.lines[-1] == f"<{priority}>{record.levelname} net: said a\\nb"
    try:
        raise ValueError("no")
    except ValueError as exc:
        cause = (ValueError, exc, exc.__traceback__)
        own.emit(logging.LogRecord("p2pfwd.net", 40, "f", 1, "failed", (), cause))
    assert all(line.startswith("<3>") for line in lines.lines[-1].splitlines())
    assert "ValueError: no" in lines.lines[-1]
