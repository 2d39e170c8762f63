"""How a peer is found by its ID alone: every source is asked at once, the first address that works wins.

The swarm asks here when no address it knows works. Each failure is its own: nobody to ask, not found,
found but unreachable (with every address tried and why). What goes on is told to observers, in words.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import DialFailed, P2PForwardError, PeerNotFound
from p2pfwd.net.swarm import Swarm
from p2pfwd.protocols.kad.service import Dht, Try

START_WAIT_S: Final = 5.0
"""How long a look-up waits for the first peer to ask, as the daemon has just started."""


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

    def is_ready(self) -> bool:
        """Whether there is anybody to ask."""

    async def wait_ready(self) -> None:
        """Until there is."""

    async def find(self, peer_id: PeerId, attempt: Try) -> Finding:
        """Hand every set of addresses found to `attempt`, until it returns True or there are no more."""


class DhtSource:
    """A DHT as a source."""

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


class Routing:
    """The race of all sources; `route` is the swarm's router."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._sources: list[Source] = []
        self._observers: list[Callable[[Progress], None]] = []

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
        race = _Race(self._swarm, peer_id, failure, self._tell)
        await race.run(await self._ready(peer_id, failure))

    async def _ready(self, peer_id: PeerId, failure: P2PForwardError) -> list[Source]:
        """The sources that have somebody to ask, after a moment's patience. Raises PeerNotFound."""
        ready = [source for source in self._sources if source.is_ready()]
        if not ready and self._sources:
            waits = [asyncio.create_task(source.wait_ready()) for source in self._sources]
            await asyncio.wait(waits, timeout=START_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
            await _end(waits)
            ready = [source for source in self._sources if source.is_ready()]
        if ready:
            return ready
        if isinstance(failure, DialFailed):
            raise failure  # what is known of the peer says more than that nobody knows better
        raise PeerNotFound(
            f"no address is known for {peer_id}, and no peer is there to ask for one",
            hint=f"give its address too: /ip4/<address>/tcp/<port>/p2p/{peer_id}",
        )

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
    ) -> None:
        self._swarm = swarm
        self._peer_id = peer_id
        self._failure = failure
        self._tell = tell
        self._began = time.monotonic()
        self._tried: set[Multiaddr] = set()
        self._attempts: list[dict[str, str]] = list(failure.details.get("attempts", ()))

    def _say(self, state: str, text: str) -> None:
        self._tell(Progress(self._peer_id, state, text, time.monotonic() - self._began))

    async def run(self, sources: Sequence[Source]) -> None:
        """Until one source has led to a connection, or all have nothing more. Raises as `Routing.route`."""
        self._say("searching", "asking " + " and ".join(source.name for source in sources))
        racing: dict[asyncio.Future[Finding], Source] = {
            asyncio.ensure_future(source.find(self._peer_id, self._attempt)): source for source in sources
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

    def _give_up(self, asked: int, causes: list[str]) -> P2PForwardError:
        elapsed_s = time.monotonic() - self._began
        if self._attempts:
            where = "found, but cannot be reached" if self._tried else "cannot be reached where it was"
            tried = "; ".join(f"{one['Address']}: {one['Reason']}" for one in self._attempts)
            error: P2PForwardError = DialFailed(
                f"{self._peer_id} {where}: {tried}",
                hint="it may be behind a NAT or a firewall, or switched off",
                attempts=self._attempts,
            )
        else:
            because = f" ({'; '.join(causes)})" if causes else ""
            error = PeerNotFound(
                f"{self._peer_id} was not found: {_peers(asked)} asked in {elapsed_s:.1f} s{because}",
                hint="is its daemon running, and on the same network as this one?",
            )
        self._say("failed", error.message)
        return error

    async def _attempt(self, addrs: Sequence[Multiaddr]) -> bool:
        """Dial addresses that somebody told, those not tried before."""
        if self._swarm.conns(self._peer_id):
            return True
        known = {one["Address"] for one in self._attempts}
        fresh = [addr for addr in addrs if addr not in self._tried and str(addr) not in known]
        self._tried.update(fresh)
        if not fresh:
            return False
        self._say("searching", f"trying {', '.join(map(str, fresh))}")
        try:
            await self._swarm.connect(self._peer_id, fresh, only=True, force=True)
        except P2PForwardError as exc:
            self._attempts += exc.details.get("attempts", ())
            return False
        return True


def _peers(count: int) -> str:
    return "1 peer was" if count == 1 else f"{count} peers were"


async def _end(tasks: Collection[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
