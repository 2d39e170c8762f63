"""An address book with clocks that tests set, and shorthand for peers and addresses."""

from __future__ import annotations

from pathlib import Path

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.peers.book import AddressBook, Pace
from p2pfwd.peers.store import Peerstore
from tests.support.peers import peer

NEVER = Pace(first_s=3600.0)


def addr(number: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{number}")


ALICE, BOB = peer(1), peer(2)


class Clocks:
    """A monotonic clock and a wall clock that go together, unless somebody sets one."""

    def __init__(self, wall: float = 1_700_000_000.0) -> None:
        self.mono, self.offset = 500.0, wall

    def wall(self) -> float:
        return self.mono + self.offset


def a_life(path: Path, clocks: Clocks, pace: Pace = NEVER) -> tuple[Peerstore, AddressBook]:
    store = Peerstore(lambda: clocks.mono)
    book = AddressBook(path, store, pace, clocks.wall)
    book.start()
    return store, book
