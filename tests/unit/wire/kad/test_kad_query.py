"""wire.kad.query: whom a lookup asks and when, when it ends, what it holds against time and liars."""

from collections.abc import Sequence

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidPeerId, LocalProtocolError
from p2pfwd.wire.kad.keys import key_of, key_of_peer
from p2pfwd.wire.kad.messages import KadPeer
from p2pfwd.wire.kad.query import Lookup
from p2pfwd.wire.kad.query_values import (
    FIRST,
    MAX_CLOSER_PEERS,
    MAX_HEARD,
    Ending,
    Goal,
    LookupSettings,
)


def peer(number: int) -> PeerId:
    return PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32, "big"))


TARGET, LOCAL = peer(1_000_000), peer(2_000_000)
KEY = key_of_peer(TARGET)
NEAR = sorted((peer(number) for number in range(300)), key=lambda one: key_of_peer(one) ^ KEY)
"""Peers by distance to the target: NEAR[0] is the nearest."""
ADDR, OTHER_ADDR = (Multiaddr.parse(f"/ip4/11.1.1.{n}/tcp/4001") for n in (1, 2))
SMALL = LookupSettings(k=4, alpha=2, beta=2)


def told(*indices: int) -> list[KadPeer]:
    return [KadPeer(NEAR[index], (ADDR,)) for index in indices]


def ids(*indices: int) -> list[PeerId]:
    return [NEAR[index] for index in indices]


def lookup(
    seeds: Sequence[int], goal: Goal = Goal.CLOSEST, settings: LookupSettings = SMALL, now: float = 0.0
) -> Lookup:
    return Lookup(goal, TARGET.to_bytes(), ids(*seeds), local=LOCAL, now=now, settings=settings)


# --- whom to ask ----------------------------------------------------------------------------------


def test_the_nearest_are_asked_first_alpha_at_a_time_and_each_once() -> None:
    query = lookup([9, 5, 7, 6, 8])
    assert query.next_requests(0.0) == ids(5, 6)
    assert query.next_requests(0.0) == []
    query.on_response(NEAR[5], told(2, 3, 9, 6), 1.0)
    assert query.next_requests(1.0) == ids(2)
    query.on_response(NEAR[6], told(3, 4), 1.0)
    assert query.next_requests(1.0) == ids(3)


def test_what_was_told_of_addresses_is_kept_for_the_dialler() -> None:
    query = lookup([9])
    query.next_requests(0.0)
    query.on_response(NEAR[9], [KadPeer(NEAR[3], (ADDR,))], 1.0)
    assert query.addrs(NEAR[3]) == (ADDR,)
    assert query.addrs(NEAR[9]) == query.addrs(NEAR[50]) == ()


def test_when_the_nearest_beta_have_answered_the_rest_of_the_nearest_k_are_asked_at_once() -> None:
    query = lookup([1, 2, 3, 4, 5, 6])
    assert query.next_requests(0.0) == ids(1, 2)
    query.on_response(NEAR[1], told(5, 6), 1.0)
    assert query.next_requests(1.0) == ids(3)
    query.on_response(NEAR[2], told(5, 6), 1.0)
    assert query.next_requests(1.0) == ids(4)
    query.on_response(NEAR[4], [], 1.0)
    assert not query.done
    query.on_response(NEAR[3], [], 1.0)
    assert query.done
    result = query.result(1.5)
    assert result.ending is Ending.CONVERGED
    assert result.closest == tuple(ids(1, 2, 3, 4))
    assert (result.queried, result.answered, result.failed, result.heard) == (4, 4, 0, 6)
    assert result.elapsed_s == 1.5
    assert query.next_requests(2.0) == []
    assert query.deadline is None


def test_a_nearer_peer_that_turns_up_last_is_asked_as_well() -> None:
    query = lookup([5, 6, 7, 8])
    query.next_requests(0.0)
    for index in (5, 6):
        query.on_response(NEAR[index], told(7, 8), 1.0)
    assert query.next_requests(1.0) == ids(7, 8)
    query.on_response(NEAR[7], told(0), 2.0)
    query.on_response(NEAR[8], [], 2.0)
    assert query.next_requests(2.0) == ids(0)
    query.on_response(NEAR[0], [], 3.0)
    assert query.result(3.0).closest == tuple(ids(0, 5, 6, 7))
    assert query.result(3.0).hops == 2


