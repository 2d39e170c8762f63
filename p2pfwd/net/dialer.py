"""Dialing one peer: resolve, plan, race, and say precisely why nothing worked.

Literal addresses are dialed at once, while names are still being resolved: a name server that does not
answer costs nothing where an address works. An address that failed is left alone for a moment (back-off,
per peer and address), unless a person asked. The back-off is short: a peer that comes back is reached
within five seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import DialFailed, DialTimeout, P2PForwardError, PeerIdMismatch, PeerNotFound
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.resolver import Resolver, has_name
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.transport import tcp
from p2pfwd.net.upgrader import Upgrader, describe
from p2pfwd.peers.store import Peerstore
from p2pfwd.policy import dial_plan
from p2pfwd.system.loop_io import LoopIo

OUTSIDE: Final = "outside the local network, where this node stays"
"""Why an address is not dialed in `SwarmSettings.local_only`."""

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MOST_S: Final = 2.0
MAX_BACKOFFS: Final = 4096


@dataclass(slots=True)
class _Backoff:
    until: float
    delay_s: float
    reason: str


class Dialer:
    """Makes connections; keeps nothing but back-offs."""

    def __init__(
        self,
        upgrader: Upgrader,
        resolver: Resolver,
        peerstore: Peerstore,
        io: LoopIo,
        settings: SwarmSettings,
    ) -> None:
        self._upgrader = upgrader
        self._resolver = resolver
        self._peerstore = peerstore
        self._io = io
        self._settings = settings
        self.local_only = settings.local_only
        self.dial_timeout_s = settings.dial_timeout_s
        self._backoffs: dict[tuple[PeerId, Multiaddr], _Backoff] = {}

    async def dial(
        self, peer_id: PeerId, addrs: Sequence[Multiaddr], own: Sequence[Multiaddr], *, force: bool = False
    ) -> Conn:
        """One connection to `peer_id`, over the first of `addrs` that works.

        `force` ignores back-offs. Raises PeerNotFound when there is nothing to dial, DialTimeout, or
        DialFailed; `details["attempts"]` lists every address and why it failed.
        """
        race = _Race(self, peer_id, own, force)
        budget_s = self._settings.dial_timeout_s
        try:
            async with asyncio.timeout(budget_s):
                conn = await race.run(addrs)
        except TimeoutError:
            raise self._failed(DialTimeout, peer_id, race.attempts, f" within {budget_s:g} s") from None
        if conn is not None:
            return conn
        if not race.attempts:
            raise self._nothing_to_dial(peer_id, addrs)
        raise self._failed(DialFailed, peer_id, race.attempts, "")

    def _nothing_to_dial(self, peer_id: PeerId, addrs: Sequence[Multiaddr]) -> PeerNotFound:
        if addrs:
            listed = ", ".join(map(str, addrs))
            return PeerNotFound(f"none of the known addresses of {peer_id} can be dialed over TCP: {listed}")
        hint = f"give its address too: /ip4/<address>/tcp/<port>/p2p/{peer_id}"
        return PeerNotFound(f"no address is known for {peer_id}", hint=hint)

    def _failed(
        self, kind: type[DialFailed], peer_id: PeerId, attempts: list[tuple[str, str]], when: str
    ) -> DialFailed:
        tried = "; ".join(f"{addr}: {reason}" for addr, reason in attempts) or "nothing answered"
        listed = [{"Address": addr, "Reason": reason} for addr, reason in attempts]
        return kind(f"cannot reach {peer_id}{when}: {tried}", attempts=listed)

    async def resolve(self, peer_id: PeerId, addr: Multiaddr) -> list[Multiaddr] | PeerNotFound:
        """The addresses behind a name (a dnsaddr lists those of many peers), or why there are none.

        A name that others told leads to public addresses only: it must not make us knock on doors in here.
        """
        try:
            found = await self._resolver.resolve(addr.with_peer_id(peer_id))
        except PeerNotFound as exc:
            return exc
        if found and not self._peerstore.is_trusted(peer_id, addr):
            found = [each for each in found if address_class(each) is AddressClass.PUBLIC]
            if not found:
                return PeerNotFound(f"DNS: {addr} was told by others, and leads to no public address")
        return found

    async def attempt(self, peer_id: PeerId, addr: Multiaddr) -> Conn:
        """Connect and upgrade. Raises OSError (TimeoutError is one), P2PForwardError."""
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        settings = self._settings
        conduit = await tcp.connect(endpoint, self._io, settings.connect_timeout_s)
        async with asyncio.timeout(settings.upgrade_timeout_s):
            return await self._upgrader.upgrade(conduit, "outbound", peer_id)

    def held_back(self, peer_id: PeerId, addr: Multiaddr) -> str | None:
        """Why the address is not to be tried now, if it failed a moment ago."""
        backoff = self._backoffs.get((peer_id, addr))
        if backoff is None or backoff.until <= asyncio.get_running_loop().time():
            return None
        return f"{backoff.reason} (tried a moment ago)"

    def worked(self, peer_id: PeerId, addr: Multiaddr) -> None:
        """Forget that the address ever failed."""
        self._backoffs.pop((peer_id, addr), None)

    def failed(self, peer_id: PeerId, addr: Multiaddr, exc: BaseException | None) -> str:
        """Hold the address back; the reason for people. Raises what is no failure of a dial."""
        assert exc is not None
        if not isinstance(exc, OSError | P2PForwardError):
            raise exc
        if isinstance(exc, PeerIdMismatch):
            self._peerstore.drop_addr(peer_id, addr)
        reason, key = describe(exc), (peer_id, addr)
        previous = self._backoffs.get(key)
        delay_s = min(previous.delay_s * 2, BACKOFF_MOST_S) if previous is not None else BACKOFF_FIRST_S
        if previous is None and len(self._backoffs) >= MAX_BACKOFFS:
            self._backoffs.pop(next(iter(self._backoffs)))
        until = asyncio.get_running_loop().time() + delay_s
        self._backoffs[key] = _Backoff(until, delay_s, reason)
        return reason


class _Race:
    """One dial: what is still to be tried, what is being tried, and what came of the rest."""

    def __init__(self, dialer: Dialer, peer_id: PeerId, own: Sequence[Multiaddr], force: bool) -> None:
        self.attempts: list[tuple[str, str]] = []
        """Address and reason of each that failed."""
        self._dialer = dialer
        self._peer_id = peer_id
        self._own = own
        self._force = force
        self._loop = asyncio.get_running_loop()
        self._begin = self._loop.time()
        self._planned: set[Multiaddr] = set()
        self._queue: list[dial_plan.PlannedDial] = []
        self._dials: dict[asyncio.Task[Conn], Multiaddr] = {}
        self._lookups: dict[asyncio.Task[list[Multiaddr] | PeerNotFound], Multiaddr] = {}

    async def run(self, addrs: Sequence[Multiaddr]) -> Conn | None:
        """The first connection, or None when everything failed. The others are closed."""
        try:
            self._plan(addr for addr in addrs if not has_name(addr))
            for addr in addrs:
                if has_name(addr):
                    lookup = self._dialer.resolve(self._peer_id, addr)
                    self._lookups[self._loop.create_task(lookup)] = addr
            while self._queue or self._dials or self._lookups:
                self._start_due()
                under_way: list[asyncio.Task[Any]] = [*self._dials, *self._lookups]
                if not under_way:
                    continue
                wait_s = self._queue[0].delay_s - self._elapsed() if self._queue else None
                await asyncio.wait(under_way, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                if (conn := self._ended()) is not None:
                    return conn
            return None
        except BaseException:
            left = [*self._dials.values(), *self._lookups.values()]
            self.attempts += [(str(addr), "no answer") for addr in left]
            raise
        finally:
            await self._cancel()

    def _elapsed(self) -> float:
        return self._loop.time() - self._begin

    def _plan(self, addrs: Iterable[Multiaddr]) -> None:
        """Queue dials of these addresses, counted from now."""
        now = self._elapsed()
        for planned in dial_plan.plan(addrs, self._own):
            if planned.addr in self._planned:
                continue
            self._planned.add(planned.addr)
            if self._dialer.local_only and not dial_plan.is_local(planned.addr):
                self.attempts.append((str(planned.addr), OUTSIDE))
            else:
                self._queue.append(dial_plan.PlannedDial(planned.addr, now + planned.delay_s))
        self._queue.sort(key=lambda planned: planned.delay_s)

    def _start_due(self) -> None:
        """Begin what is due, and the next one at once when no dial is under way."""
        while self._queue and (not self._dials or self._elapsed() >= self._queue[0].delay_s):
            addr = self._queue.pop(0).addr
            held_back = None if self._force else self._dialer.held_back(self._peer_id, addr)
            if held_back is not None:
                self.attempts.append((str(addr), held_back))
            else:
                self._dials[self._loop.create_task(self._dialer.attempt(self._peer_id, addr))] = addr

    def _ended(self) -> Conn | None:
        """Take what has ended: a connection, if one came up."""
        for lookup in [task for task in self._lookups if task.done()]:
            name, found = self._lookups.pop(lookup), lookup.result()
            if isinstance(found, PeerNotFound):
                self.attempts.append((str(name), found.message))
            else:
                self._plan(found)
        for dial in [task for task in self._dials if task.done()]:
            addr = self._dials.pop(dial)
            if dial.exception() is None:
                self._dialer.worked(self._peer_id, addr)
                return dial.result()
            self.attempts.append((str(addr), self._dialer.failed(self._peer_id, addr, dial.exception())))
        return None

    async def _cancel(self) -> None:
        """End the losers; one that had won meanwhile is closed."""
        left: list[asyncio.Task[Any]] = [*self._dials, *self._lookups]
        for task in left:
            task.cancel()
        for result in await asyncio.gather(*left, return_exceptions=True):
            if isinstance(result, Conn):
                await result.close()
