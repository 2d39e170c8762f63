"""Who we are: the addresses this node is bound to, is seen at, and has proved; and the one event of it.

| kind | said by | until |
| --- | --- | --- |
| bound | our own sockets; an unspecified one stands for the interfaces' addresses | the interface loses it |
| observed | connected peers, each for its connection | the last of these is gone |
| mapped | the router, by PCP, NAT-PMP or UPnP | the router leads the port here no more |
| proved | a server's dial-back (AutoNAT) | `policy.proofs`: refuted, not renewed, or another network |
| relayed | places at relays (`protocols.relay_client`) | the place is lost, or not needed |

Bound, proved and relayed addresses are told to others; observed and mapped ones are what AutoNAT makes
candidates of. An observed address counts only of a connection that uses our listening port, and where one of
the owner's peers sees it or two networks do. Few are made use of: what the owner's peers see goes first. Then
each network (/24, /48) has one voice, in equal parts for all the addresses it tells: who tells many, or has
many connections, puts nobody else's in the shade.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import Flag, auto
from typing import Final, Literal

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, TcpEndpoint, address_class, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.link.contract import Carrier
from p2pfwd.policy import nat_kind
from p2pfwd.policy.nat_kind import Endpoint, NatKind, Sight
from p2pfwd.policy.networks import household, site
from p2pfwd.policy.pace import Pace, Rate
from p2pfwd.policy.proofs import Proofs
from p2pfwd.system.interfaces import Interfaces

_RANK: Final = {
    AddressClass.PUBLIC: 0,
    AddressClass.PRIVATE: 1,
    AddressClass.UNROUTABLE: 2,
    AddressClass.LOOPBACK: 3,
}


OBSERVERS: Final = 2
"""Networks that have to see us at an address, where none of the owner's peers does."""

MOST_SEEN: Final = 3
"""Observed addresses that count, of one listening address."""

SIGHTS: Final = Rate(per_s=1 / 15, burst=16)
"""How often strangers may have it told that we are seen elsewhere: each time all efforts for a direct
connection begin anew. More wait for their turn, as one. One that says something else each time would make it
every second."""

MAX_CONTACTED: Final = 4096
"""Hosts that are remembered as dialed from the listening port; with more, all count as dialed."""


class Change(Flag):
    """What happened to our addresses; several can be told at once."""

    MOVED = auto()
    """We lost an address, or have a new public one: what others found out of us holds no longer."""
    STIRRED = auto()
    """The network changed in another way, or the machine was asleep."""
    TOLD = auto()
    """What we tell others is different."""
    SEEN = auto()
    """A peer sees us at another host than all before; or what observers agree on has changed."""
    MAPPED = auto()
    """The router leads another port here."""


@dataclass(frozen=True, slots=True)
class OwnAddress:
    """One address and what is known of it."""

    addr: Multiaddr
    kind: Literal["bound", "observed", "mapped", "proved", "relayed"]
    by: tuple[PeerId, ...] = ()  # who sees us there, or proved it
    age_s: float | None = None  # of the proof
    left_s: float | None = None  # until the proof counts no longer
    since_s: float | None = None  # for how long it is proved without a break


@dataclass(frozen=True, slots=True)
class _Observation:
    """What the other end of one connection sees, taken apart once: all of them are weighed at each change."""

    by: PeerId
    addr: Multiaddr
    local: Multiaddr
    network: str
    """Of the observer: whose word counts once."""
    site: str
    """The widest network of the observer, which has one voice."""
    seen: TcpEndpoint | None
    is_public: bool
    """Of our listening port, over the internet."""
    sight: tuple[str, Endpoint, Endpoint] | None
    """Of a dial of ours: the family of IP, where it left from, where it was seen."""


