"""history.file: what is written is found again, within bounds, and a bad file costs the history alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import pytest

from p2pfwd.errors import StorageFailed
from p2pfwd.history import file as history_file
from p2pfwd.history.file import HistoryFile, Loaded, Query
from p2pfwd.history.folding import Event, Share
from p2pfwd.state.database import DamagedFile

NOW = 1_700_000_000.0


@pytest.fixture
def file(home: Path) -> Iterator[HistoryFile]:
    made = HistoryFile(home / "events.db")
    yield made
    made.close()


def event(number: int, code: str = "peer-up", share: Share = "own", **more: object) -> Event:
    given: dict[str, object] = {"time": NOW + number, "until": NOW + number, **more}
    return Event(code, share, id=number, **given)  # type: ignore[arg-type]


def found(file: HistoryFile, **query: object) -> list[int]:
    return [it.id for it in file.find(Query(**{"limit": 100, **query}))]  # type: ignore[arg-type]


def test_what_is_written_is_found_again(file: HistoryFile) -> None:
    assert file.find(Query(10)) == [] and file.load(NOW) == Loaded()
    whole = event(
        3, "stream-ended", "streams", peer="A", protocol="/x/a", count=4, data={"bytes_in": 5, "reason": "é"}
    )
    file.save([event(1), whole])
    file.close()
    assert [astuple(it) for it in file.find(Query(10))] == [astuple(event(1)), astuple(whole)]
    whole.count = 9
    file.save([whole])
    assert [it.count for it in file.find(Query(10))] == [1, 9]
    assert file.load(NOW).last_id == 3


def test_filters(file: HistoryFile) -> None:
    file.save(
        [
            event(1, peer="A"),
            event(2, "peer-lost", peer="A", protocol="/x/a"),
            event(3, "access-denied", "strangers", peer="B", until=NOW + 50),
            event(4, protocol="/x/a"),
        ]
    )
    assert found(file) == [1, 2, 3, 4] and found(file, limit=2) == [3, 4]
    assert found(file, since=NOW + 4) == [3, 4], "it went on after its beginning"
    assert found(file, after=2) == [3, 4]
    assert found(file, peer="A") == [1, 2] and found(file, protocol="/x/a") == [2, 4]
    assert found(file, codes=frozenset(("peer-lost", "access-denied"))) == [2, 3]
    assert found(file, codes=frozenset(("peer-up",)), peer="A", since=NOW, after=0) == [1]


def test_each_share_has_its_bound_and_none_is_at_the_cost_of_another(
    file: HistoryFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_file, "MOST", {"own": 10, "streams": 5, "strangers": 3})
    file.save([event(number) for number in range(1, 11)])
    for start in range(11, 1011, 100):
        file.save(event(number, "access-denied", "strangers") for number in range(start, start + 100))
    assert found(file) == [*range(1, 11), 1008, 1009, 1010]
    file.save([event(1011)])
    assert found(file)[:2] == [2, 3]


def test_who_did_not_stop_in_order_was_lost(file: HistoryFile) -> None:
    file.save([event(1, "daemon-started"), event(2), event(9, "refused", "strangers")])
    assert file.load(NOW).lost_at == NOW + 2
    file.save([event(10, "daemon-stopped"), event(11, "peer-down")])
    assert file.load(NOW).lost_at is None


def test_one_whose_start_is_forgotten_by_now_was_lost_all_the_same(
    file: HistoryFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(history_file.MOST, "own", 3)
    file.save([event(1, "daemon-started"), *map(event, range(2, 6))])
    assert file.load(NOW).lost_at == NOW + 5


def test_a_long_event_loses_its_fields_not_the_bound(file: HistoryFile) -> None:
    file.save([event(1, data={str(number): "x" * 200 for number in range(10)})])
    assert file.find(Query(1))[0].data == {}


def test_a_file_of_a_newer_version_is_refused_with_the_cure_and_left_alone(file: HistoryFile) -> None:
    file.save([event(1)])
    file.close()
    with sqlite3.connect(file.path) as db:
        db.execute(f"PRAGMA user_version = {history_file.VERSION + 1}")
    db.close()
    before = file.path.read_bytes()
    for work in (lambda: file.load(NOW), lambda: file.save([event(2)]), lambda: file.find(Query(1))):
        with pytest.raises(StorageFailed, match=r"history .*events\.db: it has the form 2") as caught:
            work()
        assert caught.value.hint == f"use that version; or move the file away: then {history_file._WITHOUT}"
    file.close()
    assert file.path.read_bytes() == before


def test_a_damaged_file_is_told_apart(file: HistoryFile) -> None:
    file.path.write_bytes(b"rubbish" * 1000)
    with pytest.raises(DamagedFile):
        file.load(NOW)


def test_rows_that_make_no_sense_are_left_out(file: HistoryFile) -> None:
    file.save([event(number) for number in range(1, 9)])
    file.close()
    with sqlite3.connect(file.path) as db:
        db.execute("UPDATE events SET data = '{' WHERE id = 1")
        db.execute("""UPDATE events SET data = '{"a": NaN}' WHERE id = 5""")
        db.execute("UPDATE events SET until = 9e999 WHERE id = 6")
        db.execute("UPDATE events SET time = -1 WHERE id = 7")
        db.execute("UPDATE events SET time = 1e300 WHERE id = 8")
        db.execute("UPDATE events SET data = '7' WHERE id = 2")
        db.execute("UPDATE events SET share = 'x' WHERE id = 3")
    db.close()
    assert found(file) == [4]
