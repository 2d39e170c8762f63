"""peers.book_file: what is stored comes back, within bounds; what is broken, foreign or newer is told."""

from __future__ import annotations

import gc
import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from weakref import ref

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import StorageFailed
from p2pfwd.peers.book_file import (
    MAX_AGENT_CHARS,
    MAX_DHTS_CHARS,
    MAX_FILE_BYTES,
    MAX_STORED_ADDRESSES,
    MAX_STORED_PEERS,
    AddressFile,
    StoredAddress,
    StoredPeer,
)
from p2pfwd.peers.store import MAX_ADDRESS_BYTES
from p2pfwd.policy.provenance import Provenance, Standing
from p2pfwd.state.database import DamagedFile
from tests.support.peers import peer


def stored(
    port: int, seen: float = 1000.0, source: Provenance = Provenance.ITSELF, host: str = "192.0.2.1"
) -> StoredAddress:
    text = f"/ip4/{host}/tcp/{port}" if host[0].isdigit() else f"/dns/{host}/tcp/{port}"
    return StoredAddress(Multiaddr.parse(text), source, seen, seen + 900)


FOUND = stored(2, 1001.0, Provenance.PROVED)
DHTS = ("/ipfs/kad/1.0.0", "/p2pfwd/kad/1.0.0 0123abcd")
ALICE = StoredPeer(peer(1), "p2pfwd/0.1", Standing.REACHED, (stored(1, 1002.0), FOUND), DHTS)
BOB = StoredPeer(peer(2), None, Standing.HEARD_OF, (stored(3, 1003.0, Provenance.HEARSAY),))


@pytest.fixture
def file(home: Path) -> Iterator[AddressFile]:
    made = AddressFile(home / "peers.db")
    yield made
    made.close()


def test_what_was_saved_comes_back_the_latest_seen_first(file: AddressFile) -> None:
    file.save([ALICE, BOB])
    assert file.load() == [BOB, ALICE]
    file.close()
    assert file.load() == [BOB, ALICE]


def test_saving_a_peer_again_replaces_it_and_one_without_addresses_is_removed(file: AddressFile) -> None:
    file.save([ALICE, BOB])
    less = StoredPeer(ALICE.peer_id, "kubo/0.22", Standing.REACHED, ALICE.addrs[:1])
    file.save([less, StoredPeer(BOB.peer_id, None, Standing.HEARD_OF, ())])
    assert file.load() == [less]


def test_nothing_is_made_by_reading(file: AddressFile, home: Path) -> None:
    assert file.load() == [] and list(home.iterdir()) == []


def test_the_file_is_its_owners_alone(file: AddressFile, home: Path) -> None:
    file.save([ALICE])
    assert {stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()} == {0o600}
    assert sorted(path.name for path in home.iterdir()) == ["peers.db", "peers.db-wal"]
    file.close()
    assert [path.name for path in home.iterdir()] == ["peers.db"]


def test_no_symbolic_link_is_followed(file: AddressFile, home: Path) -> None:
    file.path.symlink_to(home / "elsewhere")
    with pytest.raises(StorageFailed, match="symbolic link"):
        file.save([ALICE])


def count(file: AddressFile, table: str) -> int:
    file.close()
    db = sqlite3.connect(file.path)
    try:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    finally:
        db.close()


def test_peers_are_bounded_and_those_of_the_best_standing_stay(file: AddressFile) -> None:
    """What is forgotten first is what memory forgets first: whom one only heard of."""
    own = [StoredPeer(peer(n), None, Standing.OWN, (stored(1, float(n)),)) for n in range(50)]
    met = [StoredPeer(peer(n), "x", Standing.MET, (stored(1, float(n)),)) for n in range(50, 100)]
    heard_of = [
        StoredPeer(peer(n), None, Standing.HEARD_OF, (stored(1, float(n), Provenance.HEARSAY),))
        for n in range(100, MAX_STORED_PEERS + 200)
    ]
    file.save([*own, *met])
    file.save(heard_of)
    loaded = file.load()
    assert len(loaded) == MAX_STORED_PEERS
    assert loaded[-100:] == list(reversed([*own, *met]))
    assert loaded[0] == heard_of[-1]
    assert count(file, "addresses") == MAX_STORED_PEERS
    file.save([StoredPeer(peer(n), "x", Standing.MET, (stored(1, 2e9),)) for n in range(3000, 5000)])
    assert {one.peer_id for one in own} <= {one.peer_id for one in file.load()}


