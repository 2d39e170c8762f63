"""Who is asked next to let this node into its network, given what is known and what failed: pure.

Sources, any of which may be gone: the bootstrap peers of the settings, under names and addresses; peers near
by (mDNS); peers of the address book that served the DHT before. Rules:
- Bootstrap peers go first and are dialed all the time (when again: `dial_schedule`). The others have their
  turn where nobody of the DHT answers: `PATIENCE_S` later, or at once when no bootstrap peer is left to wait
  for.
- Near ones come before the address book's, `NEAR_AHEAD` tries at most: then they take turns, for a neighbour
  can make up any number. Of each: whose network was tried least often, then who was tried least, is best
  founded, was seen last.
- At most `AT_ONCE` at a time, ever more slowly (`PAUSES`); each rests between two tries, ever longer.
- In the public network its public DHT is what counts: its twin on the LAN is empty wherever there are no
  neighbours, and is helped only where the other is empty too. In the others one DHT with somebody is enough.
Times are seconds of one clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from math import inf
from typing import Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.provenance import Provenance

PATIENCE_S: Final = 3.0
"""What bootstrap peers have to answer in: two lost SYNs, or a slow name server and a dial."""

AT_ONCE: Final = 4

PAUSES: Final = ((16, 0.0), (64, 5.0), (inf, 60.0))
"""So many tries in vain, and the pause from one to the next until then."""

NEAR_AHEAD: Final = 8
"""Tries of peers near by before the first of the address book's: a few neighbours, each tried twice."""

REST_FIRST_S: Final = 30.0
REST_MOST_S: Final = 3600.0
"""Between two tries of one peer: twice as long each time."""


class Outcome(Enum):
    """How it stands with one bootstrap peer, or the name of some."""

    PENDING = "pending"
    ANSWERS = "answers"
    NO_NAME = "no-name"
    """The name cannot be looked up."""
    SILENT = "silent"
    """No answer at its address."""
    UNDIALABLE = "undialable"
    """Its addresses are for what this node does not speak."""
    REFUSES = "refuses"
    """Something answers, and no connection comes of it: another node, or one with another swarm key."""


class Source(IntEnum):
    """Where a peer to try is known from; the first goes first."""

    NEAR = 0
    BOOK = 1


@dataclass(frozen=True, slots=True)
class Seed:
    """A peer that may let this node in."""

    peer_id: PeerId
    source: Source
    crowd: str
    """The network it is in, as `policy.networks.crowd`."""
    provenance: Provenance
    """Of its best address."""
    age_s: float
    """Since that was last claimed."""
    tries: int = 0
    tried_at: float = -inf
    is_trying: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """Whom to dial now, and when to ask again unless something happens; infinite: then only."""

    peers: tuple[PeerId, ...]
    again_at: float


def wanting(answering: Sequence[bool], *, is_public: bool) -> tuple[int, ...]:
    """Which DHTs of a network need help; `answering`: of each whether somebody answers, its own first."""
    if not any(answering):
        return tuple(range(len(answering)))
    return (0,) if is_public and not answering[0] else ()


def whom_to_try(
    seeds: Iterable[Seed], configured: Iterable[Outcome], alone_since: float, last_try_at: float, now: float
) -> Turn:
    """The seeds' turn, where somebody is wanted since `alone_since`; `configured`: the bootstrap peers."""
    known = list(seeds)
    patience_until = alone_since + PATIENCE_S
    hopeful = any(outcome in (Outcome.PENDING, Outcome.ANSWERS) for outcome in configured)
    if hopeful and now < patience_until:
        return Turn((), patience_until)
    tries = sum(seed.tries for seed in known)
    pause_s = _pause_s(tries)
    room = AT_ONCE - sum(seed.is_trying for seed in known)
    ready_at = last_try_at + pause_s
    resting_until = min((_rested_at(seed) for seed in known if not seed.is_trying), default=inf)
    if room <= 0:
        return Turn((), inf)
    if now < ready_at:
        return Turn((), max(ready_at, resting_until))
    chosen: list[PeerId] = []
    tried, by_source = Counter[str](), Counter[Source]()
    for seed in known:
        tried[seed.crowd] += seed.tries + seed.is_trying
        by_source[seed.source] += seed.tries + seed.is_trying
    ready = [seed for seed in known if not seed.is_trying and _rested_at(seed) <= now]
    while ready and len(chosen) < (1 if pause_s else room):
        is_books_turn = by_source[Source.NEAR] - by_source[Source.BOOK] >= NEAR_AHEAD
        first = Source.BOOK if is_books_turn else Source.NEAR
        best = min(ready, key=lambda seed: _rank(seed, first, tried[seed.crowd]))
        ready.remove(best)
        tried[best.crowd] += 1
        by_source[best.source] += 1
        chosen.append(best.peer_id)
    if ready:
        return Turn(tuple(chosen), now + pause_s if pause_s else inf)
    resting = (_rested_at(seed) for seed in known if not seed.is_trying and seed.peer_id not in chosen)
    return Turn(tuple(chosen), min(resting, default=inf))


def _rank(seed: Seed, first: Source, tried: int) -> tuple[float, ...]:
    return seed.source is not first, tried, seed.tries, seed.provenance, seed.age_s


def _rested_at(seed: Seed) -> float:
    if not seed.tries:
        return -inf
    return seed.tried_at + min(REST_FIRST_S * 2.0 ** min(seed.tries - 1, 32), REST_MOST_S)


def _pause_s(tries: int) -> float:
    return next(pause_s for until, pause_s in PAUSES if tries < until)
