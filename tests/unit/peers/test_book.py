"""peers.book: what was known is known again after a restart, and a bad file is no bad start."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pfwd.peers.book import OFF_MOST_S, AddressBook, Pace
from p2pfwd.peers.book_file import AddressFile, StoredAddress, StoredPeer
from p2pfwd.peers.claims import STALE_S, KnownAddress
from p2pfwd.peers.store import GRACE_S, Peerstore
from p2pfwd.policy.provenance import Provenance, Standing
from tests.support.loops import until
from tests.support.peers import peer
from tests.support.virtual_time import in_virtual_time
from tests.unit.peers.book_rig import ALICE, BOB, Clocks, a_life, addr


def test_what_was_known_is_known_again_with_its_age(home: Path) -> None:
    clocks = Clocks()

    async def first() -> None:
        store, book = a_life(home / "peers.db", clocks)
        await book.loaded.wait()
        store.add_addrs(ALICE, [addr(1)], 900.0, Provenance.PROVED)
        store.identified(ALICE, "kubo/0.22", [])
        store.note_dht(ALICE, "/ipfs/kad/1.0.0", True)
        clocks.mono += 100
        store.add_addrs(BOB, [addr(2)], 900.0, Provenance.HEARSAY)
        await book.close()

    async def second() -> None:
        store, book = a_life(home / "peers.db", clocks)
        store.add_addrs(BOB, [addr(3)], 60.0, Provenance.GIVEN)
        await book.loaded.wait()
        assert store.agent(ALICE) == "kubo/0.22"
        assert store.dht_servers() == [ALICE] and store.dhts(ALICE) == {"/ipfs/kad/1.0.0"}
        (known,) = store.known(ALICE)
        assert (known.addr, known.provenance) == (addr(1), Provenance.PROVED)
        assert [known.age_s, known.ttl_s] == pytest.approx([1100, -200])
        assert store.addrs(ALICE) == [] and store.dialable(ALICE) == [addr(1)]
        assert store.addrs(BOB) == [addr(3)]
        assert {known.addr for known in store.known(BOB)} == {addr(2), addr(3)}
        await book.close()

    asyncio.run(first())
    clocks.mono += 1000
    asyncio.run(second())

    async def much_later() -> None:
        store, book = a_life(home / "peers.db", clocks)
        await book.loaded.wait()
        clocks.mono += STALE_S
        assert store.dialable(ALICE) == []
        await book.close()

    asyncio.run(much_later())


YEAR_2037, YEAR_1970 = 2_114_380_800.0, 60.0


def life(home: Path, clocks: Clocks, what: Callable[[Peerstore], object]) -> None:
    """One life of a daemon, in which `what` happens once the book has been read."""

    async def lives() -> None:
        store, book = a_life(home / "peers.db", clocks)
        await book.loaded.wait()
        what(store)
        await book.close()

    asyncio.run(lives())


def meet(number: int) -> Callable[[Peerstore], None]:
    return lambda store: store.add_addrs(peer(number), [addr(1)], 900.0, Provenance.PROVED)


def in_the_book(home: Path) -> int:
    file = AddressFile(home / "peers.db")
    try:
        return len(file.load())
    finally:
        file.close()


@pytest.mark.parametrize("wrong", [YEAR_2037, YEAR_1970])
def test_a_clock_years_off_deletes_nobody_and_makes_nobody_young(home: Path, wrong: float) -> None:
    """Boards without a clock of their own start in 1970, and a bad battery may mean 2037."""
    clocks = Clocks()
    right = clocks.offset

    def meet_fifty(store: Peerstore) -> None:
        for number in range(1, 51):
            meet(number)(store)

    life(home, clocks, meet_fifty)
    clocks.mono += 3600.0
    clocks.offset = wrong - clocks.mono

    def is_stale_but_known(store: Peerstore) -> None:
        for number in range(1, 51):
            (known,) = store.known(peer(number))
            assert known.ttl_s <= 0 and 900.0 < known.age_s < 2 * OFF_MOST_S
        meet(99)(store)

    life(home, clocks, is_stale_but_known)
    assert in_the_book(home) == 51
    clocks.mono += 100.0
    clocks.offset = right

    def all_are_there(store: Peerstore) -> None:
        assert len(store.peers()) == 51
        assert all(store.dialable(peer(number)) == [addr(1)] for number in (*range(1, 51), 99))
        (known,) = store.known(peer(7))
        assert known.ttl_s <= 0

    life(home, clocks, all_are_there)
    assert in_the_book(home) == 51


@pytest.mark.parametrize("step_s", [-1.6e9, 4.0e8])
def test_a_clock_set_while_the_daemon_runs_changes_no_age(home: Path, step_s: float) -> None:
    clocks = Clocks()

    def meet_and_set(store: Peerstore) -> None:
        for number in range(1, 51):
            meet(number)(store)

    async def lives() -> None:
        store, book = a_life(home / "peers.db", clocks, Pace(first_s=0.0, every_s=0.0))
        meet_and_set(store)
        await until(lambda: not book._dirty and not book._saving)
        clocks.offset += step_s
        clocks.mono += 1000.0
        meet(51)(store)
        await book.close()

    asyncio.run(lives())
    assert in_the_book(home) == 51

    def ages(store: Peerstore) -> None:
        (old,), (young,) = store.known(peer(1)), store.known(peer(51))
        assert [old.age_s, young.age_s] == pytest.approx([1000.0, 0.0], abs=1.0)

    life(home, clocks, ages)


def test_a_time_of_a_wrong_clock_among_right_ones_spoils_only_itself(home: Path) -> None:
    """A daemon killed in the middle: some of its book was written by another clock."""
    clocks = Clocks()
    life(home, clocks, meet(1))
    file = AddressFile(home / "peers.db")
    wrong = StoredAddress(addr(1), Provenance.PROVED, YEAR_2037, YEAR_2037 + 900)
    file.save([StoredPeer(peer(2), None, Standing.REACHED, (wrong,))])
    file.close()
    clocks.mono += 10.0

    def ages(store: Peerstore) -> None:
        (right,), (odd,) = store.known(peer(1)), store.known(peer(2))
        assert right.age_s == pytest.approx(10.0) and right.ttl_s == pytest.approx(890.0)
        assert odd.age_s == OFF_MOST_S and odd.ttl_s <= 0

    life(home, clocks, ages)


def test_a_machine_that_was_off_for_a_month_still_knows_where_to_try(home: Path) -> None:
    clocks = Clocks()
    life(home, clocks, meet(1))
    clocks.mono += 30 * 86_400.0

    def known(store: Peerstore) -> None:
        assert store.addrs(peer(1)) == [] and store.dialable(peer(1)) == [addr(1)]

    life(home, clocks, known)


def test_standing_is_kept_and_what_is_held_comes_back_with_its_grace(home: Path) -> None:
    clocks = Clocks()

    def first(store: Peerstore) -> None:
        store.connected(ALICE, addr(1))
        store.note_forwarded(ALICE)
        store.tells(ALICE, [addr(2)], lambda _: True)
        store.add_addrs(ALICE, [addr(1)], 9e9, Provenance.HEARSAY)

    life(home, clocks, first)
    clocks.mono += 60.0

    def second(store: Peerstore) -> None:
        assert store.rank(ALICE) and not store.rank(BOB)
        assert store.known(ALICE) == [
            KnownAddress(addr(1), Provenance.PROVED, pytest.approx(60.0), pytest.approx(GRACE_S - 60)),
            KnownAddress(addr(2), Provenance.ITSELF, pytest.approx(60.0), pytest.approx(GRACE_S - 60)),
        ]

    life(home, clocks, second)


def test_nothing_to_keep_makes_neither_file_nor_thread(home: Path) -> None:
    async def life() -> None:
        before = threading.active_count()
        _, book = a_life(home / "peers.db", Clocks())
        assert book.loaded.is_set()
        assert threading.active_count() == before
        await book.close()
        await book.close()

    asyncio.run(life())
    assert list(home.iterdir()) == []


@in_virtual_time
async def test_one_that_was_not_begun_is_closed_at_once(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As where the start is refused before it: there is nothing to wait for, and nothing to say."""
    loop = asyncio.get_running_loop()
    book, before = AddressBook(home / "peers.db", Peerstore(loop.time)), loop.time()
    await book.close()
    assert loop.time() == before and caplog.text == ""


