"""A libp2p host: the swarm and the protocols every node speaks (identify, ping)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from p2pfwd import __version__
from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import AddressInUse, BindFailed
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.transport.table import MakeTransports, transports
from p2pfwd.protocols.identify import Identify
from p2pfwd.protocols.keep import PeerKeeper
from p2pfwd.protocols.ping import Ping
from p2pfwd.system.network_watch import NetworkWatch

log = logging.getLogger("p2pfwd.host.host")


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What can be set on a host."""

    swarm: SwarmSettings = field(default_factory=SwarmSettings)
    agent_version: str = f"p2pfwd/{__version__}"
    fall_back_to_free_port: bool = False
    """Listen on a port the system chooses, with a warning, where the wanted one is taken."""


@dataclass(frozen=True, slots=True)
class PingOutcome:
    """One ping."""

    rtt_s: float
    conn: Conn


class Host:
    """One running node."""

    def __init__(
        self,
        identity: PrivateKey,
        settings: HostSettings | None = None,
        make_transports: MakeTransports = transports,
    ) -> None:
        """Make it, not yet listening; needs a running loop. `start` is the usual way."""
        self.settings = settings or HostSettings()
        self.swarm = Swarm(identity, self.settings.swarm, make_transports)
        self.peer_id: PeerId = self.swarm.peer_id
        self.identify = Identify(self.swarm, self.settings.agent_version)
        self._ping = Ping(self.swarm)
        self.network = NetworkWatch(self.swarm.own_addresses.interfaces)
        self.network.on_change(self.swarm.own_addresses.network_changed)
        self.network.on_change(self.swarm.recovery.network_changed)
        self.keeper = PeerKeeper(self.swarm, self.network)

    @classmethod
    async def start(
        cls,
        identity: PrivateKey,
        listen: Sequence[Multiaddr],
        settings: HostSettings | None = None,
        make_transports: MakeTransports = transports,
    ) -> Host:
        """A host that listens on `listen`. Raises as `Swarm.listen`, nothing left open.

        An address family that this machine does not have is left out with a warning, as long as one
        address can be bound.
        """
        host = cls(identity, settings, make_transports)
        failures: list[BindFailed] = []
        try:
            for addr in listen:
                try:
                    await host._listen(addr)
                except BindFailed as exc:
                    failures.append(exc)
            if failures and len(failures) == len(listen):
                raise failures[0]
            for failure in failures:
                log.warning("%s", failure.message)
        except BaseException:
            await host.close()
            raise
        return host

    async def _listen(self, addr: Multiaddr) -> None:
        try:
            await self.swarm.listen(addr)
        except AddressInUse as exc:
            endpoint = tcp_endpoint(addr)
            if not self.settings.fall_back_to_free_port or endpoint is None:
                raise
            free = Multiaddr.parse(f"/{endpoint.family}/{endpoint.host}/tcp/0")
            bound = await self.swarm.listen(free)
            log.warning("%s; listening on %s instead", exc.message, bound)

    async def ping(
        self, peer_id: PeerId, addrs: Iterable[Multiaddr] = (), timeout_s: float = 30.0
    ) -> PingOutcome:
        """Connect if need be, and measure one round trip; `timeout_s` is for both.

        Raises as `Swarm.connect` and `Ping.ping`.
        """
        begin = time.monotonic()
        conn = await self.swarm.connect(peer_id, addrs, timeout_s=timeout_s, force=True)
        left_s = begin + timeout_s - time.monotonic()
        return PingOutcome(await self._ping.ping(conn, left_s), conn)

    async def close(self) -> None:
        """Close everything. Idempotent."""
        self.network.close()
        await self.keeper.close()
        await self.swarm.close()
