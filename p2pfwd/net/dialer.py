"""Dialing one peer: resolve, plan, race, and say precisely why nothing worked.

Literal addresses are dialed at once, while names are still being resolved: a name server that does not
answer costs nothing where an address works. An address that failed is left alone for a moment (back-off,
per peer and address), unless a person asked. The back-off is short: a peer that comes back is reached
within five seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, is_relayed
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import (
    DialFailed,
    DialTimeout,
    InvalidMultiaddr,
    P2PForwardError,
    PeerIdMismatch,
    PeerNotFound,
)
from p2pfwd.net.attempts import Attempts
from p2pfwd.net.link.contract import Link
from p2pfwd.net.resolver import Resolver, has_name
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.transport.contract import Transport
from p2pfwd.net.upgrader import describe
from p2pfwd.peers.store import Peerstore
from p2pfwd.policy import dial_plan
from p2pfwd.policy.dial_plan import Candidate
from p2pfwd.policy.undialable import UNDIALABLE

log = logging.getLogger("p2pfwd.net")

BLOCKED: Final = "it is in a network that is blocked on this node"
OUTSIDE: Final = "outside the local network, where this node stays"
"""Why an address is not dialed in `SwarmSettings.local_only`."""
BEHIND_A_RELAY: Final = "it leads through a relay, and a relay is to be reached without another"

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MOST_S: Final = 2.0
MAX_BACKOFFS: Final = 4096

MAX_UNDIALABLE_TOLD: Final = 4
"""Addresses that cannot be dialed, in one sentence: a peer of the public network may have dozens."""

MAX_HINTS: Final = 2
"""Of relays, in one sentence: most say the same."""

NAME: Final = "name"
NETWORK: Final = "network"
OUT_OF_BOUNDS: Final = "outside"
DEFECT: Final = "internal"
"""Codes of attempts, beside UNDIALABLE and those of the errors a peer or its upgrade failed with."""

NO_ANSWER: Final = "no answer"


class Attempt(NamedTuple):
    """One address that did not work: why, in words, and a code for the kind of it."""

    addr: str
    reason: str
    code: str
    hint: str | None = None
    """The cure, where a relay was between: it knows more than what all of them have in common."""

    @property
    def detail(self) -> dict[str, str]:
        """As `details["attempts"]` of a failed dial lists it."""
        found = {"Address": self.addr, "Reason": self.reason, "Code": self.code}
        return found if self.hint is None else {**found, "Hint": self.hint}


def attempts_of(error: P2PForwardError) -> list[Attempt]:
    """What a failed dial tried."""
    found = error.details.get("attempts", ())
    return [Attempt(one["Address"], one["Reason"], one["Code"], one.get("Hint")) for one in found]


def told(attempts: Sequence[Attempt]) -> str:
    """The attempts in one clause; of those that were none, a few."""
    tried = [one for one in attempts if one.code != UNDIALABLE]
    others = [one for one in attempts if one.code == UNDIALABLE]
    clauses = [f"{one.addr}: {one.reason}" for one in (*tried, *others[:MAX_UNDIALABLE_TOLD])]
    if (left := len(others) - MAX_UNDIALABLE_TOLD) > 0:
        clauses.append(f"{left} more that cannot be dialed")
    return "; ".join(clauses)


def failed_dial(
    peer_id: PeerId, message: str, attempts: Sequence[Attempt], kind: type[DialFailed] = DialFailed
) -> DialFailed:
    """What a dial ends with that had these attempts; where all met another node, PeerIdMismatch."""
    if kind is DialFailed and {one.code for one in attempts} - {UNDIALABLE} == {PeerIdMismatch.code}:
        kind = PeerIdMismatch
    return kind(message, hint=cure(peer_id, attempts), attempts=[one.detail for one in attempts])


def cure(peer_id: PeerId, attempts: Sequence[Attempt]) -> str | None:
    """What to do about them; None where their reasons say it."""
    codes = {one.code for one in attempts}
    if hints := list(dict.fromkeys(one.hint for one in attempts if one.hint is not None)):
        return "; ".join(hints[:MAX_HINTS])
    if NETWORK in codes:
        return (
            "is the daemon running there, and does a firewall or NAT let its port through? "
            "`p2pfwd status` there shows its addresses"
        )
    if PeerIdMismatch.code in codes:
        return "ask for the peer's ID and address anew: `p2pfwd status` there shows both"
    if codes <= {NAME, UNDIALABLE} and NAME in codes:
        return "check the name, and the name servers of this machine; or give an address without a name"
    if codes == {UNDIALABLE}:
        return f"give an address for TCP: /ip4/<address>/tcp/<port>/p2p/{peer_id}"
    return None


@dataclass(slots=True)
class _Backoff:
    """An address that failed: not again before `until`."""

    until: float
    delay_s: float
    failure: Attempt


class Dialer:
    """Makes connections; keeps nothing but back-offs."""

    def __init__(
        self,
        transports: Sequence[Transport],
        resolver: Resolver,
        peerstore: Peerstore,
        settings: SwarmSettings,
    ) -> None:
        self._transports = transports
        self._resolver = resolver
        self._peerstore = peerstore
        self._settings = settings
        self.local_only = settings.local_only
        self.dial_timeout_s = settings.dial_timeout_s
        self.is_blocked: Callable[[Multiaddr], bool] = lambda _addr: False
        """See `net.blocklist`."""
        self.attempts = Attempts()
        self._backoffs: dict[tuple[PeerId, Multiaddr], _Backoff] = {}
        self._races: list[_Race] = []

    async def dial(
        self,
        peer_id: PeerId,
        addrs: Sequence[Multiaddr],
        own: Sequence[Multiaddr],
        *,
        force: bool = False,
        fresh_port: bool = False,
        is_shared: bool = False,
        direct: bool = False,
    ) -> Link:
        """One connection to `peer_id`, over the first of `addrs` that works.

        `force` ignores back-offs; `fresh_port`: see `Transport.dial`; `is_shared`: see `join` and `arrived`;
        `direct` leaves out what leads through a relay. Raises PeerNotFound when there is nothing to dial, or
        DialFailed: DialTimeout, or PeerIdMismatch where every address has another node.
        `details["attempts"]` lists every address and why it failed.
        """
        race = _Race(self, peer_id, own, force, fresh_port, is_shared, direct)
        budget_s = self._settings.dial_timeout_s
        self._races.append(race)
        try:
            async with asyncio.timeout(budget_s):
                conn = await race.run(addrs)
        except TimeoutError:
            tried = told(race.attempts) or "nothing answered"
            message = f"cannot reach {peer_id} within {budget_s:g} s: {tried}"
            raise failed_dial(peer_id, message, race.attempts, DialTimeout) from None
        finally:
            self._races.remove(race)
        if conn is not None:
            return conn
        if all(attempt.code == UNDIALABLE for attempt in race.attempts):
            raise self._nothing_to_dial(peer_id, addrs, race.attempts)
        raise failed_dial(peer_id, f"cannot reach {peer_id}: {told(race.attempts)}", race.attempts)

    def join(self, peer_id: PeerId, addrs: Iterable[Multiaddr]) -> bool:
        """Let the shared dial of a peer that runs try these, too, as far as it does not know them.

        Whether it does: one that has not begun, or is over, takes none.
        """
        shared = [race for race in self._races if race.peer_id == peer_id and race.is_shared]
        return any([race.join(addrs) for race in shared])

    def arrived(self, conn: Link) -> None:
        """A connection has come up in another way, by the peer or another dial.

        A direct one ends shared dials; of a relayed one they may be the better.
        """
        if conn.is_relayed:
            return
        for race in self._races:
            if race.peer_id == conn.remote_peer and race.is_shared:
                race.arrived(conn)

    def so_far(self, peer_id: PeerId) -> list[Attempt]:
        """What the dials of a peer that run have come to: for who cannot wait for their end."""
        return [one for race in self._races if race.peer_id == peer_id for one in race.so_far()]

    def _nothing_to_dial(
        self, peer_id: PeerId, addrs: Sequence[Multiaddr], attempts: Sequence[Attempt]
    ) -> PeerNotFound:
        hint = f"give its address too: /ip4/<address>/tcp/<port>/p2p/{peer_id}"
        if attempts:
            return PeerNotFound(
                f"{peer_id} cannot be dialed: {told(attempts)}",
                hint=cure(peer_id, attempts),
                attempts=[attempt.detail for attempt in attempts],
            )
        if addrs:
            listed_addrs = ", ".join(map(str, addrs))
            return PeerNotFound(
                f"the known addresses of {peer_id} are this node's own: {listed_addrs}", hint=hint
            )
        return PeerNotFound(f"no address is known for {peer_id}", hint=hint)

    async def resolve(self, peer_id: PeerId, addr: Multiaddr) -> list[Multiaddr] | Attempt:
        """The addresses behind a name (a dnsaddr lists those of many peers), or why there are none.

        A name that others told leads to public addresses only: it must not make us knock on doors in here.
        """
        trusted = self._peerstore.is_trusted(peer_id, addr)
        try:
            found = await self._resolver.resolve(addr.with_peer_id(peer_id), trusted=trusted)
        except PeerNotFound as exc:
            return Attempt(str(addr), exc.message, NAME)
        except Exception as exc:  # this task's root: a literal address beside the name may work
            log.exception("a defect while looking up %s", addr)
            return Attempt(str(addr), f"DNS: a defect here ({type(exc).__name__})", DEFECT)
        if found and not trusted:
            found = [each for each in found if address_class(each) is AddressClass.PUBLIC]
            if not found:
                reason = "DNS: it was told by others, and leads to no public address"
                return Attempt(str(addr), reason, OUT_OF_BOUNDS)
        return found

    def candidates(self, peer_id: PeerId, addrs: Iterable[Multiaddr]) -> list[Candidate]:
        """As `Peerstore.candidates`."""
        return self._peerstore.candidates(peer_id, addrs)

    def why_not(self, addr: Multiaddr) -> str | None:
        """Why no transport of this node can dial the address, in words; None where one can."""
        whys = [transport.why_not(addr) for transport in self._transports]
        return None if None in whys else whys[0]

    async def attempt(self, peer_id: PeerId, addr: Multiaddr, *, fresh_port: bool = False) -> Link:
        """Dial one address, see `Transport.dial`. Raises OSError (TimeoutError is one), P2PForwardError."""
        for transport in self._transports:
            if transport.why_not(addr) is None:
                return await transport.dial(peer_id, addr, fresh_port=fresh_port)
        raise InvalidMultiaddr(f"no transport can dial {addr}")

    def held_back(self, peer_id: PeerId, addr: Multiaddr) -> Attempt | None:
        """Why the address is not to be tried now, if it failed a moment ago."""
        backoff = self._backoffs.get((peer_id, addr))
        if backoff is None or backoff.until <= asyncio.get_running_loop().time():
            return None
        return backoff.failure._replace(reason=f"{backoff.failure.reason} (tried a moment ago)")

    def worked(self, peer_id: PeerId, addr: Multiaddr) -> None:
        """Forget that the address ever failed."""
        self._backoffs.pop((peer_id, addr), None)

    def failed(self, peer_id: PeerId, addr: Multiaddr, exc: BaseException) -> Attempt:
        """Hold the address back, and why. A defect of ours is logged, and ends no race."""
        code = exc.code if isinstance(exc, P2PForwardError) else NETWORK
        reason = describe(exc)
        if not isinstance(exc, OSError | P2PForwardError):
            log.error("a defect while dialing %s", addr, exc_info=exc)
            code, reason = DEFECT, f"a defect here ({type(exc).__name__})"
        if isinstance(exc, PeerIdMismatch):
            self._peerstore.refute_addr(peer_id, addr)
        log.debug("%s is not reached at %s: %s", peer_id, addr, reason)
        hint = exc.hint if isinstance(exc, P2PForwardError) and is_relayed(addr) else None
        failure, key = Attempt(str(addr), reason, code, hint), (peer_id, addr)
        previous = self._backoffs.get(key)
        delay_s = min(previous.delay_s * 2, BACKOFF_MOST_S) if previous is not None else BACKOFF_FIRST_S
        if previous is None and len(self._backoffs) >= MAX_BACKOFFS:
            self._backoffs.pop(next(iter(self._backoffs)))
        until = asyncio.get_running_loop().time() + delay_s
        self._backoffs[key] = _Backoff(until, delay_s, failure)
        return failure


class _Race:
    """One dial: what is still to be tried, what is being tried, and what came of the rest."""

    def __init__(
        self,
        dialer: Dialer,
        peer_id: PeerId,
        own: Sequence[Multiaddr],
        force: bool,
        fresh_port: bool = False,
        is_shared: bool = False,
        direct: bool = False,
    ) -> None:
        self.attempts: list[Attempt] = []
        """Each that failed."""
        self.peer_id = peer_id
        self.is_shared = is_shared
        self._dialer = dialer
        self._own = own
        self._force = force
        self._fresh_port = fresh_port
        self._direct = direct
        self._loop = asyncio.get_running_loop()
        self._begin = self._loop.time()
        self._joined = self._loop.create_future()
        """Done when there is more to try than the loop below knows, or nothing any more."""
        self._arrived: Link | None = None
        self._over = False
        self._planned: set[Multiaddr] = set()
        """What is known to this dial: tried, queued, looked up or not to be dialed."""
        self._queue: list[dial_plan.PlannedDial] = []
        self._dials: dict[asyncio.Task[Link], Multiaddr] = {}
        self._lookups: dict[asyncio.Task[list[Multiaddr] | Attempt], Multiaddr] = {}

    async def run(self, addrs: Sequence[Multiaddr]) -> Link | None:
        """The first connection, or None when everything failed. The others are closed."""
        try:
            self._add(addrs)
            while self._queue or self._dials or self._lookups:
                self._start_due()
                if not (self._dials or self._lookups):
                    continue
                under_way: list[asyncio.Future[Any]] = [*self._dials, *self._lookups, self._joined]
                wait_s = self._queue[0].delay_s - self._elapsed() if self._queue else None
                await asyncio.wait(under_way, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                if self._joined.done():
                    self._joined = self._loop.create_future()
                if (conn := self._ended() or self._arrived) is not None:
                    return conn
            return None
        except BaseException:
            self.attempts += self._pending(NO_ANSWER)
            raise
        finally:
            self._over = True
            await self._cancel()

    def join(self, addrs: Iterable[Multiaddr]) -> bool:
        """Try these, too, from now on; False where it is over."""
        fresh = [addr for addr in addrs if addr.without_peer_id() not in self._planned]
        if fresh and not self._over:
            self._add(fresh)
            self._wake()
        return not self._over

    def arrived(self, conn: Link) -> None:
        """This connection will do."""
        self._arrived = conn
        self._wake()

    def _wake(self) -> None:
        if not self._joined.done():
            self._joined.set_result(None)

    def _add(self, addrs: Iterable[Multiaddr]) -> None:
        possible = self._dialable(addrs)
        self._plan(self._dialer.candidates(self.peer_id, [a for a in possible if not has_name(a)]))
        for addr in possible:
            if has_name(addr):
                self._planned.add(addr.without_peer_id())
                lookup = self._dialer.resolve(self.peer_id, addr)
                self._lookups[self._loop.create_task(lookup)] = addr

    def so_far(self) -> list[Attempt]:
        """What failed, and what has not answered yet."""
        return [*self.attempts, *self._pending("no answer yet")]

    def _pending(self, words: str) -> list[Attempt]:
        names = [Attempt(str(addr), f"DNS: {words}", NAME) for addr in self._lookups.values()]
        return [*(Attempt(str(addr), words, NETWORK) for addr in self._dials.values()), *names]

    def _dialable(self, addrs: Iterable[Multiaddr]) -> list[Multiaddr]:
        """Those that can be dialed, if only after a look-up; the others are told."""
        possible = []
        for addr in addrs:
            why = BEHIND_A_RELAY if self._direct and is_relayed(addr) else self._dialer.why_not(addr)
            if why is None:
                possible.append(addr)
            elif addr.without_peer_id() not in self._planned:
                self._planned.add(addr.without_peer_id())
                self.attempts.append(Attempt(str(addr), why, UNDIALABLE))
        return possible

    def _elapsed(self) -> float:
        return self._loop.time() - self._begin

    def _plan(self, candidates: Iterable[Candidate]) -> None:
        """Queue dials of these, counted from now."""
        now = self._elapsed()
        for planned in dial_plan.plan(candidates, self._own):
            due = dial_plan.PlannedDial(planned.addr, now + planned.delay_s)
            if due.addr in self._planned:  # a name has led to it, too: the sooner counts
                self._queue = [due if due.is_before(old) else old for old in self._queue]
                continue
            self._planned.add(due.addr)
            if self._dialer.local_only and not dial_plan.is_local(due.addr):
                self.attempts.append(Attempt(str(due.addr), OUTSIDE, OUT_OF_BOUNDS))
            elif self._dialer.is_blocked(due.addr):
                self.attempts.append(Attempt(str(due.addr), BLOCKED, OUT_OF_BOUNDS))
            else:
                self._queue.append(due)
        self._queue.sort(key=lambda planned: planned.delay_s)

    def _start_due(self) -> None:
        """Begin what is due, and the next one at once when no dial is under way."""
        while self._queue and (not self._dials or self._elapsed() >= self._queue[0].delay_s):
            addr = self._queue.pop(0).addr
            held_back = None if self._force else self._dialer.held_back(self.peer_id, addr)
            if held_back is not None:
                self.attempts.append(held_back)
            else:
                self._dials[self._loop.create_task(self._attempt(addr))] = addr

    async def _attempt(self, addr: Multiaddr) -> Link:
        if self._fresh_port:
            return await self._dialer.attempt(self.peer_id, addr, fresh_port=True)
        return await self._dialer.attempts.share(self.peer_id, addr, self._dialer.attempt)

    def _ended(self) -> Link | None:
        """Take what has ended: a connection, if one came up."""
        for lookup in [task for task in self._lookups if task.done()]:
            name, found = self._lookups.pop(lookup), lookup.result()
            if isinstance(found, Attempt):
                self.attempts.append(found)
            elif found:
                (told,) = self._dialer.candidates(self.peer_id, [name])
                possible = self._dialable(found)
                self._plan(Candidate(addr, told.provenance, told.is_stale) for addr in possible)
            else:
                self.attempts.append(Attempt(str(name), "DNS: it lists no address of this peer", NAME))
        for dial in [task for task in self._dials if task.done()]:
            addr, failure = self._dials.pop(dial), dial.exception()
            if failure is None:
                self._dialer.worked(self.peer_id, addr)
                return dial.result()
            self.attempts.append(self._dialer.failed(self.peer_id, addr, failure))
        return None

    async def _cancel(self) -> None:
        """End the losers; one that had won meanwhile is closed."""
        for task in (*self._dials, *self._lookups):
            task.cancel()
        await asyncio.gather(*self._lookups, return_exceptions=True)
        for result in await asyncio.gather(*self._dials, return_exceptions=True):
            if not isinstance(result, BaseException):
                await (result.close() if self._fresh_port else self._dialer.attempts.let_go(result))
