"""net.peerstore: lives of addresses, what is stale, bounds, and who is told of a change."""

from __future__ import annotations

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.peers.store import (
    GIVEN,
    MAX_ADDRESSES_PER_PEER,
    MAX_SERVED,
    SEEN_STEP_S,
    SERVED_PROOF_S,
    STALE_S,
    KnownAddress,
    Peerstore,
)


def peer(number: int) -> PeerId:
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big"))


def addr(number: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{number}")


ALICE, BOB = peer(1), peer(2)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A peerstore with a clock of its own, and the peers it told changes of."""

    def __init__(self, max_peers: int = 4096) -> None:
        self.clock = Clock()
        self.store = Peerstore(self.clock, max_peers)
        self.told: list[PeerId] = []
        self.store.on_change(self.told.append)

    def changes(self) -> list[PeerId]:
        told, self.told[:] = list(self.told), []
        return told


def test_only_what_the_owner_said_is_trusted() -> None:
    store = Peerstore()
    peer = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(31) + b"\x07")
    given, told, pinned = (Multiaddr.parse(f"/dns4/{name}.example/tcp/1") for name in ("a", "b", "c"))
    store.add_addrs(peer, [given], 100, "given")
    store.add_addrs(peer, [told], 100, "identify")
    assert not store.is_trusted(peer, pinned)
    store.pin(peer, [pinned], "named")
    assert [store.is_trusted(peer, addr) for addr in (given, told, pinned)] == [True, False, True]
    assert store.is_trusted(peer, given.with_peer_id(peer))


def test_an_address_lives_its_time_and_is_then_stale_but_dialable() -> None:
    it = Watched()
    it.store.add_addrs(ALICE, [addr(1).with_peer_id(ALICE)], 10.0, "given")
    assert it.store.addrs(ALICE) == it.store.dialable(ALICE) == [addr(1)]
    it.clock.now += 11
    assert it.store.addrs(ALICE) == []
    assert it.store.dialable(ALICE) == [addr(1)]
    assert it.store.known(ALICE) == [KnownAddress(addr(1), "given", 11.0, -1.0)]
    it.clock.now += STALE_S
    assert it.store.dialable(ALICE) == [] and it.store.known(ALICE) == []


def test_stale_addresses_stay_out_while_there_is_a_better_one() -> None:
    it = Watched()
    it.store.add_addrs(ALICE, [addr(1)], 10.0, "given")
    it.clock.now += 11
    it.store.add_addrs(ALICE, [addr(2)], 10.0, "given")
    assert it.store.dialable(ALICE) == [addr(2)]
    it.store.unpin(ALICE, "t")
    it.store.pin(ALICE, [addr(3)], "t")
    assert it.store.dialable(ALICE) == [addr(3), addr(2)]


def test_a_longer_life_is_not_shortened_by_a_shorter_one() -> None:
    it = Watched()
    it.store.add_addrs(ALICE, [addr(1)], 100.0, "given")
    it.store.add_addrs(ALICE, [addr(1)], 1.0, "identify")
    it.clock.now += 50
    assert it.store.addrs(ALICE) == [addr(1)]


def test_observers_are_told_of_news_and_not_of_repetitions() -> None:
    it = Watched()
    it.store.add_addrs(ALICE, [addr(1), addr(2)], 10.0, "given")
    assert it.changes() == [ALICE]
    it.store.add_addrs(ALICE, [addr(1)], 10.0, "given")
    it.store.add_addrs(ALICE, [], 10.0, "given")
    assert it.changes() == []
    it.clock.now += SEEN_STEP_S
    it.store.add_addrs(ALICE, [addr(1)], 10.0, "given")
    assert it.changes() == [ALICE]
    it.store.add_addrs(ALICE, [addr(1)], 10.0, "connected")
    assert it.changes() == [ALICE]


def test_observers_are_told_of_agents_pins_and_drops() -> None:
    it = Watched()
    it.store.identified(ALICE, "p2pfwd/1", ["/x/a"])
    it.store.identified(ALICE, "p2pfwd/1", ["/x/b"])
    assert it.changes() == [ALICE]
    it.store.pin(BOB, [addr(1)], "t")
    it.store.unpin(BOB, "t")
    it.store.unpin(BOB, "t")
    assert it.changes() == [BOB, BOB]
    it.store.drop_addr(ALICE, addr(1))
    assert it.changes() == []
    it.store.add_addrs(ALICE, [addr(1)], 10.0, "given")
    it.store.drop_addr(ALICE, addr(1))
    assert it.changes() == [ALICE, ALICE]


def test_restored_addresses_have_their_age_and_give_way_to_what_is_known_already() -> None:
    it = Watched()
    it.store.add_addrs(ALICE, [addr(1)], 10.0, "given")
    old = [KnownAddress(addr(n), "connected", 3600.0, -2700.0) for n in (1, 2)]
    old.append(KnownAddress(addr(3), "connected", STALE_S + 1, -STALE_S))
    it.store.restore(ALICE, old, "kubo/0.22")
    assert it.store.agent(ALICE) == "kubo/0.22"
    assert it.store.known(ALICE) == [KnownAddress(addr(1), "given", 0.0, 10.0), old[1]]
    it.store.identified(BOB, "p2pfwd/1", [])
    it.store.restore(BOB, [], "kubo/0.22")
    assert it.store.agent(BOB) == "p2pfwd/1"


def test_addresses_and_peers_are_bounded() -> None:
    it = Watched(max_peers=3)
    it.store.add_addrs(ALICE, map(addr, range(1, 200)), 10.0, "dht")
    assert len(it.store.addrs(ALICE)) == MAX_ADDRESSES_PER_PEER
    it.store.pin(ALICE, [addr(1)], "t")
    for number in range(2, 10):
        it.store.add_addrs(peer(number), [addr(1)], 10.0, "dht")
    assert it.store.peers() == [ALICE, peer(8), peer(9)]  # the pinned one stays


# --- whose peers they are -------------------------------------------------------------------------


def test_ones_own_are_pinned_given_and_forwarded_to_and_not_whoever_came_or_was_dialed() -> None:
    it = Watched()
    came, dialed, heard_of, named, given, forwarded = map(peer, range(10, 16))
    it.store.connected(came, None)
    it.store.connected(dialed, addr(1))
    it.store.add_addrs(heard_of, [addr(1)], 10.0, "dht")
    it.store.pin(named, [], "named")
    it.store.add_addrs(given, [addr(1)], 10.0, GIVEN)
    it.store.note_forwarded(forwarded)
    everybody = (came, dialed, heard_of, named, given, forwarded, peer(99))
    assert [who for who in everybody if it.store.is_own(who)] == [named, given, forwarded]
    it.store.unpin(named, "named")
    assert not it.store.is_own(named)


def test_who_was_served_is_ones_own_an_hour_later_and_a_flood_of_others_takes_no_place() -> None:
    it = Watched()
    for number in range(MAX_SERVED):
        it.store.note_served(peer(number))
    assert not it.store.is_own(peer(0))
    it.clock.now += SERVED_PROOF_S
    assert it.store.is_own(peer(0))
    it.store.note_served(peer(0))
    it.store.note_served(peer(1000))
    it.clock.now += STALE_S + 1
    assert it.store.is_own(peer(0)) and not it.store.is_own(peer(1000))
    it.store.note_served(peer(1000))
    it.clock.now += SERVED_PROOF_S
    assert it.store.is_own(peer(1000)), "whoever was not seen for days has made room"
