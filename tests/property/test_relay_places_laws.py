"""policy.relay_places for any relays: nobody is to be asked before the time it names, which is not now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, nextafter

from hypothesis import given
from hypothesis import strategies as st

from p2pfwd.policy.relay_places import WANTED, Known, Whose, plan
from tests.support.peers import peer

NOW = 50.0
times = st.sampled_from([NOW - 10, NOW, NOW + 1, NOW + 1, NOW + 2, NOW + 7]) | st.floats(0.0, 100.0)


@st.composite
def relays(draw: st.DrawFn) -> list[Known]:
    return [
        Known(
            peer=peer(number),
            whose=draw(st.sampled_from(Whose)),
            rtt_s=draw(st.none() | st.floats(0.0, 2.0)),
            is_asked=draw(st.booleans()),
            renew_at=draw(st.none() | times),
            rests_until=draw(times | st.just(-inf)),
        )
        for number in range(1, draw(st.integers(1, 8)))
    ]


def asked(known: Sequence[Known], now: float, choose_at: float) -> tuple[list[Known], float]:
    """As they stand once those are asked that are to be, and when to look again."""
    found = plan(known, now, choose_at)
    return [replace(it, is_asked=it.is_asked or it.peer in found.ask) for it in known], found.look_at


@given(relays(), times)
def test_nobody_is_to_be_asked_before_the_next_look(
    known: list[Known], choose_at: float
) -> None:
    after, look_at = asked(known, NOW, choose_at)
    assert look_at > NOW
    just_before = nextafter(look_at, NOW) if look_at < inf else 1e9
    assert not plan(after, just_before, choose_at).ask
    assert plan(after, NOW, choose_at).look_at == look_at, "nor is it another time for having been asked"


@given(relays(), times)
def test_no_more_are_asked_than_are_missing(known: list[Known], choose_at: float) -> None:
    after, _ = asked(known, NOW, choose_at)
    new = [it for it, was in zip(after, known, strict=True) if it.is_asked and not was.is_asked]
    new = [it for it in new if it.renew_at is None]
    had = [it for it in known if it.is_asked or it.renew_at is not None]
    others = [it for it in new if it.whose is not Whose.NAMED]
    named = [it for it in (*had, *new) if it.whose is Whose.NAMED]
    assert not others or len(had) + len(new) <= WANTED
    assert not new or len(had) + len(new) <= WANTED or len(named) <= WANTED