def test_who_fails_is_replaced_by_the_next() -> None:
    query = lookup([1, 2, 3, 4, 5])
    query.next_requests(0.0)
    query.on_failure(NEAR[1], 1.0)
    assert query.next_requests(1.0) == ids(3)
    query.on_failure(NEAR[2], 1.0)
    assert query.next_requests(1.0) == ids(4)
    for index in (3, 4):
        query.on_response(NEAR[index], [], 2.0)
    assert query.next_requests(2.0) == ids(5)
    query.on_response(NEAR[5], [], 3.0)
    result = query.result(3.0)
    assert result.closest == tuple(ids(3, 4, 5))
    assert (result.ending, result.failed) == (Ending.CONVERGED, 2)


def test_without_seeds_it_is_over_before_it_starts() -> None:
    query = lookup([])
    assert query.done
    assert query.result(0.0).closest == ()


def test_neither_ourselves_nor_the_peer_that_is_sought_are_asked() -> None:
    query = Lookup(Goal.PEER, TARGET.to_bytes(), [LOCAL, TARGET, NEAR[9]], local=LOCAL, now=0.0)
    assert query.next_requests(0.0) == ids(9)
    query.on_response(NEAR[9], [KadPeer(LOCAL, (ADDR,)), KadPeer(TARGET)], 1.0)
    assert query.done
    assert query.result(1.0).ending is Ending.CONVERGED


def test_an_answer_is_taken_up_to_its_bound_only() -> None:
    query = lookup([200])
    query.next_requests(0.0)
    query.on_response(NEAR[200], told(*range(100)), 1.0)
    assert query.result(1.0).heard == 1 + MAX_CLOSER_PEERS


def test_memory_is_bounded_and_the_nearest_are_kept() -> None:
    crowd = [peer(10_000 + number) for number in range(3000)]
    query = lookup(range(100), settings=LookupSettings(alpha=100, max_in_flight=100, k=100))
    asked = query.next_requests(0.0)
    for number, one in enumerate(asked):
        query.on_response(one, [KadPeer(x) for x in crowd[number * 30 : number * 30 + 30]], 1.0)
    assert query.result(1.0).heard == MAX_HEARD
    nearest = sorted(crowd, key=lambda one: key_of_peer(one) ^ KEY)
    assert set(query.next_requests(1.0)) <= set(nearest[:MAX_HEARD])


# --- what is sought -------------------------------------------------------------------------------


def test_a_peer_is_found_when_somebody_tells_its_addresses() -> None:
    query = lookup([3, 4], Goal.PEER)
    query.next_requests(0.0)
    query.on_response(NEAR[3], [KadPeer(TARGET), *told(2)], 1.0)
    assert not query.done
    assert query.next_requests(1.0) == ids(2)
    query.on_response(NEAR[2], [KadPeer(TARGET, (ADDR,))], 2.0)
    result = query.result(2.0)
    assert query.done
    assert (result.ending, result.found, result.hops) == (Ending.FOUND, (ADDR,), 2)


def test_addresses_at_which_nobody_was_are_not_found_again() -> None:
    query = lookup([1, 2, 3], Goal.PEER)
    query.next_requests(0.0)
    query.on_response(NEAR[1], [KadPeer(TARGET, (ADDR,))], 1.0)
    query.reject_found([ADDR], 2.0)
    assert not query.done
    assert query.next_requests(2.0) == ids(3)
    query.on_response(NEAR[2], [KadPeer(TARGET, (ADDR,))], 3.0)
    assert not query.done
    query.on_response(NEAR[3], [KadPeer(TARGET, (ADDR, OTHER_ADDR))], 3.0)
    assert query.result(3.0).found == (OTHER_ADDR,)


def test_a_rejection_may_be_the_end() -> None:
    query = lookup([1], Goal.PEER)
    query.next_requests(0.0)
    query.on_response(NEAR[1], [KadPeer(TARGET, (ADDR,))], 1.0)
    query.reject_found([ADDR], 2.0)
    assert query.done
    assert query.result(2.0).ending is Ending.CONVERGED


def test_answers_that_come_while_the_found_is_dialled_are_not_lost() -> None:
    query = lookup([1, 2], Goal.PEER)
    query.next_requests(0.0)
    query.on_response(NEAR[1], [KadPeer(TARGET, (ADDR,))], 1.0)
    query.on_response(NEAR[2], [KadPeer(TARGET, (OTHER_ADDR,))], 1.0)
    query.reject_found([ADDR], 2.0)
    assert query.done
    assert query.result(2.0).found == (OTHER_ADDR,)


