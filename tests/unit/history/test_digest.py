"""history.digest: the last 24 hours in numbers, and no more than that."""

from __future__ import annotations

from p2pfwd.history.digest import HOUR_S, MAX_DROPS, MAX_TUNNELS, Digest, Drop, Problem
from p2pfwd.history.folding import Event, Share, Value

NOW = 1_700_000_000.0


def event(code: str, share: Share = "own", peer: str | None = None, **data: Value) -> Event:
    return Event(code, share, NOW, NOW, peer, "/x/a", 1, data)


def test_drops_are_counted_by_peer_the_last_first() -> None:
    digest = Digest()
    digest.note(event("peer-lost", peer="old", reason="x"), 1, NOW - 25 * HOUR_S)
    digest.note(event("peer-lost", peer="A", reason="silent"), 2, NOW - 100)
    digest.note(event("peer-lost", peer="B", reason="reset"), 1, NOW - 50)
    digest.note(event("peer-lost", peer="A", reason="closed"), 1, NOW - 10)
    digest.note(event("peer-lost", "strangers", "C", reason="x"), 1, NOW)
    digest.note(event("peer-down", peer="D", reason="x"), 1, NOW)
    assert digest.drops(NOW) == [Drop("A", 3, NOW - 10, "closed"), Drop("B", 1, NOW - 50, "reset")]


def test_numbers_are_of_a_day() -> None:
    digest = Digest()
    for hours in range(60):
        digest.note(event("streams-summed", "streams"), 10, NOW + hours * HOUR_S)
    digest.note(event("access-denied", "strangers"), 3, NOW + 59 * HOUR_S)
    assert digest.count("streams", NOW + 59 * HOUR_S) == 240
    assert digest.count("denied", NOW + 59 * HOUR_S) == 3 and digest.count("lost", NOW) == 0
    assert len(digest._hours) <= 26


def test_a_tunnels_last_problem_is_known_for_a_day() -> None:
    digest = Digest()
    down = event("tunnel-target-down", direction="listen", address="/ip4/127.0.0.1/tcp/1", reason="refused")
    away = event("tunnel-peer-away", direction="forward", address="/ip4/127.0.0.1/tcp/2", reason="silent")
    digest.note(down, 1, NOW)
    digest.note(away, 1, NOW)
    assert digest.problem("listen", "/x/a", NOW) == Problem("tunnel-target-down", NOW, "refused")
    assert digest.problem("forward", "/ip4/127.0.0.1/tcp/2", NOW) == Problem(
        "tunnel-peer-away", NOW, "silent"
    )
    assert digest.problem("forward", "/x/a", NOW) is None
    assert digest.problem("listen", "/x/a", NOW + 25 * HOUR_S) is None


def test_it_is_bounded() -> None:
    digest = Digest()
    for number in range(2 * MAX_DROPS):
        digest.note(event("peer-lost", peer=str(number)), 5000, NOW)
        digest.note(event("tunnel-failing", direction="forward", address=str(number)), 1, NOW)
    assert len(digest._drops) == MAX_DROPS and len(digest._problems) == MAX_TUNNELS