def test_what_was_given_or_proved_is_not_cut_by_younger_hearsay(file: AddressFile) -> None:
    founded = [stored(1, 5.0, Provenance.PROVED), stored(2, 1.0, Provenance.GIVEN)]
    lies = [stored(n, 9000.0, Provenance.HEARSAY) for n in range(100, 200)]
    file.save([StoredPeer(peer(1), None, Standing.OWN, (*lies, *founded))])
    (loaded,) = file.load()
    assert len(loaded.addrs) == MAX_STORED_ADDRESSES and set(founded) <= set(loaded.addrs)


def test_a_book_of_an_older_version_is_understood(file: AddressFile) -> None:
    """Its sources had other names, and of a peer it knew only whether it had been connected."""
    file.save([ALICE])
    file.close()
    db = sqlite3.connect(file.path)
    for port, source in ((1, "identify"), (2, "connected")):
        db.execute(
            "UPDATE addresses SET source = ? WHERE address = ?", (source, stored(port).addr.to_bytes())
        )
    db.execute("UPDATE peers SET was_connected = 1")
    db.execute(
        "INSERT INTO addresses VALUES (?, ?, 'resolved', 1.0, 2.0)",
        (ALICE.peer_id.to_bytes(), stored(3).addr.to_bytes()),
    )
    db.commit()
    db.close()
    (loaded,) = file.load()
    assert loaded.standing is Standing.MET
    assert [a.provenance for a in loaded.addrs] == [Provenance.ITSELF, Provenance.PROVED, Provenance.HEARSAY]


OLD_FORM = """
    CREATE TABLE peers (id BLOB PRIMARY KEY, agent TEXT, was_connected INTEGER NOT NULL, seen REAL NOT NULL)
        WITHOUT ROWID;
    CREATE TABLE addresses (peer BLOB NOT NULL, address BLOB NOT NULL, source TEXT NOT NULL,
        seen REAL NOT NULL, expires REAL NOT NULL, PRIMARY KEY (peer, address)) WITHOUT ROWID;
    PRAGMA user_version = 1;
"""


def test_a_book_of_the_first_form_is_brought_to_this_one(file: AddressFile) -> None:
    """Who served the DHT was not written down then: nothing is lost, and it is from now on."""
    db = sqlite3.connect(file.path)
    db.executescript(OLD_FORM)
    db.execute("INSERT INTO peers VALUES (?, 'kubo/0.22', 2, 7.0)", (ALICE.peer_id.to_bytes(),))
    address = (ALICE.peer_id.to_bytes(), FOUND.addr.to_bytes(), FOUND.seen, FOUND.expires)
    db.execute("INSERT INTO addresses VALUES (?, ?, 'proved', ?, ?)", address)
    db.commit()
    db.close()
    assert file.load() == [StoredPeer(ALICE.peer_id, "kubo/0.22", Standing.REACHED, (FOUND,))]
    file.save([ALICE])
    file.close()
    assert file.load() == [ALICE]


def test_a_form_that_cannot_be_brought_forward_is_damaged_and_stays_as_it_was(file: AddressFile) -> None:
    db = sqlite3.connect(file.path)
    db.executescript("CREATE TABLE whatever (x TEXT); PRAGMA user_version = 1;")
    db.close()
    with pytest.raises(DamagedFile, match="no such table: peers"):
        file.load()
    assert count(file, "whatever") == 0
    db = sqlite3.connect(file.path)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    db.close()


def test_the_names_of_dhts_are_bounded(file: AddressFile) -> None:
    many = tuple(f"/{n}/{'x' * 300}" for n in range(10))
    file.save([replace(ALICE, dhts=many)])
    (loaded,) = file.load()
    assert loaded.dhts == many[:3] and sum(map(len, loaded.dhts)) <= MAX_DHTS_CHARS


def test_addresses_agents_and_bytes_are_bounded(file: AddressFile) -> None:
    long = StoredAddress(
        Multiaddr.parse(f"/dns/{'a' * MAX_ADDRESS_BYTES}/tcp/1"), Provenance.HEARSAY, 9999.0, 9999.0
    )
    addrs = tuple(stored(n, float(n)) for n in range(1, 100))
    file.save([StoredPeer(peer(1), "é" * 1000, Standing.MET, (*addrs, long))])
    (loaded,) = file.load()
    assert loaded.agent == "é" * MAX_AGENT_CHARS
    assert loaded.addrs == tuple(reversed(addrs))[:MAX_STORED_ADDRESSES]


