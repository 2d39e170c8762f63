"""Which of our own addresses strangers have proved, and for how long that counts: a pure policy.

Rules: a dial-back that worked proves one address for `PROOF_S`; nothing else lengthens that. Two different
servers in a row that could not dial it take it back before. What was asked about longest ago is asked about
next, so each address is proved anew, or goes. Times are `now` as passed in, seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId

PROOF_S: Final = 2700.0
"""Three of AutoNAT's pauses: two servers in a row may be unable to say."""

REFUTERS: Final = 2
"""One server may have a bad line."""

MAX_ASKED: Final = 64
"""Addresses whose last question is remembered; more than that are never candidates at a time."""


@dataclass(slots=True)
class Proof:
    """Of one address."""

    at: float
    by: PeerId
    since: float
    """When it was proved first, without a break since."""
    refuted_by: set[PeerId] = field(default_factory=set)

    @property
    def until(self) -> float:
        """When it counts no longer."""
        return self.at + PROOF_S


class Proofs:
    """Of one node's addresses, the first proved first."""

    def __init__(self) -> None:
        self._proofs: dict[Multiaddr, Proof] = {}
        self._asked: dict[Multiaddr, float] = {}

    def addresses(self) -> tuple[Multiaddr, ...]:
        """Those that are proved."""
        return tuple(self._proofs)

    def of(self, addr: Multiaddr) -> Proof | None:
        """The proof of an address."""
        return self._proofs.get(addr)

    def asked(self, addr: Multiaddr, now: float) -> None:
        """A question about this address is on its way."""
        self._asked.pop(addr, None)
        self._asked[addr] = now
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]

    def next_to_ask(self, candidates: Sequence[Multiaddr]) -> Multiaddr:
        """The candidate asked about longest ago, or never."""
        return min(candidates, key=lambda addr: self._asked.get(addr, -inf))

    def proved(self, addr: Multiaddr, by: PeerId, now: float) -> bool:
        """A dial-back to it worked; whether that is news."""
        news = addr not in self._proofs
        if news:
            self._proofs[addr] = Proof(now, by, now)
        else:
            proof = self._proofs[addr]
            proof.at, proof.by = now, by
            proof.refuted_by.clear()
        return news

    def refuted(self, addr: Multiaddr, by: PeerId) -> bool:
        """A dial-back to this address alone failed; whether it is taken back."""
        proof = self._proofs.get(addr)
        if proof is None:
            return False
        proof.refuted_by.add(by)
        if len(proof.refuted_by) < REFUTERS:
            return False
        del self._proofs[addr]
        return True

    def withdraw(self, addr: Multiaddr) -> bool:
        """It is not proved any more; whether it was."""
        return self._proofs.pop(addr, None) is not None

    def expire(self, now: float) -> bool:
        """Take back what was not proved anew in time; whether anything was."""
        old = [addr for addr, proof in self._proofs.items() if proof.until <= now]
        for addr in old:
            del self._proofs[addr]
        return bool(old)

    def clear(self) -> bool:
        """Nothing is proved any more; whether anything was."""
        any_proved = bool(self._proofs)
        self._proofs.clear()
        self._asked.clear()
        return any_proved
