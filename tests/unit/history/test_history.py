"""history.history: events outlive the daemon, never wait for the disk, and never hold it up."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.errors import StorageFailed
from p2pfwd.history import history as module
from p2pfwd.history.file import HistoryFile, Loaded, Query
from p2pfwd.history.folding import Event
from p2pfwd.history.history import History
from tests.support.loops import on_loop, until

ALL = Query(1000)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is written at once."""
    for name in ("FIRST_S", "EVERY_S", "RETRY_S"):
        monkeypatch.setattr(module, name, 0.0)


async def life(
    home: Path, what: Callable[[History], Awaitable[None]], wall: Callable[[], float] = time.time
) -> None:
    """One life of a daemon."""
    history = History(home / "events.db", wall=wall)
    history.start()
    try:
        await what(history)
    finally:
        await history.close()


async def shown(history: History) -> list[tuple[int, str]]:
    events, failure = await history.find(ALL)
    assert failure is None
    return [(event.id, event.code) for event in events]


@on_loop
async def test_what_happened_is_known_after_a_restart(home: Path) -> None:
    async def first(history: History) -> None:
        history.record("daemon-started", version="1", pid=1)
        history.record("peer-lost", peer="A", reason="silent")
        (first, code), second = await shown(history)
        assert (code, second) == ("daemon-started", (first + 1, "peer-lost")), "written or not"
        history.record("daemon-stopped")

    async def second(history: History) -> None:
        history.record("daemon-started", version="1", pid=2)
        assert [code for _, code in await shown(history)] == [
            "daemon-started",
            "peer-lost",
            "daemon-stopped",
            "daemon-started",
        ]
        assert [it.peer for it in history.digest.drops(module.time.time())] == ["A"]
        assert history.last_id == (await shown(history))[-1][0]

    await life(home, first)
    await life(home, second)


@on_loop
async def test_a_daemon_that_was_killed_is_missed_by_the_next(home: Path) -> None:
    killed = History(home / "events.db")
    killed.start()
    killed.record("daemon-started", version="1", pid=1)
    killed.record("peer-up", peer="A", path="direct", address="/ip4/127.0.0.1/tcp/1")
    await until(lambda: not killed._waiting and not killed._in_flight)
    await killed._thread.close()  # nothing more is written

    async def next_one(history: History) -> None:
        history.record("daemon-started", version="1", pid=2)
        assert [code for _, code in await shown(history)][2:] == ["daemon-lost", "daemon-started"]
        assert history.digest.count("lost", module.time.time()) == 1

    await life(home, next_one)


@on_loop
async def test_no_id_is_given_again_after_a_kill(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that was told and not written, of the first daemon or of one killed at once like it."""
    monkeypatch.setattr(module, "FIRST_S", 3600.0)
    codes: list[str] = []
    last_id = 0
    for pid in range(3):
        killed = History(home / "events.db")
        killed.start()
        killed.record("daemon-started", version="1", pid=pid)
        told, _ = await killed.find(Query(1000, after=last_id))  # by who followed the one before
        killed.on_event(told.append)
        killed.record("peer-up", peer="A", path="direct", address="-")
        codes += [event.code for event in told]
        last_id = told[-1].id
        assert killed._timer is not None
        killed._timer.cancel()
        await killed._thread.close()  # the last was told, and is not written
    assert codes == ["daemon-started", "peer-up", *("daemon-lost", "daemon-started", "peer-up") * 2]


@on_loop
@pytest.mark.parametrize("fate", ["kept", "removed", "damaged"])
async def test_a_cursor_into_the_history_misses_nothing_whatever_becomes_of_the_file(
    home: Path, fate: str
) -> None:
    path, cursor = home / "events.db", 0

    async def before(history: History) -> None:
        nonlocal cursor
        for number in range(50):
            history.record("peer-up", peer=str(number), path="direct", address="-")
        cursor = (await shown(history))[-1][0]

    async def after(history: History) -> None:
        history.record("peer-up", peer="A", path="direct", address="-")
        events, _ = await history.find(Query(1000, after=cursor))
        assert [event.peer for event in events if event.code == "peer-up"] == ["A"]

    await life(home, before)
    if fate == "removed":
        path.unlink()
    elif fate == "damaged":
        path.write_bytes(b"rubbish" * 1000)
    await life(home, after)


@on_loop
async def test_ids_go_on_from_those_of_the_file_where_the_clock_was_set_back(home: Path) -> None:
    """For who was killed, too: what he may have told and not written is left out."""
    ids: list[int] = []

    async def at(history: History) -> None:
        live: list[int] = []
        history.on_event(lambda event: live.append(event.id))
        await shown(history)
        history.record("peer-up", peer=str(len(ids)), path="direct", address="-")
        assert live == [history.last_id]
        ids.extend(number for number, _ in await shown(history) if number not in ids)

    for now in (2_000_000_000.0, 1_900_000_000.0, 0.0, -5.0):
        await life(home, at, lambda now=now: now)  # type: ignore[misc]
    assert ids == sorted(ids) and ids[-1] < 2**53, "a number that JSON's readers have"


class Sick:
    """Stands in the way of `HistoryFile.save`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.saves = 0
        self.error: Exception | None = StorageFailed("history: the disk is full", hint="free some space")
        self.gate = threading.Event()
        self.gate.set()
        save = HistoryFile.save

        def sick(file: HistoryFile, events: Any) -> None:
            self.saves += 1
            self.gate.wait()
            if self.error is not None:
                raise self.error
            save(file, events)

        monkeypatch.setattr(HistoryFile, "save", sick)


@on_loop
async def test_a_full_disk_loses_events_only_and_is_said_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 5)
    sick = Sick(monkeypatch)

    async def full(history: History) -> None:
        with caplog.at_level(logging.INFO, "p2pfwd.history"):
            for number in range(9):
                history.record("peer-up", peer=str(number), path="direct", address="-")
            await until(lambda: sick.saves >= 3)
            events, failure = await history.find(ALL)
            assert [event.peer for event in events] == ["4", "5", "6", "7", "8"], "the newest are in memory"
            assert failure is not None and failure.hint == "free some space"
            assert caplog.text.count("the disk is full") == 1
            sick.error = None
            await until(lambda: history.failure is None)
            await until(lambda: not history._waiting and not history._in_flight)
        events, failure = await history.find(ALL)
        assert failure is None and events[-1].code == "events-lost" and events[-1].data["events"] == 4
        assert "is written again" in caplog.text

    await life(home, full)


