"""What a router is asked next, and when, so that it leads a port here: a pure policy, one `Plan` a port.

```
            anew                        the last protocol: silence, or no
      ┌─────────────► SEARCHING ────────────────────────────────────► RESTING
      │                │  ▲  ▲                                           │
      │        granted │  │  └───────────────────────────────────────────┘ after AGAIN_S, doubled each time;
      │                ▼  │ no, or silence PATIENCE times                  or a router announces itself
      └────────────  MAPPED ◄─┐
                       └──────┘ granted anew
```

| state | what happens | what is asked next |
| --- | --- | --- |
| SEARCHING | silence, or a no | the next protocol, at once; after the last: RESTING |
| SEARCHING | the port is taken (UPnP: we choose) | the same protocol, another port, `PORTS` in all |
| SEARCHING | granted | MAPPED |
| MAPPED | half the lease is over; a permanent one: every `LEASE_S / 2` | the same mapping |
| MAPPED | `CHECK_S` since the last answer | whether the router still is who it was |
| MAPPED | its epoch went back, its address changed, it lost the mapping | the same mapping, at once |
| MAPPED | peers see us elsewhere, or the router announces itself without its epoch | `CHECK_S` is over |
| MAPPED | silence | the same, `RETRY_S` later; the third time in a row: SEARCHING |
| MAPPED | a no | SEARCHING, at once, the protocol that worked first |
| any | another network (`anew`) | SEARCHING from the beginning; the mapping was another router's |

The port outside is the one inside where the router allows it, then what it gives, and that one from then on.
A mapping stands until a search has found nothing. News may be forged: what announcements make us ask comes
`HEARD_S` apart, what hints do `HINT_S`. Times are `now` as passed in, seconds.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import inf
from typing import Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class

LEASE_S: Final = 7200
"""Asked for; a router that grants more is renewed as if it had granted this."""

RENEW_LEAST_S: Final = 60.0
"""Whatever a router grants, it makes no more work than this."""

HEARD_S: Final = 5.0
HINT_S: Final = 30.0
YOUNG_S: Final = 2
"""A router that announces itself so early began a moment ago, even where its clock was no further before."""

RETRY_S: Final = 5.0
PATIENCE: Final = 3
AGAIN_S: Final = 30.0
AGAIN_MOST_S: Final = 3600.0
PORTS: Final = 4
"""Ports that UPnP is asked for, ours the first of them."""

_FREE_PORTS: Final = range(10000, 65536)


class Protocol(Enum):
    """How routers are asked, the preferred first."""

    PCP = "PCP"
    NAT_PMP = "NAT-PMP"
    UPNP = "UPnP"


CHECK_S: Final = {Protocol.PCP: 60.0, Protocol.NAT_PMP: 60.0, Protocol.UPNP: 300.0}
"""Two datagrams; for UPnP a dozen, by TCP. A router that restarts mostly says so without being asked."""


class Phase(Enum):
    """See the picture."""

    SEARCHING = "searching"
    MAPPED = "mapped"
    RESTING = "resting"


class Task(Enum):
    """What to ask."""

    MAP = "map"
    CHECK = "check"


@dataclass(frozen=True, slots=True)
class Step:
    """The next question, and when."""

    at: float
    task: Task
    protocol: Protocol
    external_port: int


@dataclass(frozen=True, slots=True)
class Grant:
    """What the router gave."""

    protocol: Protocol
    host: str  # external IPv4 address, as the router says
    port: int
    lease_s: int  # 0: permanent
    epoch_s: int | None = None  # how long the router says it has been there; UPnP does not say
    until: float | None = None  # None: permanent


def went_back(before: tuple[int, float] | None, epoch_s: int, now: float) -> bool:
    """Whether a router's clock is behind what it was `before`, (epoch, time): it began anew (RFC 6886)."""
    if before is None:
        return False
    epoch_then, then = before
    return epoch_s < epoch_then + (now - then) * 7 / 8 - 2


def why_useless(host: str, observed: Collection[str]) -> str | None:
    """Why nobody gets in at the external address, in words; `observed`: public IPv4 hosts that peers see."""
    kind = address_class(Multiaddr.parse(f"/ip4/{host}/tcp/1"))
    if kind is AddressClass.UNSPECIFIED:
        return "the router has no address on the Internet"
    if kind is not AddressClass.PUBLIC:
        return f"the router is behind another NAT (its own address there is {host})"
    if observed and host not in observed:
        seen = ", ".join(sorted(observed))
        return f"the router is behind another NAT (it says {host}, and peers see {seen})"
    return None


