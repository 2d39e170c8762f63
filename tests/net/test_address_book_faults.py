"""The address book in processes that are killed in the middle of a write, and on a disk that is full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from p2pfwd.peers.book_file import AddressFile

PEERS = 64

COMMON = f"""
import asyncio, itertools, resource, sys
from pathlib import Path
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.peers.book import AddressBook, Pace
from p2pfwd.peers.book_file import AddressFile, StoredAddress, StoredPeer
from p2pfwd.peers.store import Peerstore
from p2pfwd.policy.provenance import Provenance, Standing

path = Path(sys.argv[1])
peers = [PeerId(b"\\0\\x24\\x08\\x01\\x12\\x20" + n.to_bytes(32, "big")) for n in range({PEERS})]
addr = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
"""

WRITE_FOR_EVER = """
file = AddressFile(path)
for generation in itertools.count(1):
    one = StoredAddress(addr, Provenance.ITSELF, float(generation), float(generation))
    file.save([StoredPeer(peer, str(generation), Standing.MET, (one,)) for peer in peers])
    print(generation, flush=True)
"""

FILL_THE_DISK = """
async def main():
    store = Peerstore()
    book = AddressBook(path, store, Pace(first_s=0.0, every_s=0.0, retry_s=0.01))
    book.start()
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
    for number, peer in enumerate(peers):
        addrs = [Multiaddr.parse(f"/dns/a-rather-long-name-{n}.example.org/tcp/{n}") for n in range(1, 17)]
        store.add_addrs(peer, addrs, 900.0, Provenance.HEARSAY)
    while book.failure is None:
        await asyncio.sleep(0.005)
    print(book.failure, flush=True)
    assert len(store.addrs(peers[0])) == 16
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    while book.failure is not None:
        await asyncio.sleep(0.005)
    await book.close()

asyncio.run(main())
"""

TAKE_ALL_DESCRIPTORS = """
async def main():
    store = Peerstore()
    book = AddressBook(path, store, Pace(first_s=0.0, every_s=0.0, retry_s=0.01))
    book.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # not even sqlite can be loaded
    for peer in peers:
        store.add_addrs(peer, [addr], 900.0, Provenance.HEARSAY)
    while book.failure is None:
        await asyncio.sleep(0.005)
    print(book.failure, flush=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    while book.failure is not None:
        await asyncio.sleep(0.005)
    await book.close()

asyncio.run(main())
"""


def start(script: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", COMMON + script, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_in_the_middle_of_writing_it_has_a_whole_generation(home: Path) -> None:
    path = home / "peers.db"
    for wanted in (1, 7, 30):
        with start(WRITE_FOR_EVER, path) as process:
            assert process.stdout is not None
            told = 0
            while told < wanted:
                told = int(process.stdout.readline())
            process.kill()
            told = max([told, *map(int, process.stdout.read().split())])
        file = AddressFile(path)
        loaded = file.load()
        file.close()
        assert len(loaded) == PEERS
        (generation,) = {peer.agent for peer in loaded}
        assert generation is not None and told <= int(generation) <= told + 1


def test_out_of_descriptors_it_waits_and_is_written_later(home: Path) -> None:
    # FAULTS F10: the book's thread died of it, and nothing was written in that daemon's life.
    path = home / "peers.db"
    with start(TAKE_ALL_DESCRIPTORS, path) as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert out.startswith(f"address book {path}: ") and "Traceback" not in err
    file = AddressFile(path)
    assert len(file.load()) == PEERS
    file.close()


def test_a_full_disk_costs_memory_only_until_there_is_room(home: Path) -> None:
    path = home / "peers.db"
    with start(FILL_THE_DISK, path) as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert out.startswith(f"address book {path}: ")
    assert err.count("what is learned of peers is kept in memory only") == 1  # logging's last resort: stderr
    assert "damaged" not in err and not path.with_name("peers.db.damaged").exists()
    file = AddressFile(path)
    assert len(file.load()) == PEERS
    file.close()
