"""Pins who goes when there are too many connections, and who gives way to a newcomer."""

from __future__ import annotations

import pytest

from p2pfwd.policy.shares import Rank
from p2pfwd.policy.trimming import FEW, Standing, Use, to_let_go, to_replace, to_trim

NOW = 1000.0


def standing(
    useful_at: float = 0.0, *, use: Use = Use.NONE, rank: Rank = Rank.STRANGER, crowd: str | None = None
) -> Standing:
    """A stranger of its own network, unless it is said otherwise."""
    return Standing(use, rank, useful_at, crowd or f"198.51.{id(object())}.0/24")


def alone(*standings: Standing) -> list[Standing]:
    """The same, each in a crowd of its own."""
    return [Standing(s.use, s.rank, s.useful_at, f"10.0.{place}.0/24") for place, s in enumerate(standings)]


NONE, ASKED, TUNNELS, KEPT = Use.NONE, Use.ASKED, Use.TUNNELS, Use.KEPT
STRANGER, SERVED, OWN = Rank.STRANGER, Rank.SERVED, Rank.OWN


@pytest.mark.parametrize(
    ("what", "standings", "gone"),
    [
        ("the longest idle first", [standing(5), standing(3), standing(9), standing(7)], [1, 0]),
        ("late use counts", [standing(5), standing(900), standing(9), standing(7)], [0, 3]),
        ("own peers last", [standing(1, rank=OWN), standing(3), standing(9), standing(7)], [1, 3]),
        ("no more than needed", [standing(5), standing(3), standing(9)], [1]),
        ("none of any use", [standing(1, use=use) for use in (ASKED, TUNNELS, KEPT)] + [standing(9)], [3]),
        ("none that has just been of use", [standing(NOW - 5), standing(NOW), standing(8)], [2]),
        ("nobody below the mark", [standing(1), standing(2)], []),
    ],
)
def test_who_is_trimmed(what: str, standings: list[Standing], gone: list[int]) -> None:
    assert to_trim(alone(*standings), NOW, 2, 2, 20.0) == gone, what


def test_a_crowd_is_trimmed_before_those_who_are_idle_for_longer() -> None:
    crowd = [standing(500 + n, crowd="203.0.113.0/24") for n in range(FEW + 1)]
    others = alone(standing(1), standing(2))
    assert to_trim([*others, *crowd], NOW, 4, FEW, 20.0) == [2, 3, 4]
    few = [standing(500 + n, crowd="203.0.113.0/24") for n in range(FEW)]
    assert to_trim([*others, *few], NOW, 4, FEW, 20.0) == [0, 1], "a handful of neighbours is no crowd"


@pytest.mark.parametrize(
    ("what", "standings", "newcomer", "victim"),
    [
        ("the longest idle", [standing(5), standing(3), standing(9)], STRANGER, 1),
        ("however short that is", [standing(NOW), standing(NOW - 1)], STRANGER, 1),
        ("idle before asked", [standing(1, use=ASKED), standing(9)], STRANGER, 1),
        ("asked, if there is nobody idle", [standing(1, use=KEPT), standing(9, use=ASKED)], STRANGER, 1),
        ("no tunnels for a stranger", [standing(1, use=TUNNELS)], STRANGER, None),
        ("a stranger's tunnels for an own peer", [standing(1, use=TUNNELS), standing(0, use=KEPT)], OWN, 0),
        ("no own peer for a stranger", [standing(1, rank=OWN)], STRANGER, None),
        ("an idle own peer for another", [standing(1, rank=OWN)], OWN, 0),
        ("no busy own peer for another", [standing(1, rank=OWN, use=TUNNELS)], OWN, None),
        ("no own peer for one that was served", [standing(1, rank=OWN)], SERVED, None),
        ("nobody served for a stranger", [standing(1, rank=SERVED)], STRANGER, None),
        ("nobody served with tunnels for another", [standing(1, rank=SERVED, use=TUNNELS)], SERVED, None),
        ("an idle one served for another", [standing(1, rank=SERVED)], SERVED, 0),
        ("a stranger's tunnels for one served", [standing(1, use=TUNNELS)], SERVED, 0),
        ("the tunnels of one served for an own peer", [standing(1, rank=SERVED, use=TUNNELS)], OWN, 0),
        ("strangers before them", [standing(1, rank=SERVED, use=TUNNELS), standing(5, use=TUNNELS)], OWN, 1),
        ("and before an idle own one", [standing(1, rank=OWN), standing(5, use=TUNNELS)], OWN, 1),
        ("nobody who is kept", [standing(1, use=KEPT)], OWN, None),
        ("nobody where nobody is", [], STRANGER, None),
    ],
)
def test_who_is_replaced(
    what: str, standings: list[Standing], newcomer: Rank, victim: int | None
) -> None:
    assert next(iter(to_replace(alone(*standings), newcomer)), None) == victim, what


def test_a_crowd_with_silent_tunnels_gives_way_to_a_stranger() -> None:
    crowd = [standing(500 + n, use=TUNNELS, crowd="203.0.113.0/24") for n in range(FEW + 1)]
    assert to_replace([*alone(standing(1, use=TUNNELS)), *crowd], STRANGER)[0] == 1
    assert len(to_replace(crowd, STRANGER)) == len(crowd) - FEW, "one after the other, down to a few"
    assert to_replace(crowd[:FEW], STRANGER) == []


def test_to_be_served_before_makes_a_crowd_no_more_than_a_crowd() -> None:
    crowd = [standing(n, use=TUNNELS, rank=SERVED, crowd="203.0.113.0/24") for n in range(512)]
    assert len(to_replace(crowd, STRANGER)) == len(to_replace(crowd, SERVED)) == len(crowd) - FEW
    assert len(to_replace(crowd, OWN)) == len(crowd)


def test_what_this_node_opened_and_nobody_needs_is_let_go() -> None:
    """The longest idle first; not what others opened, nor what is or was lately of use, nor an own peer."""
    now = 1000.0

    def one(
        use: Use = Use.NONE, *, rank: Rank = STRANGER, at: float = 0.0, outbound: bool = True
    ) -> Standing:
        return Standing(use, rank, at, "192.0.2.0/24", outbound)

    standings = [
        one(at=500.0),
        one(outbound=False),
        one(Use.ASKED),
        one(Use.KEPT),
        one(rank=OWN),
        one(at=now - 179.0),
        one(at=100.0),
    ]
    assert to_let_go(standings, now, 180.0) == [6, 0]