def test_the_fullest_book_fits_the_bound_in_bytes(file: AddressFile, home: Path) -> None:
    host = ".".join(["a" * 60] * 8)
    for start in range(0, MAX_STORED_PEERS, 100):
        full = [
            StoredPeer(
                peer(n),
                "é" * MAX_AGENT_CHARS,
                Standing.MET,
                tuple(
                    stored(port, 1000.0, Provenance.ITSELF, host)
                    for port in range(10001, 10001 + MAX_STORED_ADDRESSES)
                ),
            )
            for n in range(start, start + 100)
        ]
        assert MAX_ADDRESS_BYTES - 30 < len(full[0].addrs[0].addr.to_bytes()) <= MAX_ADDRESS_BYTES
        file.save(full)
    assert len(file.load()) == MAX_STORED_PEERS
    file.close()
    assert sum(path.stat().st_size for path in home.iterdir()) < MAX_FILE_BYTES * 0.75


@pytest.mark.parametrize("damage", ["garbage", "torn", "foreign", "header"])
def test_a_damaged_file_is_told_and_can_be_set_aside(file: AddressFile, home: Path, damage: str) -> None:
    file.save([StoredPeer(peer(n), "x", Standing.MET, (stored(1),)) for n in range(200)])
    file.close()
    data = file.path.read_bytes()
    if damage == "garbage":
        file.path.write_bytes(os.urandom(8192))
    elif damage == "torn":
        file.path.write_bytes(data[: len(data) // 2])
    elif damage == "header":
        file.path.write_bytes(b"\0" * 100 + data[100:])
    else:
        file.path.unlink()
        db = sqlite3.connect(file.path)
        db.executescript("CREATE TABLE peers (whatever TEXT); PRAGMA user_version = 1;")
        db.close()
    with pytest.raises(DamagedFile, match=r"address book .*peers\.db: "):
        file.load()
    aside = file.set_aside()
    assert aside == home / "peers.db.damaged" and aside.exists()
    assert file.load() == []
    file.save([ALICE])
    assert file.load() == [ALICE]


def test_a_foreign_database_of_no_version_is_damaged_too(file: AddressFile) -> None:
    db = sqlite3.connect(file.path)
    db.execute("CREATE TABLE peers (whatever TEXT)")
    db.close()
    with pytest.raises(DamagedFile, match="peers already exists"):
        file.save([ALICE])


def test_a_newer_form_is_left_alone(file: AddressFile) -> None:
    file.save([ALICE])
    file.close()
    db = sqlite3.connect(file.path)
    db.execute("PRAGMA user_version = 3")
    db.close()
    for work in (file.load, lambda: file.save([BOB])):
        with pytest.raises(StorageFailed, match="a newer version of p2pfwd") as caught:
            work()
        assert not isinstance(caught.value, DamagedFile)
    assert count(file, "peers") == 1


def test_rows_that_make_no_sense_are_left_out(file: AddressFile) -> None:
    file.save([ALICE, BOB])
    file.close()
    db = sqlite3.connect(file.path)
    bob = BOB.peer_id.to_bytes()
    alice = ALICE.peer_id.to_bytes()
    db.execute("INSERT INTO addresses VALUES (?, x'ffff', 'dht', 1.0, 1.0)", (bob,))
    db.execute("INSERT INTO addresses VALUES (?, ?, 'dht', 'soon', 1.0)", (bob, stored(9).addr.to_bytes()))
    db.execute("INSERT INTO addresses VALUES (x'00', ?, 'dht', 1.0, 1.0)", (stored(9).addr.to_bytes(),))
    db.execute("INSERT INTO peers VALUES (x'00', NULL, 0, 5000.0, '')")
    db.execute("UPDATE peers SET agent = CAST(x'ff41' AS TEXT) WHERE id = ?", (alice,))
    db.commit()
    db.close()
    assert file.load() == [BOB, StoredPeer(ALICE.peer_id, "�A", Standing.REACHED, ALICE.addrs, DHTS)]


def test_a_book_in_somebodys_hands_is_no_damage(file: AddressFile) -> None:
    file.save([ALICE])
    file.close()
    db = sqlite3.connect(file.path, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageFailed, match="locked") as caught:
        file.save([BOB])
    assert not isinstance(caught.value, DamagedFile)
    db.rollback()
    db.close()
    file.save([BOB])
    assert file.load() == [BOB, ALICE]


def test_a_failed_save_changes_nothing(file: AddressFile) -> None:
    file.save([ALICE])

    def halfway() -> Iterator[StoredPeer]:
        yield BOB
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        file.save(halfway())
    assert file.load() == [ALICE]


def test_what_was_saved_in_a_flood_leaves_nothing_in_memory(file: AddressFile) -> None:
    """sqlite3 remembers the last two hundred cursors, and kept some of a flood's memory with each."""

    def references() -> int:
        gc.collect()
        return sum(type(it) is ref for it in gc.get_objects())

    file.save([ALICE])
    before = references()
    file.save([replace(ALICE, peer_id=peer(n)) for n in range(30)])
    assert references() <= before + 1
