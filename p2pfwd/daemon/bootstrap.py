"""How the daemon gets into its network: bootstrap peers kept while they are needed, others tried after them.

Whose turn it is, `policy.bootstrap` decides; what came of it, `bootstrap_report` says. Rules: bootstrap peers
are kept connected only while the DHTs know few: they have to serve all. A peer of the address book, or near
by, is dialed where nobody answers in a DHT that it may serve; whoever lists the DHT comes into its table by
that, and whoever was dialed for nothing is let go. What was tried counts until somebody answers or the
network changes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from typing import Final, Literal

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.daemon.bootstrap_report import BootstrapReport
from p2pfwd.daemon.networks import NetworkProfile, is_shipped
from p2pfwd.errors import DialTimeout, P2PForwardError, PeerNotFound, TimedOut
from p2pfwd.host.host import Host
from p2pfwd.net.dialer import NAME, NETWORK, OUT_OF_BOUNDS
from p2pfwd.net.own_addresses import Change
from p2pfwd.net.resolver import has_name
from p2pfwd.policy.bootstrap import PATIENCE_S, Outcome, Seed, Source, Turn, wanting, whom_to_try
from p2pfwd.policy.dial_schedule import Priority
from p2pfwd.policy.networks import crowd
from p2pfwd.policy.provenance import Provenance
from p2pfwd.policy.undialable import UNDIALABLE
from p2pfwd.protocols.kad.service import Dht
from p2pfwd.protocols.kad.upkeep import Upkeep

log = logging.getLogger("p2pfwd.discovery")

NAME_RETRY_S: Final = 1.0
NAME_RETRY_MOST_S: Final = 60.0
"""Between tries to resolve a bootstrap peer's name: the network may not be there yet."""

ENOUGH: Final = 8
"""Entries of the tables with which the bootstrap peers are not needed."""

LOOK_FIRST_S: Final = 0.5
LOOK_S: Final = 5.0
LOOK_AGAIN_S: Final = 60.0
"""Between two looks at how it stands: while bootstrap peers may answer, until the end is known, and then."""

BOOK_WAIT_S: Final = 2.0
"""How long the address book is waited for: it is read in milliseconds, unless the disk hangs."""

DIAL_TIMEOUT_S: Final = 10.0
"""For one peer of the address book to be connected and identified."""

SILENT_CODES: Final = frozenset({NETWORK, OUT_OF_BOUNDS, DialTimeout.code, TimedOut.code})
"""Of failed dials: nothing was there, or out of this node's reach."""

LET_GO_S: Final = 1.0
"""After which a connection made in vain is closed: the other end, too, has asked who is there by then."""

MAX_SEEDS: Final = 1024
"""Peers to try that are remembered: as many as the address book has."""

_TELLING: Final = (
    Outcome.ANSWERS,
    Outcome.PENDING,
    Outcome.REFUSES,
    Outcome.SILENT,
    Outcome.NO_NAME,
    Outcome.UNDIALABLE,
)
"""Of several peers under one name, whose outcome counts."""

Near = Callable[[], Mapping[PeerId, Sequence[Multiaddr]]]


@dataclass(slots=True)
class _Configured:
    """One bootstrap peer, or a name that lists some."""

    is_name: bool
    peers: set[PeerId]
    failed: bool = False
    """Whether the name cannot be looked up."""


@dataclass(slots=True)
class _Known:
    """One that can be asked, and where it is."""

    seed: Seed
    addrs: tuple[Multiaddr, ...]


