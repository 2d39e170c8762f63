"""Hole punching: what is offered, whom to dial at the same time, how often, and when again. Pure.

Rules:
- Only direct public TCP addresses are offered and dialed; of the owner's peers private ones, too, where both
  sides are seen from the same public IP, for then they are behind one router.
- What a peer names it may name for others' harm, our own public IP, too: of a stranger one public host of
  each family is dialed, at a few ports, and nothing behind our router (mDNS tells of neighbours).
- Where both routers give every connection another port nothing is dialed: it cannot work, unless it is one
  router, behind which both are. Where one does,
  once: it works if the other router lets in whom it does not know. A router that counts its ports up is as
  good as any other, as the next port is offered.
- Three tries, each with a round trip of its own; then again after 1, 2, 4 … minutes, and on a change of
  networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, TcpEndpoint, address_class, tcp_endpoint
from p2pfwd.policy.nat_kind import MAX_STEP, NatKind
from p2pfwd.policy.paths import PathCode

MAX_OFFERED: Final = 8
MAX_TARGETS: Final = 4
"""Addresses of a stranger that are dialed."""
MAX_TARGETS_OF_OWN: Final = 8
"""... and of a peer of the owner's."""

TRIES: Final = 3
WINDOW_S: Final = 5.0
"""One try: a lost SYN is repeated after 1 and 3 s."""

HEAD_START_S: Final = 0.02
"""For a connect to be under way before anybody is told of it."""

LATE_START_S: Final = 0.1
"""For A to begin though her machine is busy."""

AGAIN_S: Final = 60.0
AGAIN_MOST_S: Final = 3600.0
NEWS_PAUSE_S: Final = 5.0
"""Between the end of a round and the next one that news of a network begins."""


class Spread(Enum):
    """How the peer's router maps, by the ports that the peer names of one host."""

    ONE = auto()
    NEAR = auto()
    """It counts up, or there are several listening ports: any of them may be right."""
    WIDE = auto()
    """Every connection has another port."""


class Plan(NamedTuple):
    """How often to dial, and what is said if it is in vain."""

    tries: int
    otherwise: PathCode


def offer(
    nat: NatKind, seen: Sequence[Multiaddr], announced: Iterable[Multiaddr], upcoming: Sequence[int]
) -> tuple[Multiaddr, ...]:
    """What to name to the peer, best first.

    `seen`: where others see the listening ports; `announced`: what is told to all; `upcoming`: the ports
    that a router which counts up will give next.
    """
    first = [_at(addr, port) for addr in seen[:1] for port in upcoming] if nat is NatKind.SEQUENTIAL else []
    most = 2 if nat.is_per_destination else MAX_OFFERED  # two tell that there are many
    found = [*first, *seen[:most], *announced]
    return tuple(dict.fromkeys(addr for addr in found if _public(addr) is not None))[:MAX_OFFERED]


def near(
    offered: Sequence[Multiaddr], told: Sequence[Multiaddr], bound: Iterable[Multiaddr], *, is_own: bool
) -> list[Multiaddr]:
    """Private addresses of ours for an own peer that is seen from the same public IP; none for others."""
    if not is_own or not _hosts(offered) & _hosts(told):
        return []
    return [addr for addr in bound if _direct(addr) and address_class(addr) is AddressClass.PRIVATE]


def targets(
    told: Sequence[Multiaddr], offered: Sequence[Multiaddr], *, is_own: bool
) -> tuple[Multiaddr, ...]:
    """Which of the peer's addresses to dial. `offered`: our own, which say whether one router serves both."""
    most = MAX_TARGETS_OF_OWN if is_own else MAX_TARGETS
    is_near = is_own and bool(_hosts(offered) & _hosts(told))
    chosen: dict[Multiaddr, None] = {}
    hosts: dict[str, str] = {}
    for addr in told:
        endpoint, kind = _direct(addr), address_class(addr)
        if endpoint is None:
            continue
        if (kind is AddressClass.PRIVATE and is_near) or (kind is AddressClass.PUBLIC and (
            is_own or hosts.setdefault(endpoint.family, endpoint.host) == endpoint.host
        )):
            chosen[addr.without_peer_id()] = None
    return tuple(chosen)[:most]


