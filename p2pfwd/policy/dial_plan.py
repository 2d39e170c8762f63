"""Which addresses of a peer to dial, and when: a pure policy (happy eyeballs, RFC 8305; go's ranker).

Rules:
- Addresses form ranks by their provenance: given, proved, told by the peer itself, signed, hearsay. Within a
  rank what has not expired goes first, then what is nearer to home, then IPv6 before IPv4; each next address
  starts a little later, and none waits for another to fail.
- A rank begins one step after the rank before it began, however many addresses that one has: a flood of lies
  delays nothing that is better founded, and many old addresses do not delay news. A rank that has expired
  altogether delays nobody.
- Direct addresses and circuits have bounds of their own: who is behind a NAT is reached by circuits alone, so
  no number of direct addresses may cut them. Both go by these ranks.
- The first circuit waits for one moment where there is any direct address, whoever told that one.
- What is cut is what nobody vouched for: never an address or a circuit that was given or proved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from p2pfwd.core.multiaddrs import (
    AddressClass,
    Multiaddr,
    address_class,
    is_relayed,
    split_circuit,
    tcp_endpoint,
)
from p2pfwd.policy.provenance import Provenance

NEAR_STEP_S: Final = 0.03
"""Between private or loopback addresses: they answer at once or never."""

FAR_STEP_S: Final = 0.25
"""Between public addresses, as RFC 8305 and go."""

RELAY_AFTER_S: Final = 0.25
"""A relay is tried so long after the first direct address: a direct path that answers in this time is better,
and one that does not must not be waited for. What leads through a relay is made direct later."""

MAX_DIALS: Final = 32
"""Direct addresses tried for one peer; beyond, those neither given nor proved only cost time."""

MAX_CIRCUITS: Final = 16
"""Circuits tried beside them, likewise: the places of a peer at a few relays of several addresses each."""

_ORDER: Final = {
    AddressClass.LOOPBACK: 0,
    AddressClass.PRIVATE: 1,
    AddressClass.LINK_LOCAL: 1,
    AddressClass.PUBLIC: 2,
    AddressClass.NAME: 2,
    AddressClass.UNROUTABLE: 3,
}


_LOCAL: Final = (AddressClass.LOOPBACK, AddressClass.PRIVATE, AddressClass.LINK_LOCAL)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address of a peer, and what speaks for it."""

    addr: Multiaddr
    provenance: Provenance
    is_stale: bool = False
    """Its time is over: it was true once."""


@dataclass(frozen=True, slots=True)
class PlannedDial:
    """Dial `addr`, `delay_s` seconds after the beginning."""

    addr: Multiaddr
    delay_s: float

    def is_before(self, other: PlannedDial) -> bool:
        """Whether this is a sooner dial of the same address."""
        return self.addr == other.addr and self.delay_s < other.delay_s


def is_local(addr: Multiaddr) -> bool:
    """Whether the address is on this machine or in its own network, by its class.

    A relay that is to be dialed wherever it is known to be is judged by that.
    """
    return address_class(addr) in _LOCAL or (is_relayed(addr) and split_circuit(addr)[1] is None)


def plan(candidates: Iterable[Candidate], own: Sequence[Multiaddr] = ()) -> list[PlannedDial]:
    """The dials to make, in order, of addresses that can be dialed. Drops duplicates, and `own` addresses."""
    # Two nodes with places at one relay have the same address there; it leads to whoever is asked for.
    mine = {addr.without_peer_id() for addr in own if not is_relayed(addr)}
    best: dict[Multiaddr, Candidate] = {}
    for candidate in candidates:
        addr = candidate.addr.without_peer_id()
        if addr in mine:
            continue
        if addr not in best or _rank(candidate) < _rank(best[addr]):
            best[addr] = Candidate(addr, candidate.provenance, candidate.is_stale)
    ranked = sorted(best.values(), key=_rank)
    direct = list(_spread([one for one in ranked if not is_relayed(one.addr)], MAX_DIALS, 0.0))
    relayed = [one for one in ranked if is_relayed(one.addr)]
    circuits = _spread(relayed, MAX_CIRCUITS, RELAY_AFTER_S if direct else 0.0)
    return sorted([*direct, *circuits], key=lambda dial: dial.delay_s)


def _rank(candidate: Candidate) -> tuple[int, bool, int, int]:
    endpoint = tcp_endpoint(candidate.addr)
    six_first = 0 if endpoint is not None and endpoint.family == "ip6" else 1
    nearness = _ORDER.get(address_class(candidate.addr), len(_ORDER))
    return candidate.provenance, candidate.is_stale, nearness, six_first


def _spread(ranked: Sequence[Candidate], room: int, begins_s: float) -> Iterator[PlannedDial]:
    """When each is due; beyond `room` of them those neither given nor proved are left out."""
    for provenance, members in groupby(ranked, key=lambda candidate: candidate.provenance):
        rank = list(members)
        if provenance > Provenance.PROVED:
            rank = rank[: max(0, room)]
        room -= len(rank)
        due_s = begins_s
        for candidate in rank:
            yield PlannedDial(candidate.addr, due_s)
            due_s += _step_s(candidate.addr)
        if rank and not rank[0].is_stale:
            begins_s += _step_s(rank[0].addr)


def _step_s(addr: Multiaddr) -> float:
    return NEAR_STEP_S if is_local(addr) and not is_relayed(addr) else FAR_STEP_S
