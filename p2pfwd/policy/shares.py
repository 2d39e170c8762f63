"""Shares of what is everybody's: so many at once, so many a second, per peer, per network and in all. Pure.

Rules: a bound is asked for before anything is taken, the narrowest first, so that a peer refused by its own
share uses up nobody else's. A wider network has a larger share: twice the narrowest's, then four times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Literal, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class
from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.networks import Network, networks
from p2pfwd.policy.pace import Pace, Paces, Rate

Whose = Literal["peer", "network", "all"]
"""Whose share is used up."""

WIDER: Final = (1, 2, 4)
"""Times the narrowest network's share, by `Network.width`."""

FEW: Final = 16
"""A network that holds fewer than this, the widest that counts, may still take what is kept for others: peers
are made up by the hundred, each with a few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Most:
    """How many at once."""

    all: int
    peer: int
    network: int
    """Of the narrowest network: IPv4 /32, IPv6 /64."""
    kept: int = 0
    """The last of `all`, for networks that hold fewer than `FEW`."""

    @classmethod
    def halves(cls, all: int) -> Most:
        """A peer may have half, its network five eighths, and the last eighth is kept for others."""
        return cls(all=all, peer=max(1, all // 2), network=max(1, all * 5 // 8), kept=all // 8)


class Count:
    """One number and its bound."""

    __slots__ = ("__weakref__", "held", "most", "whose")

    def __init__(self, whose: Whose, most: int) -> None:
        self.held = 0
        self.most = most
        self.whose: Whose = whose


Account = tuple[Count, ...]
"""A peer's count, then those of its networks, the narrowest first."""


class Rank(IntEnum):
    """Whose a peer is, for a node that is full; the least gives way first."""

    STRANGER = 0
    SERVED = 1
    """A stranger that was served long ago: other networks' floods do not keep it out."""
    OWN = 2
    """One of the owner's."""


RankOf = Callable[[PeerId], Rank]


def a_stranger(_peer: PeerId) -> Rank:
    """The rank of everybody, where nobody knows better."""
    return Rank.STRANGER


class Party:
    """Who is at the other end of a connection, for shares. Keep it as long as the connection."""

    __slots__ = ("__weakref__", "networks", "peer")

    def __init__(self, peer: PeerId, networks: tuple[Network, ...] = ()) -> None:
        self.peer = peer
        self.networks = networks

    @property
    def crowd(self) -> PeerId | Network:
        """Who counts as one where all is full: the widest network; of this machine, the peer."""
        return self.networks[-1] if self.networks else self.peer

    @classmethod
    def at(cls, peer: PeerId, addr: Multiaddr) -> Party:
        """A peer that is seen at `addr`. Programs of this machine count by peer only."""
        near = address_class(addr) is AddressClass.LOOPBACK
        return cls(peer, () if near else networks(addr))


def rank_in(party: Party, rank_of: RankOf) -> Rank:
    """Its rank where shares are counted: to be served costs little, so what bounds that is its networks.

    Who comes over a relay has none, and is a stranger there.
    """
    rank = rank_of(party.peer)
    return Rank.STRANGER if rank is Rank.SERVED and not party.networks else rank


def binds(whose: Whose | None, party: Party, rank_of: RankOf) -> bool:
    """Whether a share that is used up, if one is, binds this party.

    Of the owner's peers each has its own alone. Who was served has its networks' too.
    """
    if whose is None or whose == "peer":
        return whose is not None
    rank = rank_in(party, rank_of)
    return rank is Rank.STRANGER or (whose == "network" and rank is Rank.SERVED)


class Held:
    """Counts what is held, against `Most`."""

    def __init__(self, most: Most) -> None:
        self.most = most
        self.total = 0
        self._counts: WeakValueDictionary[PeerId | Network, Count] = WeakValueDictionary()
        self._accounts: WeakKeyDictionary[Party, Account] = WeakKeyDictionary()
        """What is counted for whom: looked up once, for opening a tunnel must cost nothing."""

    def full(self, party: Party) -> Whose | None:
        """Whose share leaves no room for one more; None where there is room."""
        account = self._accounts.get(party) or self._account(party)
        for count in account:
            if count.held >= count.most:
                return count.whose
        most = self.most
        if self.total >= most.all - most.kept and (account[-1].held >= FEW or self.total >= most.all):
            return "all"
        return None

    def used(self, party: Party) -> float:
        """How much of a share is used up, of its fullest: 1 where nothing is left."""
        account = self._accounts.get(party) or self._account(party)
        return max(count.held / count.most for count in account)

    def held(self, party: Party) -> int:
        """How many its peer holds."""
        return (self._accounts.get(party) or self._account(party))[0].held

    def most_held(self) -> int:
        """How many the peer holds that holds most."""
        return max((count.held for count in self._counts.values() if count.whose == "peer"), default=0)

    def take(self, party: Party) -> None:
        """One more; ask `full` before."""
        self.total += 1
        for count in self._accounts.get(party) or self._account(party):
            count.held += 1

    def give(self, party: Party) -> None:
        """One less."""
        self.total -= 1
        for count in self._accounts[party]:
            count.held -= 1

    def _account(self, party: Party) -> Account:
        most, counts = self.most, [self._count(party.peer, "peer", self.most.peer)]
        for network in party.networks:
            counts.append(self._count(network, "network", most.network * WIDER[network.width]))
        self._accounts[party] = account = tuple(counts)
        return account

    def _count(self, key: PeerId | Network, whose: Whose, most: int) -> Count:
        """Shared by the parties that count for one peer or network, as long as there is any."""
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = Count(whose, most)
        return count


