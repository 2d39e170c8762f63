"""The RPC's methods, each as a few lines over the host and the forwarding service (p2pfwd-rpc(7)).

Rules: a handler decides nothing the parts below can decide. What a client asked for and did not wait for
(its connection went while the call was under way) is undone. A foreground listener is closed with its
client's connection.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from p2pfwd import __version__
from p2pfwd.core.multiaddrs import Multiaddr, parse_endpoint
from p2pfwd.daemon import logs, views
from p2pfwd.errors import NotFound, UsageError
from p2pfwd.forwarding.values import CloseMatch
from p2pfwd.protocols.identify import PROTOCOL_VERSION
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.server import CallContext, Handler

if TYPE_CHECKING:
    from p2pfwd.daemon.discovery import Discovery
    from p2pfwd.daemon.networks import NetworkProfile
    from p2pfwd.daemon.peering import Peering
    from p2pfwd.forwarding.listeners import Listener
    from p2pfwd.forwarding.service import Forwarding
    from p2pfwd.host import Host
    from p2pfwd.rpc.paths import Paths

TARGET_CHECK_S = 3.0
"""How long `listen` looks whether its target answers before it returns; a target may also come later."""

CONNECT_TIMEOUT_S = 30.0
MAX_TIMEOUT_S = 600.0
"""Longest time limit taken from a client."""


class Node(Protocol):
    """What the handlers need of the running daemon."""

    paths: Paths
    network: NetworkProfile
    host: Host
    forwarding: Forwarding
    peering: Peering
    discovery: Discovery
    started_at: float  # monotonic
    log_name: str | None
    draining: bool

    def request_stop(self) -> None:
        """Begin to drain and stop; returns at once."""


class Handlers:
    """Methods of one daemon."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def table(self) -> Mapping[str, Handler]:
        """Method name -> coroutine function."""
        return {
            "daemon.hello": self.hello,
            "daemon.status": self.status,
            "daemon.shutdown": self.shutdown,
            "p2p.listen": self.listen,
            "p2p.forward": self.forward,
            "p2p.check": self.check,
            "p2p.close": self.close,
            "p2p.ls": self.ls,
            "p2p.stream.ls": self.stream_ls,
            "p2p.stream.close": self.stream_close,
            "swarm.connect": self.connect,
            "swarm.disconnect": self.disconnect,
            "swarm.peers": self.peers,
            "swarm.addrs": self.addrs,
            "id": self.id,
            "ping": self.ping,
            "log.level": self.log_level,
        }

    # --- the daemon

    async def hello(self, context: CallContext, params: s.HelloParams) -> s.HelloResult:
        return s.HelloResult(s.RPC_MAJOR, __version__, str(self._node.host.peer_id), os.getpid())

    async def status(self, context: CallContext, params: s.Empty) -> s.StatusResult:
        node, swarm = self._node, self._node.host.swarm
        conns = swarm.conns()
        bytes_in, bytes_out = node.forwarding.totals()
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
            rss_bytes=_rss_bytes(),
            draining=node.draining,
            network=node.network.name,
            swarm_key_fingerprint=node.network.fingerprint,
            reachability=node.discovery.autonat.reachability.value,
        )

    async def shutdown(self, context: CallContext, params: s.Empty) -> s.Empty:
        self._node.request_stop()
        return s.Empty()

    async def log_level(self, context: CallContext, params: s.LogLevelParams) -> s.LogLevelResult:
        return s.LogLevelResult(logs.set_level(params.subsystem, params.level))

    # --- listeners

    async def listen(self, context: CallContext, params: s.ListenParams) -> s.ListenResult:
        node = self._node
        listener = await node.forwarding.listen(
            params.protocol,
            parse_endpoint(params.target),
            report_peer_id=params.report_peer_id,
            allow_custom_protocol=params.allow_custom_protocol,
            foreground=params.foreground,
        )
        if params.foreground:
            context.on_disconnect(self._closer(listener))
        try:
            outcome = await node.forwarding.check(listener.id, TARGET_CHECK_S)
        except asyncio.CancelledError:
            self._closer(listener)()
            raise
        addrs = views.to_paste(node.host.swarm.listen_addrs())
        return s.ListenResult(
            listener=views.listener(listener.info()),
            target_check=views.check(outcome),
            peer=str(node.host.peer_id),
            addresses=views.full_addresses(addrs, node.host.peer_id),
        )

    async def forward(self, context: CallContext, params: s.ForwardParams) -> s.ForwardResult:
        node = self._node
        listen = parse_endpoint(params.listen)
        peer_id, addrs = await self._node.peering.read(params.peers)
        listener = await node.forwarding.forward(
            params.protocol,
            listen,
            peer_id,
            addrs,
            allow_custom_protocol=params.allow_custom_protocol,
            foreground=params.foreground,
        )
        if params.foreground:
            context.on_disconnect(self._closer(listener))
        return s.ForwardResult(views.listener(listener.info()), str(peer_id))

    def _closer(self, listener: Listener) -> Callable[[], None]:
        """Closes exactly this listener, if it still exists: its addresses may be another's by then."""
        match = CloseMatch(
            protocol=listener.protocol,
            listen_address=listener.listen_address,
            target_address=listener.target_address,
        )

        def close() -> None:
            if any(info.id == listener.id for info in self._node.forwarding.listeners()):
                self._node.forwarding.close(match)

        return close

    async def check(self, context: CallContext, params: s.CheckParams) -> s.Check:
        timeout_s = _timeout(params.timeout_s)
        return views.check(await self._node.forwarding.check(params.listener, timeout_s))

    async def close(self, context: CallContext, params: s.CloseParams) -> s.CloseResult:
        match = CloseMatch(
            all=params.all,
            protocol=params.protocol,
            listen_address=self._filter(params.listen_address),
            target_address=self._filter(params.target_address),
        )
        return s.CloseResult(tuple(map(views.listener, self._node.forwarding.close(match))))

    def _filter(self, text: str | None) -> Multiaddr | None:
        return None if text is None else self._node.peering.filter(text)

    async def ls(self, context: CallContext, params: s.Empty) -> s.LsResult:
        return s.LsResult(tuple(map(views.listener, self._node.forwarding.listeners())))

    # --- streams

    async def stream_ls(self, context: CallContext, params: s.Empty) -> s.StreamLsResult:
        return s.StreamLsResult(tuple(map(views.stream, self._node.forwarding.streams())))

    async def stream_close(self, context: CallContext, params: s.StreamCloseParams) -> s.StreamCloseResult:
        forwarding = self._node.forwarding
        if params.all:
            if params.id is not None:
                raise UsageError("can't combine --all with a stream id")
            return s.StreamCloseResult(tuple(map(views.stream, forwarding.close_all_streams())))
        if params.id is None:
            raise UsageError("no id specified", hint="p2pfwd stream ls shows the ids; -a closes all")
        if not (params.id.isascii() and params.id.isdecimal()):
            raise UsageError(
                f"stream id {params.id!r} is not a number", hint="p2pfwd stream ls shows the ids"
            )
        return s.StreamCloseResult((views.stream(forwarding.close_stream(int(params.id[:20]))),))

    # --- peers

    async def connect(self, context: CallContext, params: s.ConnectParams) -> s.ConnectResult:
        peer_id, addrs = await self._node.peering.read(params.addresses)
        timeout_s = CONNECT_TIMEOUT_S if params.timeout_s is None else _timeout(params.timeout_s)
        swarm = self._node.host.swarm
        conn = await swarm.connect(peer_id, addrs, timeout_s=timeout_s, force=True)
        agent = swarm.peerstore.agent(peer_id)
        return s.ConnectResult(views.peer(conn, agent, asyncio.get_running_loop().time()))

    async def disconnect(self, context: CallContext, params: s.DisconnectParams) -> s.DisconnectResult:
        peer_id, _ = await self._node.peering.read((params.peer,))
        closed = await self._node.host.swarm.disconnect(peer_id)
        if not closed:
            raise NotFound(f"not connected to {peer_id}", hint="p2pfwd swarm peers shows the connections")
        return s.DisconnectResult(str(peer_id), closed)

    async def peers(self, context: CallContext, params: s.Empty) -> s.PeersResult:
        swarm, now = self._node.host.swarm, asyncio.get_running_loop().time()
        return s.PeersResult(
            tuple(views.peer(conn, swarm.peerstore.agent(conn.remote_peer), now) for conn in swarm.conns())
        )

    async def addrs(self, context: CallContext, params: s.Empty) -> s.AddrsResult:
        swarm = self._node.host.swarm
        return s.AddrsResult(
            id=str(swarm.peer_id),
            listen=tuple(map(str, swarm.listen_addrs())),
            observed=tuple(map(str, swarm.observed_addrs())),
        )

    async def id(self, context: CallContext, params: s.Empty) -> s.IdResult:
        host = self._node.host
        public_key = host.swarm.identity.public_key.to_protobuf()
        return s.IdResult(
            id=str(host.peer_id),
            public_key=base64.b64encode(public_key).decode("ascii"),
            addresses=views.full_addresses(host.swarm.listen_addrs(), host.peer_id),
            agent_version=host.settings.agent_version,
            protocol_version=PROTOCOL_VERSION,
            protocols=tuple(sorted(host.swarm.protocols())),
        )

    async def ping(self, context: CallContext, params: s.PingParams) -> s.PingResult:
        peer_id, addrs = await self._node.peering.read((params.peer,))
        outcome = await self._node.host.ping(peer_id, addrs, _timeout(params.timeout_s))
        conn = outcome.conn
        return s.PingResult(str(peer_id), str(conn.remote_addr), views.path(conn), outcome.rtt_s * 1000)


def _timeout(timeout_s: float) -> float:
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise UsageError(
            f"a time limit of {timeout_s:g} s; it must be above 0 and at most {MAX_TIMEOUT_S:g} s"
        )
    return timeout_s


def _rss_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError):  # no /proc: the most it ever was
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