def spread(told: Sequence[Multiaddr]) -> Spread:
    """Of the ports at the host that the peer names first."""
    endpoints = [endpoint for addr in told if (endpoint := _public(addr)) is not None]
    ports = {one.port for one in endpoints if one.host == endpoints[0].host}
    if len(ports) < 2:
        return Spread.ONE
    return Spread.NEAR if max(ports) - min(ports) <= 2 * MAX_STEP else Spread.WIDE


def plan(nat: NatKind, told: Sequence[Multiaddr], offered: Sequence[Multiaddr], *, is_own: bool) -> Plan:
    """What can be expected of a punch between this node and a peer that named `told`."""
    if not offered:
        return Plan(0, PathCode.NO_ADDRESS_HERE)
    dialed = targets(told, offered, is_own=is_own)
    if not dialed:
        return Plan(0, PathCode.NO_ADDRESS_THERE)
    there, is_near = spread(told), any(_public(addr) is None for addr in dialed)
    if nat.is_per_destination and there is Spread.WIDE:
        return Plan(int(is_near), PathCode.SYMMETRIC_BOTH)
    if nat is NatKind.SEQUENTIAL:
        return Plan(TRIES, PathCode.SYMMETRIC_HERE)
    if nat is NatKind.SYMMETRIC:
        return Plan(1, PathCode.SYMMETRIC_HERE)
    if there is Spread.WIDE:
        return Plan(1, PathCode.SYMMETRIC_THERE)
    return Plan(TRIES, PathCode.FAILED)


def again_s(failures: int) -> float:
    """How long to wait after so many rounds in vain, at least one."""
    return min(AGAIN_S * float(1 << min(failures - 1, 10)), AGAIN_MOST_S)


def lead_s(rtt_s: float, *, knows_a: bool, is_known: bool) -> float:
    """How long after SYNC B dials: when that has arrived, so that both SYNs cross on their way. Or before it.

    A router remembers a SYN for minutes, and drops an answer of our listener to a SYN that it lets in for
    that: it belongs to another connection. So no listener may be found by a SYN whose host it has dialed in
    vain before. A has done so where B `is_known` by a public address: then B leaves her time to begin. B may
    have done so where it `knows_a` by one: then it dials first.
    """
    if is_known:
        return rtt_s / 2 + LATE_START_S
    return -HEAD_START_S if knows_a else rtt_s / 2


def direct_limit_s(rtt_s: float | None) -> float:
    """How long a plain dial of the peer's public address may take before both sides dial."""
    return min(WINDOW_S, max(0.5, 6 * (rtt_s or 0.0)))


def is_public(addr: Multiaddr) -> bool:
    """Whether the address is one to punch: direct, public, TCP."""
    return _public(addr) is not None


def _direct(addr: Multiaddr) -> TcpEndpoint | None:
    endpoint = tcp_endpoint(addr)
    if endpoint is None or endpoint.family not in ("ip4", "ip6") or not endpoint.port:
        return None
    return endpoint


def _public(addr: Multiaddr) -> TcpEndpoint | None:
    return _direct(addr) if address_class(addr) is AddressClass.PUBLIC else None


def _hosts(addrs: Iterable[Multiaddr]) -> set[str]:
    return {endpoint.host for addr in addrs if (endpoint := _public(addr)) is not None}


def _at(addr: Multiaddr, port: int) -> Multiaddr:
    endpoint = tcp_endpoint(addr)
    assert endpoint is not None
    return Multiaddr.parse(f"/{endpoint.family}/{endpoint.host}/tcp/{port}")
