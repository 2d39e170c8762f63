"""Tells subscribers what changed among listeners and streams.

Infos are made only when somebody listens: without subscribers a new stream costs one truth test here.
Callbacks run inside the change and must not raise.
"""

from __future__ import annotations

from collections.abc import Callable

from p2pfwd.forwarding.values import Change, ForwardingEvent, ListenerInfo, StreamInfo

EventCallback = Callable[[ForwardingEvent], None]


class Events:
    """The subscribers of one Forwarding."""

    __slots__ = ("_callbacks",)

    def __init__(self) -> None:
        self._callbacks: list[EventCallback] = []

    def subscribe(self, callback: EventCallback) -> Callable[[], None]:
        """Call `callback` at every change; returns what ends it (idempotent)."""
        self._callbacks.append(callback)

        def cancel() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return cancel

    def listener(self, change: Change, info: Callable[[], ListenerInfo]) -> None:
        """A listener changed; `info` is called only if somebody wants it."""
        if self._callbacks:
            self._tell(ForwardingEvent(change, listener=info()))

    def stream(self, change: Change, info: Callable[[], StreamInfo]) -> None:
        """A stream changed; `info` is called only if somebody wants it."""
        if self._callbacks:
            self._tell(ForwardingEvent(change, stream=info()))

    def _tell(self, event: ForwardingEvent) -> None:
        for callback in tuple(self._callbacks):
            callback(event)