class Holder(Protocol):
    """One thing that is held."""

    @property
    def party(self) -> Party: ...


H = TypeVar("H", bound=Holder)


def giving_way(
    holders: Iterable[H],
    newcomer: Party,
    whose: Whose,
    most: Most,
    silent_since: Callable[[H], float | None],
) -> list[H]:
    """Who gives way to a newcomer that finds this share used up, the first first.

    Of its network that is full, or of the one that holds most, who is silent longest. Who is silent since
    None stays. For a peer beyond its own share nobody goes.
    """
    if whose == "peer":
        return []
    around = list(holders)
    if whose == "network":
        inside = (_inside(around, network, most) for network in newcomer.networks)
        around = next(filter(None, inside), [])
    crowds = Counter(holder.party.crowd for holder in around)
    ranked = [
        (-crowds[holder.party.crowd], since, holder)
        for holder in around
        if (since := silent_since(holder)) is not None
    ]
    ranked.sort(key=lambda it: it[:2])
    return [holder for _, _, holder in ranked]


def _inside(holders: list[H], network: Network, most: Most) -> list[H]:
    """Those of a network, where they are all that it may have."""
    inside = [holder for holder in holders if network in holder.party.networks]
    return inside if len(inside) >= most.network * WIDER[network.width] else []


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

    def is_spent_in_all(self, now: float) -> bool:
        """Whether the share of all is used up, without taking from it, or counting anything for anybody."""
        all_ = self._in_all(now)
        return all_ is not None and not all_.has(now)

    def is_spent(self, party: Party, now: float) -> Whose | None:
        """Whose share is used up, without taking from it."""
        if not self._buckets[0][1]:  # nobody has taken any
            return None
        for whose, paces, key in self._of(party):
            if not paces.has(key, now):
                return whose
        all_ = self._in_all(now)
        return None if all_ is None or all_.has(now) else "all"

    def waits_s(
        self, party: Party, now: float, most_s: float, rank: Rank = Rank.STRANGER
    ) -> tuple[float, Whose | None]:
        """Take one in advance: (seconds until it may be done, None), or (0, whose) beyond `most_s`.

        A peer that has to wait for its own share takes from the wider ones no earlier than that. It takes
        from those alone that bind its `rank`.
        """
        later_s = 0.0
        for whose, paces, key in self._of(party)[: 1 if rank is Rank.OWN else None]:
            wait_s = paces.reserve(key, now, most_s, later_s)
            if wait_s is None:
                return 0.0, whose
            later_s += wait_s
        all_ = self._in_all(now) if rank is Rank.STRANGER else None
        if all_ is not None:
            wait_s = all_.reserve(now, most_s, later_s)
            if wait_s is None:
                return 0.0, "all"
            later_s += wait_s
        return later_s, None

    def owes_s(self, parties: tuple[Party, ...], now: float, n: float, most_s: float) -> float:
        """Take `n`, there or not, of each share of theirs: how long until the longest debt is paid, seconds.

        What they have in common pays once. No debt lasts longer than `most_s`: what is beyond it is let off.
        """
        shares = {(paces, key) for party in parties for _, paces, key in self._of(party)}
        longest_s = max(paces.owes_s(key, now, n, most_s) for paces, key in shares)
        all_ = self._in_all(now)
        return longest_s if all_ is None else max(longest_s, all_.owes_s(now, n, most_s))

    def forget_full(self, now: float) -> None:
        """Drop what is as new: it changes nothing."""
        for _, paces in self._buckets:
            paces.forget_full(now)

    def _of(self, party: Party) -> list[tuple[Whose, Paces, PeerId | Network]]:
        whose, paces = self._buckets[0]
        found: list[tuple[Whose, Paces, PeerId | Network]] = [(whose, paces, party.peer)]
        found += [(*self._buckets[1 + network.width], network) for network in party.networks]
        return found

    def _in_all(self, now: float) -> Pace | None:
        if self._all is None and self.rates.all is not None:
            self._all = Pace(self.rates.all, now)
        return self._all
