"""When to dial which kept peer, and at which addresses: a pure policy (go-ethereum's dialScheduler).

Rules: static peers go before bootstrap peers, and nobody waits for ever; at most `max_in_flight` dials at a
time; never the same address twice within `redial_s` on one network, whoever has it (where it was given or
proved for a peer, what is said of others holds nothing up); back-off per peer from
`backoff_first_s` to `backoff_most_s`, with jitter, and none after a network change; a relay, by which others
reach this node, is tried every `relay_s` for its first `relay_tries`; the peer of a saved forward, for which
programs ask by themselves, every `away_s` once it has been away for an hour; a peer whose addresses
are stale is to be looked up, a few at a time and ever more seldom. Times are `now` as passed in, seconds.

    plan(now) -> started(dial, now) -> succeeded | failed          connected <-> disconnected
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import takewhile
from math import inf
from typing import Final, Literal, NamedTuple

from p2pfwd.core.multiaddrs import Multiaddr, is_relayed
from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.dial_plan import MAX_CIRCUITS, MAX_DIALS


class Known(NamedTuple):
    """An address of a kept peer."""

    addr: Multiaddr
    age_s: float
    is_founded: bool = False
    """Whether it was given or proved."""


Addresses = Callable[[PeerId], Sequence[Known]]
"""The addresses known for a peer, the preferred first."""

JITTER: Final = 0.3
"""Part of a back-off that is left to chance: nodes that lost the same peer come back one by one."""

PATIENCE_S: Final = 60.0
"""How much later a bootstrap peer may be served than a static one that was due with it."""


MAX_TRIED: Final = 256
"""Addresses remembered as tried, per peer; beyond, they count as new once more."""


class Priority(IntEnum):
    """Why a peer is kept."""

    STATIC = 0
    RELAY = 1
    FORWARD = 2
    """A saved forward leads to it."""
    BOOTSTRAP = 3
    """Its owner lets this node into a network by it."""
    LISTED = 4
    """The same, of a list that others made: it came with the program, or DNS told it."""


@dataclass(frozen=True, slots=True)
class DialLimits:
    """Counts, and durations in seconds."""

    max_in_flight: int = 16
    max_resolving: int = 4
    redial_s: float = 30.0
    """Before an address is dialed again."""
    backoff_first_s: float = 1.0
    backoff_most_s: float = 60.0
    relay_s: float = 1.0
    relay_tries: int = 600
    """... which is ten minutes; then as any other."""
    away_tries: int = 60
    """Failures in a row, an hour of them, after which the peer of a forward is away for long."""
    away_s: float = 600.0
    stable_s: float = 60.0
    """A connection that ended sooner counts as a failure: whoever hangs up at once is not hammered."""
    stale_failures: int = 3
    """Failures in a row after which the addresses are taken for old."""
    stale_age_s: float = 86_400.0
    """Age of the youngest address from which all are taken for old."""
    resolve_first_s: float = 60.0
    resolve_most_s: float = 3600.0
    """Between two look-ups of one peer: the first pause, doubled up to the second."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Try `peer_id` at `addrs`; then, if it was in vain and `resolve`, look it up and try what is found."""

    peer_id: PeerId
    addrs: tuple[Multiaddr, ...]
    resolve: bool = False


@dataclass(frozen=True, slots=True)
class KeptStatus:
    """How it stands with one kept peer."""

    peer_id: PeerId
    priority: Priority
    state: Literal["connected", "dialing", "waiting"]
    failures: int  # in a row
    outcome: str | None  # of the last try or connection, in words; None before the first
    tried_at: float | None
    next_try_at: float | None  # None: connected, being dialed, or no address to try


@dataclass(slots=True)
class _Kept:
    """One peer that is to stay connected."""

    priority: Priority
    due_at: float
    resolve_due_at: float
    resolve_pause_s: float
    failures: int = 0
    connected_at: float | None = None
    outcome: str | None = None
    tried_at: float | None = None
    tried: set[Multiaddr] = field(default_factory=set)  # since it was connected last


