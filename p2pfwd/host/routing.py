"""How a peer is found by its ID alone: every source is asked at once, the first address that works wins.

The swarm asks here when no address it knows works. Each failure is its own: nobody to ask, not found,
found but unreachable (with every address tried and why). What goes on is told to observers, in words.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import DialFailed, P2PForwardError, PeerNotFound
from p2pfwd.net.dialer import Attempt, attempts_of, cure, failed_dial, told
from p2pfwd.net.swarm import Swarm
from p2pfwd.policy.dial_plan import MAX_DIALS
from p2pfwd.policy.undialable import UNDIALABLE
from p2pfwd.protocols.kad.search import Try
from p2pfwd.protocols.kad.service import Dht
from p2pfwd.protocols.mdns import Mdns
from p2pfwd.wire.mdns_pace import ANSWER_INTERVAL_S

START_WAIT_S: Final = 5.0
"""After the start look-ups wait this long for a source's first peer to ask."""

MAX_TRIED: Final = 256
"""Addresses that one look-up dials: sources name what others tell them, and liars never end. Each source has
an equal part, so that those who are asked in the one cannot use up the other's."""

MOST_NEAR_S: Final = 20.0
"""How long a look-up listens on the local network where answers go on coming, and none is right."""

ANSWER_WAIT_S: Final = ANSWER_INTERVAL_S + 1.0
"""How long a look-up listens on the local network: a peer that has just answered is silent for a second."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a look-up, for people."""

    peer_id: PeerId
    state: str
    """"searching" | "found" | "failed"."""
    text: str
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What a source has to say when it is done."""

    connected: bool
    asked: int
    """Peers that answered."""


class Source(Protocol):
    """Somebody who may know where a peer is."""

    name: str
    starts_slowly: bool
    """Whether it is worth waiting for when it has nobody to ask yet."""

    def is_ready(self) -> bool:
        """Whether there is anybody to ask."""

    async def wait_ready(self) -> None:
        """Until there is."""

    async def find(self, peer_id: PeerId, attempt: Try) -> Finding:
        """Hand every set of addresses found to `attempt`, until it returns True or there are no more."""


class DhtSource:
    """A DHT as a source: its first peer may still be being dialed."""

    starts_slowly = True

    def __init__(self, dht: Dht, name: str = "the DHT") -> None:
        self.name = name
        self._dht = dht

    def is_ready(self) -> bool:
        """Whether anybody is in its table."""
        return len(self._dht.table) > 0

    async def wait_ready(self) -> None:
        """Until somebody is."""
        while not self.is_ready():
            self._dht.changed.clear()
            await self._dht.changed.wait()

    async def find(self, peer_id: PeerId, attempt: Try) -> Finding:
        """An iterative lookup that dials what it finds."""
        connected = False

        async def dial(addrs: Sequence[Multiaddr]) -> bool:
            nonlocal connected
            connected = await attempt(addrs)
            return connected

        result = await self._dht.find_peer(peer_id, dial)
        return Finding(connected, result.answered)


class MdnsSource:
    """The segments this machine is on, as a source."""

    name = "the local network"
    starts_slowly = False

    def __init__(self, mdns: Mdns) -> None:
        self._mdns = mdns

    def is_ready(self) -> bool:
        """Whether this node is on any."""
        return self._mdns.joined.is_set()

    async def wait_ready(self) -> None:
        """Until it is."""
        await self._mdns.joined.wait()

    async def find(self, peer_id: PeerId, attempt: Try) -> Finding:
        """Ask, and listen a moment: who is there answers at once or not at all."""
        news = asyncio.Event()

        def follow(found: PeerId) -> None:
            if found == peer_id:
                news.set()

        unfollow = self._mdns.on_found(follow)
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + MOST_NEAR_S
        try:
            self._mdns.ask()
            async with asyncio.timeout(ANSWER_WAIT_S) as limit:
                while True:
                    addrs = self._mdns.peers().get(peer_id, ())
                    if addrs:
                        limit.reschedule(None)  # a dial has time limits of its own
                        if await attempt(addrs):
                            return Finding(True, 1)
                        if loop.time() >= ends_at:
                            return Finding(False, len(self._mdns.peers()))
                        limit.reschedule(min(ends_at, loop.time() + ANSWER_WAIT_S))
                    await news.wait()
                    news.clear()
        except TimeoutError:
            return Finding(False, len(self._mdns.peers()))
        finally:
            unfollow()


class Routing:
    """The race of all sources; `route` is the swarm's router."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._made_at = time.monotonic()
        self._sources: list[Source] = []
        self._observers: list[Callable[[Progress], None]] = []
        self.why_nobody: Callable[[], tuple[str, str | None] | None] = lambda: None
        """Where nobody of the DHT answers: why, in one clause, and the cure."""

    def add(self, source: Source) -> None:
        """Ask this one too, from now on."""
        self._sources.append(source)
        self._swarm.set_router(self.route)

    def on_progress(self, observer: Callable[[Progress], None]) -> Callable[[], None]:
        """Be told of every step of every look-up; returns the end of it."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    async def route(self, peer_id: PeerId, failure: P2PForwardError) -> None:
        """Connect to a peer at an address that somebody tells.

        Raises PeerNotFound or DialFailed; `failure` is why what was known did not work.
        """
        await self._ready(peer_id, failure)
        race = _Race(self._swarm, peer_id, failure, self._tell, self.why_nobody)
        await race.run(self._sources, self._patience_s())

    async def _ready(self, peer_id: PeerId, failure: P2PForwardError) -> None:
        """Until a source has somebody to ask, with a moment's patience. Raises PeerNotFound."""
        patience_s = self._patience_s()
        if patience_s and self._sources and not any(source.is_ready() for source in self._sources):
            waits = [asyncio.create_task(source.wait_ready()) for source in self._sources]
            try:
                await asyncio.wait(waits, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            finally:  # the caller may be cancelled: its time is over
                await _end(waits)
        if any(source.is_ready() for source in self._sources):
            return
        because, its_cure = self.why_nobody() or ("", None)
        if isinstance(failure, DialFailed) or attempts_of(failure):
            if not because:
                raise failure  # what is known of the peer says more than that nobody knows better
            message = f"{failure.message}; nobody can be asked for another address: {because}"
            raise type(failure)(message, hint=failure.hint, **failure.details) from failure
        hint = f"give its address too: /ip4/<address>/tcp/<port>/p2p/{peer_id}"
        raise PeerNotFound(
            f"no address is known for {peer_id}, and no peer is there to ask for one"
            + (f": {because}" if because else ""),
            hint=f"{hint}; or: {its_cure}" if its_cure else hint,
        )

    def _patience_s(self) -> float:
        return max(0.0, self._made_at + START_WAIT_S - time.monotonic())

    def _tell(self, progress: Progress) -> None:
        for observer in tuple(self._observers):
            observer(progress)


class _Race:
    """One look-up."""

    def __init__(
        self,
        swarm: Swarm,
        peer_id: PeerId,
        failure: P2PForwardError,
        tell: Callable[[Progress], None],
        why_nobody: Callable[[], tuple[str, str | None] | None],
    ) -> None:
        self._swarm = swarm
        self._peer_id = peer_id
        self._failure = failure
        self._tell = tell
        self._why_nobody = why_nobody
        self._began = time.monotonic()
        self._tried: set[Multiaddr] = set()
        self._tried_of: Counter[Source] = Counter()
        self._most_of_each = MAX_TRIED
        self._attempts: list[Attempt] = attempts_of(failure)

    def _say(self, state: str, text: str) -> None:
        self._tell(Progress(self._peer_id, state, text, time.monotonic() - self._began))

    async def run(self, sources: Sequence[Source], patience_s: float) -> None:
        """Until one source has led to a connection, or all have nothing more. Raises as `Routing.route`.

        A source that starts slowly has `patience_s` to become ready.
        """
        self._most_of_each = MAX_TRIED // len(sources)
        *names, last = dict.fromkeys(source.name for source in sources)  # two DHTs may have one name
        self._say("searching", f"asking {', '.join(names)} and {last}" if names else f"asking {last}")
        racing: dict[asyncio.Future[Finding], Source] = {
            asyncio.ensure_future(self._ask(source, patience_s)): source for source in sources
        }
        waiting: set[asyncio.Future[Finding]] = set(racing)
        asked = 0
        causes: list[str] = []
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    failure = one.exception()
                    if failure is None:
                        finding = one.result()
                        asked += finding.asked
                        if finding.connected:
                            self._say("found", f"found in {racing[one].name}")
                            return
                    elif isinstance(failure, P2PForwardError):
                        causes.append(f"{racing[one].name}: {failure.message}")
                    else:
                        raise failure
        finally:
            await _end(racing)
        raise self._give_up(asked, causes)

    async def _ask(self, source: Source, patience_s: float) -> Finding:
        try:
            async with asyncio.timeout(patience_s if source.starts_slowly else 0):
                await source.wait_ready()
        except TimeoutError:
            return Finding(False, 0)
        return await source.find(self._peer_id, partial(self._attempt, source))

    def _give_up(self, asked: int, causes: list[str]) -> P2PForwardError:
        elapsed_s = time.monotonic() - self._began
        if self._attempts and all(attempt.code == UNDIALABLE for attempt in self._attempts):
            error: P2PForwardError = PeerNotFound(
                f"{self._peer_id} cannot be dialed: {told(self._attempts)}; "
                f"{_peers(asked)} asked for another address",
                hint=cure(self._peer_id, self._attempts),
                attempts=[attempt.detail for attempt in self._attempts],
            )
        elif self._attempts:
            where = "found, but cannot be reached" if self._tried else "cannot be reached where it was"
            error = failed_dial(
                self._peer_id, f"{self._peer_id} {where}: {told(self._attempts)}", self._attempts
            )
        else:
            hint: str | None = "is its daemon running, and on the same network as this one?"
            if (nobody := self._why_nobody()) is not None:
                causes, hint = [*causes, nobody[0]], nobody[1]
            because = f" ({'; '.join(causes)})" if causes else ""
            error = PeerNotFound(
                f"{self._peer_id} was not found: {_peers(asked)} asked in {elapsed_s:.1f} s{because}",
                hint=hint,
            )
        self._say("failed", error.message)
        return error

    async def _attempt(self, source: Source, addrs: Sequence[Multiaddr]) -> bool:
        """Dial addresses that somebody told, those not tried before: as many at once as a dial plan takes."""
        while not any(conn.is_usable for conn in self._swarm.conns(self._peer_id)):
            known = {attempt.addr for attempt in self._attempts}
            fresh = [addr for addr in addrs if addr not in self._tried and str(addr) not in known]
            fresh = fresh[: min(MAX_DIALS, self._most_of_each - self._tried_of[source])]
            if not fresh:
                return False
            self._tried.update(fresh)
            self._tried_of[source] += len(fresh)
            self._say("searching", f"trying {', '.join(map(str, fresh))}")
            try:
                await self._swarm.connect(self._peer_id, fresh, only=True, force=True)
            except P2PForwardError as exc:
                self._attempts += attempts_of(exc) or [Attempt(str(fresh[0]), exc.message, exc.code)]
            else:
                return True
        return True


def _peers(count: int) -> str:
    return "1 peer was" if count == 1 else f"{count} peers were"


async def _end(tasks: Collection[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
