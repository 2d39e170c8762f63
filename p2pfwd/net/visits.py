"""One stream at its service, within the bounds: admission, the reading of messages, the pace of requests.

Rules: a request above the rate waits, its stream unread; one that would wait too long resets its stream.
After each request the event loop gets its turn, and no more than a few are answered between two turns,
first come, first served over all connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from p2pfwd.errors import RemoteProtocolError, ResourceLimitExceeded, TimedOut
from p2pfwd.net.link.contract import DuplexStream
from p2pfwd.policy.service_bounds import REQUESTS_PER_TURN, SLOWED_S, Bounds
from p2pfwd.policy.shares import Held, Paced, Party

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

    def __init__(self, bounds: Bounds, turns: Turns, refuse: Refuse, clock: Callable[[], float]) -> None:
        self.bounds = bounds
        self.held = Held(bounds.most)
        self.turns = turns
        self.refuse = refuse
        self._clock = clock
        self._opens = None if bounds.opens is None else Paced(bounds.opens)
        self._requests = None if bounds.requests is None else Paced(bounds.requests)

    def enter(self, stream: DuplexStream, party: Party) -> Visit | None:
        """Count a stream in; None where it is one too many, or comes too soon."""
        label = self.bounds.label
        if self._opens is not None:
            whose = self._opens.empty(party, self._clock())
            if whose is not None:
                self.refuse(stream, f"{label}-opens", hasty=whose == "peer")
                return None
        if self.held.full(party) is not None:
            self.refuse(stream, f"{label}-streams", hasty=False)
            return None
        self.held.take(party)
        return Visit(self, stream, party)

    def forget_full(self) -> None:
        """See `Paced.forget_full`."""
        for paced in (self._opens, self._requests):
            if paced is not None:
                paced.forget_full(self._clock())

    async def admit_request(self, visit: Visit) -> None:
        """Wait until a request may be answered. Raises ResourceLimitExceeded where that is too long."""
        if self._requests is not None:
            wait_s, whose = self._requests.waits_s(visit.party, self._clock(), SLOWED_S)
            if wait_s or whose is not None:
                self.refuse(visit.stream, f"{self.bounds.label}-requests", hasty=whose == "peer")
            if whose is not None:
                raise ResourceLimitExceeded(f"{self.bounds.label}: the peer asks too fast")
            if wait_s:
                await asyncio.sleep(wait_s)
        await self.turns.take()


class Visit:
    """One inbound stream, while it is served."""

    __slots__ = ("_read", "_room", "party", "stream")

    def __init__(self, room: Room, stream: DuplexStream, party: Party) -> None:
        self.stream = stream
        self.party = party
        self._room: Room | None = room
        self._read = 0

    @property
    def bounds(self) -> Bounds:
        """Of the service."""
        assert self._room is not None
        return self._room.bounds

    def leave(self) -> None:
        """The stream is gone, and so is its handler. Idempotent."""
        room, self._room = self._room, None
        if room is not None:
            room.held.give(self.party)

    async def turn(self) -> None:
        """Wait for one's turn to make work, and for the event loop's."""
        assert self._room is not None
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
        assert self._room is not None
        await self._room.admit_request(self)
        return await self._in_time(rest(first))

    async def _rest(self, first: bytes) -> bytes:
        return first + await self.stream.read_exactly(self.bounds.message_bytes - len(first))

    async def _delimited(self, first: bytes) -> bytes:
        most = self.bounds.message_bytes
        length = await self.stream.read_length(first)
        if length > most:
            assert self._room is not None
            self._room.refuse(self.stream, f"{self.bounds.label}-message", hasty=False)
            raise RemoteProtocolError(f"a message of {length} bytes, more than {most}")
        return await self.stream.read_exactly(length)

    async def _in_time(self, work: Awaitable[T]) -> T:
        idle_s = self.bounds.idle_s
        try:
            async with asyncio.timeout(idle_s):
                return await work
        except TimeoutError:
            raise TimedOut(f"the peer did not go on within {idle_s:g} s") from None
