"""Subscriptions of the control socket's server: who wants which topic, and what waits to be sent.

Rules: publishing never blocks and never fails. While a subscriber's socket is full its events wait in a
bounded queue; the oldest go first, and their number is told as `{"action": "dropped", "count": n}` before
the next event that gets through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from p2pfwd.errors import InvalidParams
from p2pfwd.rpc.schema import TOPICS, Event

MAX_QUEUED_EVENTS = 1000
"""Events that wait for one subscriber: about 300 KB of log lines."""


class EventQueue:
    """One subscription; `send` writes an event and says whether more may follow at once."""

    def __init__(self, number: int, topics: Collection[str], send: Callable[[Event], bool]) -> None:
        self.number = number
        self.topics = frozenset(topics)
        self._send = send
        self._waiting: deque[tuple[str, float, dict[str, Any]]] = deque()
        self._dropped = 0
        self._open = True

    def offer(self, topic: str, time: float, data: dict[str, Any]) -> None:
        """Send the event now, or keep it until `resume`."""
        if len(self._waiting) == MAX_QUEUED_EVENTS:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append((topic, time, data))
        if self._open:
            self._flush()

    def pause(self) -> None:
        """The subscriber's socket is full: keep events from now on."""
        self._open = False

    def resume(self) -> None:
        """The subscriber's socket takes data again."""
        self._open = True
        self._flush()

    def _flush(self) -> None:
        while self._waiting and self._open:
            topic, time, data = self._waiting[0]
            if self._dropped:
                count, self._dropped = self._dropped, 0
                lost = {"action": "dropped", "count": count}
                self._open = self._send(Event(self.number, topic, time, lost))
                continue
            self._waiting.popleft()
            self._open = self._send(Event(self.number, topic, time, data))


class EventHub:
    """Every subscription of a server."""

    def __init__(self) -> None:
        self._queues: dict[int, EventQueue] = {}
        self._last_number = 0
        self.changed: Callable[[], None] = lambda: None
        """Called after every subscription's begin and end: what `wanted` says may have changed."""

    def subscribe(self, topics: Collection[str], send: Callable[[Event], bool]) -> EventQueue:
        """A new subscription; raises InvalidParams for no topic and for one there is not."""
        if not topics:
            raise InvalidParams(f"events.subscribe: give at least one topic of {', '.join(TOPICS)}")
        for topic in topics:
            if topic not in TOPICS:
                raise InvalidParams(f"events.subscribe: no topic {topic!r}; there are {', '.join(TOPICS)}")
        self._last_number += 1
        queue = EventQueue(self._last_number, topics, send)
        self._queues[queue.number] = queue
        self.changed()
        return queue

    def remove(self, queue: EventQueue) -> None:
        """End a subscription. Idempotent."""
        if self._queues.pop(queue.number, None) is not None:
            self.changed()

    def wanted(self, topic: str) -> bool:
        """Whether anybody listens: what is dear to make need not be made otherwise."""
        return any(topic in queue.topics for queue in self._queues.values())

    def publish(self, topic: str, time: float, data: dict[str, Any]) -> None:
        """Tell `data` (JSON-able) to all who subscribed to `topic`; `time` in unix seconds."""
        for queue in list(self._queues.values()):
            if topic in queue.topics:
                queue.offer(topic, time, data)