class DialSchedule:
    """The kept peers and their dials. `rng` gives numbers in [0, 1)."""

    def __init__(
        self, addresses: Addresses, rng: Callable[[], float], limits: DialLimits | None = None
    ) -> None:
        self.limits = limits or DialLimits()
        self.resolvable = False
        """Whether somebody can look peers up."""
        self._addresses = addresses
        self._rng = rng
        self._kept: dict[PeerId, _Kept] = {}
        self._in_flight: dict[PeerId, float] = {}  # since when
        self._resolving: set[PeerId] = set()
        self._dialed: dict[tuple[PeerId | None, Multiaddr], float] = {}
        """When, oldest first: for whom, and under None for anybody."""
        self._network_at = -inf

    # --- who is kept ------------------------------------------------------------------------------

    def keep(self, peer_id: PeerId, priority: Priority, now: float) -> None:
        """Keep a connection to this peer from now on; again, to change the priority."""
        kept = self._kept.get(peer_id)
        if kept is not None:
            kept.priority = priority
        else:
            self._kept[peer_id] = _Kept(priority, now, now, self.limits.resolve_first_s)

    def learned(self, peer_id: PeerId, now: float) -> None:
        """More may be known of the peer: an address not tried since it was lost is tried without delay."""
        kept = self._kept.get(peer_id)
        if kept is not None and any(known.addr not in kept.tried for known in self._addresses(peer_id)):
            kept.due_at = min(kept.due_at, now)

    def release(self, peer_id: PeerId) -> None:
        """Keep it no more; a dial under way may end as it likes."""
        self._kept.pop(peer_id, None)

    def kept(self) -> list[PeerId]:
        """All of them, in the order they came."""
        return list(self._kept)

    def status(self, peer_id: PeerId, now: float) -> KeptStatus | None:
        """How it stands with a peer; None if it is not kept."""
        kept = self._kept.get(peer_id)
        if kept is None:
            return None
        common = (kept.failures, kept.outcome, kept.tried_at)
        if kept.connected_at is not None:
            return KeptStatus(peer_id, kept.priority, "connected", *common, None)
        if peer_id in self._in_flight:
            return KeptStatus(peer_id, kept.priority, "dialing", *common, None)
        ready_at = self._ready_at(peer_id, kept)
        next_try_at = max(now, ready_at) if ready_at < inf else None
        return KeptStatus(peer_id, kept.priority, "waiting", *common, next_try_at)

    # --- what to do -------------------------------------------------------------------------------

    def plan(self, now: float) -> list[Dial]:
        """The dials to begin now; changes nothing: tell `started` of each that is."""
        free = self.limits.max_in_flight - len(self._in_flight)
        lookups = self.limits.max_resolving - len(self._resolving)
        claimed: set[Multiaddr] = set()
        dials: list[Dial] = []
        due = (item for item in self._waiting() if item[1].due_at <= now)
        for peer_id, kept in sorted(due, key=lambda item: _rank(item[1])):
            if len(dials) >= free:
                break
            addrs = _fitting(
                known
                for known in self._addresses(peer_id)
                if (known.is_founded or known.addr not in claimed) and self._free_at(peer_id, known) <= now
            )
            resolve = lookups > 0 and kept.resolve_due_at <= now and self._wants_lookup(peer_id, kept)
            if addrs or resolve:
                claimed.update(addrs)
                lookups -= resolve
                dials.append(Dial(peer_id, addrs, resolve))
        return dials

    def next_wakeup(self, now: float) -> float | None:
        """When `plan` has something to do next; None: not before something else happens."""
        if len(self._in_flight) >= self.limits.max_in_flight:
            return None
        soonest = min((self._ready_at(*item) for item in self._waiting()), default=inf)
        return max(now, soonest) if soonest < inf else None

    def _waiting(self) -> Iterable[tuple[PeerId, _Kept]]:
        for peer_id, kept in self._kept.items():
            if kept.connected_at is None and peer_id not in self._in_flight:
                yield peer_id, kept

    def _free_at(self, peer_id: PeerId, known: Known) -> float:
        whoever = peer_id if known.is_founded else None
        redial_s = self.limits.redial_s
        if known.is_founded and self._is_eager(self._kept.get(peer_id)):
            redial_s = 0.0  # the back-off is enough
        return self._dialed.get((whoever, known.addr), -inf) + redial_s

    def _is_eager(self, kept: _Kept | None) -> bool:
        return (
            kept is not None and kept.priority is Priority.RELAY and kept.failures <= self.limits.relay_tries
        )

    def _ready_at(self, peer_id: PeerId, kept: _Kept) -> float:
        ready_at = min((self._free_at(peer_id, known) for known in self._addresses(peer_id)), default=inf)
        if len(self._resolving) < self.limits.max_resolving and self._wants_lookup(peer_id, kept):
            ready_at = min(ready_at, kept.resolve_due_at)
        return max(kept.due_at, ready_at)

    def _wants_lookup(self, peer_id: PeerId, kept: _Kept) -> bool:
        if not self.resolvable:
            return False
        youngest_s = min((known.age_s for known in self._addresses(peer_id)), default=inf)
        return kept.failures >= self.limits.stale_failures or youngest_s > self.limits.stale_age_s

    # --- what happened ----------------------------------------------------------------------------

    def started(self, dial: Dial, now: float) -> None:
        """A planned dial has begun."""
        self._in_flight[dial.peer_id] = now
        if dial.resolve:
            self._resolving.add(dial.peer_id)
        self._remember(dial.peer_id, dial.addrs, now)

    def resolved(self, peer_id: PeerId, found: Iterable[Multiaddr], now: float) -> tuple[Multiaddr, ...]:
        """The look-up that was part of a dial has ended; which of the addresses may be dialed now."""
        self._resolving.discard(peer_id)
        if (kept := self._kept.get(peer_id)) is not None:
            kept.resolve_due_at = now + kept.resolve_pause_s
            kept.resolve_pause_s = min(kept.resolve_pause_s * 2, self.limits.resolve_most_s)
        news = (Known(addr, 0.0) for addr in dict.fromkeys(found))
        fresh = _fitting(known for known in news if self._free_at(peer_id, known) <= now)
        self._remember(peer_id, fresh, now)
        return fresh

    def succeeded(self, peer_id: PeerId, now: float) -> None:
        """A dial ended well."""
        self._ended(peer_id)
        kept = self._kept.get(peer_id)
        if kept is not None and kept.connected_at is None:
            self._back_off(kept, now, "the connection ended as it came up")

    def failed(self, peer_id: PeerId, now: float, reason: str) -> None:
        """A dial ended in vain; `reason` is one sentence."""
        began_at = self._ended(peer_id)
        kept = self._kept.get(peer_id)
        if kept is None or kept.connected_at is not None:
            return  # the peer has come by itself
        self._back_off(kept, now, reason)
        if began_at < self._network_at:
            kept.due_at = now  # what it ran over is gone

    def connected(self, peer_id: PeerId, now: float) -> None:
        """There is a connection to the peer, whoever made it."""
        kept = self._kept.get(peer_id)
        if kept is not None and kept.connected_at is None:
            kept.connected_at, kept.outcome = now, "connected"
            kept.tried.clear()

    def disconnected(
        self, peer_id: PeerId, now: float, reason: str, *, was_limited: bool = False
    ) -> None:
        """The last connection to the peer is over; `reason` in words.

        `was_limited`: it went over a relay that ends it by itself, after two minutes mostly. For a forward it
        is not made anew thirty times an hour.
        """
        kept = self._kept.get(peer_id)
        if kept is None or kept.connected_at is None:
            return
        since, kept.connected_at = kept.connected_at, None
        if now - since >= self.limits.stable_s or since < self._network_at:
            kept.failures = 0
            self._lookup_anew(kept, now)
        self._back_off(kept, now, reason)
        if was_limited and kept.priority is Priority.FORWARD:
            kept.due_at = now + self.limits.away_s * (1 - JITTER * self._rng())

    def network_changed(self, now: float) -> None:
        """Another network, or awake again: what failed before says nothing any more."""
        self._network_at = now
        self._dialed.clear()
        for kept in self._kept.values():
            if kept.connected_at is None:
                kept.failures, kept.due_at = 0, now
                self._lookup_anew(kept, now)

    def _lookup_anew(self, kept: _Kept, now: float) -> None:
        kept.resolve_due_at, kept.resolve_pause_s = now, self.limits.resolve_first_s

    def _ended(self, peer_id: PeerId) -> float:
        self._resolving.discard(peer_id)
        return self._in_flight.pop(peer_id)

    def _back_off(self, kept: _Kept, now: float, outcome: str) -> None:
        limits = self.limits
        delay_s = min(limits.backoff_first_s * 2.0 ** min(kept.failures, 32), self._most_s(kept))
        kept.failures += 1
        kept.outcome = outcome
        kept.due_at = now + delay_s * (1 - JITTER * self._rng())

    def _most_s(self, kept: _Kept) -> float:
        """The longest back-off."""
        if self._is_eager(kept):
            return self.limits.relay_s
        is_away = kept.priority is Priority.FORWARD and kept.failures >= self.limits.away_tries
        return self.limits.away_s if is_away else self.limits.backoff_most_s

    def _remember(self, peer_id: PeerId, addrs: Iterable[Multiaddr], now: float) -> None:
        if (kept := self._kept.get(peer_id)) is not None:
            kept.tried_at = now
            if len(kept.tried) > MAX_TRIED:
                kept.tried.clear()
            kept.tried.update(addrs)
        horizon = now - self.limits.redial_s
        for key in list(takewhile(lambda key: self._dialed[key] <= horizon, self._dialed)):
            del self._dialed[key]
        for addr in addrs:
            for whoever in (peer_id, None):
                self._dialed.pop((whoever, addr), None)  # to the end: the order is that of the times
                self._dialed[whoever, addr] = now


def _fitting(addresses: Iterable[Known]) -> tuple[Multiaddr, ...]:
    """As many as a dial plan takes, direct addresses and circuits each, but all that was given or proved."""
    room = {False: MAX_DIALS, True: MAX_CIRCUITS}
    found: list[Multiaddr] = []
    for known in addresses:
        kind = is_relayed(known.addr)
        if known.is_founded or room[kind] > 0:
            found.append(known.addr)
            room[kind] -= 1
    return tuple(found)


def _rank(kept: _Kept) -> float:
    return kept.due_at + PATIENCE_S * (kept.priority >= Priority.BOOTSTRAP)
