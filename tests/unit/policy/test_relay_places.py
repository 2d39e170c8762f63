"""policy.relay_places: who is asked for a place, and that nobody is passed over without an end."""

from __future__ import annotations

from math import inf

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.policy.relay_places import MAX_ANNOUNCED, Known, Whose, plan, to_announce
from tests.support.peers import peer

NOW, CHOOSE_AT, LATER = 1000.0, 1002.0, 1100.0
MANY = tuple(f"/ip4/11.0.0.1/tcp/{number}" for number in range(1, 9))
ONE, TWO, THREE, FOUR = (peer(number) for number in range(1, 5))


def named(number: int, **more: object) -> Known:
    return Known(peer=peer(number), whose=Whose.NAMED, **more)  # type: ignore[arg-type]


def own(number: int, **more: object) -> Known:
    return Known(peer=peer(number), whose=Whose.OWN, **more)  # type: ignore[arg-type]


def stranger(number: int, **more: object) -> Known:
    return Known(peer=peer(number), whose=Whose.STRANGER, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("relays", "asked", "look_at"),
    [
        pytest.param([], (), inf, id="nobody is there: a connection is an event"),
        pytest.param([own(1, rtt_s=0.2), own(2), own(3, rtt_s=0.1)], (THREE, ONE), inf, id="the fastest"),
        pytest.param([own(1), named(2)], (TWO, ONE), inf, id="the named one first"),
        pytest.param([own(1), own(2, is_asked=True), own(3)], (ONE,), inf, id="one is being asked"),
        pytest.param(
            [own(1, renew_at=LATER), own(2, renew_at=LATER + 1), own(3)], (), LATER, id="enough are held"
        ),
        pytest.param(
            [own(1, renew_at=LATER), own(2, renew_at=LATER), named(3), named(4)],
            (THREE, FOUR),
            LATER,
            id="named ones are asked besides",
        ),
        pytest.param(
            [named(1, renew_at=LATER), named(2, is_asked=True), named(3)], (), LATER, id="two named ones"
        ),
        pytest.param([named(1, rests_until=NOW + 5)], (), NOW + 5, id="it rests"),
        pytest.param([named(1, rests_until=NOW)], (ONE,), inf, id="it has rested"),
        pytest.param(
            [named(1, rests_until=NOW + 5), own(2), own(3)],
            (TWO, THREE),
            NOW + 5,
            id="others are asked, and the named one when it has rested",
        ),
        pytest.param(
            [own(1, rests_until=NOW + 5), own(2, renew_at=LATER), own(3, renew_at=LATER)],
            (),
            LATER,
            id="who rests and is not wanted wakes nobody",
        ),
        pytest.param([own(1, renew_at=NOW), own(2, renew_at=LATER)], (ONE,), LATER, id="one is renewed"),
        pytest.param([own(1, renew_at=NOW, is_asked=True)], (), inf, id="it is being renewed"),
        pytest.param(
            [own(1, renew_at=LATER, rests_until=NOW + 5)], (), LATER, id="held: a refusal counts no more"
        ),
        pytest.param([stranger(1), own(2)], (TWO,), CHOOSE_AT, id="strangers have time"),
        pytest.param([stranger(1), own(2), own(3)], (TWO, THREE), inf, id="strangers are not needed"),
        pytest.param(
            [stranger(n, rtt_s=1 / n) for n in range(1, 5)], (FOUR, THREE), inf, id="four to choose from"
        ),
    ],
)
def test_who_is_asked_and_when_that_is_looked_at_again(
    relays: list[Known], asked: tuple[object, ...], look_at: float
) -> None:
    found = plan(relays, NOW, CHOOSE_AT)
    assert (found.ask, found.look_at) == (asked, look_at)


def test_after_a_while_a_stranger_is_asked_though_there_are_few() -> None:
    assert plan([stranger(1)], CHOOSE_AT, CHOOSE_AT).ask == (ONE,)


@pytest.mark.parametrize(
    ("found", "told", "announced"),
    [
        ("/ip4/10.0.0.1/tcp/1", (), ["/ip4/10.0.0.1/tcp/1"]),
        (None, ("/ip4/10.0.0.1/tcp/1",), ["/ip4/10.0.0.1/tcp/1"]),
        (None, ("/ip4/10.0.0.1/tcp/1", "/ip4/11.0.0.1/tcp/1"), ["/ip4/11.0.0.1/tcp/1"]),
        ("/ip4/11.0.0.1/tcp/1", ("/ip4/11.0.0.1/tcp/1",), ["/ip4/11.0.0.1/tcp/1"]),
        (None, ("/ip4/11.0.0.1/udp/1/quic-v1",), []),
        (None, MANY, list(MANY[:MAX_ANNOUNCED])),
    ],
)
def test_a_relay_is_announced_where_it_was_found_and_where_it_says(
    found: str | None, told: tuple[str, ...], announced: list[str]
) -> None:
    where = None if found is None else Multiaddr.parse(found)
    assert list(map(str, to_announce(where, list(map(Multiaddr.parse, told))))) == announced