def test_of_each_answer_the_first_few_are_found_at_once_and_the_rest_when_nobody_else_is_asked() -> None:
    """But of the first answer all: mostly it is true, and nobody is to wait for others then."""
    lies = [tuple(Multiaddr.parse(f"/ip4/11.1.{n}.{k}/tcp/1") for k in range(16)) for n in range(3)]
    query = lookup([1, 2, 3], Goal.PEER)
    query.next_requests(0.0)
    query.on_response(NEAR[1], [KadPeer(TARGET, lies[0])], 1.0)
    query.on_response(NEAR[2], [KadPeer(TARGET, lies[1])], 1.0)
    assert query.result(1.0).found == (*lies[0], *lies[1])
    assert set(query.found) == {*lies[0], *lies[1][:FIRST]}
    query.reject_found(list(query.found), 2.0)
    assert query.next_requests(2.0) == ids(3)
    query.on_response(NEAR[3], [KadPeer(TARGET, (lies[1][15], ADDR))], 3.0)
    places = {addr: told.place for addr, told in query.found.items()}
    assert places == {lies[1][15]: 0, ADDR: 1}, "no liar can put an address off that another tells first"
    query.reject_found(list(query.found), 4.0)
    assert query.result(4.0).ending is Ending.FOUND
    assert set(query.found) == set(lies[1][FIRST:15])
    query.reject_found(list(query.found), 5.0)
    assert query.result(5.0).ending is Ending.CONVERGED


def test_what_cannot_be_dialed_takes_no_place_of_what_can() -> None:
    far = [Multiaddr.parse(f"/ip4/11.1.1.{k}/udp/1/quic-v1") for k in range(1, 16)]
    query = lookup([1, 2], Goal.PEER)
    query.next_requests(0.0)
    query.on_response(NEAR[1], [KadPeer(TARGET, (OTHER_ADDR,))], 1.0)
    query.on_response(NEAR[2], [KadPeer(TARGET, (*far, ADDR))], 1.0)
    assert query.found[ADDR].place == 0 and len(query.found) == 1 + FIRST


def test_a_lookup_of_a_peer_needs_a_peer_id() -> None:
    with pytest.raises(InvalidPeerId):
        Lookup(Goal.PEER, b"no peer id", [], local=LOCAL, now=0.0)


# --- time -----------------------------------------------------------------------------------------


def test_who_tries_our_patience_does_not_hold_up_the_others() -> None:
    query = lookup([1, 2, 3, 4, 5, 6])
    query.next_requests(0.0)
    assert query.deadline == SMALL.patience_s
    assert query.next_requests(SMALL.patience_s - 0.1) == []
    assert query.next_requests(SMALL.patience_s) == ids(3, 4)


def test_the_place_of_a_slow_one_among_the_nearest_is_taken_by_the_next() -> None:
    query = lookup([1, 2, 3, 4, 5], settings=LookupSettings(k=2, alpha=2, beta=1))
    assert query.next_requests(0.0) == ids(1, 2)
    assert query.next_requests(2.0) == ids(3, 4)
    query.on_response(NEAR[2], [], 2.5)
    assert query.next_requests(2.5) == []


def test_at_the_end_a_slow_one_that_would_count_is_waited_for() -> None:
    query = lookup([1, 2, 3, 4, 5, 6])
    query.next_requests(0.0)
    query.on_response(NEAR[2], [], 1.0)
    asked = query.next_requests(2.0)
    while asked:
        for one in asked:
            query.on_response(one, [], 2.5)
        asked = query.next_requests(2.5)
    assert not query.done
    assert query.deadline == SMALL.request_timeout_s
    query.on_response(NEAR[1], [], 9.0)
    assert query.result(9.0).closest == tuple(ids(1, 2, 3, 4))
    assert query.done


def test_a_request_that_is_overdue_has_failed_but_a_late_answer_is_welcome() -> None:
    query = lookup([1, 2, 9], settings=LookupSettings(k=4, alpha=2, beta=2, patience_s=99.0))
    query.next_requests(0.0)
    assert query.deadline == 10.0
    assert query.next_requests(10.0) == ids(9)
    assert query.result(10.0).failed == 2
    query.on_response(NEAR[1], told(0), 11.0)
    assert query.result(11.0).failed == 1
    assert query.next_requests(11.0) == ids(0)
    query.on_failure(NEAR[2], 11.0)
    assert query.result(11.0).failed == 1


