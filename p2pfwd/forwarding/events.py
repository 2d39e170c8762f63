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

    __slots__ = ("_callbacks", "_of_listeners")

    def __init__(self) -> None:
        self._callbacks: list[EventCallback] = []
        self._of_listeners: list[EventCallback] = []

    def subscribe(self, callback: EventCallback, *, streams: bool = True) -> Callable[[], None]:
        """Call `callback` at every change, or of listeners alone; returns what ends it (idempotent)."""
        callbacks = self._callbacks if streams else self._of_listeners
        callbacks.append(callback)

        def cancel() -> None:
            if callback in callbacks:
                callbacks.remove(callback)

        return cancel

    def listener(self, change: Change, info: Callable[[], ListenerInfo]) -> None:
        """A listener changed; `info` is called only if somebody wants it."""
        if self._callbacks or self._of_listeners:
            event = ForwardingEvent(change, listener=info())
            self._tell(event)
            for callback in tuple(self._of_listeners):
                callback(event)

    def stream(self, change: Change, info: Callable[[], StreamInfo]) -> None:
        """A stream changed; `info` is called only if somebody wants it."""
        if self._callbacks:
            self._tell(ForwardingEvent(change, stream=info()))

    def _tell(self, event: ForwardingEvent) -> None:
        for callback in tuple(self._callbacks):
            callback(event)
