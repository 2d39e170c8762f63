"""peers.book: changes are written together and off the loop; a sick disk is told once."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from p2pfwd.errors import StorageFailed
from p2pfwd.peers import book as module
from p2pfwd.peers.book import Pace
from p2pfwd.peers.book_file import StoredPeer
from p2pfwd.policy.provenance import Provenance, Standing
from tests.support.peers import peer
from tests.unit.peers.book_rig import ALICE, BOB, NEVER, Clocks, a_life, addr

SOON = Pace(first_s=0.0, every_s=0.0, retry_s=0.0)


class FakeFile:
    """In place of an AddressFile: saves into a list, or fails as told; each save sets `saved`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failing: Exception | None = None
        self.saves: list[list[StoredPeer]] = []
        self.threads: set[threading.Thread] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.began, self.saved = asyncio.Queue[bool](), asyncio.Queue[bool]()
        loop = asyncio.get_running_loop()
        self.tell: Callable[[asyncio.Queue[bool], bool], object] = lambda queue, well: (
            loop.call_soon_threadsafe(queue.put_nowait, well)
        )

    def save(self, peers: Iterable[StoredPeer]) -> None:
        self.tell(self.began, True)
        assert self.gate.wait(10)
        self.threads.add(threading.current_thread())
        try:
            if self.failing is not None:
                raise self.failing
            self.saves.append(list(peers))
        finally:
            self.tell(self.saved, self.failing is None)

    def close(self) -> None:
        self.threads.add(threading.current_thread())


@pytest.fixture
def fake_files(monkeypatch: pytest.MonkeyPatch) -> list[FakeFile]:
    made: list[FakeFile] = []

    def make(path: Path) -> FakeFile:
        made.append(FakeFile(path))
        return made[-1]

    monkeypatch.setattr(module, "AddressFile", make)
    return made


def test_what_is_to_be_on_the_disk_is_there_when_it_is_said_also_behind_a_failure(
    home: Path, fake_files: list[FakeFile]
) -> None:
    async def life() -> None:
        store, book = a_life(home / "none", Clocks(), NEVER)
        (file,) = fake_files
        store.add_addrs(ALICE, [addr(1)], 900.0, Provenance.GIVEN)
        store.add_addrs(BOB, [addr(1)], 900.0, Provenance.GIVEN)
        file.failing = StorageFailed("the disk is full")
        await book.write(ALICE)
        file.failing = None
        await book.write(ALICE)
        assert [(it.peer_id, it.standing) for it in file.saves[0]] == [(ALICE, Standing.OWN)]
        await book.close()
        assert sorted(it.peer_id for it in file.saves[1]) == [ALICE, BOB], "with what has changed"
        await book.write(ALICE)
        assert len(file.saves) == 2, "nothing is written after the end"

    asyncio.run(life())


def test_changes_are_written_together_and_a_restored_peer_is_no_change(
    home: Path, fake_files: list[FakeFile]
) -> None:
    async def life() -> None:
        store, book = a_life(home / "none", Clocks(), SOON)
        (file,) = fake_files
        file.gate.clear()
        for number in range(50):
            store.add_addrs(ALICE, [addr(number + 1)], 900.0, Provenance.HEARSAY)
        store.add_addrs(BOB, [addr(1)], 900.0, Provenance.HEARSAY)
        await asyncio.sleep(0)
        file.gate.set()
        await file.saved.get()
        assert sorted(p.peer_id for p in file.saves[0]) == [ALICE, BOB]
        book._restore([StoredPeer(ALICE, "x", Standing.MET, ())], 0.0, 0.0)
        await book.close()
        assert len(file.saves) == 1
        assert threading.current_thread() not in file.threads and len(file.threads) == 1

    asyncio.run(life())