def test_the_whole_lookup_is_bounded_in_time() -> None:
    query = lookup([1, 2, 3], settings=LookupSettings(total_timeout_s=5.0, patience_s=99.0), now=100.0)
    query.next_requests(100.0)
    query.on_response(NEAR[2], [], 101.0)
    assert query.deadline == 105.0
    assert query.next_requests(105.0) == []
    result = query.result(105.0)
    assert (result.ending, result.closest) == (Ending.TIMED_OUT, (NEAR[2],))


def test_the_whole_lookup_is_bounded_in_requests() -> None:
    query = lookup(range(10), settings=LookupSettings(max_queries=3))
    assert query.next_requests(0.0) == ids(0, 1, 2)
    for index in (0, 1, 2):
        assert not query.done
        query.on_failure(NEAR[index], 1.0)
    assert query.result(1.0).ending is Ending.CAPPED


def test_requests_in_flight_are_bounded_however_slow() -> None:
    query = lookup(range(100), settings=LookupSettings(alpha=10, max_in_flight=15, k=50))
    assert len(query.next_requests(0.0)) == 10
    assert len(query.next_requests(2.0)) == 5
    assert query.next_requests(4.0) == []


@pytest.mark.parametrize("report", ["on_response", "on_failure"])
@pytest.mark.parametrize("whom", [5, 50])
def test_a_report_on_who_was_not_asked_is_our_own_fault(report: str, whom: int) -> None:
    query = lookup([1, 2, 5])
    query.next_requests(0.0)
    with pytest.raises(LocalProtocolError, match="not asked"):
        if report == "on_response":
            query.on_response(NEAR[whom], [], 1.0)
        else:
            query.on_failure(NEAR[whom], 1.0)


def test_a_second_answer_counts_for_nothing() -> None:
    query = lookup([1, 2])
    query.next_requests(0.0)
    query.on_response(NEAR[1], [], 1.0)
    query.on_response(NEAR[1], told(0), 1.0)
    query.on_failure(NEAR[1], 1.0)
    assert query.result(1.0).heard == 2
    assert query.result(1.0).answered == 1


# --- liars ----------------------------------------------------------------------------------------

LIAR, HONEST = 200, 201


def test_an_unproved_informant_gets_half_of_alpha() -> None:
    query = lookup([LIAR, *range(100, 110)], settings=LookupSettings(alpha=10))
    assert len(query.next_requests(0.0)) == 10
    for index in range(100, 109):
        query.on_failure(NEAR[index], 1.0)
    query.next_requests(1.0)
    query.on_response(NEAR[LIAR], told(*range(20)), 1.0)
    assert query.next_requests(1.0) == ids(0, 1, 2, 3, 4)
    query.on_response(NEAR[2], [], 1.5)
    assert query.next_requests(1.5) == ids(5, 6, 7, 8, 9)


def test_the_many_of_an_unproved_informant_do_not_hide_what_others_told() -> None:
    query = lookup([LIAR, HONEST], settings=LookupSettings(alpha=8, k=10))
    query.next_requests(0.0)
    query.on_response(NEAR[LIAR], told(*range(20)), 1.0)
    query.on_response(NEAR[HONEST], told(*range(50, 60)), 1.0)
    assert query.next_requests(1.0) == ids(0, 1, 2, 3, 50, 51, 52, 53)


def test_whom_two_told_of_may_be_asked_on_either_ones_account() -> None:
    query = lookup([LIAR, HONEST], settings=LookupSettings(alpha=8, k=10))
    query.next_requests(0.0)
    query.on_response(NEAR[LIAR], told(*range(20)), 1.0)
    query.on_response(NEAR[HONEST], told(7, 8), 1.0)
    assert query.next_requests(1.0) == ids(0, 1, 2, 3, 7, 8)


def test_who_tells_of_itself_proves_nothing_by_it() -> None:
    query = lookup([HONEST], settings=LookupSettings(alpha=10))
    query.next_requests(0.0)
    query.on_response(NEAR[HONEST], told(100), 1.0)
    query.next_requests(1.0)
    query.on_response(NEAR[100], [KadPeer(NEAR[100]), *told(*range(20))], 2.0)
    assert len(query.next_requests(2.0)) == 5


def test_the_target_of_a_closest_lookup_may_be_any_bytes() -> None:
    target = b"/pk/anything"
    nearest = min(NEAR, key=lambda one: key_of_peer(one) ^ key_of(target))
    query = Lookup(Goal.CLOSEST, target, NEAR, local=LOCAL, now=0.0, settings=SMALL)
    assert query.next_requests(0.0)[0] == nearest
