"""The daemon's ways to find peers: its DHTs, and the routing that races them.

With no DHT configured nothing runs. Bootstrap peers are kept by the dial scheduler like static peers; a
DHT's table fills with whoever is connected and serves it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class
from p2pfwd.core.peer_id import PeerId
from p2pfwd.daemon.networks import NetworkProfile
from p2pfwd.errors import PeerNotFound, TimedOut
from p2pfwd.host.host import Host
from p2pfwd.host.routing import DhtSource, Progress, Routing
from p2pfwd.net.own_addresses import Change
from p2pfwd.policy.dial_schedule import Priority
from p2pfwd.protocols.autonat.service import AutoNat
from p2pfwd.protocols.kad.service import Dht
from p2pfwd.protocols.kad.upkeep import Upkeep
from p2pfwd.wire.kad.address_filter import Scope
from p2pfwd.wire.kad.query_values import LookupResult
from p2pfwd.wire.reachability import Reachability

log = logging.getLogger("p2pfwd.discovery")

NAME_RETRY_S: Final = 1.0
NAME_RETRY_MOST_S: Final = 60.0
"""Between tries to resolve a bootstrap peer's name: the network may not be there yet."""

STIRRED_PAUSE_S: Final = 60.0
"""Between two self lookups for changes that left our addresses as they were: containers make many."""

ENOUGH: Final = 8
"""Entries of the tables with which the bootstrap peers are not needed."""

MIND_EVERY_S: Final = 60.0

SOURCE_NAMES = {
    Scope.WAN: "the public DHT",
    Scope.LAN: "the DHT of the LAN",
    Scope.PRIVATE: "the private DHT",
}