class OwnAddresses:
    """Of one swarm; needs a running loop."""

    def __init__(self, interfaces: Interfaces, now: Callable[[], float] = time.monotonic) -> None:
        self.interfaces = interfaces
        self.proofs = Proofs()
        """Changed through this room only: `prove`, `refute`, `expire`."""
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._sockets: list[Multiaddr] = []
        self._had: set[Multiaddr] = set()
        """Of these, those of one address that an interface had when they were bound."""
        self.is_own: Callable[[PeerId], bool] = lambda _peer: False
        """Whose word alone is enough for an observed address."""
        self.nat = NatKind.UNKNOWN
        """As observers agreed last, in this network."""
        self._observed: dict[Carrier, _Observation] = {}
        self._counting: tuple[Multiaddr, ...] = ()
        self._contacted: dict[str, None] = {}
        self._relayed: tuple[Multiaddr, ...] = ()
        self._mapped: tuple[Multiaddr, ...] = ()
        self._listed: tuple[Multiaddr, ...] = ()
        self._listed_of: object = None
        self._known: tuple[Multiaddr, ...] = ()  # as the last change left them
        self._callbacks: list[Callable[[Change], None]] = []
        self._untold = Change(0)
        self._sights = Pace(SIGHTS, now())
        self._sight_due: asyncio.TimerHandle | None = None

    # --- the event --------------------------------------------------------------------------------

    def on_changed(self, callback: Callable[[Change], None]) -> None:
        """Be told, soon after, of every change; what comes in one turn of the loop is told as one."""
        self._callbacks.append(callback)

    def _note(self, change: Change) -> None:
        if not self._untold:
            self._loop.call_soon(self._tell)
        self._untold |= change

    def _tell(self) -> None:
        change, self._untold = self._untold, Change(0)
        for callback in tuple(self._callbacks):
            callback(change)

    def network_changed(self) -> None:
        """From the network watch: look at the interfaces anew."""
        self.interfaces.refresh()
        before, after = self._known, self.bound()
        self._known = after
        change = Change.STIRRED
        if before != after:
            change |= Change.TOLD
        lost = set(before) - set(after)
        come = set(after) - set(before)
        if lost or any(address_class(addr) is AddressClass.PUBLIC for addr in come):
            change |= Change.MOVED
            self._contacted.clear()
            self.nat = NatKind.UNKNOWN
            if self.proofs.clear():
                change |= Change.TOLD
        self._note(change)

    # --- bound ------------------------------------------------------------------------------------

    def bind(self, addr: Multiaddr) -> None:
        """A socket listens here from now on."""
        self._sockets.append(addr)
        if self._is_here(addr):
            self._had.add(addr)
        self._listed_of = None
        self._known = self.bound()

    def unbind(self, addr: Multiaddr) -> None:
        """One that did does no more."""
        self._sockets.remove(addr)
        self._had.discard(addr)
        self._listed_of = None
        self._known = self.bound()

    def unbind_all(self) -> None:
        """None does any more, and nothing is told later."""
        self._sockets.clear()
        self._listed_of = None
        if self._sight_due is not None:
            self._sight_due.cancel()
            self._sight_due = None

    def told_anew(self) -> None:
        """A socket listens since a moment ago, though others are connected: they are to be told."""
        self._note(Change.TOLD)

    def absent(self) -> list[Multiaddr]:
        """Where our sockets listen, and no interface has the address now."""
        return [addr for addr in self._sockets if self._is_absent(addr)]

    def _is_absent(self, addr: Multiaddr) -> bool:
        return addr in self._had and self.interfaces.is_complete and not self._is_here(addr)

    def _is_here(self, addr: Multiaddr) -> bool:
        endpoint = tcp_endpoint(addr)
        return endpoint is not None and endpoint.host.partition("%")[0] in self.interfaces.hosts()

    def bound(self) -> tuple[Multiaddr, ...]:
        """What our sockets listen on, an unspecified host as the interfaces' addresses."""
        listing = self.interfaces.listing()
        if self._listed_of is not listing:
            found: dict[Multiaddr, None] = {}
            for addr in self._sockets:
                found.update(dict.fromkeys(self.expanded(addr)))
            self._listed, self._listed_of = tuple(best_first(found)), listing
        return self._listed

    def expanded(self, addr: Multiaddr) -> list[Multiaddr]:
        """`addr`, if this machine has it, or one address for each of the interfaces, but link-local ones."""
        endpoint = tcp_endpoint(addr)
        if endpoint is None or address_class(addr) is not AddressClass.UNSPECIFIED:
            return [] if self._is_absent(addr) else [addr]
        found = (
            Multiaddr.parse(f"/{endpoint.family}/{host}/tcp/{endpoint.port}")
            for interface in self.interfaces.listing()
            for host in sorted(interface.hosts)
            if (":" in host) == (endpoint.family == "ip6")
        )
        return [one for one in found if address_class(one) is not AddressClass.LINK_LOCAL]

    def all(self) -> list[Multiaddr]:
        """What others are told: bound and proved addresses, best first; then those over relays."""
        return [*best_first(dict.fromkeys((*self.proofs.addresses(), *self.bound()))), *self._relayed]

    # --- relayed ----------------------------------------------------------------------------------

    def set_relayed(self, addrs: Iterable[Multiaddr]) -> None:
        """These, each with `/p2p-circuit` at its end, are where relays have a place for this node."""
        relayed = tuple(addrs)
        if relayed != self._relayed:
            self._relayed = relayed
            self._note(Change.TOLD)

    # --- observed ---------------------------------------------------------------------------------

    def note_connected(self, conn: Carrier) -> None:
        """A connection has come up."""
        endpoint = tcp_endpoint(conn.remote_addr)
        if endpoint is None or conn.direction == "inbound" or len(self._contacted) >= MAX_CONTACTED:
            return
        if self._uses_listening_port(conn):
            self._contacted[endpoint.host] = None

    def is_contacted(self, addr: Multiaddr) -> bool:
        """Whether we may have dialed this host from the listening port: some routers let it in for that."""
        endpoint = tcp_endpoint(addr)
        return endpoint is None or endpoint.host in self._contacted or len(self._contacted) >= MAX_CONTACTED

    def _uses_listening_port(self, conn: Carrier) -> bool:
        return not conn.is_relayed and conn.local_addr in self.bound()

    def note_observed(self, conn: Carrier, addr: Multiaddr) -> None:
        """A connected peer says it sees us at `addr`."""
        if conn.is_relayed:
            return
        before, now = self._observed.get(conn), self._observation(conn, addr)
        hosts = {one.seen.host for one in self._observed.values() if one.seen is not None}
        self._observed[conn] = now
        if self._weigh_for(before, now) or (now.seen is not None and now.seen.host not in hosts):
            self._saw(conn.remote_peer)

    def _saw(self, by: PeerId) -> None:
        """What is seen of us has changed, by this peer's word."""
        now = self._now()
        if self.is_own(by) or self._sights.take(now):
            self._note(Change.SEEN)
        elif self._sight_due is None:
            self._sight_due = self._loop.call_later(self._sights.wait_s(now), self._saw_before)

    def _saw_before(self) -> None:
        self._sight_due = None
        self._sights.owe(self._now(), 1.0)
        self._note(Change.SEEN)

    def _observation(self, conn: Carrier, addr: Multiaddr) -> _Observation:
        local, seen, sight = tcp_endpoint(conn.local_addr), tcp_endpoint(addr), None
        if conn.direction == "outbound" and local and seen and local.family == seen.family:
            sight = local.family, _endpoint(local), _endpoint(seen)
        is_public = (
            self._uses_listening_port(conn)
            and address_class(addr) is AddressClass.PUBLIC
            and address_class(conn.remote_addr) is AddressClass.PUBLIC
        )
        by, network, widest = conn.remote_peer, household(conn.remote_addr), site(conn.remote_addr)
        return _Observation(by, addr, conn.local_addr, network, widest, seen, is_public, sight)

    def forget_connection(self, conn: Carrier) -> None:
        """The connection is over."""
        if self._weigh_for(self._observed.pop(conn, None)):
            self._saw(conn.remote_peer)

    def _weigh_for(self, *changed: _Observation | None) -> bool:
        """As `_weigh`; what is no public sight changes nothing, and is not worth a walk over all."""
        return any(one is not None and one.is_public for one in changed) and self._weigh()

    def observed(self) -> list[Multiaddr]:
        """As connected peers see this node; what is best founded first."""
        return self._ranked(self._observed.values())

    def seen(self) -> list[Multiaddr]:
        """Where others see our listening ports, though it be one alone; what is best founded first."""
        return self._ranked(self._public())

    def _ranked(self, observations: Collection[_Observation]) -> list[Multiaddr]:
        """Where these see us: what the owner's peers do first, then by the voices of networks."""
        own = {one.addr for one in observations if self.is_own(one.by)}
        told = dict.fromkeys((one.addr, one.site) for one in observations)
        tells = Counter(network for _, network in told)
        voices: dict[Multiaddr, float] = {}
        for addr, network in told:
            voices[addr] = voices.get(addr, 0.0) + 1 / tells[network]
        return sorted(voices, key=lambda addr: (addr not in own, -voices[addr]))

    def counting(self) -> tuple[Multiaddr, ...]:
        """The public ones of these that count; what is best founded first."""
        return self._counting

    def sights(self) -> list[Sight]:
        """What is seen of our dials from a listening port, in IPv4 if there is any: for `policy.nat_kind`."""
        found: dict[str, list[Sight]] = {"ip4": [], "ip6": []}
        for one in self._public():
            if one.sight is not None:
                family, local, seen = one.sight
                sight = Sight(one.network, local, seen, self.is_own(one.by))
                found.setdefault(family, []).append(sight)
        return found["ip4"] or found["ip6"]

    def _public(self) -> list[_Observation]:
        return [one for one in self._observed.values() if one.is_public]

    def _weigh(self) -> bool:
        """Which observed addresses count, and what they say of the NAT; whether that has changed."""
        observers: dict[tuple[Multiaddr, Multiaddr], set[str]] = {}
        own: set[tuple[Multiaddr, Multiaddr]] = set()
        for one in self._public():
            observers.setdefault((one.local, one.addr), set()).add(one.network)
            if self.is_own(one.by):
                own.add((one.local, one.addr))
        taken: Counter[Multiaddr] = Counter()
        counting: dict[Multiaddr, None] = {}
        rank = {addr: place for place, addr in enumerate(self.seen())}
        for key, networks in sorted(observers.items(), key=lambda item: rank[item[0][1]]):
            local, addr = key
            if (key in own or len(networks) >= OBSERVERS) and taken[local] < MOST_SEEN:
                taken[local] += 1
                counting[addr] = None
        before = (self._counting, self.nat)
        kind = nat_kind.nat_kind(self.sights())
        self._counting, self.nat = tuple(counting), self.nat if kind is NatKind.UNKNOWN else kind
        return before != (self._counting, self.nat)

    # --- mapped -----------------------------------------------------------------------------------

    def set_mapped(self, addrs: Iterable[Multiaddr]) -> None:
        """All places from which the router leads here; a proof of one that is none any more is void."""
        before, self._mapped = self._mapped, tuple(dict.fromkeys(addrs))
        gone = [addr for addr in before if addr not in self._mapped and self.proofs.withdraw(addr)]
        if gone:
            self._note(Change.TOLD)
        if set(self._mapped) - set(before):
            self._note(Change.MAPPED)

    def mapped(self) -> tuple[Multiaddr, ...]:
        """See `set_mapped`."""
        return self._mapped

    def is_reached_by_mapping(self) -> bool:
        """Whether strangers have come in by the router's port, and by no address of our own."""
        bound = self.bound()
        ways = [addr for addr in self.proofs.addresses() if addr not in bound]
        return len(ways) == len(self.proofs.addresses()) and any(addr in self._mapped for addr in ways)

    # --- proved -----------------------------------------------------------------------------------

    def prove(self, addr: Multiaddr, by: PeerId) -> None:
        """A server has dialed us here."""
        if self.proofs.proved(addr, by, self._now()):
            self._note(Change.TOLD)

    def refute(self, addr: Multiaddr, by: PeerId) -> None:
        """A server could not, asked for this address alone."""
        if self.proofs.refuted(addr, by):
            self._note(Change.TOLD)

    def expire(self) -> None:
        """Take back proofs that are too old."""
        if self.proofs.expire(self._now()):
            self._note(Change.TOLD)

    def withdraw(self, addr: Multiaddr) -> None:
        """Strangers cannot reach us here."""
        if self.proofs.withdraw(addr):
            self._note(Change.TOLD)

    def unprove(self) -> None:
        """Strangers cannot reach us."""
        if self.proofs.clear():
            self._note(Change.TOLD)

    # --- for people -------------------------------------------------------------------------------

    def announced(self) -> list[OwnAddress]:
        """What others are told, best first, each once, with its proof if there is one."""
        known = {one.addr: one for one in self.statuses() if one.kind in ("bound", "proved", "relayed")}
        return [known[addr] for addr in self.all()]

    def statuses(self) -> list[OwnAddress]:
        """Every address with what is known of it; one that is both bound and proved is there twice."""
        now = self._now()
        found = [OwnAddress(addr, "bound") for addr in self.bound()]
        for addr in self.proofs.addresses():
            proof = self.proofs.of(addr)
            assert proof is not None
            age_s, left_s, since_s = now - proof.at, proof.until - now, now - proof.since
            found.append(OwnAddress(addr, "proved", (proof.by,), age_s, left_s, since_s))
        found += [OwnAddress(addr, "mapped") for addr in self._mapped]
        for addr in self.observed():
            by = tuple(dict.fromkeys(one.by for one in self._observed.values() if one.addr == addr))
            found.append(OwnAddress(addr, "observed", by))
        return found + [OwnAddress(addr, "relayed") for addr in self._relayed]


def _endpoint(endpoint: TcpEndpoint) -> Endpoint:
    return Endpoint(endpoint.host, endpoint.port)


def best_first(addrs: Iterable[Multiaddr]) -> list[Multiaddr]:
    """Public addresses, then private, then loopback; otherwise in the order given."""
    return sorted(addrs, key=lambda addr: _RANK.get(address_class(addr), 2))