def test_a_damaged_file_is_moved_aside_with_a_warning(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = home / "peers.db"
    path.write_bytes(b"no database, but long enough to be looked at as one " * 100)

    async def life() -> None:
        store, book = a_life(path, Clocks())
        await book.loaded.wait()
        store.add_addrs(ALICE, [addr(1)], 900.0, Provenance.HEARSAY)
        await book.close()

    asyncio.run(life())
    assert caplog.text.count("WARNING") == 1
    assert f"address book {path}: file is not a database; it was moved to {path}.damaged" in caplog.text
    assert [p.peer_id for p in AddressFile(path).load()] == [ALICE]


def test_a_home_that_cannot_be_written_costs_memory_only(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def life() -> None:
        store, book = a_life(home / "no" / "peers.db", Clocks())
        store.add_addrs(ALICE, [addr(1)], 900.0, Provenance.HEARSAY)
        await book.close()
        assert store.addrs(ALICE) == [addr(1)]

    asyncio.run(life())
    assert "No such file or directory; what is learned of peers is kept in memory only" in caplog.text


def test_a_large_book_comes_back_whole(home: Path) -> None:
    peers = [peer(n) for n in range(1, 400)]

    async def first() -> None:
        store, book = a_life(home / "peers.db", Clocks())
        for who in peers:
            store.add_addrs(who, [addr(1), addr(2)], 900.0, Provenance.ITSELF)
        await book.close()

    async def second() -> None:
        store, book = a_life(home / "peers.db", Clocks())
        await book.loaded.wait()
        assert sorted(store.peers()) == sorted(peers)
        assert all(len(store.addrs(who)) == 2 for who in peers)
        await book.close()

    asyncio.run(first())
    asyncio.run(second())


def test_what_the_book_needs_is_imported_when_it_is_used() -> None:
    """sqlite3 is 1.6 MB of a daemon that may never meet anybody."""
    script = "import sys, p2pfwd.daemon.node; sys.exit('sqlite3' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
