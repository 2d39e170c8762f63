"""The RPC's methods on connections: `swarm.*`, `id`, `ping` (p2pfwd-rpc(7))."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping

from p2pfwd.daemon.methods import views
from p2pfwd.daemon.methods.process import Node
from p2pfwd.errors import NotFound
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.server import CallContext, Handler
from p2pfwd.rpc.time_limit import check_timeout
from p2pfwd.wire.identify import PROTOCOL_VERSION

CONNECT_TIMEOUT_S = 30.0


class SwarmMethods:
    """Methods of one daemon."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def table(self) -> Mapping[str, Handler]:
        """Method name -> coroutine function."""
        return {
            "swarm.connect": self.connect,
            "swarm.disconnect": self.disconnect,
            "swarm.peers": self.peers,
            "swarm.addrs": self.addrs,
            "id": self.id,
            "ping": self.ping,
        }

    async def connect(self, context: CallContext, params: s.ConnectParams) -> s.ConnectResult:
        """A connection to a peer, maybe one that is there. Raises PeerNotFound, DialFailed, TimedOut."""
        peer_id, addrs = await self._node.peering.read(params.addresses)
        timeout_s = CONNECT_TIMEOUT_S if params.timeout_s is None else check_timeout(params.timeout_s)
        swarm = self._node.host.swarm
        conn = await swarm.connect(peer_id, addrs, timeout_s=timeout_s, force=True)
        agent = swarm.peerstore.agent(peer_id)
        return s.ConnectResult(views.peer(conn, agent, time.monotonic(), swarm.paths.code(conn)))

    async def disconnect(self, context: CallContext, params: s.DisconnectParams) -> s.DisconnectResult:
        """Close all connections to a peer. Raises NotFound when there is none."""
        peer_id, _ = await self._node.peering.read((params.peer,))
        closed = await self._node.host.swarm.disconnect(peer_id)
        if not closed:
            raise NotFound(f"not connected to {peer_id}", hint="p2pfwd swarm peers shows the connections")
        return s.DisconnectResult(str(peer_id), closed)

    async def peers(self, context: CallContext, params: s.Empty) -> s.PeersResult:
        """The live connections, direct and old ones first."""
        swarm, now = self._node.host.swarm, time.monotonic()
        return s.PeersResult(
            tuple(
                views.peer(conn, swarm.peerstore.agent(conn.remote_peer), now, swarm.paths.code(conn))
                for conn in swarm.conns()
            )
        )

    async def addrs(self, context: CallContext, params: s.Empty) -> s.AddrsResult:
        """The addresses this node listens on, and those that connected peers see it at."""
        swarm = self._node.host.swarm
        return s.AddrsResult(
            id=str(swarm.peer_id),
            listen=tuple(map(str, swarm.listen_addrs())),
            observed=tuple(map(str, swarm.own_addresses.observed())),
            own=tuple(views.own_address(each) for each in swarm.own_addresses.statuses()),
            taken_ports=self._node.host.taken_ports,
        )

    async def id(self, context: CallContext, params: s.Empty) -> s.IdResult:
        """What this node tells others of itself."""
        host = self._node.host
        public_key = host.swarm.identity.public_key.to_protobuf()
        return s.IdResult(
            id=str(host.peer_id),
            public_key=base64.b64encode(public_key).decode("ascii"),
            addresses=views.full_addresses(host.swarm.listen_addrs(), host.peer_id),
            agent_version=host.settings.agent_version,
            protocol_version=PROTOCOL_VERSION,
            protocols=tuple(sorted(host.swarm.services.names())),
        )

    async def ping(self, context: CallContext, params: s.PingParams) -> s.PingResult:
        """One round trip to a peer, connecting first if need be. Raises as `connect`."""
        peer_id, addrs = await self._node.peering.read((params.peer,))
        outcome = await self._node.host.ping(peer_id, addrs, check_timeout(params.timeout_s))
        conn, code = outcome.conn, self._node.host.swarm.paths.code(outcome.conn)
        return s.PingResult(
            str(peer_id),
            str(conn.remote_addr),
            views.path(conn),
            outcome.rtt_s * 1000,
            code.value,
            code.words,
        )
