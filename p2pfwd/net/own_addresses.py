"""Who we are: the addresses this node is bound to, is seen at, and has proved; and the one event of it.

| kind | said by | until |
| --- | --- | --- |
| bound | our own sockets; an unspecified one stands for the interfaces' addresses | the interface loses it |
| observed | connected peers, each for itself | the last of them is gone |
| mapped | the router, by PCP, NAT-PMP or UPnP | the router leads the port here no more |
| proved | a server's dial-back (AutoNAT) | `policy.proofs`: refuted, not renewed, or another network |

Bound and proved addresses are told to others; observed and mapped ones are what AutoNAT makes candidates of.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Flag, auto
from typing import Final, Literal

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.proofs import Proofs
from p2pfwd.system.interfaces import Interfaces

_RANK: Final = {
    AddressClass.PUBLIC: 0,
    AddressClass.PRIVATE: 1,
    AddressClass.UNROUTABLE: 2,
    AddressClass.LOOPBACK: 3,
}


class Change(Flag):
    """What happened to our addresses; several can be told at once."""

    MOVED = auto()
    """We lost an address, or have a new public one: what others found out of us holds no longer."""
    STIRRED = auto()
    """The network changed in another way, or the machine was asleep."""
    TOLD = auto()
    """What we tell others is different."""
    SEEN = auto()
    """A peer sees us at an address that none saw us at before."""
    MAPPED = auto()
    """The router leads another port here."""


@dataclass(frozen=True, slots=True)
class OwnAddress:
    """One address and what is known of it."""

    addr: Multiaddr
    kind: Literal["bound", "observed", "mapped", "proved"]
    by: tuple[PeerId, ...] = ()  # who sees us there, or proved it
    age_s: float | None = None  # of the proof
    left_s: float | None = None  # until the proof counts no longer


class OwnAddresses:
    """Of one swarm; needs a running loop."""

    def __init__(self, interfaces: Interfaces, now: Callable[[], float] = time.monotonic) -> None:
        self.interfaces = interfaces
        self.proofs = Proofs()
        """Changed through this room only: `prove`, `refute`, `expire`."""
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._sockets: list[Multiaddr] = []
        self._observed: dict[PeerId, Multiaddr] = {}
        self._mapped: tuple[Multiaddr, ...] = ()
        self._listed: tuple[Multiaddr, ...] = ()
        self._listed_of: object = None
        self._known: tuple[Multiaddr, ...] = ()  # as the last change left them
        self._callbacks: list[Callable[[Change], None]] = []
        self._untold = Change(0)

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
            if self.proofs.clear():
                change |= Change.TOLD
        self._note(change)

    # --- bound ------------------------------------------------------------------------------------

    def bind(self, addr: Multiaddr) -> None:
        """A socket listens here from now on."""
        self._sockets.append(addr)
        self._listed_of = None
        self._known = self.bound()

    def unbind(self, addr: Multiaddr) -> None:
        """One that did does no more."""
        self._sockets.remove(addr)
        self._listed_of = None
        self._known = self.bound()

    def unbind_all(self) -> None:
        """None does any more."""
        self._sockets.clear()
        self._listed_of = None

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
        """`addr`, or one address for each of the interfaces; link-local ones left out."""
        endpoint = tcp_endpoint(addr)
        if endpoint is None or address_class(addr) is not AddressClass.UNSPECIFIED:
            return [addr]
        found = (
            Multiaddr.parse(f"/{endpoint.family}/{host}/tcp/{endpoint.port}")
            for interface in self.interfaces.listing()
            for host in sorted(interface.hosts)
            if (":" in host) == (endpoint.family == "ip6")
        )
        return [one for one in found if address_class(one) is not AddressClass.LINK_LOCAL]

    def all(self) -> list[Multiaddr]:
        """What others are told: bound and proved addresses; best first."""
        return best_first(dict.fromkeys((*self.proofs.addresses(), *self.bound())))

    # --- observed ---------------------------------------------------------------------------------

    def note_observed(self, observer: PeerId, addr: Multiaddr) -> None:
        """A connected peer says it sees us at `addr`."""
        endpoint = tcp_endpoint(addr)
        seen = {known.host for each in self._observed.values() if (known := tcp_endpoint(each))}
        self._observed[observer] = addr
        if endpoint is not None and endpoint.host not in seen:
            self._note(Change.SEEN)

    def forget_observer(self, observer: PeerId) -> None:
        """The peer is not connected any more."""
        self._observed.pop(observer, None)

    def observed(self) -> list[Multiaddr]:
        """As connected peers see this node; where most see it, first."""
        return [addr for addr, _ in Counter(self._observed.values()).most_common()]

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

    def unprove(self) -> None:
        """Strangers cannot reach us."""
        if self.proofs.clear():
            self._note(Change.TOLD)

    # --- for people -------------------------------------------------------------------------------

    def statuses(self) -> list[OwnAddress]:
        """Every address with what is known of it; one that is both bound and proved is there twice."""
        now = self._now()
        found = [OwnAddress(addr, "bound") for addr in self.bound()]
        for addr in self.proofs.addresses():
            proof = self.proofs.of(addr)
            assert proof is not None
            found.append(OwnAddress(addr, "proved", (proof.by,), now - proof.at, proof.until - now))
        found += [OwnAddress(addr, "mapped") for addr in self._mapped]
        for addr in self.observed():
            by = tuple(peer for peer, seen in self._observed.items() if seen == addr)
            found.append(OwnAddress(addr, "observed", by))
        return found


def best_first(addrs: Iterable[Multiaddr]) -> list[Multiaddr]:
    """Public addresses, then private, then loopback; otherwise in the order given."""
    return sorted(addrs, key=lambda addr: _RANK.get(address_class(addr), 2))
