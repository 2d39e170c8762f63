"""A peerstore with a clock that tests set, and the changes it told of."""

from __future__ import annotations

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.peers.store import Peerstore
from tests.support.peers import peer


def addr(number: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{number}")


ALICE, BOB = peer(1), peer(2)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A peerstore with a clock of its own, and the peers it told changes of."""

    def __init__(self, max_peers: int = 4096, max_addresses: int = 32_768) -> None:
        self.clock = Clock()
        self.store = Peerstore(self.clock, max_peers, max_addresses)
        self.told: list[PeerId] = []
        self.store.on_change(self.told.append)

    def changes(self) -> list[PeerId]:
        told, self.told[:] = list(self.told), []
        return told