class Discovery:
    """Owns the DHTs of one host; `start` begins, `close` ends their timers."""

    def __init__(self, host: Host, network: NetworkProfile, mode: str) -> None:
        """`mode`: "auto" serves where strangers can reach us or all are near; "client", "server"."""
        self.routing = Routing(host.swarm)
        self.dhts: list[Dht] = []
        self._host = host
        self._network = network
        self._upkeep: list[Upkeep] = []
        self._bootstrap: dict[PeerId, list[Multiaddr]] = {}
        self._bootstrap_kept = False
        self._loop = asyncio.get_running_loop()
        self._stirred_until = 0.0
        self._automatic = mode == "auto"
        self.autonat = AutoNat(host.swarm)
        for one in network.dhts:
            server = self._is_reachable(one.scope) if self._automatic else mode == "server"
            dht = Dht(host.swarm, one.protocol, scope=one.scope, server=server)
            self.dhts.append(dht)
            self.routing.add(DhtSource(dht, SOURCE_NAMES[one.scope]))

    def start(self) -> None:
        """Keep the bootstrap peers, and begin the timers."""
        bootstrap = self._bootstrap
        for address in self._network.bootstrap:
            peer_id = address.peer_id()
            if peer_id is None:
                self._host.swarm.spawn(self._keep_those_behind(address), "bootstrap name")
            elif peer_id != self._host.peer_id:
                bootstrap.setdefault(peer_id, []).append(address.without_peer_id())
        self._keep_bootstrap()
        self._host.swarm.spawn(self._mind_bootstrap(), "bootstrap peers")
        for dht in self.dhts:
            log.info("taking part in %s as a %s", dht.protocol, "server" if dht.is_server else "client")
            self._upkeep.append(Upkeep(self._host.swarm, dht))
        if not self._network.local_only:
            self.autonat.on_change(self._reachability_changed)
            self.autonat.serve(self._is_reachable(Scope.WAN))
            self.autonat.start()
        if self.dhts:
            self._host.swarm.own_addresses.on_changed(self._addresses_changed)
            self._host.keeper.set_resolve(self._resolve)

    def _is_thin(self) -> bool:
        """Whether the DHTs know too few, or nobody of those who answers."""
        known = sum(len(dht.table) for dht in self.dhts)
        return known < ENOUGH or not any(upkeep.is_answered for upkeep in self._upkeep)

    def _keep_bootstrap(self) -> None:
        self._bootstrap_kept = True
        for peer_id, addrs in self._bootstrap.items():
            self._host.keeper.keep(peer_id, addrs, Priority.BOOTSTRAP)

    async def _mind_bootstrap(self) -> None:
        """Stay connected to the bootstrap peers only while the tables are thin: they have to serve all."""
        while True:
            await asyncio.sleep(MIND_EVERY_S)
            thin = self._is_thin()
            if thin and not self._bootstrap_kept:
                self._keep_bootstrap()
            elif self._bootstrap_kept and not thin:
                self._bootstrap_kept = False
                for peer_id in self._bootstrap:
                    self._host.keeper.release(peer_id, Priority.BOOTSTRAP)

    async def _keep_those_behind(self, name: Multiaddr) -> None:
        """Keep the peers that a `/dnsaddr/host` lists, once it can be resolved."""
        delay_s, said = NAME_RETRY_S, False
        while True:
            try:
                found = await self._host.swarm.resolver.resolve(name)
            except PeerNotFound as exc:
                why = exc.message
            else:
                peers = dict.fromkeys(addr.peer_id() for addr in found)
                for peer_id in peers:
                    if peer_id is not None and peer_id != self._host.peer_id:
                        self._bootstrap.setdefault(peer_id, []).append(name)
                if self._is_thin():
                    self._keep_bootstrap()
                if any(peers):
                    return
                why = "it names no peer"
            if not said:
                log.warning("bootstrap.peers: %s cannot be used yet: %s", name, why)
                said = True
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, NAME_RETRY_MOST_S)

    def _is_reachable(self, scope: Scope) -> bool:
        """Whether strangers of this DHT can reach us; until somebody has tried, by our own addresses."""
        if scope is not Scope.WAN:
            return True
        if self.autonat.reachability is not Reachability.UNKNOWN:
            return self.autonat.reachability is Reachability.PUBLIC
        return any(address_class(addr) is AddressClass.PUBLIC for addr in self._host.swarm.listen_addrs())

    def _reachability_changed(self) -> None:
        self.autonat.serve(self._is_reachable(Scope.WAN))
        for dht in self.dhts:
            server = self._is_reachable(dht.scope)
            if self._automatic and dht.is_server != server:
                log.info("now taking part in %s as a %s", dht.protocol, "server" if server else "client")
                dht.serve(server)
        self._host.identify.push()  # what we serve changed
        self.refresh()

    def _addresses_changed(self, change: Change) -> None:
        """Be found at the new ones; after another change of network make sure of it, now and then."""
        if change & (Change.MOVED | Change.TOLD):
            self.refresh()
        elif change & Change.STIRRED and self._loop.time() >= self._stirred_until:
            self._stirred_until = self._loop.time() + STIRRED_PAUSE_S
            for upkeep in self._upkeep:
                upkeep.refresh(thorough=False)

    async def _resolve(self, peer_id: PeerId) -> tuple[Multiaddr, ...]:
        """For kept peers whose addresses are stale."""
        _, result = await self.find_peer(peer_id, self.dhts[0].settings.lookup.total_timeout_s)
        return result.found

    def refresh(self) -> None:
        """Look ourselves up anew in every DHT: its servers learn our addresses by it."""
        for upkeep in self._upkeep:
            upkeep.refresh()

    def on_progress(self, observer: Callable[[Progress], None]) -> Callable[[], None]:
        """Be told of every step of every look-up; returns the end of it."""
        return self.routing.on_progress(observer)

    async def find_peer(self, peer_id: PeerId, timeout_s: float) -> tuple[Dht, LookupResult]:
        """Addresses of a peer from the first DHT that knows any. Raises PeerNotFound, TimedOut."""
        dhts = self._with_peers()
        asked = 0
        lookups = [asyncio.create_task(_tagged(dht, dht.find_peer(peer_id))) for dht in dhts]
        try:
            async with asyncio.timeout(timeout_s):
                for lookup in asyncio.as_completed(lookups):
                    dht, result = await lookup
                    asked += result.answered
                    if result.found:
                        return dht, result
        except TimeoutError:
            raise TimedOut(f"the DHT did not find {peer_id} within {timeout_s:g} s") from None
        finally:
            for task in lookups:
                task.cancel()
            await asyncio.gather(*lookups, return_exceptions=True)
        raise PeerNotFound(
            f"{peer_id} was not found: {asked} {'peer was' if asked == 1 else 'peers were'} asked",
            hint="is its daemon running, and on the same network as this one?",
        )

    async def closest(self, peer_id: PeerId, timeout_s: float) -> tuple[Dht, LookupResult]:
        """The servers nearest to a key, in the first DHT with peers. Raises PeerNotFound, TimedOut."""
        dht = self._with_peers()[0]
        try:
            async with asyncio.timeout(timeout_s):
                return dht, await dht.closest(peer_id.to_bytes())
        except TimeoutError:
            raise TimedOut(f"the lookup did not end within {timeout_s:g} s") from None

    def _with_peers(self) -> list[Dht]:
        dhts = [dht for dht in self.dhts if len(dht.table)]
        if dhts:
            return dhts
        if not self.dhts:
            raise PeerNotFound(
                "this daemon takes part in no DHT", hint="see `network` and `dht.*` in p2pfwd-daemon(8)"
            )
        raise PeerNotFound(
            "the DHT has nobody to ask yet",
            hint="connect to a node of it (`p2pfwd swarm connect`), or set `bootstrap.peers`",
        )

    async def close(self) -> None:
        """End the timers. Idempotent."""
        await self.autonat.close()
        for upkeep in self._upkeep:
            await upkeep.close()


async def _tagged(dht: Dht, lookup: Awaitable[LookupResult]) -> tuple[Dht, LookupResult]:
    return dht, await lookup
