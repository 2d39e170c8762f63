"""The RPC's method on the history: `events.ls` (p2pfwd-rpc(7)). Live ones are the topic `events`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from p2pfwd.core.quoting import quoted
from p2pfwd.daemon.methods import views
from p2pfwd.errors import UsageError
from p2pfwd.history.file import Query
from p2pfwd.history.kinds import KINDS, TOPICS
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.event_values import MAX_LIMIT
from p2pfwd.rpc.server import CallContext, Handler

if TYPE_CHECKING:
    from p2pfwd.daemon.peering import Peering
    from p2pfwd.history.history import History


class EventMethods:
    """Methods of one daemon."""

    def __init__(self, history: History, peering: Peering) -> None:
        self._history = history
        self._peering = peering

    def table(self) -> Mapping[str, Handler]:
        """Method name -> coroutine function."""
        return {"events.ls": self.ls}

    async def ls(self, context: CallContext, params: s.EventsParams) -> s.EventsResult:
        """What happened. Raises UsageError, InvalidPeerId, InvalidMultiaddr."""
        if not 1 <= params.limit <= MAX_LIMIT:
            raise UsageError(f"a limit of {params.limit} events, and it is from 1 to {MAX_LIMIT}")
        if params.since is not None and not isfinite(params.since):
            raise UsageError("the time from which events are wanted is no time")
        peer = None if params.peer is None else str(self._peering.identify(params.peer))
        query = Query(
            limit=params.limit + 1,  # one more tells whether there are any
            since=params.since,
            after=params.after,
            peer=peer,
            protocol=params.protocol,
            codes=_codes(params.kinds),
        )
        found, failure = await self._history.find(query)
        names = self._peering.names_by_id()
        return s.EventsResult(
            events=tuple(views.event(event, names) for event in found[-params.limit :]),
            peer=peer,
            last_id=self._history.last_id,
            complete=len(found) <= params.limit,
            failure=None if failure is None else failure.message,
            hint=None if failure is None else failure.hint,
        )


def _codes(kinds: Sequence[str]) -> frozenset[str] | None:
    """The codes that topics and codes mean; None: all. Raises UsageError."""
    found: set[str] = set()
    for text in kinds:
        codes = {code for code, kind in KINDS.items() if text in (code, kind.topic)}
        if not codes:
            raise UsageError(
                f"no kind of event is called {quoted(text)}",
                hint=f"one of {', '.join(TOPICS)}, or a code that --json shows",
            )
        found |= codes
    return frozenset(found) if kinds else None
