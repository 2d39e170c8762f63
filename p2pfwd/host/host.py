"""A libp2p host: the swarm and the protocols every node speaks (identify, ping)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from p2pfwd import __version__
from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.host import listening
from p2pfwd.net.link.contract import Link
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.transport.table import MakeTransports, transports
from p2pfwd.protocols.hole_punch import HolePunch
from p2pfwd.protocols.identify import Identify
from p2pfwd.protocols.keep import PeerKeeper
from p2pfwd.protocols.ping import Ping
from p2pfwd.system.network_watch import NetworkWatch


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
    conn: Link


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
        self.hole_punch = None if self.settings.swarm.local_only else HolePunch(self.swarm)
        self.network = NetworkWatch(self.swarm.own_addresses.interfaces)
        self.network.on_change(self.swarm.own_addresses.network_changed)
        self.network.on_change(self.swarm.recovery.network_changed)
        self.keeper = PeerKeeper(self.swarm, self.network)
        self._absent: tuple[Multiaddr, ...] = ()
        self.taken_ports: tuple[int, ...] = ()
        """Configured ports that others had at the start: the addresses have another, until a restart."""

    @classmethod
    async def start(
        cls,
        identity: PrivateKey,
        listen: Sequence[Multiaddr],
        settings: HostSettings | None = None,
        make_transports: MakeTransports = transports,
    ) -> Host:
        """A host that listens on `listen` (`host.listening`). Raises as `Swarm.listen`, nothing left open."""
        host = cls(identity, settings, make_transports)
        try:
            await host.listen(listen)
        except BaseException:
            await host.close()
            raise
        return host

    async def listen(self, addrs: Sequence[Multiaddr]) -> None:
        """Listen on `addrs` (`host.listening`). Raises as `Swarm.listen`."""
        found = await listening.listen(
            self.swarm, addrs, fall_back_to_free_port=self.settings.fall_back_to_free_port
        )
        self.taken_ports, self._absent = found
        self.network.on_change(self._network_changed)

    def _network_changed(self) -> None:
        if self._absent:
            self.swarm.spawn(self._listen_again(), "listen on an address that has come")

    async def _listen_again(self) -> None:
        self._absent = await listening.listen_again(self.swarm, self._absent)

    def absent_addresses(self) -> list[Multiaddr]:
        """Where this node is to listen, and the machine does not have the address now."""
        return [*self._absent, *self.swarm.own_addresses.absent()]

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
        if self.hole_punch is not None:
            self.hole_punch.close()
        await self.keeper.close()
        await self.swarm.close()
