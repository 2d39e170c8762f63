"""What `events.ls` is given and answers, and what `daemon.status` and `p2p.ls` tell of the same history."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from p2pfwd.rpc.values import Message, message

DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000
"""Events of one answer: 5 MB of them."""


@message
class EventsParams(Message):
    """Parameters of `events.ls`."""

    since: float | None = None  # unix seconds: what happened then or later
    after: int | None = None  # HistoryEvent.id
    peer: str | None = None  # an ID, or a name
    protocol: str | None = None
    kinds: tuple[str, ...] = ()  # topics and codes
    limit: int = DEFAULT_LIMIT  # the newest; at most MAX_LIMIT


@message
class HistoryEvent(Message):
    """What happened, once or several times."""

    id: int  # grows from event to event, over restarts and a lost file too
    time: float  # of the first, unix seconds
    until: float  # of the last
    count: int
    code: str
    topic: str
    peer: str | None  # None beside a count: of several
    name: str | None  # the peer's, as `peer add` gave it
    protocol: str | None
    stranger: bool  # caused by somebody who is no peer of the owner's
    data: dict[str, Any] = field(default_factory=dict)  # the fields of this code


@message
class EventsResult(Message):
    """Result of `events.ls`."""

    events: tuple[HistoryEvent, ...]  # the oldest first
    peer: str | None = None  # the ID of the peer asked for
    last_id: int = 0  # of the newest event there is, whether it fits or not, or more
    complete: bool = True  # whether nothing that fits was left out for the limit
    failure: str | None = None  # why the history is not written at present, or not read
    hint: str | None = None


@message
class PeerDrops(Message):
    """How often one peer's connection was lost."""

    peer: str
    name: str | None
    times: int
    last: float  # unix seconds
    reason: str  # of the last, in words


@message
class HistoryDigest(Message):
    """The last 24 hours."""

    drops: tuple[PeerDrops, ...] = ()  # the last first
    streams: int = 0  # that ended
    denied: int = 0
    daemon_lost: int = 0  # how often the daemon was killed, or crashed
    failure: str | None = None  # as EventsResult.failure
