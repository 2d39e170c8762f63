"""Events as people read them: one line each, in local time, with the words of `history.kinds`."""

from __future__ import annotations

from datetime import datetime
from string import Formatter
from typing import Any, Final

from p2pfwd.cli.text import age, counted, printable, short_peer, shorten_peers, size
from p2pfwd.history.kinds import KINDS
from p2pfwd.rpc.schema import HistoryDigest, HistoryEvent, PeerDrops

MOST_DROPPED: Final = 3
"""Peers whose drops `status` tells one by one."""


class _Words(Formatter):
    """Fills in the words of a kind; a field that an event lacks is `?`."""

    def get_value(self, key: int | str, args: Any, kwargs: Any) -> Any:
        return kwargs.get(key, "?")

    def format_field(self, value: Any, spec: str) -> str:
        if not isinstance(value, int | float):
            return str(value)
        if spec == "clock":
            return moment(value)
        return {"size": size, "age": age}.get(spec, str)(value)


def event_line(event: HistoryEvent) -> str:
    """Its time, and what happened; of what happened several times also how often, and until when."""
    return f"{moment(event.time)}  {printable(_what(event))}{_repeated(event)}"


def moment(when: float) -> str:
    """A unix time as local date and time, to the second."""
    return datetime.fromtimestamp(when).isoformat(" ", "seconds")


def digest_line(found: HistoryDigest, now: float) -> str:
    """The last 24 hours in a sentence; `now` in unix seconds."""
    parts = [_drops(it, now) for it in found.drops[:MOST_DROPPED]]
    if more := found.drops[MOST_DROPPED:]:
        parts.append(f"{counted(sum(it.times for it in more), 'drop')} of {counted(len(more), 'other peer')}")
    if not found.drops:
        parts.append("no drops")
    if found.daemon_lost:
        parts.append(f"the daemon was killed or crashed {_times(found.daemon_lost)}")
    parts.append(f"{counted(found.streams, 'stream')}, {found.denied} denied")
    if found.failure is not None:
        parts.append(f"in memory only: {found.failure}")
    return f"last 24 h: {'; '.join(parts)}"


def _what(event: HistoryEvent) -> str:
    kind = KINDS.get(event.code)
    if kind is None:  # a newer daemon's
        fields = ", ".join(f"{name} {value}" for name, value in event.data.items())
        return " ".join(filter(None, (event.code, event.peer, event.protocol, fields)))
    texts = {name: shorten_peers(it) if isinstance(it, str) else it for name, it in event.data.items()}
    peer = event.name or (short_peer(event.peer) if event.peer else "an unknown peer")
    if "name" in event.data and event.peer:
        peer = short_peer(event.peer)  # it is about the name
    values = {**texts, "peer": peer, "protocol": event.protocol or "a listen", "count": event.count}
    return _Words().format(kind.words, **values)


def _repeated(event: HistoryEvent) -> str:
    if event.count == 1:
        return ""
    until = moment(event.until)
    if until[:10] == moment(event.time)[:10]:
        until = until[11:16]
    kind = KINDS.get(event.code)
    if kind is not None and "{count}" in kind.words:
        return f" (until {until})"
    return f" ({event.count} times until {until})"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _drops(it: PeerDrops, now: float) -> str:
    last = moment(it.last)
    at = last[11:16] if last[:10] == moment(now)[:10] else f"{last[5:10]} {last[11:16]}"
    who = it.name or short_peer(it.peer)
    return f"{counted(it.times, 'drop')} of {who}, last {at}: {shorten_peers(it.reason)}"
