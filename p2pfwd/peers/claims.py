"""Where one peer is, by whom that was said: a claim per address and provenance, each with its own age.

Rules:
- A claim has a time to live. After it the address is stale, and some days later it is forgotten.
- What the peer said in a connection that stands, and where we found it, is held: it does not age.
- Each provenance has a bound of its own: hearsay takes the place of nothing but older hearsay.
- Where somebody else was found, `refute` says what is left.
Times are one clock's seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import inf
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.policy.dial_plan import Candidate, is_local
from p2pfwd.policy.provenance import Provenance

MAX_CLAIMED: Final = {
    Provenance.GIVEN: 64,
    Provenance.PROVED: 16,
    Provenance.ITSELF: 32,
    Provenance.SIGNED: 16,
    Provenance.HEARSAY: 16,
}
"""Addresses of one peer for which nothing better speaks than this: two calls of arguments, the places of
a traveller, and what a host with a few interfaces and transports says of itself."""

STALE_S: Final = 5 * 86_400.0
"""How long after it was last claimed a stale address is kept; go-ethereum keeps its seeds as long."""

REPEATED_S: Final = 60.0
"""A claim repeated sooner, or in the first third of its life, is no news: the disk need not hear of it."""


@dataclass(slots=True)
class Claim:
    """That the peer is at an address. `expires_at` is infinite while it is held."""

    seen_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class KnownAddress:
    """One address of a peer, as it is known now."""

    addr: Multiaddr
    provenance: Provenance  # the best
    age_s: float  # since it was last claimed
    ttl_s: float  # time to live that is left; 0 or less: stale. Infinite: held


class Claims:
    """All claims about one peer."""

    __slots__ = ("_claims",)

    def __init__(self) -> None:
        self._claims: dict[Multiaddr, dict[Provenance, Claim]] = {}

    def __len__(self) -> int:
        """How many addresses there are."""
        return len(self._claims)

    def __contains__(self, addr: Multiaddr) -> bool:
        return addr in self._claims

    def note(self, addr: Multiaddr, provenance: Provenance, seen_at: float, expires_at: float) -> bool:
        """Enter a claim, or renew it; whether that is news."""
        claims = self._claims.get(addr, {})
        if not claims or provenance < min(claims):
            self._make_room(provenance)
            self._claims.pop(addr, None)  # to the end: who said it first does not set the order of the better
            self._claims[addr] = claims
        claim = claims.get(provenance)
        if claim is None:
            claims[provenance] = Claim(seen_at, expires_at)
            return True
        was_stale = claim.expires_at <= seen_at
        claim.expires_at = max(claim.expires_at, expires_at)
        third_s = (expires_at - seen_at) / 3 if expires_at < inf else 0.0
        if seen_at - claim.seen_at < max(REPEATED_S, third_s) and not was_stale:
            return False
        claim.seen_at = max(claim.seen_at, seen_at)
        return True

    def _make_room(self, provenance: Provenance) -> None:
        """Forget the address of this provenance that expires first, if there are too many."""
        equals = [addr for addr, claims in self._claims.items() if min(claims) is provenance]
        if len(equals) >= MAX_CLAIMED[provenance]:
            del self._claims[min(equals, key=lambda addr: self._claims[addr][provenance].expires_at)]

    def refute(self, addr: Multiaddr, now: float) -> bool:
        """Somebody else was found at the address; whether that changes what is known.

        What was told goes. What the owner gave stays: it is his to take back. What was proved at a public
        address goes, for there is one such place. At a private address it stays, and is stale: many networks
        have that address, and where it was proved the peer may be there still.
        """
        claims = self._claims.pop(addr, {})
        lasting = {Provenance.GIVEN, Provenance.PROVED} if is_local(addr) else {Provenance.GIVEN}
        left = {provenance: claim for provenance, claim in claims.items() if provenance in lasting}
        if left:
            self._claims[addr] = left
        proved = left.get(Provenance.PROVED)
        if proved is None or proved.expires_at <= now:
            return len(left) < len(claims)
        if proved.expires_at == inf:
            proved.seen_at = now
        proved.expires_at = now
        return True

    def withdraw(self, provenance: Provenance) -> None:
        """Forget what was claimed with this provenance, and each address that nothing else speaks for."""
        for addr, claims in list(self._claims.items()):
            claims.pop(provenance, None)
            if not claims:
                del self._claims[addr]

    def release(self, now: float, grace_s: float, addrs: Collection[Multiaddr] | None = None) -> bool:
        """What was held, at `addrs` or everywhere, ages from now on, and expires after `grace_s`.

        Of single addresses only what the peer itself said is let go. Whether anything was held.
        """
        held = [
            claim
            for addr, claims in self._claims.items()
            if addrs is None or addr in addrs
            for provenance, claim in claims.items()
            if claim.expires_at == inf and (addrs is None or provenance is Provenance.ITSELF)
        ]
        for claim in held:
            claim.seen_at, claim.expires_at = now, now + grace_s
        return bool(held)

    def told_by_itself(self) -> list[Multiaddr]:
        """The addresses that the peer told and that are held."""
        return [
            addr
            for addr, claims in self._claims.items()
            if (claim := claims.get(Provenance.ITSELF)) is not None and claim.expires_at == inf
        ]

    def has(self, addr: Multiaddr, provenance: Provenance) -> bool:
        """Whether this address was claimed with this provenance."""
        return provenance in self._claims.get(addr, ())

    def forget_old(self, now: float) -> None:
        """Forget the claims whose time is over since days."""
        for addr, claims in list(self._claims.items()):
            for provenance, claim in list(claims.items()):
                if claim.expires_at <= now and now - claim.seen_at > STALE_S:
                    del claims[provenance]
            if not claims:
                del self._claims[addr]

    def fresh(self, now: float) -> list[Multiaddr]:
        """The addresses that have not expired, the best founded first. A DHT server asks often."""
        ranks: dict[Provenance, list[Multiaddr]] = {}
        for addr, claims in self._claims.items():
            for claim in claims.values():
                if claim.expires_at > now:
                    ranks.setdefault(min(claims), []).append(addr)
                    break
        return [addr for provenance in sorted(ranks) for addr in ranks[provenance]]

    def tellable(self, now: float) -> list[Multiaddr]:
        """As `fresh`, less what the owner alone has said: it is his business, and nobody has proved it."""
        said = {
            addr
            for addr, claims in self._claims.items()
            if any(each is not Provenance.GIVEN and claim.expires_at > now for each, claim in claims.items())
        }
        return [addr for addr in self.fresh(now) if addr in said]

    def candidate(self, addr: Multiaddr, now: float) -> Candidate | None:
        """The address as one to dial; None if unknown. Hearsay does not freshen what is better founded."""
        claims = self._claims.get(addr)
        if claims is None:
            return None
        best = min(claims)
        counts = Provenance.HEARSAY if best is Provenance.HEARSAY else Provenance.SIGNED
        is_stale = all(claim.expires_at <= now for each, claim in claims.items() if each <= counts)
        return Candidate(addr, best, is_stale)

    def known(self, now: float) -> Iterator[KnownAddress]:
        """Every address: its best provenance, and the youngest age and longest life that anybody claims."""
        for addr, claims in self._claims.items():
            expires_at = max(claim.expires_at for claim in claims.values())
            seen_at = now if expires_at == inf else max(claim.seen_at for claim in claims.values())
            yield KnownAddress(addr, min(claims), now - seen_at, expires_at - now)

    def best(self, now: float) -> Iterator[KnownAddress]:
        """Every address: its best provenance, and the age and life of that claim alone."""
        for addr, claims in self._claims.items():
            provenance = min(claims)
            claim = claims[provenance]
            seen_at = now if claim.expires_at == inf else claim.seen_at
            yield KnownAddress(addr, provenance, now - seen_at, claim.expires_at - now)
