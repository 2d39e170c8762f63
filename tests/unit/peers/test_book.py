"""net.address_book: what was known is known again after a restart, and a bad file is no bad start."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from p2pfwd.peers import book as module
from p2pfwd.peers.book_file import AddressFile
from p2pfwd.peers.store import STALE_S, KnownAddress
from tests.unit.peers.book_rig import ALICE, BOB, Clocks, a_life, addr, peer


def test_what_was_known_is_known_again_with_its_age(home: Path) -> None:
    clocks = Clocks()

    async def first() -> None:
        store, book = a_life(home / "peers.db", clocks)
        await book.loaded.wait()
        store.add_addrs(ALICE, [addr(1)], 900.0, "connected")
        store.identified(ALICE, "kubo/0.22", [])
        clocks.mono += 100
        store.add_addrs(BOB, [addr(2)], 900.0, "dht")
        await book.close()

    async def second() -> None:
        store, book = a_life(home / "peers.db", clocks)
        store.add_addrs(BOB, [addr(3)], 60.0, "given")
        await book.loaded.wait()
        assert store.agent(ALICE) == "kubo/0.22"
        (known,) = store.known(ALICE)
        assert (known.addr, known.source) == (addr(1), "connected")
        assert [known.age_s, known.ttl_s] == pytest.approx([1100, -200])
        assert store.addrs(ALICE) == [] and store.dialable(ALICE) == [addr(1)]
        assert store.addrs(BOB) == [addr(3)]
        assert {known.addr for known in store.known(BOB)} == {addr(2), addr(3)}
        await book.close()

    asyncio.run(first())
    clocks.mono += 1000
    asyncio.run(second())
    clocks.mono += STALE_S

    async def much_later() -> None:
        store, book = a_life(home / "peers.db", clocks)
        await book.loaded.wait()
        assert store.dialable(ALICE) == []
        await book.close()

    asyncio.run(much_later())


@pytest.mark.parametrize("step_s", [-3.0e8, 3.0e5])
def test_a_clock_that_was_set_makes_no_address_live_for_ever(home: Path, step_s: float) -> None:
    clocks = Clocks()

    async def first() -> None:
        store, book = a_life(home / "peers.db", clocks)
        store.add_addrs(ALICE, [addr(1)], 900.0, "connected")
        await book.close()

    async def second() -> KnownAddress:
        store, book = a_life(home / "peers.db", clocks)
        await book.loaded.wait()
        await book.close()
        return store.known(ALICE)[0]

    asyncio.run(first())
    clocks.offset += step_s
    known = asyncio.run(second())
    assert 0 <= known.age_s <= STALE_S and known.ttl_s <= module.MAX_TTL_S


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


def test_a_damaged_file_is_moved_aside_with_a_warning(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = home / "peers.db"
    path.write_bytes(b"no database, but long enough to be looked at as one " * 100)

    async def life() -> None:
        store, book = a_life(path, Clocks())
        await book.loaded.wait()
        store.add_addrs(ALICE, [addr(1)], 900.0, "dht")
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
        store.add_addrs(ALICE, [addr(1)], 900.0, "dht")
        await book.close()
        assert store.addrs(ALICE) == [addr(1)]

    asyncio.run(life())
    assert "No such file or directory; what is learned of peers is kept in memory only" in caplog.text


def test_a_large_book_comes_back_whole(home: Path) -> None:
    peers = [peer(n) for n in range(1, 400)]

    async def first() -> None:
        store, book = a_life(home / "peers.db", Clocks())
        for who in peers:
            store.add_addrs(who, [addr(1), addr(2)], 900.0, "identify")
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
