"""The RPC's methods on the process itself: `daemon.hello`, `daemon.status`, `daemon.shutdown`, `log.level`.

What the other rooms of methods need of the running daemon (`Node`) stands here too (p2pfwd-rpc(7)).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from p2pfwd import __version__
from p2pfwd.daemon import logs
from p2pfwd.daemon.methods import views
from p2pfwd.policy.standing import needs
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.server import CallContext, Handler
from p2pfwd.system import descriptors
from p2pfwd.system.memory import rss_bytes

if TYPE_CHECKING:
    from p2pfwd.daemon.access import AccessControl
    from p2pfwd.daemon.discovery import Discovery
    from p2pfwd.daemon.networks import NetworkProfile
    from p2pfwd.daemon.peering import Peering
    from p2pfwd.daemon.relays import Relays
    from p2pfwd.daemon.tunnels import Tunnels
    from p2pfwd.forwarding.service import Forwarding
    from p2pfwd.forwarding.values import ListenerInfo
    from p2pfwd.history.history import History
    from p2pfwd.host.host import Host
    from p2pfwd.host.port_mapping import PortMapping
    from p2pfwd.rpc.paths import Paths


class Node(Protocol):
    """What the handlers need of the running daemon."""

    paths: Paths
    network: NetworkProfile
    host: Host
    forwarding: Forwarding
    tunnels: Tunnels
    access: AccessControl
    peering: Peering
    discovery: Discovery
    relays: Relays
    history: History
    mapping: PortMapping | None
    started_at: float  # monotonic
    log_name: str | None
    draining: bool

    def shown(self, info: ListenerInfo) -> s.Listener:
        """One row of `ls`."""

    def request_stop(self) -> None:
        """Begin to drain and stop; returns at once."""


class ProcessMethods:
    """Methods of one daemon."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def table(self) -> Mapping[str, Handler]:
        """Method name -> coroutine function."""
        return {
            "daemon.hello": self.hello,
            "daemon.status": self.status,
            "daemon.shutdown": self.shutdown,
            "log.level": self.log_level,
        }

    async def hello(self, context: CallContext, params: s.HelloParams) -> s.HelloResult:
        """Who answers here; the first call of every connection."""
        return s.HelloResult(s.RPC_MAJOR, __version__, str(self._node.host.peer_id), os.getpid())

    async def status(self, context: CallContext, params: s.Empty) -> s.StatusResult:
        """What the daemon is and holds at this moment."""
        node, swarm = self._node, self._node.host.swarm
        conns = swarm.conns()
        bytes_in, bytes_out = node.forwarding.totals()
        failure = None if node.history.failure is None else node.history.failure.message
        own, reachability = swarm.own_addresses, node.discovery.autonat.reachability
        stands = node.discovery.standing()
        bootstrap = node.discovery.bootstrap.report()
        return s.StatusResult(
            version=__version__,
            pid=os.getpid(),
            id=str(node.host.peer_id),
            uptime_s=time.monotonic() - node.started_at,
            home=str(node.paths.home),
            socket=str(node.paths.socket),
            log=node.log_name,
            addresses=views.full_addresses(swarm.listen_addrs(), node.host.peer_id),
            connections=len(conns),
            peers=len({conn.remote_peer for conn in conns}),
            listeners=len(node.forwarding.listeners()),
            streams=len(node.forwarding.streams()),
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            rss_bytes=rss_bytes(),
            draining=node.draining,
            network=node.network.name,
            swarm_key_fingerprint=node.network.fingerprint,
            reachability=reachability.value,
            standing=stands.value,
            needs=needs(
                stands,
                is_lan=node.network.name == "lan",
                is_found=bootstrap.state == "joined",
                place=node.relays.best_place(),
            ).value,
            nat=own.nat.value,
            announced=tuple(views.own_address(each) for each in own.announced()),
            refused=dict(swarm.refusals.counts),
            taken_ports=node.host.taken_ports,
            absent_addresses=tuple(map(str, node.host.absent_addresses())),
            relays=views.relays(node.relays, node.host.peer_id, time.monotonic()),
            bootstrap=views.bootstrap(bootstrap),
            port_mappings=tuple(map(views.port_mapping, node.mapping.statuses() if node.mapping else ())),
            swarm_streams=sum(len(conn.streams) for conn in conns),
            tasks=len(asyncio.all_tasks()),
            descriptors=descriptors.in_use(),
            lost=tuple(str(it) for it in (node.tunnels.lost, node.access.rules.lost) if it is not None),
            history=views.digest(node.history.digest, node.peering.names_by_id(), time.time(), failure),
        )

    async def shutdown(self, context: CallContext, params: s.Empty) -> s.Empty:
        """Begin to stop; answered at once."""
        self._node.request_stop()
        return s.Empty()

    async def log_level(self, context: CallContext, params: s.LogLevelParams) -> s.LogLevelResult:
        """Set a subsystem's level of logging; the levels of all. Raises InvalidParams, NotFound."""
        return s.LogLevelResult(logs.set_level(params.subsystem, params.level))
