"""The connections that are in their handshake: who is let in, and who gives way when all places are taken.

Rules: nobody has said who they are yet, so networks count (policy.networks), and each has its share. A full
table gives way: who has said nothing goes first, then the oldest; of the network that holds most. The
newcomer never goes alone, but for haste: a network that comes faster than `PER_ADDRESS` and its kin is shut
out for the moment, because each handshake costs two milliseconds. Whoever comes from an address of an own
peer takes a place from the reserve; so does an own peer over a relay, which says who it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ResourceLimitExceeded
from p2pfwd.net.refusals import Refusals
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.policy.dial_plan import is_local
from p2pfwd.policy.networks import Network, networks, networks_of_host
from p2pfwd.policy.pace import Pace, Paces, Rate

WIDER: Final = (1, 3, 4)
"""A network's share, by its width, in shares of one address."""

RESERVE: Final = 8
"""One in so many places is kept for addresses of own peers."""

PER_ADDRESS: Final = Rate(per_s=8.0, burst=64.0)
"""Handshakes of one address or /64: an office behind one NAT that comes back all at once."""

PER_NETWORK: Final = Rate(per_s=16.0, burst=160.0)
"""Of one /24, /56 or /48."""

INNER: Final = Rate(per_s=12.0, burst=128.0)
"""Of loopback or a local network, by address and by network: programs that test, a home. The burst may take
half a second of a processor, with what follows a handshake, and the rate alone a twentieth of one."""

IN_ALL: Final = Rate(per_s=100.0, burst=400.0)
"""Of all strangers: a fifth of a processor, and more than 512 connections need in a busy minute."""

PAUSE_S: Final = 0.1
"""So long nobody is let in of a network that has just come too fast: its next place is about as far away."""

OWN_HOSTS_S: Final = 10.0
"""How long the list of own peers' addresses is used before it is made anew; it is only made when needed."""


@dataclass(eq=False, slots=True)
class Handshake:
    """One place. `abort` ends it, `heard` says whether the stranger has said anything."""

    addr: Multiaddr
    networks: tuple[Network, ...]
    began_at: float
    abort: Callable[[], None]
    heard: Callable[[], bool]
    is_own: bool = False


class Handshakes:
    """Of one node."""

    def __init__(self, settings: SwarmSettings, refusals: Refusals, clock: Callable[[], float]) -> None:
        self.own_hosts: Callable[[], frozenset[str]] = frozenset
        """Literal hosts at which own peers are known."""
        self.is_own: Callable[[PeerId], bool] = lambda _peer: False
        """Whether this is one."""
        self._settings = settings
        self._refusals = refusals
        self._clock = clock
        self._places: dict[Handshake, None] = {}  # the oldest first
        self._held: Counter[Network] = Counter()
        self._paces = {rate: Paces(rate) for rate in (PER_ADDRESS, PER_NETWORK, INNER)}
        self._all = Pace(IN_ALL, clock())
        self._shut: dict[Network, float] = {}
        self._hosts: frozenset[str] = frozenset()
        self._hosts_networks: frozenset[Network] = frozenset()
        self._hosts_at = float("-inf")

    def __len__(self) -> int:
        return len(self._places)

    def begin(
        self,
        addr: Multiaddr,
        abort: Callable[[], None],
        heard: Callable[[], bool],
        peer: PeerId | None = None,
    ) -> Handshake:
        """A place for a stranger, until `end`; others may have given way.

        `peer`: who it must prove to be, where that is known. Raises ResourceLimitExceeded: close the
        connection at once, before any byte.
        """
        now, nets = self._clock(), networks(addr)
        handshake = Handshake(addr, nets, now, abort, heard, peer is not None and self.is_own(peer))
        self._check_haste(handshake, now)
        for network in nets:
            if self._held[network] >= self._share(addr, network):
                self._give_way(network)
        most = self._settings.max_pending_inbound
        if len(self._places) >= most - most // RESERVE:
            handshake.is_own = handshake.is_own or self._is_own(addr, now)
            if not handshake.is_own or len(self._places) >= most:
                self._give_way(None)
        self._places[handshake] = None
        self._held.update(nets)
        return handshake

    def turns_away(self, host: str) -> bool:
        """Whether this host's network has come too fast, and must pause: asked before anything is made.

        Who comes all the same is counted, and costs little else.
        """
        if not self._shut:
            return False
        now = self._clock()
        network = next((one for one in networks_of_host(host) if self._shut.get(one, now) > now), None)
        if network is None or host in self._hosts:
            return False
        self._refusals.note("handshake-haste", network.text, "refused: it comes too fast")
        return True

    def shut_out(self) -> frozenset[str]:
        """The networks (`Network.text`) of which nobody is let in now; none with a peer of the owner's."""
        now = self._clock()
        return frozenset(
            network.text
            for network, until in self._shut.items()
            if until > now and network not in self._hosts_networks
        )

    def forget_full(self) -> None:
        """Let go of what is counted of networks that have all of their rate again."""
        for paces in self._paces.values():
            paces.forget_full(self._clock())

    def end(self, handshake: Handshake) -> None:
        """It is over, well or not. Idempotent."""
        if handshake in self._places:
            del self._places[handshake]
            self._held.subtract(handshake.networks)
            for network in handshake.networks:
                if not self._held[network]:
                    del self._held[network]

    def _check_haste(self, handshake: Handshake, now: float) -> None:
        inner = is_local(handshake.addr)
        for network in handshake.networks:
            rate = INNER if inner else PER_NETWORK if network.width else PER_ADDRESS
            if not self._paces[rate].take(network, now):
                if not self._is_own(handshake.addr, now):
                    self._shut = {shut: until for shut, until in self._shut.items() if until > now}
                    self._shut[network] = now + PAUSE_S
                    self._refuse(network.text, "comes too fast")
                return
        is_in_rush = not inner and not self._all.take(now)
        if is_in_rush and not handshake.is_own and not self._is_own(handshake.addr, now):
            self._refuse(handshake.networks[0].text if handshake.networks else "?", "comes in a rush of all")

    def _refuse(self, network: str, why: str) -> None:
        self._refusals.note("handshake-haste", network, f"refused: it {why}")
        raise ResourceLimitExceeded(f"{network} {why}")

    def _share(self, addr: Multiaddr, network: Network) -> int:
        settings = self._settings
        one, most = settings.max_pending_inbound_per_ip, settings.max_pending_inbound
        if is_local(addr):
            return max(one, most // 2)
        return one * WIDER[network.width]

    def _give_way(self, within: Network | None) -> None:
        """End one, of `within` or of the network that holds most."""
        places = [place for place in self._places if within is None or within in place.networks]
        if within is None:
            places = [place for place in places if not place.is_own] or places
            crowds = Counter(place.networks[-1:] for place in places)
            most = max(crowds.values(), default=0)
            places = [place for place in places if crowds[place.networks[-1:]] == most]
        if not places:
            return
        victim = next((place for place in places if not place.heard()), places[0])
        where = victim.networks[-1].text if victim.networks else str(victim.addr)
        self._refusals.note("handshake-gave-way", where, "a handshake was ended for a newcomer's")
        self.end(victim)
        victim.abort()

    def _is_own(self, addr: Multiaddr, now: float) -> bool:
        if now - self._hosts_at > OWN_HOSTS_S:
            self._hosts, self._hosts_at = self.own_hosts(), now
            self._hosts_networks = frozenset(one for host in self._hosts for one in networks_of_host(host))
        endpoint = tcp_endpoint(addr)
        return endpoint is not None and endpoint.host in self._hosts
