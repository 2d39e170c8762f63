"""peers.store: whatever strangers say, and whenever, nothing is different of what is better founded."""

from __future__ import annotations

from collections.abc import Container, Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfwd.core.multiaddrs import Multiaddr, is_relayed
from p2pfwd.core.peer_id import PeerId
from p2pfwd.peers.store import Peerstore
from p2pfwd.policy.dial_plan import Candidate, plan
from p2pfwd.policy.provenance import Provenance

PEERS = [PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([n]) * 32) for n in range(3)]
ADDRS = [
    Multiaddr.parse(f"/ip{version}/{host}/tcp/{port}")
    for version, host in ((4, "127.0.0.1"), (4, "192.168.1.7"), (4, "1.2.3.4"), (6, "2a00::7"))
    for port in range(1, 12)
]
ADDRS += [Multiaddr.parse(f"/ip4/1.2.3.4/tcp/{port}/p2p/{PEERS[0]}/p2p-circuit") for port in range(1, 25)]
BETTER = [Provenance.GIVEN, Provenance.PROVED, Provenance.ITSELF]

who, where = st.sampled_from(PEERS), st.sampled_from(ADDRS)
addrs = st.lists(where, max_size=40, unique=True)
waits = st.tuples(st.just("wait"), st.sampled_from([1.0, 100.0, 1000.0, 86_400.0, 400_000.0]))
founded = st.one_of(
    st.tuples(st.just("add"), who, addrs, st.sampled_from([1.0, 900.0]), st.sampled_from(BETTER)),
    st.tuples(st.just("tells"), who, addrs),
    st.tuples(st.just("connected"), who, st.one_of(st.none(), where)),
    st.tuples(st.just("disconnected"), who),
    st.tuples(st.just("pin"), who, st.lists(where, max_size=2)),
    st.tuples(st.just("unpin"), who),
    st.tuples(st.just("refute"), who, where),
    waits,
)
lies = st.tuples(st.just("add"), who, addrs, st.sampled_from([1.0, 1e9]), st.just(Provenance.HEARSAY))


def dues(candidates: Iterable[Candidate], better: Container[Multiaddr]) -> dict[Multiaddr, float]:
    """When these of the candidates would be dialed.

    Of circuits: how long after the first of them, which goes a moment after any direct address.
    """
    planned = plan(candidates)
    begin_s = min((dial.delay_s for dial in planned if is_relayed(dial.addr)), default=0.0)
    return {
        dial.addr: round(dial.delay_s - begin_s * is_relayed(dial.addr), 6)
        for dial in planned
        if dial.addr in better
    }


class World:
    """A store and its clock, and what may happen to it."""

    def __init__(self) -> None:
        self.now = 1e6
        self.store = Peerstore(lambda: self.now)

    def do(self, what: str, *about: object) -> None:
        store = self.store
        calls = {
            "add": store.add_addrs,
            "tells": lambda peer, told: store.tells(peer, told, lambda _: True),
            "connected": store.connected,
            "disconnected": store.disconnected,
            "pin": lambda peer, given: store.pin(peer, given, "t"),
            "unpin": lambda peer: store.unpin(peer, "t"),
            "refute": store.refute_addr,
            "wait": self.wait,
        }
        calls[what](*about)  # type: ignore[operator]

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def founded(self, peer: PeerId) -> object:
        """All that is known of a peer by better than hearsay, and when it would be dialed there."""
        candidates = self.store.candidates(peer, self.store.dialable(peer))
        better = {each.addr for each in candidates if each.provenance < Provenance.HEARSAY}
        due = dues(candidates, better)
        trusted = {addr for addr in ADDRS if self.store.is_trusted(peer, addr)}
        standing = self.store.standing(peer), self.store.rank(peer)
        return {each for each in candidates if each.addr in better}, due, trusted, standing


@settings(max_examples=100)
@given(events=st.lists(st.tuples(st.booleans(), founded, lies), max_size=25))
def test_what_is_better_founded_is_as_if_nobody_had_lied(events: list) -> None:  # type: ignore[type-arg]
    honest, lied_to = World(), World()
    for is_lie, event, lie in events:
        if is_lie:
            lied_to.do(*lie)
        else:
            honest.do(*event)
            lied_to.do(*event)
        for peer in PEERS:
            assert lied_to.founded(peer) == honest.founded(peer)
    held = sum(len(lied_to.store.known(peer)) for peer in PEERS)
    assert lied_to.store._addresses == held


@given(
    founded=st.dictionaries(where, st.sampled_from(BETTER), max_size=40),
    told=st.lists(where, min_size=30, unique=True),
)
def test_hearsay_changes_nothing_of_when_better_founded_addresses_and_circuits_are_dialed(
    founded: dict[Multiaddr, Provenance], told: list[Multiaddr]
) -> None:
    better = [Candidate(addr, provenance) for addr, provenance in founded.items()]
    lied = [Candidate(addr, Provenance.HEARSAY) for addr in told]
    assert dues([*better, *lied], founded) == dues(better, founded)
