"""The daemon's ways to find peers: its DHTs, and the routing that races them.

With no DHT configured nothing runs. A DHT's table fills with whoever is connected and serves it;
`bootstrap` sees to it that somebody is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, is_relayed
from p2pfwd.core.peer_id import PeerId
from p2pfwd.daemon.bootstrap import Bootstrap
from p2pfwd.daemon.networks import NetworkProfile
from p2pfwd.errors import PeerNotFound, TimedOut
from p2pfwd.host.host import Host
from p2pfwd.host.routing import DhtSource, Progress, Routing
from p2pfwd.net.own_addresses import Change
from p2pfwd.policy.standing import Standing, standing
from p2pfwd.protocols.autonat.service import AutoNat
from p2pfwd.protocols.kad.service import Dht
from p2pfwd.protocols.kad.upkeep import Upkeep
from p2pfwd.system.network_watch import reachable_hosts
from p2pfwd.wire.kad.address_filter import Scope
from p2pfwd.wire.kad.query_values import LookupResult
from p2pfwd.wire.reachability import Reachability

log = logging.getLogger("p2pfwd.discovery")

STIRRED_PAUSE_S: Final = 60.0
"""Between two self lookups for changes that left our addresses as they were: containers make many."""

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
        self.bootstrap = Bootstrap(host, network, is_hub=mode == "server")
        self.routing.why_nobody = self._why_nobody
        self._loop = asyncio.get_running_loop()
        self._stirred_until = 0.0
        self._automatic = mode == "auto"
        self.autonat = AutoNat(host.swarm)
        for one in network.dhts:
            server = self._is_reachable(one.scope) if self._automatic else mode == "server"
            # Of a private network by its key: nobody else is to be asked for it, or told that it is there.
            known_as = one.protocol + (f" {network.fingerprint}" if network.fingerprint else "")
            dht = Dht(host.swarm, one.protocol, scope=one.scope, server=server, known_as=known_as)
            self.dhts.append(dht)
            self.routing.add(DhtSource(dht, SOURCE_NAMES[one.scope]))

    def standing(self) -> Standing:
        """How others get here, as far as is known."""
        own = self._host.swarm.own_addresses
        has_network = bool(reachable_hosts(own.interfaces.listing()))
        is_mapped = own.is_reached_by_mapping()
        return standing(self.autonat.reachability, own.nat, has_network=has_network, is_mapped=is_mapped)

    def start(self) -> None:
        """Begin the timers, and look for somebody of the DHTs."""
        for dht in self.dhts:
            log.info("taking part in %s as a %s", dht.protocol, "server" if dht.is_server else "client")
            self._upkeep.append(Upkeep(self._host.swarm, dht))
        self.bootstrap.start(list(zip(self.dhts, self._upkeep, strict=True)))
        if not self._network.local_only:
            self.autonat.on_change(self._reachability_changed)
            self.autonat.serve(self._is_reachable(Scope.WAN))
            self.autonat.start()
        if self.dhts:
            self._host.swarm.own_addresses.on_changed(self._addresses_changed)
            self._host.keeper.set_resolve(self._resolve)

    def is_public(self) -> bool:
        """Whether strangers are known to reach this node; not known counts as not."""
        return self.autonat.reachability is Reachability.PUBLIC

    def is_hidden(self) -> bool:
        """Whether strangers are known not to reach this node."""
        return self.autonat.reachability is Reachability.PRIVATE

    def is_reachable(self) -> bool:
        """As `is_public`; not known counts by our own addresses."""
        return self._is_reachable(Scope.WAN)

    def _is_reachable(self, scope: Scope) -> bool:
        """Whether strangers of this DHT can reach us; until somebody has tried, by our own addresses."""
        if scope is not Scope.WAN:
            return True
        if self.autonat.reachability is not Reachability.UNKNOWN:
            return self.autonat.reachability is Reachability.PUBLIC
        direct = (addr for addr in self._host.swarm.listen_addrs() if not is_relayed(addr))
        return any(address_class(addr) is AddressClass.PUBLIC for addr in direct)

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
        if asked == 0 and (nobody := self._why_nobody()) is not None:
            raise PeerNotFound(f"{peer_id} was not found: nobody answers: {nobody[0]}", hint=nobody[1])
        if asked == 0:
            raise PeerNotFound(
                f"{peer_id} was not found: nobody else in the DHT answers",
                hint="`p2pfwd ping` and `p2pfwd forward` try the addresses known here; for more nodes of the "
                "DHT, `p2pfwd swarm connect` or `bootstrap.peers`",
            )
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
        report = self.bootstrap.report()
        raise PeerNotFound(f"the DHT has nobody to ask yet: {report.message}", hint=report.hint)

    def _why_nobody(self) -> tuple[str, str | None] | None:
        """Why nobody of the DHT answers, and the cure; None where somebody does, or none was tried."""
        report = self.bootstrap.report()
        if report.state == "joined" or not (report.outcomes or report.remembered):
            return None
        return report.message, report.hint

    async def close(self) -> None:
        """End the timers. Idempotent."""
        await self.autonat.close()
        for upkeep in self._upkeep:
            await upkeep.close()


async def _tagged(dht: Dht, lookup: Awaitable[LookupResult]) -> tuple[Dht, LookupResult]:
    return dht, await lookup
