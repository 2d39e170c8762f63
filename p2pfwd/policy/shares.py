"""Shares of what is everybody's: so many at once, so many a second, per peer, per network and in all. Pure.

Rules: a bound is asked for before anything is taken, the narrowest first, so that who is refused by his own
share uses up nobody else's. A wider network has a larger share: twice the narrowest's, then four times.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class
from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.networks import Network, networks
from p2pfwd.policy.pace import Pace, Paces, Rate

Whose = Literal["peer", "network", "all"]
"""Whose share is used up."""

WIDER: Final = (1, 2, 4)
"""Times the narrowest network's share, by `Network.width`."""

FEW: Final = 16
"""Who holds fewer than this may still take what is kept for others."""


@dataclass(frozen=True, slots=True)
class Party:
    """Who is at the other end of a connection, for shares."""

    peer: PeerId
    networks: tuple[Network, ...] = ()

    @classmethod
    def at(cls, peer: PeerId, addr: Multiaddr) -> Party:
        """A peer that is seen at `addr`. Programs of this machine count by peer only."""
        near = address_class(addr) is AddressClass.LOOPBACK
        return cls(peer, () if near else networks(addr))


@dataclass(frozen=True, slots=True, kw_only=True)
class Most:
    """How many at once."""

    all: int
    peer: int
    network: int
    """Of the narrowest network: IPv4 /32, IPv6 /64."""
    kept: int = 0
    """The last of `all`, for those who hold fewer than `FEW`."""

    @classmethod
    def halves(cls, all: int) -> Most:
        """A peer may have half, its network five eighths, and the last eighth is kept for others."""
        return cls(all=all, peer=max(1, all // 2), network=max(1, all * 5 // 8), kept=all // 8)


class Held:
    """Counts what is held, against `Most`."""

    def __init__(self, most: Most) -> None:
        self.most = most
        self.total = 0
        self._peers: Counter[PeerId] = Counter()
        self._networks: Counter[Network] = Counter()

    def full(self, party: Party) -> Whose | None:
        """Whose share leaves no room for one more; None where there is room."""
        most, own = self.most, self._peers[party.peer]
        if own >= most.peer:
            return "peer"
        for network in party.networks:
            if self._networks[network] >= most.network * WIDER[network.width]:
                return "network"
        if self.total >= most.all - (most.kept if own >= FEW else 0):
            return "all"
        return None

    def take(self, party: Party) -> None:
        """One more; ask `full` before."""
        self.total += 1
        self._peers[party.peer] += 1
        for network in party.networks:
            self._networks[network] += 1

    def give(self, party: Party) -> None:
        """One less."""
        self.total -= 1
        _one_less(self._peers, party.peer)
        for network in party.networks:
            _one_less(self._networks, network)

    def of(self, peer: PeerId) -> int:
        """How many this peer holds."""
        return self._peers[peer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How many a second."""

    peer: Rate
    network: Rate
    """Of the narrowest network."""
    all: Rate | None = None
    """None: those of the networks are enough. Work that nobody may be kept from has no bound in all."""


@dataclass(slots=True)
class Paced:
    """Counts what is done, against `Rates`."""

    rates: Rates
    _buckets: list[tuple[Whose, Paces]] = field(init=False)
    _all: Pace | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        network = self.rates.network
        self._buckets = [("peer", Paces(self.rates.peer))]
        self._buckets += [
            ("network", Paces(Rate(network.per_s * times, network.burst * times))) for times in WIDER
        ]

    def empty(self, party: Party, now: float) -> Whose | None:
        """Take one; whose share is used up, or None where it was taken."""
        for whose, paces, key in self._of(party):
            if not paces.take(key, now):
                return whose
        all_ = self._in_all(now)
        return None if all_ is None or all_.take(now) else "all"

    def is_spent(self, party: Party, now: float) -> Whose | None:
        """Whose share is used up, without taking from it."""
        for whose, paces, key in self._of(party):
            if not paces.has(key, now):
                return whose
        all_ = self._in_all(now)
        return None if all_ is None or all_.has(now) else "all"

    def waits_s(self, party: Party, now: float, most_s: float) -> tuple[float, Whose | None]:
        """Take one in advance: (seconds until it may be done, None), or (0, whose) beyond `most_s`.

        Who has to wait for his own share takes from the wider ones no earlier than that.
        """
        later_s = 0.0
        for whose, paces, key in self._of(party):
            wait_s = paces.reserve(key, now, most_s, later_s)
            if wait_s is None:
                return 0.0, whose
            later_s += wait_s
        all_ = self._in_all(now)
        if all_ is not None:
            wait_s = all_.reserve(now, most_s, later_s)
            if wait_s is None:
                return 0.0, "all"
            later_s += wait_s
        return later_s, None

    def _of(self, party: Party) -> list[tuple[Whose, Paces, PeerId | Network]]:
        whose, paces = self._buckets[0]
        found: list[tuple[Whose, Paces, PeerId | Network]] = [(whose, paces, party.peer)]
        found += [(*self._buckets[1 + network.width], network) for network in party.networks]
        return found

    def _in_all(self, now: float) -> Pace | None:
        if self._all is None and self.rates.all is not None:
            self._all = Pace(self.rates.all, now)
        return self._all


def _one_less(counts: Counter[Any], key: object) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
