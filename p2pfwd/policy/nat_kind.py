"""Which kind of NAT this node is behind, from what others see of its connections: a pure policy.

| seen of one listening port | kind |
| --- | --- |
| nothing, or by one network alone, translated | unknown |
| the address that the connection has here | none |
| the same address by most of them | endpoint-independent: others can be told it, holes can be punched |
| another one by each | symmetric: every destination gets another port |
| another one by each, the ports close together | sequential: the next port can be guessed |

An observer is a network (IPv4 /32, IPv6 /56): one of them may lie, or be behind another router. Two observers
of the node's own, relays or peers that the owner named, decide without the others.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from enum import Enum
from itertools import pairwise
from typing import Final, NamedTuple

MAX_STEP: Final = 10
"""Between two ports of a NAT that counts up: others use it too meanwhile."""


class NatKind(Enum):
    """How connections from the listening port are translated."""

    UNKNOWN = "unknown"
    NONE = "none"
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    SYMMETRIC = "symmetric"
    SEQUENTIAL = "sequential"

    @property
    def is_per_destination(self) -> bool:
        """Whether every destination sees another port, so that none can be told where to connect to."""
        return self in (NatKind.SYMMETRIC, NatKind.SEQUENTIAL)


class Endpoint(NamedTuple):
    """Host and port."""

    host: str
    port: int


class Sight(NamedTuple):
    """One connection from a listening port to a public address, as its other end sees it."""

    observer: Hashable
    """The network of the other end."""
    local: Endpoint
    seen: Endpoint
    is_own: bool
    """Whether the observer is one of the owner's peers."""


def nat_kind(sights: Iterable[Sight]) -> NatKind:
    """The kind for the local endpoint that most observers see."""
    by_local: dict[Endpoint, list[Sight]] = {}
    for sight in sights:
        by_local.setdefault(sight.local, []).append(sight)
    if not by_local:
        return NatKind.UNKNOWN
    seen = _by_observer(max(by_local.values(), key=lambda those: len(_by_observer(those))))
    counts: dict[Endpoint, int] = {}
    for endpoint in seen.values():
        counts[endpoint] = counts.get(endpoint, 0) + 1
    most = max(counts, key=counts.__getitem__)
    agrees = counts[most] * 2 > len(seen)
    if agrees and most in by_local:
        return NatKind.NONE
    if len(seen) < 2:
        return NatKind.UNKNOWN
    if agrees:
        return NatKind.ENDPOINT_INDEPENDENT
    return NatKind.SEQUENTIAL if _counts_up(seen.values()) else NatKind.SYMMETRIC


def next_ports(sights: Iterable[Sight], kind: NatKind) -> range:
    """Where the next connection out of a sequential NAT will be seen; nothing for other kinds."""
    ports = sorted({sight.seen.port for sight in sights})
    if kind is not NatKind.SEQUENTIAL or not ports:
        return range(0)
    return range(ports[-1] + 1, ports[-1] + 1 + MAX_STEP)


def _by_observer(sights: Sequence[Sight]) -> dict[Hashable, Endpoint]:
    """What each sees now, the last word of each counting; of one's own alone where there are two."""
    own = {sight.observer: sight.seen for sight in sights if sight.is_own}
    return own if len(own) > 1 else {sight.observer: sight.seen for sight in sights}


def _counts_up(endpoints: Iterable[Endpoint]) -> bool:
    hosts = {endpoint.host for endpoint in endpoints}
    ports = sorted({endpoint.port for endpoint in endpoints})
    steps = [after - before for before, after in pairwise(ports)]
    return len(hosts) == 1 and bool(steps) and max(steps) <= MAX_STEP
