"""What LocalListener (forward) and RemoteListener (listen) share, and the registry that owns both.

Rules: a listener exists iff it is registered; listens are keyed by protocol, forwards by
their bound address; ids are monotonic and never reused; closing takes the listener out at once and
leaves its live streams alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.terms import ForwardTerms, Life, Lifetime, ListenTerms
from p2pfwd.errors import ListenerExists, NotFound, P2PForwardError
from p2pfwd.forwarding.events import Events
from p2pfwd.forwarding.health import Health
from p2pfwd.forwarding.values import CloseMatch, Direction, ForwardingLimits, ListenerInfo
from p2pfwd.policy.shares import Party

if TYPE_CHECKING:
    from p2pfwd.net.link.contract import DuplexStream, SplicedStream

log = logging.getLogger("p2pfwd.forwarding")

LOG_INTERVAL_S: Final = 10.0
"""One line per listener in this time, however many connections fail for the same cause."""


class Closed:
    """Awaitable many times and by many: the end of a listener."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __await__(self) -> Generator[Any, None, None]:
        yield from self._event.wait().__await__()

    def done(self) -> bool:
        """Whether it has ended."""
        return self._event.is_set()

    def set(self) -> None:
        """It has ended."""
        self._event.set()


class Listener(ABC):
    """One registered listen or forward, its health and its totals."""

    direction: ClassVar[Direction]
    terms: ListenTerms | ForwardTerms
    limits: ForwardingLimits

    def __init__(
        self,
        listener_id: int,
        protocol: str,
        events: Events,
        life: Life,
    ) -> None:
        now = time.time()
        self.id = listener_id
        self.protocol = protocol
        self.lifetime = life.lifetime
        self.created = now if life.created is None else life.created
        self.health = Health(now)
        self.live = 0  # streams now
        self.bytes_in = 0  # of streams that have ended
        self.bytes_out = 0
        self.closed = Closed()
        self.idle_timeout_s = 0
        self._events = events
        self._logged_at = -math.inf  # of the monotonic clock: the other one may be set back
        self._unlogged = 0

    @property
    @abstractmethod
    def listen_address(self) -> Multiaddr:
        """Kubo's ListenAddress."""

    @property
    @abstractmethod
    def target_address(self) -> Multiaddr:
        """Kubo's TargetAddress."""

    @property
    @abstractmethod
    def key(self) -> tuple[Direction, str]:
        """What no second listener may have."""

    @abstractmethod
    def stop(self) -> None:
        """Take nothing new and drop what is being opened; live streams stay. Idempotent.

        `closed` is set when nothing is left behind.
        """

    @abstractmethod
    def stream_ended(self, stream_id: int, error: Exception | None, bytes_in: int) -> None:
        """One of its streams is over; `error` is None if both sides finished."""

    @abstractmethod
    def left(self, party: Party | None, *, used: bool) -> None:
        """A stream of it is over, which counted for `party`; `used`: whether the peer made use of it."""

    def carry(self, stream: DuplexStream) -> SplicedStream:
        """A stream of it as its splice is to see it."""
        return stream

    @property
    def ends_at(self) -> float:
        """When it is closed by itself, unix seconds; 0: never."""
        return self.terms.ends_at

    def renew(self, ends_at: float) -> None:
        """Another end from now on."""
        self.terms = replace(self.terms, ends_at=ends_at)
        self._events.listener("changed", self.info)

    @property
    def is_warm(self) -> bool:
        """Whether the peer of a forward is kept connected for it."""
        return False

    @property
    def waiting(self) -> int:
        """Local connections of a forward that wait for its peer."""
        return 0

    def lives(self, lifetime: Lifetime) -> None:
        """As long as this from now on."""
        self.lifetime = lifetime
        self._events.listener("changed", self.info)

    def describe(self) -> str:
        """For log lines."""
        return f"{self.direction} {self.id} {self.protocol}"

    def worked(self) -> None:
        """A connection went through."""
        if self.health.ready(time.time()):
            self._state_changed()

    def failed(self, error: P2PForwardError) -> None:
        """A connection did not go through: keep the reason, log it now and then."""
        was = self.health.state
        now = time.monotonic()
        changed = self.health.failed(error, time.time())
        if self.health.state != was or now - self._logged_at >= LOG_INTERVAL_S:
            more = f" ({self._unlogged} more in between)" if self._unlogged else ""
            log.warning("%s: %s%s", self.describe(), error.message, more)
            self._logged_at, self._unlogged = now, 0
        else:
            self._unlogged += 1
        if changed:
            self._state_changed()

    def told(self, state: str, reason: str | None, hint: str | None) -> None:
        """A check found `state`."""
        if self.health.told(state, reason, hint, time.time()):
            self._state_changed()

    def _state_changed(self) -> None:
        """Its health is another one."""
        self._events.listener("changed", self.info)

    def info(self, live_in: int = 0, live_out: int = 0) -> ListenerInfo:
        """A snapshot; `live_in` and `live_out` are the bytes of the streams still alive."""
        return ListenerInfo(
            id=self.id,
            direction=self.direction,
            protocol=self.protocol,
            listen_address=self.listen_address,
            target_address=self.target_address,
            state=self.health.state,
            reason=self.health.reason,
            hint=self.health.hint,
            state_since=self.health.since,
            streams=self.live,
            bytes_in=self.bytes_in + live_in,
            bytes_out=self.bytes_out + live_out,
            foreground=self.lifetime == "foreground",
            saved=self.lifetime == "saved",
            created=self.created,
            ends_at=self.ends_at or None,
            waiting=self.waiting,
            warm=self.is_warm,
            terms=self.terms,
            lifetime=self.lifetime,
        )


