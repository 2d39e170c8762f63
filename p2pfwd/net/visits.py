"""One stream at its service, within the bounds: admission, the reading of messages, the pace of requests.

Rules: a request above the rate waits, its stream unread; one that would wait too long resets its stream.
After each request the event loop gets its turn, and no more than a few are answered between two turns,
first come, first served over all connections. Where all places are taken, whose peer has kept this node
waiting longest gives way to a newcomer: of the network that is full, or of the one that has most. The owner's
peers are bound by their own share alone, and who was served before by its own and its networks'; neither
gives way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from p2pfwd.errors import RemoteProtocolError, ResourceLimitExceeded, TimedOut
from p2pfwd.net.link.contract import DuplexStream
from p2pfwd.policy.service_bounds import NO_BOUND, REQUESTS_PER_TURN, SLOWED_S, Bounds
from p2pfwd.policy.shares import Held, Paced, Party, Rank, RankOf, binds, giving_way, rank_in

T = TypeVar("T")

_SAID = {
    "streams": "has, or its network has, too many streams of this kind open",
    "opens": "opens streams of this kind too fast",
    "requests": "asks too fast",
    "message": "sent a message that is too long",
    "dials": "has too many connections to local services under way",
    "unused": "opens connections to local services and does not use them",
}


def said(cause: str) -> str:
    """A cause in words, for the log."""
    label, _, what = cause.rpartition("-")
    return f"{label}: it {_SAID[what]}"


class Refuse(Protocol):
    """Told of each refusal: its cause, and whether the peer was too hasty, by a share of its own."""

    def __call__(self, stream: DuplexStream, cause: str, *, hasty: bool) -> None: ...


class Turns:
    """So many requests between two turns of the event loop; the others queue."""

    def __init__(self, per_turn: int = REQUESTS_PER_TURN) -> None:
        self._per_turn = per_turn
        self._left = per_turn
        self._queue: deque[asyncio.Future[None]] = deque()
        self._refill_due = False

    async def take(self) -> None:
        """Wait for the loop's turn, and one's own."""
        loop = asyncio.get_running_loop()
        if not self._refill_due:
            self._refill_due = True
            loop.call_soon(self._refill)
        if self._left and not self._queue:
            self._left -= 1
            return
        waiter = loop.create_future()
        self._queue.append(waiter)
        await waiter

    def _refill(self) -> None:
        self._left = self._per_turn
        while self._queue and self._left:
            waiter = self._queue.popleft()
            if not waiter.done():  # cancelled
                waiter.set_result(None)
                self._left -= 1
        self._refill_due = bool(self._queue) or self._left < self._per_turn
        if self._refill_due:
            asyncio.get_running_loop().call_soon(self._refill)


class Room:
    """What is held and asked of the services that share one set of bounds."""

    def __init__(
        self,
        bounds: Bounds,
        turns: Turns,
        refuse: Refuse,
        clock: Callable[[], float],
        rank_of: RankOf,
    ) -> None:
        self.bounds = bounds
        self.held = Held(bounds.most)
        self.turns = turns
        self.refuse = refuse
        self.clock = clock
        self._rank_of = rank_of
        self._visits: dict[Visit, None] = {}
        """Those that may have to give way."""
        self._opens = None if bounds.opens is None else Paced(bounds.opens)
        self._requests = None if bounds.requests is None else Paced(bounds.requests)

    def enter(self, stream: DuplexStream, party: Party) -> Visit | None:
        """Count a stream in; None where it is one too many, or comes too soon."""
        label = self.bounds.label
        if self._opens is not None:
            whose = self._opens.empty(party, self.clock())
            if binds(whose, party, self._rank_of):
                self.refuse(stream, f"{label}-opens", hasty=whose == "peer")
                return None
        if not self._has_place(party):
            self.refuse(stream, f"{label}-streams", hasty=False)
            return None
        self.held.take(party)
        visit = Visit(self, stream, party)
        if self.bounds.most.all < NO_BOUND:
            self._visits[visit] = None
        return visit

    def left(self, visit: Visit) -> None:
        """From a visit, once."""
        self.held.give(visit.party)
        self._visits.pop(visit, None)

    def _has_place(self, party: Party) -> bool:
        """Whether there is one for this peer, if need be because others give way."""
        while (whose := self.held.full(party)) is not None:
            if not binds(whose, party, self._rank_of):
                return True
            order = giving_way(self._visits, party, whose, self.bounds.most, _waits_since)
            strangers = (it for it in order if rank_in(it.party, self._rank_of) is Rank.STRANGER)
            victim = next(strangers, None)
            if victim is None:
                return False
            self.refuse(victim.stream, f"{self.bounds.label}-streams", hasty=False)
            victim.stream.reset()
            victim.leave()
        return True

    def forget_full(self) -> None:
        """See `Paced.forget_full`."""
        for paced in (self._opens, self._requests):
            if paced is not None:
                paced.forget_full(self.clock())

    async def admit_request(self, visit: Visit) -> None:
        """Wait until a request may be answered. Raises ResourceLimitExceeded where that is too long."""
        if self._requests is not None:
            rank = rank_in(visit.party, self._rank_of)
            wait_s, whose = self._requests.waits_s(visit.party, self.clock(), SLOWED_S, rank)
            if wait_s or whose is not None:
                self.refuse(visit.stream, f"{self.bounds.label}-requests", hasty=whose == "peer")
            if whose is not None:
                raise ResourceLimitExceeded(f"{self.bounds.label}: the peer asks too fast")
            if wait_s:
                await asyncio.sleep(wait_s)
        await self.turns.take()


def _waits_since(visit: Visit) -> float | None:
    return visit.waits_since


class Visit:
    """One inbound stream, while it is served."""

    __slots__ = ("_goes_on", "_has_left", "_read", "_room", "party", "stream", "waits_since")

    def __init__(self, room: Room, stream: DuplexStream, party: Party) -> None:
        self.stream = stream
        self.party = party
        self.waits_since: float | None = None
        """While its peer is to send something, to take an answer or to end it; by the room's clock."""
        self._room = room
        self._goes_on = False
        self._has_left = False
        self._read = 0

    @property
    def bounds(self) -> Bounds:
        """Of the service."""
        return self._room.bounds

    def go_on(self) -> None:
        """The stream is something else from now on, and has a place as long as that lasts."""
        self._goes_on = True

    def served(self) -> None:
        """Its handler has ended: the rest is its peer's to do."""
        if not self._goes_on:
            self.waits_since = self._room.clock()
        self.stream.when_over(self.leave)

    def leave(self) -> None:
        """The stream is gone, and so is its handler; or it has given way. Idempotent."""
        if not self._has_left:
            self._has_left = True
            self._room.left(self)

    async def turn(self) -> None:
        """Wait for one's turn to make work, and for the event loop's."""
        await self._room.turns.take()

    async def message(self) -> bytes | None:
        """The next length-delimited message; None after the peer's FIN, or the last that belongs here.

        Raises TimedOut, RemoteProtocolError, ResourceLimitExceeded, and as `Stream.read`.
        """
        most = self.bounds.messages
        return None if self._read == most else await self._next(1, self._delimited)

    async def block(self) -> bytes | None:
        """The next block of exactly `message_bytes` bytes; None after the peer's FIN. Raises as `message`."""
        return await self._next(self.bounds.message_bytes, self._rest)

    async def answer(self, message: bytes) -> None:
        """Send a length-delimited message. Raises TimedOut where the peer does not take it in time."""
        await self._in_time(self.stream.write_delimited(message))

    async def send(self, data: bytes) -> None:
        """Send bytes as they are. Raises as `answer`."""
        await self._in_time(self.stream.write(data))

    async def _next(self, most: int, rest: Callable[[bytes], Awaitable[bytes]]) -> bytes | None:
        first = await self._in_time(self.stream.read(most))
        if not first:
            return None
        self._read += 1
        await self._room.admit_request(self)
        return await self._in_time(rest(first))

    async def _rest(self, first: bytes) -> bytes:
        return first + await self.stream.read_exactly(self.bounds.message_bytes - len(first))

    async def _delimited(self, first: bytes) -> bytes:
        most = self.bounds.message_bytes
        length = await self.stream.read_length(first)
        if length > most:
            self._room.refuse(self.stream, f"{self.bounds.label}-message", hasty=False)
            raise RemoteProtocolError(f"a message of {length} bytes, more than {most}")
        return await self.stream.read_exactly(length)

    async def _in_time(self, work: Awaitable[T]) -> T:
        idle_s, self.waits_since = self.bounds.idle_s, self._room.clock()
        try:
            async with asyncio.timeout(idle_s):
                return await work
        except TimeoutError:
            raise TimedOut(f"the peer did not go on within {idle_s:g} s") from None
        finally:
            self.waits_since = None
