"""One lookup under way: its requests, and the dials of what it has found.

Rules: what somebody tells of the peer sought is dialed at once. The dial has a head start; then the lookup
goes on beside it, so that liars, whose addresses take seconds to fail, hold it up a second each and not more.
A few dials at most run at once. What is found meanwhile is dialed together when there is room for another:
the first address of each answer, then the second of each. So who answers last waits for no liar's whole list.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.link.contract import Link
from p2pfwd.wire.kad.messages import Response
from p2pfwd.wire.kad.query import Lookup
from p2pfwd.wire.kad.query_values import Ending, LookupResult, Told

HEAD_START_S: Final = 1.0
"""For a dial of what was found, before others are asked on: an honest answer mostly leads there within it."""

MAX_ATTEMPTS: Final = 4
"""Dials of what was found, at once."""

MAX_DIALED: Final = 16
"""Addresses of one dial: as many as one answer may tell, and a dial plan cuts none of them."""

Try = Callable[[Sequence[Multiaddr]], Awaitable[bool]]
"""Dial these addresses of the peer sought; whether it was reached."""

Answer = tuple[Link, Response]


class Search:
    """Runs one `Lookup` to its end. `report` tells it what came of a request."""

    def __init__(
        self,
        query: Lookup,
        ask: Callable[[PeerId], Coroutine[Any, Any, Answer]],
        report: Callable[[PeerId, asyncio.Task[Answer]], None],
        attempt: Try | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: the one whose times `query` was made with."""
        self._query = query
        self._clock = clock
        self._ask = ask
        self._report = report
        self._attempt = attempt
        self._requests: dict[asyncio.Task[Answer], PeerId] = {}
        self._untried: dict[Multiaddr, Told] = {}
        self._attempts: dict[asyncio.Task[bool], LookupResult] = {}
        self._latest: asyncio.Task[bool] | None = None
        self._go_on_at = 0.0
        """When the head start of the latest dial is over."""

    async def run(self) -> LookupResult:
        """The end of the lookup; nothing of it is left running."""
        try:
            while True:
                result = self._go_on()
                waiting = [*self._requests, *self._attempts]
                if not waiting or (self._query.done and not self._attempts):
                    return result
                await asyncio.wait(
                    waiting, timeout=self._wait_s(), return_when=asyncio.FIRST_COMPLETED
                )
                if (reached := self._ended()) is not None:
                    return replace(result, ending=Ending.FOUND, found=reached.found, hops=reached.hops)
        finally:
            left: list[asyncio.Task[Any]] = [*self._requests, *self._attempts]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _go_on(self) -> LookupResult:
        """Ask and dial whom it is time for; what there is by now."""
        query, now = self._query, self._clock()
        self._take(now)
        if now >= self._go_on_at:
            if self._latest is not None or not self._untried:  # what is found first is dialed first
                for peer in query.next_requests(now):
                    self._requests[asyncio.create_task(self._ask(peer), name="kad request")] = peer
                self._take(now)  # where nobody else is to be asked, more is found
            self._dial(now)
        return query.result(now)

    def _take(self, now: float) -> None:
        """Take over what was found, if it is to be dialed; the lookup goes on as if it had not been."""
        while self._attempt is not None and (found := dict(self._query.found)):
            self._untried |= found
            self._query.reject_found(found, now)

    def _dial(self, now: float) -> None:
        """Dial some of what was found, if there is room."""
        if self._attempt is None or not self._untried or len(self._attempts) >= MAX_ATTEMPTS:
            return
        tried = sorted(self._untried, key=lambda addr: self._untried[addr].place)[:MAX_DIALED]
        hops = [self._untried.pop(addr).hops for addr in tried]
        result = replace(self._query.result(now), ending=Ending.FOUND, found=tuple(tried), hops=hops[0])
        self._latest, self._go_on_at = asyncio.ensure_future(self._attempt(tried)), now + HEAD_START_S
        self._attempts[self._latest] = result

    def _wait_s(self) -> float | None:
        """Until there is something to do, if nothing ends: in a head start nobody else is asked."""
        now, deadline = self._clock(), self._query.deadline
        if now < self._go_on_at:
            return self._go_on_at - now
        return max(0.0, deadline - now) if deadline is not None else None

    def _ended(self) -> LookupResult | None:
        """Take in what has ended; what led to the peer, if something did."""
        for request in [task for task in self._requests if task.done()]:
            self._report(self._requests.pop(request), request)
        for attempt in [task for task in self._attempts if task.done()]:
            result = self._attempts.pop(attempt)
            if attempt.result():
                return result
            if attempt is self._latest:
                self._go_on_at = 0.0
        return None