class ListenerRegistry:
    """The only owner of listeners."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._by_id: dict[int, Listener] = {}  # insertion order is id order
        self._by_key: dict[tuple[Direction, str], Listener] = {}
        self._next_id = 1

    def __len__(self) -> int:
        return len(self._by_id)

    def take_id(self) -> int:
        """The next id; never given again."""
        taken = self._next_id
        self._next_id += 1
        return taken

    def refuse_duplicate(self, key: tuple[Direction, str]) -> None:
        """Raise ListenerExists if the key is taken."""
        holder = self._by_key.get(key)
        if holder is not None:
            what = f"protocol {key[1]}" if key[0] == "listen" else f"listen address {key[1]}"
            raise ListenerExists(
                f"listener already registered: the {what} is taken by {holder.describe()}",
                hint="close it first, or choose another one",
                listener=holder.id,
            )

    def register(self, listener: Listener) -> None:
        """From now on the listener exists. Raises ListenerExists."""
        self.refuse_duplicate(listener.key)
        self._by_id[listener.id] = listener
        self._by_key[listener.key] = listener
        self._events.listener("added", listener.info)

    def find(self, direction: Direction, key: str) -> Listener | None:
        """The listen for a protocol, or the forward at an address."""
        return self._by_key.get((direction, key))

    def get(self, listener_id: int) -> Listener:
        """Raises NotFound."""
        listener = self._by_id.get(listener_id)
        if listener is None:
            raise NotFound(f"no listener has id {listener_id}")
        return listener

    def all(self) -> list[Listener]:
        """In the order in which they came."""
        return list(self._by_id.values())

    def matching(self, match: CloseMatch) -> list[Listener]:
        """Those that match, in the order in which they came."""
        return [
            listener
            for listener in self._by_id.values()
            if match.matches(listener.protocol, listener.listen_address, listener.target_address)
        ]

    def close(self, listener: Listener) -> None:
        """Remove and stop exactly this one, which is there; await its `closed` to see it done."""
        del self._by_id[listener.id]
        del self._by_key[listener.key]
        listener.stop()
        self._events.listener("removed", listener.info)