@on_loop
async def test_what_could_not_be_read_at_the_start_is_not_overwritten(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await life(home, nothing_but_a_start)
    load, tries = HistoryFile.load, []

    def sick(file: HistoryFile, now: float) -> Loaded:
        tries.append(now)
        if len(tries) < 3:
            raise StorageFailed("history: the disk does not work")
        return load(file, now)

    monkeypatch.setattr(HistoryFile, "load", sick)

    async def later(history: History) -> None:
        history.record("peer-up", peer="A", path="direct", address="-")
        await until(lambda: history.failure is None and not history._waiting and not history._in_flight)
        assert [code for _, code in await shown(history)] == ["daemon-started", "daemon-lost", "peer-up"]

    await life(home, later)


@on_loop
async def test_a_disk_that_hangs_holds_up_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.05)
    monkeypatch.setattr(module, "CLOSE_S", 0.05)
    sick = Sick(monkeypatch)
    sick.gate.clear()
    sick.error = None
    history = History(home / "events.db")
    history.start()
    history.record("peer-up", peer="A", path="direct", address="-")
    await until(lambda: sick.saves == 1)
    history.record("peer-up", peer="B", path="direct", address="-")
    events, failure = await history.find(ALL)
    assert [event.peer for event in events] == ["A", "B"]
    assert failure is not None and "does not answer" in failure.message
    thread = history._thread._thread
    await history.close()
    assert "the disk did not answer" in caplog.text
    sick.gate.set()
    assert thread is not None
    await asyncio.to_thread(thread.join)


@on_loop
async def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = home / "events.db"
    path.write_bytes(b"rubbish" * 1000)

    async def damaged(history: History) -> None:
        history.record("daemon-started", version="1", pid=1)
        assert [code for _, code in await shown(history)] == ["daemon-started", "file-damaged"]
        events, _ = await history.find(ALL)
        assert events[-1].data == {"what": "the events before", "file": f"{path}.damaged"}

    await life(home, damaged)
    assert path.with_name("events.db.damaged").read_bytes() == b"rubbish" * 1000
    assert "events.db.damaged" in caplog.text


@on_loop
async def test_a_newer_file_is_left_alone_and_the_daemon_serves_on(home: Path) -> None:
    await life(home, nothing_but_a_start)
    with sqlite3.connect(home / "events.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = (home / "events.db").read_bytes()

    async def newer(history: History) -> None:
        history.record("peer-up", peer="A", path="direct", address="-")
        events, failure = await history.find(ALL)
        assert [event.peer for event in events] == ["A"]
        assert failure is not None and "of a newer version of p2pfwd" in failure.message

    await life(home, newer)
    assert (home / "events.db").read_bytes() == before


async def nothing_but_a_start(history: History) -> None:
    history.record("daemon-started", version="1", pid=1)


@on_loop
async def test_live_ones_are_told_at_once_and_a_count_when_it_has_doubled(home: Path) -> None:
    told: list[tuple[str, int]] = []

    async def flood(history: History) -> None:
        history.on_event(lambda event: told.append((event.code, event.count)))
        for _ in range(3):
            for _ in range(100):
                history.record("refused", stranger=True, cause="dht-opens")
            await until(lambda: not history._waiting and not history._in_flight)

    await life(home, flood)
    assert told[0] == ("refused", 1) and told[-1][1] <= 300
    assert [count for _, count in told] == sorted({count for _, count in told})
    assert len(told) <= 4


@on_loop
async def test_a_daemon_that_did_not_start_leaves_no_trace(home: Path) -> None:
    history = History(home / "events.db")
    history.record("daemon-started", version="1", pid=1)
    await history.close()
    history.record("peer-up", peer="A", path="direct", address="-")
    assert not (home / "events.db").exists()


def test_an_event_is_itself() -> None:
    assert Event("a", "own", 1.0, 1.0) != Event("a", "own", 1.0, 1.0), "two that look alike happened twice"