class Plan:
    """Of one listen port."""

    def __init__(
        self, port: int, now: float, rng: random.Random, protocols: Sequence[Protocol] = tuple(Protocol)
    ) -> None:
        self.port = port
        self._rng = rng
        self._all = tuple(protocols)
        self.anew(now)

    def anew(self, now: float) -> None:
        """Another network: what was known holds no longer."""
        self.grant: Grant | None = None
        self.refusal: tuple[Protocol, str] | None = None
        """The no of the last search, in words: NAT-PMP's, which says most; without one, the first."""
        self._again_s = AGAIN_S
        self._heard_at = self._hint_at = -inf
        self._search(now)

    def _search(self, now: float) -> None:
        """From the first protocol; the one that worked last is the first."""
        self.phase = Phase.SEARCHING
        last = self.grant.protocol if self.grant is not None else None
        self._left = sorted(self._all, key=lambda protocol: protocol is not last)
        self._external_port = self.grant.port if self.grant is not None else self.port
        self._silences = self._taken = 0
        self._epoch: tuple[int, float] | None = None
        self._no: tuple[Protocol, str] | None = None
        self._map_at = self._check_at = now

    def step(self) -> Step:
        """What to ask next."""
        protocol = self._left[0]
        if self.phase is Phase.MAPPED and self._check_at < self._map_at:
            return Step(self._check_at, Task.CHECK, protocol, self._external_port)
        return Step(self._map_at, Task.MAP, protocol, self._external_port)

    # --- what came of it --------------------------------------------------------------------------

    def granted(self, grant: Grant, now: float) -> None:
        """The router leads `grant.port` here."""
        lease_s = min(grant.lease_s or LEASE_S, LEASE_S)
        self.grant = replace(grant, until=now + grant.lease_s if grant.lease_s else None)
        self.phase, self.refusal = Phase.MAPPED, None
        self._again_s = AGAIN_S
        self._left = [grant.protocol]
        self._external_port = grant.port
        self._silences = self._taken = 0
        self._epoch = grant.epoch_s or 0, now
        self._map_at = now + max(RENEW_LEAST_S, lease_s / 2)
        self._check_at = now + CHECK_S[grant.protocol]

    def taken(self, now: float) -> None:
        """Somebody else has that port."""
        self._taken += 1
        if self._taken >= PORTS:
            self.refused("each port that was tried is another's", now)
        else:
            self._external_port = self._rng.choice(_FREE_PORTS)
            self._map_at = now

    def refused(self, words: str, now: float) -> None:
        """The router says no."""
        if self.phase is Phase.MAPPED:
            self._search(now)
            return
        if self._no is None or self._left[0] is Protocol.NAT_PMP:
            self._no = self._left[0], words
        self._next(now)

    def silent(self, now: float) -> None:
        """Nobody answers, or nobody who speaks that protocol."""
        if self.phase is not Phase.MAPPED:
            self._next(now)
            return
        self._silences += 1
        if self._silences >= PATIENCE:
            self._search(now)
        elif self.step().task is Task.CHECK:
            self._check_at = now + RETRY_S
        else:
            self._map_at = self._check_at = now + RETRY_S

    def _next(self, now: float) -> None:
        """The next protocol, or a rest."""
        self._taken, self._map_at = 0, now
        if len(self._left) > 1:
            del self._left[0]
            return
        self.grant, self.refusal = None, self._no
        self._search(now)
        self.phase = Phase.RESTING
        self._map_at = now + self._again_s
        self._again_s = min(2 * self._again_s, AGAIN_MOST_S)

    def alive(self, epoch_s: int | None, host: str | None, now: float) -> None:
        """The answer to a check: the epoch, or the external address, or both."""
        assert self.grant is not None
        self._silences = 0
        self._check_at = now + CHECK_S[self.grant.protocol]
        moved = host is not None and host != self.grant.host
        if moved or (epoch_s is not None and went_back(self._epoch, epoch_s, now)):
            self._map_at = self._check_at = now
        elif epoch_s is not None:
            self._epoch = epoch_s, now

    def lost(self, now: float) -> None:
        """The router says that it has the mapping no more."""
        self._map_at = self._check_at = now

    # --- news -------------------------------------------------------------------------------------

    def heard(self, epoch_s: int, now: float) -> None:
        """The router announces itself, and since when it is there."""
        if self.phase is Phase.RESTING:
            self._heard_at = _spaced(now, self._heard_at, HEARD_S)
            self._search(self._heard_at)
        elif self.phase is Phase.MAPPED and (
            epoch_s <= YOUNG_S or went_back(self._epoch, epoch_s, now)
        ):
            self._heard_at = _spaced(now, self._heard_at, HEARD_S)
            self._map_at = self._check_at = self._heard_at

    def look(self, now: float) -> None:
        """Something may have happened to the router."""
        if self.phase is Phase.MAPPED:
            self._hint_at = _spaced(now, self._hint_at, HINT_S)
            self._check_at = min(self._check_at, self._hint_at)


def _spaced(now: float, last: float, pause_s: float) -> float:
    """When news of `now` is acted upon; `last`: the same of the news before."""
    return last if now <= last else max(now, last + pause_s)
