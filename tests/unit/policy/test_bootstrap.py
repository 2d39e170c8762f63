"""policy.bootstrap: whose turn it is, as a table of situations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import pytest

from p2pfwd.policy.bootstrap import (
    AT_ONCE,
    NEAR_AHEAD,
    PATIENCE_S,
    PAUSES,
    REST_FIRST_S,
    REST_MOST_S,
    Outcome,
    Seed,
    Source,
    Turn,
    wanting,
    whom_to_try,
)
from p2pfwd.policy.provenance import Provenance
from tests.support.peers import peer

NOW = 10_000.0
PENDING, ANSWERS, NO_NAME, SILENT = Outcome.PENDING, Outcome.ANSWERS, Outcome.NO_NAME, Outcome.SILENT


def seed(
    number: int,
    source: Source = Source.BOOK,
    crowd: str = "",
    provenance: Provenance = Provenance.PROVED,
    age_s: float = 0.0,
) -> Seed:
    """One in a network of its own unless `crowd` says otherwise."""
    return Seed(peer(number), source, crowd or str(number), provenance, age_s)


def tried(one: Seed, tries: int = 1, ago_s: float = 0.0) -> Seed:
    return replace(one, tries=tries, tried_at=NOW - ago_s)


def turn(
    *seeds: Seed, configured: Sequence[Outcome] = (), alone_s: float = 100.0, last_try_at: float = -inf
) -> Turn:
    return whom_to_try(seeds, configured, NOW - alone_s, last_try_at, NOW)


def numbers(found: Turn, *among: Seed) -> list[int]:
    """Places of those chosen in `among`."""
    places = {one.peer_id: place for place, one in enumerate(among)}
    return [places[peer_id] for peer_id in found.peers]


@pytest.mark.parametrize(
    ("answering", "is_public", "wanted"),
    [
        ([], True, ()),
        ([False], False, (0,)),
        ([True], False, ()),
        ([False, False], True, (0, 1)),
        ([False, True], True, (0,)),  # a neighbour answers, and nobody of the public DHT
        ([True, False], True, ()),  # no neighbours: as it mostly is
        ([False, True], False, ()),  # a Kubo that serves the twin alone
        ([True, False], False, ()),
    ],
)
def test_which_dhts_want_somebody(answering: list[bool], is_public: bool, wanted: tuple[int, ...]) -> None:
    assert wanting(answering, is_public=is_public) == wanted


@pytest.mark.parametrize(
    ("configured", "alone_s", "again_s"),
    [
        ((), 0.0, None),  # none to wait for
        ((PENDING, SILENT), 1.0, PATIENCE_S - 1),
        ((ANSWERS,), 1.0, PATIENCE_S - 1),  # it may serve the DHT: that is being asked
        ((NO_NAME, SILENT), 0.0, None),  # all have failed: there is no need to wait
        ((PENDING, PENDING), PATIENCE_S, None),
        ((ANSWERS,), PATIENCE_S, None),
    ],
)
def test_bootstrap_peers_go_first(
    configured: tuple[Outcome, ...], alone_s: float, again_s: float | None
) -> None:
    found = turn(seed(1), configured=configured, alone_s=alone_s)
    assert found == (Turn((peer(1),), inf) if again_s is None else Turn((), NOW + again_s))


NEAR = seed(9, Source.NEAR, provenance=Provenance.HEARSAY)
GIVEN = seed(1, provenance=Provenance.GIVEN, age_s=9.0)
PROVED, OLDER = seed(2, age_s=5.0), seed(3, age_s=6.0)
TOLD = seed(4, provenance=Provenance.ITSELF)
SAME, SAME_TOO = seed(5, crowd="2", age_s=5.5), seed(6, crowd="2", age_s=5.6)
FAILED = tried(seed(7, provenance=Provenance.GIVEN), 1, REST_FIRST_S)


@pytest.mark.parametrize(
    ("seeds", "chosen"),
    [
        ([], []),
        ([OLDER, PROVED], [1, 0]),  # the one seen last
        ([TOLD, OLDER, GIVEN], [2, 1, 0]),  # the best founded before the youngest
        ([GIVEN, NEAR], [1, 0]),
        ([PROVED, SAME, OLDER], [0, 2, 1]),  # another network before another peer of the same
        ([PROVED, SAME, SAME_TOO, OLDER, TOLD], [0, 3, 4, 1]),  # no more than AT_ONCE
        ([FAILED, TOLD], [1, 0]),  # one that was not tried, before one that failed
        ([tried(PROVED), SAME, OLDER], [2, 1]),  # nor is the network of one that failed first
        ([tried(PROVED), tried(OLDER)], []),
    ],
)
def test_who_is_tried_next(seeds: list[Seed], chosen: list[int]) -> None:
    assert numbers(turn(*seeds), *seeds) == chosen


def test_those_under_way_count() -> None:
    busy = [replace(seed(number), is_trying=True) for number in range(10, 10 + AT_ONCE)]
    assert turn(*busy[1:], seed(1), seed(2)).peers == (peer(1),)
    assert turn(*busy, seed(1)) == Turn((), inf)  # until one has ended


@pytest.mark.parametrize(
    ("tries", "rest_s"), [(1, REST_FIRST_S), (2, 2 * REST_FIRST_S), (4, 8 * REST_FIRST_S), (500, REST_MOST_S)]
)
def test_one_that_failed_rests_ever_longer(tries: int, rest_s: float) -> None:
    pause_s = next(pause_s for until, pause_s in PAUSES if tries < until)
    assert turn(tried(seed(1), tries, rest_s - 1), last_try_at=NOW - pause_s) == Turn((), NOW + 1)
    assert turn(tried(seed(1), tries, rest_s), last_try_at=NOW - pause_s).peers == (peer(1),)


@pytest.mark.parametrize(("in_vain", "pause_s"), [(16, 5.0), (63, 5.0), (64, 60.0), (5000, 60.0)])
def test_after_many_tries_in_vain_one_at_a_time_and_ever_more_seldom(in_vain: int, pause_s: float) -> None:
    others = [tried(seed(number)) for number in range(100, 100 + in_vain)]
    fresh = seed(1), seed(2)
    assert turn(*others, *fresh, last_try_at=NOW - 1) == Turn((), NOW - 1 + pause_s)
    assert turn(*others, *fresh, last_try_at=NOW - pause_s) == Turn((peer(1),), NOW + pause_s)


def test_a_day_without_anybody_costs_few_dials() -> None:
    """A thousand peers remembered, and none answers: what is dialed in 24 hours is bounded."""
    seeds = {peer(number): seed(number) for number in range(200)}
    now, last, dials = 0.0, -inf, 0
    while now < 86_400:
        found = whom_to_try(seeds.values(), (), 0.0, last, now)
        for peer_id in found.peers:
            one = seeds[peer_id]
            seeds[peer_id] = replace(one, tries=one.tries + 1, tried_at=now)
            last, dials = now, dials + 1
        now = now if found.peers and found.again_at == inf else max(found.again_at, now)
    assert 200 < dials <= 24 * 60 + 64


def test_made_up_neighbours_leave_the_address_book_its_turns() -> None:
    # Five hundred that one machine of the segment invents had their turns, one a minute, before all others.
    near = [seed(number, Source.NEAR, crowd="192.168.1.0/24") for number in range(100)]
    book = [seed(1000 + number) for number in range(3)]
    in_vain = [tried(one, ago_s=60.0) for one in near[:NEAR_AHEAD]]
    left = near[NEAR_AHEAD:]
    assert turn(*left, *book).peers == tuple(one.peer_id for one in left[:AT_ONCE]), "they go first"
    found = turn(*in_vain, *left, *book).peers
    assert found == (book[0].peer_id, left[0].peer_id, book[1].peer_id, left[1].peer_id)
    assert turn(*in_vain, *left).peers == tuple(one.peer_id for one in left[:AT_ONCE])