class Bootstrap:
    """Of one daemon; `start` begins; its tasks end with the swarm's."""

    def __init__(self, host: Host, network: NetworkProfile, *, is_hub: bool = False) -> None:
        """`is_hub`: whether this node serves the DHT on its owner's word, so that others get in by it."""
        self.near: Near = dict
        """Who is on the local network."""
        self.book_loaded = asyncio.Event()
        """Set when the address book has been read."""
        self._host = host
        self._swarm = host.swarm
        self._upkeep: Sequence[tuple[Dht, Upkeep]] = ()
        self._network = network
        self._is_hub = is_hub
        self._configured: list[_Configured] = []
        self._looking_up: list[asyncio.Task[None]] = []
        self._peers: dict[PeerId, list[Multiaddr]] = {}
        self._named: set[PeerId] = set()
        """Those whom the owner named himself, by their IDs."""
        self._kept = False
        self._known: dict[PeerId, _Known] = {}
        self._alone_since: float | None = None
        self._last_try_at = -inf
        self._said = False
        self._has_begun = False
        self._wake = asyncio.Event()

    def start(self, upkeep: Sequence[tuple[Dht, Upkeep]]) -> None:
        """Keep the bootstrap peers, and see that somebody of these DHTs is found."""
        self._upkeep = upkeep
        for _, each in upkeep:
            each.on_answered = self.look
        self._configure(self._network.bootstrap)
        self._keep(True)
        self._swarm.own_addresses.on_changed(self._addresses_changed)
        self._swarm.spawn(self._run(), "bootstrap")

    def change(self, addresses: Sequence[Multiaddr]) -> None:
        """Other bootstrap peers from now on; connections with those before stay."""
        for looking_up in self._looking_up:
            looking_up.cancel()
        self._looking_up.clear()
        self._keep(False)
        self._configured.clear()
        self._peers.clear()
        self._named.clear()
        self._configure(addresses)
        self._keep(self._is_thin())
        self.look()

    def _configure(self, addresses: Sequence[Multiaddr]) -> None:
        by_id: dict[PeerId, list[Multiaddr]] = {}
        for address in addresses:
            peer_id = address.peer_id()
            if peer_id is None:
                name = _Configured(True, set())
                self._configured.append(name)
                self._looking_up.append(self._swarm.spawn(self._look_up(address, name), "bootstrap name"))
            elif peer_id != self._host.peer_id:
                by_id.setdefault(peer_id, []).append(address.without_peer_id())
                if not is_shipped(address):
                    self._named.add(peer_id)
        for peer_id, addrs in by_id.items():
            self._configured.append(_Configured(all(map(has_name, addrs)), {peer_id}))
            self._peers[peer_id] = addrs

    def look(self) -> None:
        """Somebody may be there who was not, or gone who was."""
        self._wake.set()

    # --- the bootstrap peers of the settings ------------------------------------------------------

    def _keep(self, wanted: bool) -> None:
        self._kept = wanted
        for peer_id, addrs in self._peers.items():
            why = Priority.BOOTSTRAP if peer_id in self._named else Priority.LISTED
            if wanted:
                self._host.keeper.keep(peer_id, addrs, why)
            else:
                self._host.keeper.release(peer_id, why)

    async def _look_up(self, address: Multiaddr, name: _Configured) -> None:
        """Keep the peers that a `/dnsaddr/host` lists, once it can be resolved."""
        delay_s, said = NAME_RETRY_S, False
        while True:
            try:
                found = await self._swarm.resolver.resolve(address)
            except PeerNotFound as exc:
                why = exc.message
            else:
                listed = dict.fromkeys(addr.peer_id() for addr in found)
                for peer_id in listed:
                    if peer_id is not None and peer_id != self._host.peer_id:
                        name.peers.add(peer_id)
                        self._peers.setdefault(peer_id, []).append(address)
                name.failed = not any(listed)
                if self._is_thin():
                    self._keep(True)
                if not name.failed:
                    return
                why = "it names no peer"
            name.failed = True
            self._wake.set()
            if not said:
                log.warning("bootstrap.peers: %s cannot be used yet: %s", address, why)
                said = True
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, NAME_RETRY_MOST_S)

    def _outcome(self, entry: _Configured) -> Outcome:
        if entry.failed:
            return Outcome.NO_NAME
        outcomes = {self._outcome_of(peer_id) for peer_id in entry.peers} or {Outcome.PENDING}
        return next(outcome for outcome in _TELLING if outcome in outcomes)

    def _outcome_of(self, peer_id: PeerId) -> Outcome:
        if self._swarm.conns(peer_id):
            return Outcome.ANSWERS
        status, causes = self._host.keeper.status(peer_id), self._host.keeper.causes(peer_id)
        if status is None or not status.failures or not causes:
            return Outcome.PENDING
        if causes == {UNDIALABLE}:
            return Outcome.UNDIALABLE
        if causes <= {NAME, UNDIALABLE}:
            return Outcome.NO_NAME
        return Outcome.SILENT if causes & SILENT_CODES else Outcome.REFUSES

    # --- the others -------------------------------------------------------------------------------

    def _answering(self) -> list[bool]:
        return [len(dht.table) > 0 and upkeep.is_answered for dht, upkeep in self._upkeep]

    def _wanting(self) -> tuple[int, ...]:
        return wanting(self._answering(), is_public=self._network.is_public)

    def _is_thin(self) -> bool:
        """Whether the DHTs know too few, or nobody of those who answers."""
        known = sum(len(dht.table) for dht, _ in self._upkeep)
        return known < ENOUGH or not any(upkeep.is_answered for _, upkeep in self._upkeep)

    async def _run(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(BOOK_WAIT_S):
                await self.book_loaded.wait()
        self._has_begun = True
        while True:
            self._wake.clear()
            now = time.monotonic()
            if self._kept != self._is_thin():
                self._keep(not self._kept)
            wanted = self._wanting()
            if not wanted:
                self._found_somebody()
                turn = Turn((), inf)
            else:
                turn = self._turn(wanted, now)
                self._tell_log()
            for peer_id in turn.peers:
                self._begin(peer_id, now)
            look_s = LOOK_AGAIN_S
            if wanted and not self._said:
                look_s = LOOK_FIRST_S if self._is_patient(now) else LOOK_S
            try:
                async with asyncio.timeout(min(max(0.0, turn.again_at - now), look_s)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _is_patient(self, now: float) -> bool:
        return self._alone_since is not None and now < self._alone_since + PATIENCE_S

    def _found_somebody(self) -> None:
        self._alone_since, self._said = None, False
        self._known = {peer_id: one for peer_id, one in self._known.items() if one.seed.is_trying}

    def _turn(self, wanted: Sequence[int], now: float) -> Turn:
        if self._alone_since is None:
            self._alone_since = now
        self._gather(wanted)
        known = self._known.values()
        seeds = [one.seed for one in known if one.seed.is_trying or not self._swarm.conns(one.seed.peer_id)]
        outcomes = map(self._outcome, self._configured)
        return whom_to_try(seeds, outcomes, self._alone_since, self._last_try_at, now)

    def _gather(self, wanted: Sequence[int]) -> None:
        """Add who is known to have served the DHTs wanted, and, where there is nobody at all, who is near.

        A peer that was added stays: its addresses may grow too old meanwhile.
        """
        store = self._swarm.peerstore
        names = {self._upkeep[index][0].known_as for index in wanted}
        for peer_id in store.dht_servers():
            known = store.known(peer_id)
            if known and not names.isdisjoint(store.dhts(peer_id)):
                best, addrs = known[0], tuple(each.addr for each in known)
                self._note(peer_id, Source.BOOK, addrs, best.provenance, best.age_s)
        if len(wanted) == len(self._upkeep):
            for peer_id, near_addrs in self.near().items():
                if near_addrs:
                    self._note(peer_id, Source.NEAR, tuple(near_addrs), Provenance.HEARSAY, 0.0)

    def _note(
        self,
        peer_id: PeerId,
        source: Source,
        addrs: tuple[Multiaddr, ...],
        provenance: Provenance,
        age_s: float,
    ) -> None:
        if peer_id == self._host.peer_id or peer_id in self._peers:
            return
        old = self._known.get(peer_id)
        if old is None and len(self._known) >= MAX_SEEDS:
            return
        seed = Seed(peer_id, source, crowd(addrs[0]), provenance, age_s)
        if old is not None:
            was = old.seed
            seed = replace(seed, tries=was.tries, tried_at=was.tried_at, is_trying=was.is_trying)
        self._known[peer_id] = _Known(seed, addrs)

    def _begin(self, peer_id: PeerId, now: float) -> None:
        known = self._known[peer_id]
        known.seed = replace(known.seed, is_trying=True)
        self._last_try_at = now
        log.debug("asking %s to be let into the DHT", peer_id)
        self._swarm.spawn(self._try(peer_id, known.addrs), "bootstrap by a peer known before")

    async def _try(self, peer_id: PeerId, addrs: Sequence[Multiaddr]) -> None:
        """Connect; the DHT takes notice by itself of who serves it."""
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                # What `connect` is given it takes for the owner's word, and its peer for one of his.
                self._swarm.peerstore.add_addrs(peer_id, addrs, DIAL_TIMEOUT_S, Provenance.HEARSAY)
                conn = await self._swarm.connect(peer_id, route=False)
                await asyncio.wait([conn.identified])
                served = self._swarm.peerstore.protocols(peer_id)
                dht = next((dht for dht, _ in self._upkeep if dht.protocol in served), None)
                if dht is not None:
                    await dht.wait_joined(peer_id)
                    return
            log.debug("%s serves no DHT of this network", peer_id)
            await asyncio.sleep(LET_GO_S)
            used = conn.streams or self._swarm.connmgr.is_protected(peer_id)
            if not used and conn.direction == "outbound":
                await conn.close()
        except (P2PForwardError, TimeoutError) as exc:
            log.debug("%s cannot let this node in: %s", peer_id, exc)
        finally:
            if (known := self._known.get(peer_id)) is not None:
                tries, now = known.seed.tries + 1, time.monotonic()
                known.seed = replace(known.seed, tries=tries, tried_at=now, is_trying=False)
            self._wake.set()

    def _addresses_changed(self, change: Change) -> None:
        """In another network what failed before says nothing."""
        if change & Change.MOVED:
            for known in self._known.values():
                known.seed = replace(known.seed, tries=0, tried_at=-inf)
            if self._alone_since is not None:
                self._alone_since = time.monotonic()
            self._wake.set()

    # --- how it stands ----------------------------------------------------------------------------

    def report(self) -> BootstrapReport:
        """How it stands at this moment."""
        outcomes = [(entry.is_name, self._outcome(entry)) for entry in self._configured]
        seeds = [one.seed for one in self._known.values()]
        book = [seed for seed in seeds if seed.source is Source.BOOK]
        near = [seed for seed in seeds if seed.source is Source.NEAR]
        tried = sum(seed.tries > 0 for seed in book)
        state: Literal["joined", "searching", "alone"] = "joined"
        if self._wanting():
            waiting = any(outcome is Outcome.PENDING for _, outcome in outcomes)
            untried = any(not seed.tries and not self._swarm.conns(seed.peer_id) for seed in seeds)
            state = "searching" if waiting or untried or not self._has_begun else "alone"
        return BootstrapReport(
            state=state,
            servers=sum(len(dht.table) for dht, _ in self._upkeep),
            names=tuple(outcome for is_name, outcome in outcomes if is_name),
            addresses=tuple(outcome for is_name, outcome in outcomes if not is_name),
            remembered=len(book),
            remembered_tried=tried,
            near_tried=sum(seed.tries > 0 for seed in near),
            is_hub=self._is_hub,
        )

    def _tell_log(self) -> None:
        """Once, until somebody answers."""
        report = self.report()
        if report.state == "alone" and not self._said and (report.outcomes or report.remembered):
            self._said = True
            log.warning("nobody lets this node into the DHT: %s; %s", report.message, report.hint)
