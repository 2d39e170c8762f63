"""rpc.events: queues are bounded, the oldest are dropped, and the number dropped is told."""

from __future__ import annotations

import pytest

from p2pfwd.errors import InvalidParams
from p2pfwd.rpc.events import MAX_QUEUED_EVENTS, EventHub
from p2pfwd.rpc.schema import Event


class Subscriber:
    """Takes `room` events, then says it is full."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.got: list[Event] = []
        self.room = room

    def send(self, event: Event) -> bool:
        self.got.append(event)
        self.room -= 1
        return self.room > 0


def test_events_reach_only_those_who_asked_for_their_topic() -> None:
    hub, one, two = EventHub(), Subscriber(), Subscriber()
    hub.subscribe(["log"], one.send)
    second = hub.subscribe(["log", "peers"], two.send)
    assert hub.wanted("peers")
    assert not hub.wanted("streams")
    hub.publish("peers", 5.0, {"action": "connected"})
    hub.publish("streams", 6.0, {})
    assert one.got == []
    assert two.got == [Event(second.number, "peers", 5.0, {"action": "connected"})]
    hub.remove(second)
    hub.remove(second)
    assert not hub.wanted("peers")


def test_a_full_subscriber_loses_the_oldest_and_is_told_how_many() -> None:
    hub, slow = EventHub(), Subscriber(room=1)
    queue = hub.subscribe(["log"], slow.send)
    for number in range(MAX_QUEUED_EVENTS + 4):
        hub.publish("log", number, {"n": number})
    assert [e.data for e in slow.got] == [{"n": 0}]
    slow.room = 1 << 30
    queue.resume()
    told = [e.data for e in slow.got[1:]]
    assert told[0] == {"action": "dropped", "count": 3}
    assert told[1:] == [{"n": number} for number in range(4, MAX_QUEUED_EVENTS + 4)]


def test_a_paused_queue_keeps_events_until_it_is_resumed() -> None:
    hub, slow = EventHub(), Subscriber()
    queue = hub.subscribe(["log"], slow.send)
    queue.pause()
    hub.publish("log", 1.0, {})
    assert slow.got == []
    queue.resume()
    assert len(slow.got) == 1


@pytest.mark.parametrize("topics", [[], ["weather"], ["log", "weather"]])
def test_unknown_topics_are_refused(topics: list[str]) -> None:
    with pytest.raises(InvalidParams, match="log, listeners, streams, peers"):
        EventHub().subscribe(topics, Subscriber().send)
