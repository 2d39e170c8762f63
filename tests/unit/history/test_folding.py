"""history.folding: few events stay what they are, many become one, and strangers have their shares."""

from __future__ import annotations

import sys

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.history.folding import EACH, FOLD_S, MAX_OPEN, MAX_TEXT, Event, Folding
from p2pfwd.policy.service_bounds import STRANGERS_EVENTS
from p2pfwd.policy.shares import Party
from tests.support.peers import peer

WALL = 1_700_000_000.0


def stranger(number: int, host: str = "192.0.2.1") -> Party:
    return Party.at(peer(number), Multiaddr.parse(f"/ip4/{host}/tcp/4001"))


def note(folding: Folding, now: float, code: str = "peer-lost", **more: object) -> tuple[Event, bool]:
    given: dict[str, object] = {"peer": "A", "protocol": None, "data": {"reason": "it was silent"}, **more}
    peer_id, protocol, data = given.pop("peer"), given.pop("protocol"), given.pop("data")
    return folding.note(code, peer_id, protocol, data, now=now, wall=WALL + now, **given)  # type: ignore[arg-type]


def test_few_are_told_one_by_one_and_many_as_one_with_their_number() -> None:
    folding = Folding()
    burst = int(EACH.burst)
    events = [note(folding, at) for at in range(burst)]
    assert all(is_new and event.count == 1 for event, is_new in events)
    assert len({id(event) for event, _ in events}) == burst
    first, is_new = note(folding, burst)
    assert is_new
    for at in range(40):
        again, is_new = note(folding, burst + at, data={"reason": f"number {at}"})
        assert again is first and not is_new
    assert (first.count, first.time, first.until) == (41, WALL + burst, WALL + burst + 39)
    assert first.data == {"reason": "number 39"}, "the last one's"
    other, is_new = note(folding, burst, peer="B")
    assert is_new and other.count == 1, "each peer for itself"


def test_an_event_counts_for_ten_minutes_and_the_next_is_another() -> None:
    folding = Folding()
    party = stranger(1)
    first, _ = note(folding, 0, "access-denied", stranger=party)
    same, _ = note(folding, FOLD_S - 1, "access-denied", stranger=party)
    later, is_new = note(folding, FOLD_S, "access-denied", stranger=party)
    assert same is first and first.count == 2 and first.share == "strangers"
    assert is_new and later is not first


def test_a_stranger_has_few_events_and_the_rest_are_counted_without_names() -> None:
    folding = Folding()
    party = stranger(1)
    events = [note(folding, 0, "access-denied", protocol=f"/x/{n}", stranger=party) for n in range(1000)]
    own = [event for event, is_new in events if is_new and event.peer is not None]
    assert len(own) == STRANGERS_EVENTS.peer.burst
    rest = events[-1][0]
    assert (rest.peer, rest.protocol, rest.count) == (None, None, 1000 - len(own))
    assert {event.share for event, _ in events} == {"strangers"}


def test_a_thousand_identities_of_one_network_have_the_share_of_a_network() -> None:
    folding = Folding()
    events = [note(folding, 0, "access-denied", peer=str(n), stranger=stranger(n)) for n in range(1000)]
    assert sum(is_new for _, is_new in events) == STRANGERS_EVENTS.network.burst + 1


def test_strangers_of_all_networks_have_the_share_of_all() -> None:
    folding = Folding()
    parties = [stranger(n, f"203.{n // 250}.{n % 250}.7") for n in range(1000)]
    events = [note(folding, 0, "access-denied", peer=str(n), stranger=it) for n, it in enumerate(parties)]
    assert STRANGERS_EVENTS.all is not None
    assert sum(is_new for _, is_new in events) == STRANGERS_EVENTS.all.burst + 1
    event, is_new = note(folding, 0)
    assert is_new and event.share == "own", "the owner's events are told all the same"


def test_what_nobody_is_known_to_have_caused_is_one_event_for_each_cause() -> None:
    folding = Folding()
    for at in range(1000):
        for cause in ("dht-opens", "ping-opens"):
            event, _ = note(
                folding, at / 10, "refused", peer=None, data={"cause": cause}, stranger=True, times=2
            )
    assert event.count == 2000 and event.data == {"cause": "ping-opens"}


def test_sums_are_added_up() -> None:
    folding = Folding()
    for number in range(3):
        data = {"failed": number % 2, "bytes_in": 10, "bytes_out": 1}
        event, _ = note(folding, 0, "streams-summed", protocol="/x/a", data=data)
    assert event.data == {"failed": 1, "bytes_in": 30, "bytes_out": 3} and event.share == "streams"


def test_the_number_of_open_events_and_the_length_of_texts_are_bounded() -> None:
    folding = Folding()
    for number in range(MAX_OPEN + 50):
        note(
            folding, 0, "streams-summed", peer=str(number), data={"failed": 0, "bytes_in": 0, "bytes_out": 0}
        )
    assert len(folding._open) == MAX_OPEN
    event, _ = note(folding, 0, peer="P" * 1000, data={"reason": "r" * 1000})
    assert len(str(event.data["reason"])) == len(event.peer or "") == MAX_TEXT


def test_of_strangers_beyond_the_share_of_their_network_nothing_is_kept() -> None:
    folding = Folding()
    parties = [stranger(n, f"203.0.113.{n}") for n in range(200)]
    ids = [party.peer for party in parties]
    told = [folding.spends(party, 0.0) for party in parties]
    references = [sys.getrefcount(who) for who in ids]
    kept = sum(count > references[-1] for count in references)
    assert sum(told) == kept == 2 * STRANGERS_EVENTS.network.burst


def test_of_strangers_beyond_the_share_of_all_nothing_is_kept() -> None:
    """A bucket for each of a thousand outlived their flood by minutes."""
    folding = Folding()
    parties = [stranger(n, f"203.{n // 250}.{n % 250}.7") for n in range(1000)]
    ids = [party.peer for party in parties]
    for party in parties:
        folding.spends(party, 0.0)
    references = [sys.getrefcount(who) for who in ids]
    assert sum(count > references[-1] for count in references) == STRANGERS_EVENTS.all.burst