def test_what_changes_while_it_is_written_is_written_next(home: Path, fake_files: list[FakeFile]) -> None:
    async def life() -> None:
        store, book = a_life(home / "none", Clocks(), SOON)
        (file,) = fake_files
        file.gate.clear()
        store.add_addrs(ALICE, [addr(1)], 900.0, Provenance.HEARSAY)
        await file.began.get()
        store.add_addrs(ALICE, [addr(2)], 900.0, Provenance.HEARSAY)
        store.add_addrs(BOB, [addr(1)], 900.0, Provenance.HEARSAY)
        file.gate.set()
        await file.saved.get()
        await file.saved.get()
        assert [[len(p.addrs) for p in sorted(save, key=lambda p: p.peer_id)] for save in file.saves] == [
            [1],
            [2, 1],
        ]
        await book.close()

    asyncio.run(life())


def test_many_changes_are_written_in_portions_one_after_the_other(
    home: Path, fake_files: list[FakeFile]
) -> None:
    """The event loop has its turn between them; none waits for the next occasion."""

    async def life(pace: Pace) -> list[int]:
        store, book = a_life(home / "none", Clocks(), pace)
        for number in range(150):
            store.add_addrs(peer(number), [addr(1)], 900.0, Provenance.HEARSAY)
        if pace is not NEVER:
            for _ in range(3):
                await asyncio.wait_for(fake_files[-1].saved.get(), 5)
        await book.close()
        return [len(save) for save in fake_files[-1].saves]

    assert asyncio.run(life(Pace(first_s=0.0))) == [64, 64, 22]
    assert asyncio.run(life(NEVER)) == [64, 64, 22]


def test_a_full_disk_is_told_once_and_everything_written_when_there_is_room(
    home: Path, fake_files: list[FakeFile], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "p2pfwd.peers")

    async def life() -> None:
        store, book = a_life(home / "none", Clocks(), SOON)
        (file,) = fake_files
        file.failing = StorageFailed("address book X: database or disk is full")
        store.add_addrs(ALICE, [addr(1)], 900.0, Provenance.HEARSAY)
        for _ in range(3):
            assert not await file.saved.get()
        assert book.failure == "address book X: database or disk is full"
        assert store.addrs(ALICE) == [addr(1)]
        store.add_addrs(BOB, [addr(2)], 900.0, Provenance.HEARSAY)
        file.failing = None
        while not await file.saved.get():
            pass
        await book.close()
        assert book.failure is None
        assert {p.peer_id for save in file.saves for p in save} == {ALICE, BOB}

    asyncio.run(life())
    said = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name.startswith("p2pfwd")
    ]
    assert said == [
        (
            "WARNING",
            "address book X: database or disk is full; what is learned of peers is kept in memory only",
        ),
        ("INFO", "the address book is written again"),
    ]


def test_a_defect_in_the_thread_ends_the_book_and_not_the_node(
    home: Path, fake_files: list[FakeFile], caplog: pytest.LogCaptureFixture
) -> None:
    async def life() -> None:
        store, book = a_life(home / "none", Clocks(), SOON)
        (file,) = fake_files
        file.failing = ZeroDivisionError()
        store.add_addrs(ALICE, [addr(1)], 900.0, Provenance.HEARSAY)
        await file.saved.get()
        await book._ended.wait()
        store.add_addrs(BOB, [addr(1)], 900.0, Provenance.HEARSAY)
        assert store.addrs(ALICE) == [addr(1)]
        await book.close()

    asyncio.run(life())
    assert "the address book has failed" in caplog.text


def test_a_disk_that_hangs_does_not_hold_the_end_up(
    home: Path, fake_files: list[FakeFile], caplog: pytest.LogCaptureFixture
) -> None:
    async def life() -> FakeFile:
        store, book = a_life(home / "none", Clocks(), Pace(first_s=3600.0, close_s=0.01))
        (file,) = fake_files
        file.gate.clear()
        store.add_addrs(ALICE, [addr(1)], 900.0, Provenance.HEARSAY)
        await book.close()
        return file

    file = asyncio.run(life())
    assert "the disk did not answer" in caplog.text
    file.tell = lambda queue, well: None  # the loop is closed by now
    file.gate.set()
