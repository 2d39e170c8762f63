"""The one face of both versions: what is known of this node's reachability, and the services for others.

Client: v2 wherever a connected peer speaks it. Each candidate address is tested by two servers at once, of
different networks if there are any; what follows is `policy.evidence`. It is tested anew every quarter of an
hour. A change of our addresses starts all of it anew. v1 is asked only while nobody connected speaks v2.
Server: both, with one budget of dials.

Strangers who claim v2 and answer nothing cost little time. Beside a server that is slow another is asked
after `SLOW_S`: one that this node has dialed, for no stranger makes itself that. Who let a question's time
pass is asked last, as all its household is, and counts as none that speaks v2, until it answers. So where
servers that were dialed answer, each answer that a verdict needs comes `SLOW_S` later at most.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.link.contract import Link
from p2pfwd.net.own_addresses import Change
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.policy.evidence import Evidence, Filtering, Finding, reachability
from p2pfwd.policy.networks import household
from p2pfwd.policy.service_bounds import AUTONAT, AUTONAT2, DIAL_BACK
from p2pfwd.protocols.autonat.budget import Budget
from p2pfwd.protocols.autonat.filtering import find_filtering
from p2pfwd.protocols.autonat.v1 import AutoNatSettings, FirstClient, FirstServer
from p2pfwd.protocols.autonat.v2 import BUSY_S, Outcome, SecondClient, SecondServer, Trial
from p2pfwd.wire import autonat, autonat2
from p2pfwd.wire.reachability import Reachability

log = logging.getLogger("p2pfwd.autonat")

__all__ = ["AutoNat", "AutoNatSettings"]

AT_ONCE: Final = 2
"""Servers that test one address at a time: one may be slow."""

SLOW_S: Final = 5.0
"""Until others are asked beside a server; a go takes 10 s to find that it cannot connect. Where none answers
six are asked at once."""

SAME_AGAIN_S: Final = 10.0
"""Before a server that could not connect tries again, where nobody else decides: its word twice is two."""

FIRST_PAUSE_S: Final = 0.5
"""After a test of an address that said nothing; twice as long after the next."""

MAX_CANDIDATES: Final = 10
"""As go: more addresses than that are a mistake."""


@dataclass(slots=True)
class _Candidate:
    """One address of ours."""

    evidence: Evidence = field(default_factory=Evidence)
    ready: dict[PeerId, float] = field(default_factory=dict)
    """When a server may be asked again; of connected ones only."""
    by: PeerId | None = None
    """Who got through last."""
    testing: set[PeerId] = field(default_factory=set)
    """Who is asked, and has not been slow."""
    slow: int = 0
    """Servers in a row that were."""
    unanswered: int = 0
    """Tests in a row that said nothing."""
    pause_until: float = -inf
    """After those: most would not dial this address, whoever is asked."""
    settled_at: float = -inf


class AutoNat:
    """One node's client and server; `start` begins to ask, `serve` to answer, `close` ends both."""

    def __init__(
        self, swarm: Swarm, settings: AutoNatSettings | None = None, rng: random.Random | None = None
    ) -> None:
        self._swarm = swarm
        self._settings = settings or AutoNatSettings()
        self._news = asyncio.Event()
        self._observers: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._tests: set[asyncio.Task[Any]] = set()
        self._serving = False
        self._first = FirstClient(swarm, self._settings, rng or random.Random(), self._weigh)
        self._second = SecondClient(swarm)
        budget = Budget(swarm.refusals, swarm.peerstore.rank)
        for name in (autonat.PROTOCOL, autonat2.REQUEST, autonat2.BACK):
            swarm.services.reserve(name)
        self._servers = {
            autonat.PROTOCOL: (FirstServer(swarm, budget).serve, AUTONAT),
            autonat2.REQUEST: (SecondServer(swarm, budget).serve, AUTONAT2),
        }
        self._candidates: dict[Multiaddr, _Candidate] = {}
        self._filtering = Filtering.UNKNOWN
        self._filtering_asked = -inf
        self._filtering_pause_s = 0.0
        self._known = Reachability.UNKNOWN

    @property
    def reachability(self) -> Reachability:
        """What is known now."""
        return self._known

    def on_change(self, callback: Callable[[], None]) -> None:
        """Be told when the verdict changes."""
        self._observers.append(callback)

    def start(self) -> None:
        """Begin to ask."""
        swarm = self._swarm
        swarm.on_identified(self._identified)
        swarm.own_addresses.on_changed(self._addresses_changed)
        swarm.services.serve(Service(name=autonat2.BACK, talk=self._second.serve_back, bounds=DIAL_BACK))
        self._task = swarm.spawn(self._ask_for_ever(), "autonat")

    def serve(self, on: bool) -> None:
        """Answer others' requests, or no longer."""
        if on == self._serving:
            return
        self._serving = on
        for name, (talk, bounds) in self._servers.items():
            if on:
                self._swarm.services.serve(Service(name=name, talk=talk, bounds=bounds))
            else:
                self._swarm.services.withdraw(name)

    async def close(self) -> None:
        """End. Idempotent."""
        tasks = [*self._tests, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- news -------------------------------------------------------------------------------------

    def _addresses_changed(self, change: Change) -> None:
        if change & Change.MOVED:  # nothing that was found out before holds
            self._first.forget()
            self._candidates.clear()
            self._filtering, self._filtering_asked, self._filtering_pause_s = Filtering.UNKNOWN, -inf, 0.0
            self._weigh()
        if change & Change.MAPPED:  # what was found out of these places before holds no longer
            for addr in self._swarm.own_addresses.mapped():
                self._candidates.pop(addr, None)
            if self._first.verdict.reachability is not Reachability.PUBLIC:
                self._first.verdict.doubt()
        if change & (Change.MOVED | Change.STIRRED | Change.MAPPED):
            self._first.stirred()
            for candidate in self._candidates.values():
                candidate.ready.clear()
        if change & ~Change.TOLD:
            self._news.set()

    def _identified(self, peer: PeerId) -> None:
        wants_v1 = not self._first.verdict.is_sure
        if self._speaks(peer, autonat2.REQUEST) or (wants_v1 and self._speaks(peer, autonat.PROTOCOL)):
            self._news.set()

    def _speaks(self, peer: PeerId, protocol: str) -> bool:
        return protocol in self._swarm.peerstore.protocols(peer)

    def _weigh(self) -> None:
        """Form the verdict anew, and tell it where it has changed."""
        own = self._swarm.own_addresses
        servers = [conn for conn in self._servers_of_v2() if not self._second.is_silent(conn)]
        findings = [
            finding
            for addr, one in self._candidates.items()
            if (finding := self._finding(addr, one)) is not Finding.OPEN or _of_family(servers, addr)
        ]
        has_public = any(address_class(addr) is AddressClass.PUBLIC for addr in own.bound())
        known = reachability(findings, own.nat, has_public=has_public)
        if known is Reachability.UNKNOWN and not servers:
            known = self._first.verdict.reachability
        if known is self._known:
            return
        self._known = known
        log.info("strangers reaching this node: %s", known.value)
        for callback in tuple(self._observers):
            callback()

    def _finding(self, addr: Multiaddr, candidate: _Candidate) -> Finding:
        is_bound = addr in self._swarm.own_addresses.bound()
        return candidate.evidence.finding(self._filtering, is_bound=is_bound)

    # --- asking -----------------------------------------------------------------------------------

    async def _ask_for_ever(self) -> None:
        own = self._swarm.own_addresses
        while True:
            self._news.clear()
            own.expire()
            self._forget_expired()
            proved = own.proofs.addresses()
            guessed = autonat.candidates(own.bound(), own.observed(), proved, own.mapped())
            wait_s = self._settings.refresh_s
            if servers := self._servers_of_v2():
                seen = () if own.nat.is_per_destination else own.counting()  # no other comes in there
                wait_s = self._start_tests((*seen, *guessed), servers)
            if all(map(self._second.is_silent, servers)):
                wait_s = min(wait_s, await self._first.step(guessed))
            self._weigh()
            if wait_s:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._news.wait()

    def _forget_expired(self) -> None:
        """What was not proved anew in time is to be found out anew."""
        proved = self._swarm.own_addresses.proofs.addresses()
        for addr, candidate in self._candidates.items():
            if self._finding(addr, candidate) is Finding.PROVED and addr not in proved:
                self._candidates[addr] = _Candidate(testing=candidate.testing)

    def _servers_of_v2(self) -> list[Link]:
        """One connection to each connected peer that speaks it: the silent last, who came behind others."""
        found: dict[PeerId, Link] = {}
        for conn in self._swarm.conns():
            if conn.can_open and not conn.is_relayed and self._speaks(conn.remote_peer, autonat2.REQUEST):
                found.setdefault(conn.remote_peer, conn)
        is_silent = self._second.is_silent
        return sorted(found.values(), key=lambda conn: (is_silent(conn), conn.direction == "inbound"))

    def _start_tests(self, addrs: tuple[Multiaddr, ...], servers: list[Link]) -> float:
        """Begin what is due; seconds until more may be."""
        now, settings = time.monotonic(), self._settings
        wanted = tuple(dict.fromkeys(addrs))[:MAX_CANDIDATES]
        self._candidates = {addr: self._candidates.get(addr) or _Candidate() for addr in wanted}
        connected = {conn.remote_peer for conn in servers}
        wait_s = settings.refresh_s
        for addr, candidate in self._candidates.items():
            candidate.ready = {peer: at for peer, at in candidate.ready.items() if peer in connected}
            finding, due_at = self._finding(addr, candidate), candidate.pause_until
            if finding in (Finding.PROVED, Finding.REFUTED):
                again_s = settings.ask_again_s if self._is_left(addr) else settings.refresh_s
                due_at = max(due_at, candidate.settled_at + again_s)
            if finding is Finding.DOUBTFUL:
                left_s = self._look_into_filtering(servers, now)
            elif due_at > now:
                left_s = due_at - now
            else:
                most = AT_ONCE if finding is Finding.OPEN else 1
                left_s = self._test_by(addr, candidate, _of_family(servers, addr), most, now)
            wait_s = min(wait_s, left_s)
        return max(wait_s, 0.001)

    def _is_left(self, addr: Multiaddr) -> bool:
        """Whether the place is one where nobody sees us any more: the router may have got another address."""
        own, endpoint = self._swarm.own_addresses, tcp_endpoint(addr)
        seen = [tcp_endpoint(one) for one in own.observed() if address_class(one) is AddressClass.PUBLIC]
        hosts = {one.host for one in seen if one is not None and endpoint and one.family == endpoint.family}
        return bool(hosts) and endpoint is not None and endpoint.host not in hosts and addr not in own.bound()

    def _test_by(
        self, addr: Multiaddr, candidate: _Candidate, servers: list[Link], most: int, now: float
    ) -> float:
        """Have up to `most` servers test an address at a time; when another may be asked."""
        own, again_s, ready = self._swarm.own_addresses, self._settings.ask_again_s, candidate.ready
        # Whom we never dialed tells most, but may be there to say nothing; then who was asked longest ago.
        dialed_first = candidate.slow > 0 or candidate.unanswered >= AT_ONCE
        in_order = sorted(
            servers,
            key=lambda one: (
                self._second.is_silent(one),
                own.is_contacted(one.remote_addr) != dialed_first,
                ready.get(one.remote_peer, -inf),
            ),
        )
        one_place = len({household(conn.remote_addr) for conn in servers}) == 1
        places: set[str] = set()
        for conn in in_order:
            peer, place = conn.remote_peer, household(conn.remote_addr)
            if len(candidate.testing) >= most or peer in candidate.testing or ready.get(peer, -inf) > now:
                continue
            if one_place or place not in places:
                places.add(place)
                ready[peer] = now + again_s
                candidate.testing.add(peer)
                self._spawn(self._test(conn, addr, candidate))
        if len(candidate.testing) >= most:  # its end is news
            return again_s
        return min((at - now for at in ready.values() if at > now), default=again_s)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._swarm.spawn(work, "autonat test")
        self._tests.add(task)
        task.add_done_callback(self._tests.discard)

    async def _test(self, conn: Link, addr: Multiaddr, candidate: _Candidate) -> None:
        loop = asyncio.get_running_loop()
        slow = loop.call_later(SLOW_S, self._is_slow, candidate, conn.remote_peer)
        try:
            tested = await self._second.test(conn, addr, self._ends_at(addr))
        finally:
            slow.cancel()
            candidate.testing.discard(conn.remote_peer)
            self._news.set()
        if self._candidates.get(addr) is candidate:
            self._take(addr, candidate, conn.remote_peer, tested)

    def _is_slow(self, candidate: _Candidate, peer: PeerId) -> None:
        """Others are asked beside it; what it says later counts all the same."""
        candidate.testing.discard(peer)
        candidate.slow += 1
        self._news.set()

    def _ends_at(self, addr: Multiaddr) -> Callable[[Multiaddr], bool]:
        """Whether a local address is where a dial to `addr` ends: that very one, or any behind the router."""
        bound = self._swarm.own_addresses.bound()
        return addr.__eq__ if addr in bound else bound.__contains__

    def _take(self, addr: Multiaddr, candidate: _Candidate, peer: PeerId, tested: Trial) -> None:
        now, again_s = time.monotonic(), self._settings.ask_again_s
        if tested.outcome is Outcome.SILENT:
            return  # it took its time already
        if tested.outcome is Outcome.NO_EVIDENCE:
            pause_s = min(again_s, FIRST_PAUSE_S * 2**candidate.unanswered)
            candidate.unanswered = min(candidate.unanswered + 1, 10)
            candidate.pause_until = now + pause_s
            if tested.again_s is not None:
                candidate.ready[peer] = now + min(tested.again_s, again_s)
            return
        candidate.unanswered = candidate.slow = 0
        if tested.outcome is Outcome.WORKED:
            is_new = tested.back is not None and not self._swarm.own_addresses.is_contacted(tested.back)
            candidate.evidence.worked(afresh=is_new)
            candidate.by, candidate.settled_at = peer, now
        else:
            candidate.evidence.failed()
            candidate.ready[peer] = now + min(SAME_AGAIN_S, again_s)
        self._conclude(addr, candidate, proves=tested.outcome is Outcome.WORKED)

    def _conclude(self, addr: Multiaddr, candidate: _Candidate, *, proves: bool) -> None:
        """After a test of the address, or news of what the router lets in."""
        own, finding = self._swarm.own_addresses, self._finding(addr, candidate)
        log.debug("%s: %s", addr, finding.name)
        if finding is Finding.PROVED and proves and candidate.by is not None:
            own.prove(addr, candidate.by)
        elif finding is Finding.REFUTED:
            candidate.settled_at = time.monotonic()
            own.withdraw(addr)
        self._weigh()

    # --- what the router lets in ------------------------------------------------------------------

    def _look_into_filtering(self, servers: list[Link], now: float) -> float:
        """Find out how the router filters; when that may be tried again."""
        if self._filtering_asked + self._filtering_pause_s <= now:
            first_s = min(BUSY_S, self._settings.ask_again_s)
            self._filtering_pause_s = min(max(2 * self._filtering_pause_s, first_s), self._settings.refresh_s)
            self._filtering_asked = now
            self._spawn(self._find_filtering(servers))
        return self._filtering_asked + self._filtering_pause_s - now

    async def _find_filtering(self, servers: list[Link]) -> None:
        asked = self._filtering_asked
        found = await find_filtering(self._swarm, self._second, servers)
        if asked != self._filtering_asked:  # another network meanwhile
            return
        self._filtering = found
        for addr, candidate in self._candidates.items():
            self._conclude(addr, candidate, proves=True)
        self._news.set()


def _of_family(servers: list[Link], addr: Multiaddr) -> list[Link]:
    """Those that see us by the address's own kind of IP: others would not dial it."""
    endpoint = tcp_endpoint(addr)
    found = ((conn, tcp_endpoint(conn.remote_addr)) for conn in servers)
    return [conn for conn, seen in found if seen and endpoint and seen.family == endpoint.family]
