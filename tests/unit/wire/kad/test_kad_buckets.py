"""wire.kad.buckets: order, unfolding, replacements, suspects, diversity, nearness, revalidation, refresh."""

from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from random import Random

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire.kad.buckets import MAX_FAILURES, OUTAGE_FAILURES, Admission, Eviction, RoutingTable
from p2pfwd.wire.kad.diversity import DiversityLimits
from p2pfwd.wire.kad.keys import common_prefix_length, key_of, key_of_peer

LAN = Multiaddr.parse("/ip4/192.168.1.5/tcp/4001")


def peer(number: int) -> PeerId:
    return PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32, "big"))


LOCAL = peer(0)
LOCAL_KEY = key_of_peer(LOCAL)


def cpl_of(peer_id: PeerId) -> int:
    return common_prefix_length(LOCAL_KEY, key_of_peer(peer_id))


def peers_at(cpl: int) -> Iterator[PeerId]:
    return (one for one in map(peer, count(1)) if cpl_of(one) == cpl)


def some(cpl: int, number: int) -> list[PeerId]:
    return list(islice(peers_at(cpl), number))


def in_net(net: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/11.{net}.0.1/tcp/4001")


@pytest.fixture
def table() -> RoutingTable:
    """A small one that does not count networks."""
    return RoutingTable(LOCAL, limits=None, bucket_size=4, replacement_size=2)


@pytest.fixture
def wan() -> RoutingTable:
    return RoutingTable(LOCAL, limits=DiversityLimits(), bucket_size=4, replacement_size=3)


def fill(table: RoutingTable, peers: list[PeerId], start: float = 0.0) -> list[Admission]:
    return [table.add(one, LAN, start + index) for index, one in enumerate(peers)]


# --- order and unfolding --------------------------------------------------------------------------


def test_entries_stand_least_recently_seen_first(table: RoutingTable) -> None:
    a, b, c = some(0, 3)
    fill(table, [a, b, c])
    assert table.seen(a, 10.0)
    assert table.add(b, LAN, 11.0) is Admission.KNOWN
    assert list(table) == [c, a, b]
    assert not table.seen(peer(999), 12.0)


def test_we_are_not_in_our_own_table(table: RoutingTable) -> None:
    assert table.add(LOCAL, LAN, 0.0) is Admission.OURSELVES
    assert not table.wants(LOCAL, LAN)
    assert len(table) == 0


def test_a_full_last_bucket_unfolds_until_there_is_room(table: RoutingTable) -> None:
    near = some(3, 4)
    assert set(fill(table, near)) == {Admission.ADDED}
    assert [(b.cpl, b.last, len(b.entries)) for b in table.snapshot()] == [(0, True, 4)]
    (deeper,) = some(5, 1)
    assert table.add(deeper, LAN, 10.0) is Admission.ADDED
    assert [len(b.entries) for b in table.snapshot()] == [0, 0, 0, 4, 1]
    assert [b.last for b in table.snapshot()] == [False] * 4 + [True]
    assert list(table) == [*near, deeper]


def test_a_far_peer_finds_its_bucket_after_the_nearer_ones_unfolded(table: RoutingTable) -> None:
    fill(table, some(2, 4))
    (far,) = some(0, 1)
    assert table.add(far, LAN, 9.0) is Admission.ADDED
    assert [len(b.entries) for b in table.snapshot()] == [1, 4]


# --- replacements and failures --------------------------------------------------------------------


def test_a_full_bucket_keeps_the_latest_newcomers_as_replacements(table: RoutingTable) -> None:
    peers = some(0, 7)
    assert fill(table, peers) == [Admission.ADDED] * 4 + [Admission.REPLACEMENT] * 3
    assert table.snapshot()[0].replacements == tuple(peers[5:])
    assert peers[6] not in table
    assert not table.wants(peers[6], LAN)
    assert table.wants(peers[4], LAN)


def test_a_dead_entry_is_replaced_at_once_by_the_latest_replacement(table: RoutingTable) -> None:
    a, b, c, d, e, f = some(0, 6)
    fill(table, [a, b, c, d, e, f])
    assert table.failed(b) == Eviction(True, f)
    assert list(table) == [a, c, d, f]
    assert table.failed(a) == Eviction(True, e)
    # In its place by when it was seen: it is the next to be checked.
    assert list(table) == [c, d, e, f]
    assert not table.snapshot()[0].replacements


def test_without_a_replacement_one_failure_makes_a_suspect_and_two_an_end(table: RoutingTable) -> None:
    a, b = some(0, 2)
    fill(table, [a, b])
    assert MAX_FAILURES == 2
    assert table.failed(a) == Eviction(False, None)
    assert [entry.suspect for entry in table.snapshot()[0].entries] == [True, False]
    assert table.failed(a) == Eviction(False, None), "perhaps it was us: nobody has answered since"
    table.seen(b, 9.0)
    assert table.failed(a) == Eviction(True, None)
    assert list(table) == [b]
    assert table.failed(a) == Eviction(False, None)


def test_an_answer_clears_the_suspicion(table: RoutingTable) -> None:
    (a,) = some(0, 1)
    fill(table, [a])
    table.failed(a)
    table.seen(a, 5.0)
    assert table.failed(a) == Eviction(False, None)


def test_suspects_are_told_to_nobody_but_asked_by_ourselves(table: RoutingTable) -> None:
    a, b = some(0, 2)
    fill(table, [a, b])
    table.failed(a)
    assert table.closest(LOCAL_KEY) == [b]
    assert set(table.closest(LOCAL_KEY, suspects=True)) == {a, b}


def test_a_suspect_gives_way_to_a_newcomer(table: RoutingTable) -> None:
    a, b, c, d, e = some(0, 5)
    fill(table, [a, b, c, d])
    table.failed(c)
    assert table.add(e, LAN, 9.0) is Admission.ADDED
    assert list(table) == [a, b, d, e]


def test_who_is_removed_is_replaced_and_forgotten(table: RoutingTable) -> None:
    a, b, c, d, e = some(0, 5)
    fill(table, [a, b, c, d, e])
    assert table.remove(a) == Eviction(True, e)
    assert table.remove(a) == Eviction(False, None)
    assert list(table) == [b, c, d, e]


@pytest.mark.parametrize("size", [1, 2, 20])
def test_an_outage_of_our_own_does_not_empty_the_table(size: int) -> None:
    table = RoutingTable(LOCAL, limits=None, bucket_size=size, replacement_size=size)
    peers, waiting = some(0, 2 * size)[:size], some(0, 2 * size)[size:]
    fill(table, peers + waiting)
    for _lookup in range(5):
        for one in [*table]:
            table.failed(one)
    assert len(table) == size
    kept = {*table, *table.snapshot()[0].replacements}
    assert len(kept) >= 2 * size - (OUTAGE_FAILURES - 1), "nor use up those that wait"
    assert sum(entry.suspect for entry in table.snapshot()[0].entries) < OUTAGE_FAILURES


def test_after_an_outage_the_dead_go_again(table: RoutingTable) -> None:
    a, b, c, d = some(0, 4)
    fill(table, [a, b, c, d])
    for _ in range(2):
        for one in (a, b, c, d):
            table.failed(one)
    table.seen(d, 9.0)
    assert table.failed(a) == Eviction(True, None)
    assert table.failed(c) == Eviction(False, None), "its failure in the outage was none"
    assert set(table.closest(LOCAL_KEY)) == {d}


@pytest.mark.parametrize("how", ["failed", "remove"])
def test_a_replacement_that_failed_is_no_replacement(table: RoutingTable, how: str) -> None:
    a, b, c, d, e = some(0, 5)
    fill(table, [a, b, c, d, e])
    assert getattr(table, how)(e) == Eviction(False, None)
    assert table.failed(a) == Eviction(False, None)


# --- diversity ------------------------------------------------------------------------------------


def test_one_network_has_two_entries_per_prefix_and_three_in_all(wan: RoutingTable) -> None:
    far, near = some(0, 3), some(1, 3)
    net = in_net(1)
    assert [wan.add(one, net, 0.0) for one in far] == [Admission.ADDED] * 2 + [Admission.CROWDED]
    assert [wan.add(one, net, 0.0) for one in near] == [Admission.ADDED] + [Admission.CROWDED] * 2
    assert not wan.wants(near[2], net)
    assert wan.wants(near[2], in_net(2))


def test_a_place_is_free_again_when_its_holder_goes(wan: RoutingTable) -> None:
    a, b, c = some(0, 3)
    for one in (a, b):
        wan.add(one, in_net(1), 0.0)
    wan.remove(a)
    assert wan.add(c, in_net(1), 1.0) is Admission.ADDED


def test_who_was_met_at_no_public_ip_shares_one_group(wan: RoutingTable) -> None:
    places = [LAN, Multiaddr.parse("/dns4/a.example/tcp/1"), Multiaddr.parse("/dns4/b.example/tcp/1")]
    outcomes = [wan.add(one, place, 0.0) for one, place in zip(some(0, 3), places, strict=True)]
    assert outcomes == [Admission.ADDED] * 2 + [Admission.CROWDED]


def test_an_entry_that_moves_is_counted_where_it_is(wan: RoutingTable) -> None:
    a, b, c = some(0, 3)
    wan.add(a, in_net(1), 0.0)
    assert wan.add(a, in_net(2), 1.0) is Admission.KNOWN
    for one in (b, c):
        assert wan.add(one, in_net(1), 2.0) is Admission.ADDED
    assert wan.snapshot()[0].entries[0].added_at == 0.0
    # Back into the network that is crowded by now: out.
    assert wan.add(a, in_net(1), 3.0) is Admission.CROWDED
    assert a not in wan
    assert wan.add(a, in_net(2), 4.0) is Admission.ADDED


def test_an_entry_that_moves_into_a_crowd_is_replaced(wan: RoutingTable) -> None:
    a, b, c, d, e = some(0, 5)
    for number, one in enumerate((a, b, c, d, e)):
        wan.add(one, in_net(number // 2), float(number))
    assert e not in wan
    assert wan.add(d, in_net(0), 9.0) is Admission.CROWDED
    assert list(wan) == [a, b, c, e]


def test_replacements_of_one_network_push_out_each_other_only(wan: RoutingTable) -> None:
    *entries, honest = some(0, 5)
    for number, one in enumerate(entries):
        wan.add(one, in_net(number), float(number))
    wan.add(honest, in_net(50), 5.0)
    for number, one in enumerate(some(0, 25)[5:]):
        assert wan.add(one, in_net(99), 10.0 + number) is Admission.REPLACEMENT
    assert len(wan.snapshot()[0].replacements) == 3
    promoted = []
    for one in entries[:3]:
        promoted.append(wan.failed(one).promoted)
        wan.seen(entries[3], 50.0)
    assert honest in promoted


def test_only_a_replacement_that_diversity_permits_is_promoted(wan: RoutingTable) -> None:
    entries = some(0, 4)
    for number, one in enumerate(entries):
        wan.add(one, in_net(number), float(number))
    early, late = some(0, 6)[4:]
    wan.add(early, in_net(50), 5.0)
    wan.add(late, in_net(60), 6.0)
    for one in some(1, 2) + some(2, 1):  # the late one's network gets its three places elsewhere
        assert wan.add(one, in_net(60), 7.0) is Admission.ADDED
    assert wan.failed(entries[0]) == Eviction(True, early)


# --- questions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_closest_are_those_of_a_full_sort(seed: int) -> None:
    rng = Random(seed)
    table = RoutingTable(LOCAL, limits=None)
    for number in rng.sample(range(1, 10_000), 2000):
        table.add(peer(number), LAN, 0.0)
    entries = list(table)
    targets = [key_of(rng.randbytes(8)) for _ in range(20)] + [LOCAL_KEY, key_of_peer(entries[-1])]
    for target in targets:
        by_distance = sorted(entries, key=lambda one: key_of_peer(one) ^ target)
        assert table.closest(target) == by_distance[:20]
        assert table.closest(target, 3, exclude={by_distance[1]}) == [by_distance[0], *by_distance[2:4]]


def test_revalidation_takes_the_least_recently_seen_of_any_filled_bucket(table: RoutingTable) -> None:
    assert table.to_revalidate(Random(0), 1e9) is None
    far, near = some(0, 4), some(3, 3)
    fill(table, far + near)
    rng = Random(1)
    drawn = Counter(table.to_revalidate(rng, 1e9) for _ in range(200))
    assert set(drawn) == {far[0], near[0]}
    assert min(drawn.values()) > 60


def test_who_was_seen_lately_is_not_revalidated(table: RoutingTable) -> None:
    """A check costs a dial; whoever answered a lookup within the hour has proved as much."""
    far, near = some(0, 2), some(3, 2)
    for at, one in enumerate([*far, *near]):
        table.add(one, LAN, float(at))
    assert table.to_revalidate(Random(1), 0.0) is None
    assert {table.to_revalidate(Random(seed), 2.0) for seed in range(9)} == {far[0]}
    table.seen(far[0], 100.0)
    assert {table.to_revalidate(Random(seed), 2.0) for seed in range(9)} == {far[1]}


def test_prefixes_with_room_are_refreshed_as_far_as_no_self_lookup_reaches() -> None:
    table = RoutingTable(LOCAL, limits=None)
    assert table.cpls_to_refresh() == []
    near = [one for one in map(peer, range(1, 40_000)) if cpl_of(one) >= 3]
    for one in near[:19]:
        table.add(one, LAN, 0.0)
    assert table.cpls_to_refresh() == [], "a lookup of ourselves asks all there are"
    for one in near[19:200]:
        table.add(one, LAN, 0.0)
    edge = sorted(map(cpl_of, table), reverse=True)[19]
    counts = Counter(map(cpl_of, table))
    assert table.cpls_to_refresh() == [cpl for cpl in range(edge) if counts[cpl] < 20] != []
