"""The running daemon: host, forwarding, control socket, brought up in this order.

Rules: the control socket is bound only when the host listens and the saved tunnels are made, so whoever gets
an answer gets a working daemon. From the first socket on which peers get in to the last saved tunnel nothing
else runs: no peer finds a node that lacks its listens. Stopping takes nothing new, gives live streams a
bounded time, then resets them; asked a second time it does not wait. The control socket answers to the end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.daemon.access import AccessControl
from p2pfwd.daemon.applying import Applying
from p2pfwd.daemon.config import Config, Loaded
from p2pfwd.daemon.discovery import Discovery
from p2pfwd.daemon.expiry import Expiry
from p2pfwd.daemon.feed import Feed
from p2pfwd.daemon.inviting import Inviting
from p2pfwd.daemon.joining import Joining
from p2pfwd.daemon.methods import views
from p2pfwd.daemon.methods.access import AccessMethods
from p2pfwd.daemon.methods.dht import DhtMethods
from p2pfwd.daemon.methods.discover import Near
from p2pfwd.daemon.methods.events import EventMethods
from p2pfwd.daemon.methods.invites import InviteMethods
from p2pfwd.daemon.methods.peers import PeerMethods
from p2pfwd.daemon.methods.process import ProcessMethods
from p2pfwd.daemon.methods.relay import RelayMethods
from p2pfwd.daemon.methods.setup import SetupMethods
from p2pfwd.daemon.methods.swarm import SwarmMethods
from p2pfwd.daemon.methods.tunnels import TunnelMethods
from p2pfwd.daemon.networks import bootstrap_peers
from p2pfwd.daemon.peering import Peering
from p2pfwd.daemon.relaying import Relaying
from p2pfwd.daemon.relays import Relays
from p2pfwd.daemon.reloading import Live, Reloading
from p2pfwd.daemon.settings import AES, AUTO
from p2pfwd.daemon.tunnels import Tunnels
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.forwarding.values import ForwardingEvent, ForwardingLimits, ListenerInfo
from p2pfwd.history.history import History
from p2pfwd.host.host import Host, HostSettings
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.codec import result_to_json
from p2pfwd.rpc.schema import Listener
from p2pfwd.rpc.server import CallContext, Handler, RpcServer
from p2pfwd.wire.noise import NOISE
from p2pfwd.wire.tls import TLS

if TYPE_CHECKING:
    from p2pfwd.core.keys import PrivateKey
    from p2pfwd.core.peer_id import PeerId
    from p2pfwd.daemon.networks import NetworkProfile
    from p2pfwd.daemon.settings import Settings
    from p2pfwd.history.folding import Event
    from p2pfwd.host.port_mapping import PortMapping
    from p2pfwd.host.routing import Progress
    from p2pfwd.net.link.contract import Link
    from p2pfwd.policy.paths import PathCode
    from p2pfwd.rpc.paths import Paths

log = logging.getLogger("p2pfwd.daemon")

T = TypeVar("T")

_SECURITY = {"noise": NOISE, "tls": TLS}
_ACTIONS = {"added": "opened", "changed": "changed", "removed": "closed"}


class Running:
    """One daemon; `start` makes it, `stopped` ends when it is to be taken down, `stop` takes it down."""

    def __init__(
        self, paths: Paths, settings: Settings, network: NetworkProfile, host: Host, log_name: str | None
    ) -> None:
        self.paths = paths
        self.network = network
        self.host = host
        self.log_name = log_name
        self.started_at = time.monotonic()
        self.draining = False
        self.resolver = host.swarm.resolver
        self.forwarding = Forwarding(host, limits=forwarding_limits(settings))
        self.tunnels = Tunnels(paths.state_file, self.forwarding, host.peer_id)
        self.peering = Peering(paths, host, self.resolver.resolve)
        self.access = AccessControl(host, paths, self.forwarding, self.peering, settings.access_default)
        self.expiry = Expiry((self.tunnels, self.access))
        self.inviting = Inviting(host, paths, network, self.access, self.peering, self.forwarding)
        self.joining = Joining(host, network, self.access, self.peering, self.tunnels)
        self.discovery = Discovery(host, network, settings.dht_mode)
        self.discovery.on_progress(self._lookup)
        self.relays = Relays(
            host,
            settings.relays,
            self.peering.read,
            strangers=network.is_public,
            is_public=self.discovery.is_public,
        )
        self.discovery.autonat.on_change(self.relays.reachability_changed)
        self.peering.on_names_changed(self.relays.names_changed)
        self.history = History(paths.events_file)
        self.feed = Feed(self.history, host, self.forwarding, self.discovery)
        self.relaying = self._make_relaying(settings)
        self.near = Near(host, self.discovery.routing, enabled=mdns_enabled(settings, network))
        bootstrap = self.discovery.bootstrap
        bootstrap.book_loaded, bootstrap.near = self.peering.book_loaded, self.near.peers
        self.near.on_found(self._found_near)
        self.mapping = _port_mapping(host) if mapping_enabled(settings, network) else None
        self.applying = Applying(self.tunnels, self.access, self.peering, self.forwarding, host.swarm)
        self.reloading = Reloading(
            paths.config_file,
            self.applying,
            self.tunnels,
            self.access,
            self.peering,
            host.peer_id,
            self._live(),
        )
        self.server = RpcServer(paths.socket, self._methods())
        self.server.hub.changed = self._subscribers_changed
        self._drain_timeout_s = settings.drain_timeout_s
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()
        self._unfollow: Any = None
        self.history.on_event(self._happened)
        host.swarm.on_connected(lambda conn: self._peer("connected", conn))
        host.swarm.on_disconnected(lambda conn: self._peer("disconnected", conn))
        host.swarm.paths.on_change(self._path)

    def _make_relaying(self, settings: Settings) -> Relaying:
        discovery, host = self.discovery, self.host
        reached, hidden = discovery.is_reachable, discovery.is_hidden

        def allowed(peer: PeerId) -> bool:
            return self.forwarding.access.rules.lists(peer)

        made = Relaying(host, self.paths, settings, self.network, reached, hidden, allowed)
        discovery.autonat.on_change(made.look_again)
        self.access.applied = made.rights_changed
        if host.hole_punch is not None:
            host.hole_punch.is_own = made.service.is_own
        return made

    @classmethod
    async def start(
        cls,
        paths: Paths,
        settings: Settings,
        network: NetworkProfile,
        identity: PrivateKey,
        log_name: str | None = None,
        loaded: Loaded | None = None,
    ) -> Running:
        """Listen for peers, then for commands. `loaded`: where the settings come from, to be read again.

        Raises as `Host.listen`, `AccessControl.start`, `Peering.start`, `Reloading.begin`, `Tunnels.load` and
        `RpcServer.start`, nothing left.
        """
        host = Host(identity, host_settings(settings, network))
        try:
            running = cls(paths, settings, network, host, log_name)
            await running._begin(loaded or Loaded(Config(settings, {})))
        except BaseException:
            await host.close()
            raise
        return running

    async def _begin(self, loaded: Loaded) -> None:
        try:
            self.feed.start(self)
            await self.tunnels.load()
            self.access.start()
            self.peering.start()
            self.inviting.start()
            self.feed.files_are_read(
                {
                    "the saved tunnels": self.tunnels.moved,
                    "the access rules and blocks": self.access.rules.moved,
                    "the names of peers": self.peering.names.moved,
                    "the invites": self.inviting.invites.moved,
                }
            )
            declared = self.reloading.begin(loaded)
            listen = [Multiaddr.parse(text) for text in loaded.config.settings.listen]
            await self.host.listen(listen)  # in one turn of the loop with the next line
            await self.tunnels.start(declared)
            self.feed.tunnels_are_made(self.peering)
            self.expiry.start()
            self.forwarding.keep_warm()
            await self.server.start()
            self.discovery.start()
            self.relaying.start()
            self.relays.start()
            self.near.start()
            if self.mapping is not None:
                self.mapping.start()
            self.history.start()
        except BaseException:
            self.feed.stop()
            self.near.close()
            await self.relays.close()
            self.relaying.close()
            self.inviting.close()
            await self.discovery.close()
            await self.expiry.close()
            await self.forwarding.aclose()
            await self.peering.close()
            await self.server.close()
            await self.tunnels.close_file()
            await self.history.close()
            raise

    def _methods(self) -> dict[str, Handler]:
        return {
            **ProcessMethods(self).table(),
            **TunnelMethods(self).table(),
            **SwarmMethods(self).table(),
            **PeerMethods(self.peering).table(),
            **AccessMethods(self.access).table(),
            **InviteMethods(self, self.inviting, self.joining).table(),
            **SetupMethods(self.applying, self.reloading).table(),
            "doctor": self._doctor,
            **DhtMethods(self.discovery, self.peering).table(),
            **EventMethods(self.history, self.peering).table(),
            **RelayMethods(self.relaying, self.peering).table(),
            **self.near.table(),
        }

    async def _doctor(self, context: CallContext, params: s.DoctorParams) -> s.DoctorResult:
        from p2pfwd.daemon.methods.doctor import doctor  # 0.2 MB that are hardly ever needed

        return await doctor(self, params)

    def _live(self) -> dict[str, Live]:
        """What makes settings hold that can change while the daemon runs."""

        def set_limits(settings: Settings) -> None:
            self.forwarding.set_limits(forwarding_limits(settings))

        def set_drain_timeout(settings: Settings) -> None:
            self._drain_timeout_s = settings.drain_timeout_s

        def set_bootstrap(settings: Settings) -> None:
            here = replace(settings, network=self.network.name)  # another network takes a restart
            self.discovery.bootstrap.change(bootstrap_peers(here))

        limits = ("open_timeout_s", "target_timeout_s", "wait_s", "kubo_half_close", "kubo_hold_s")
        return {
            "reach.relays": lambda settings: self.relays.change(settings.relays),
            "bootstrap.peers": set_bootstrap,
            "daemon.drain_timeout_s": set_drain_timeout,
            "limits.pending_opens": set_limits,
            **{f"forward.{name}": set_limits for name in limits},
        }

    def request_stop(self) -> None:
        """Begin to stop; asked again, stop waiting for live streams."""
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()

    async def wait_for_stop(self) -> None:
        """Until somebody asks for the stop."""
        await self._stop.wait()

    @property
    def forced(self) -> bool:
        """Whether the stop was asked for twice."""
        return self._at_once.is_set()

    async def stop(self) -> None:
        """Drain, then close everything."""
        self.draining = True
        self.feed.stopping()
        await self.expiry.close()
        try:
            await self._drain()
        finally:
            await self.forwarding.aclose()
            self.feed.stop()
            if self.mapping is not None:
                await self.mapping.close()
            self.near.close()
            await self.relays.close()
            self.relaying.close()
            self.inviting.close()
            await self.discovery.close()
            await self.host.close()
            await self.peering.close()
            await self.server.close()
            await self.tunnels.close_file()
            await self.history.close()

    async def _drain(self) -> None:
        live = len(self.forwarding.streams())
        if live:
            log.info("stopping: %d live streams have up to %g s to end", live, self._drain_timeout_s)
        drain = asyncio.create_task(self.forwarding.drain(self._drain_timeout_s))
        at_once = asyncio.create_task(self._at_once.wait())
        try:
            await asyncio.wait([drain, at_once], return_when=asyncio.FIRST_COMPLETED)
            if drain.done():
                drain.result()
        finally:
            drain.cancel()
            at_once.cancel()
            await asyncio.wait([drain, at_once])

    def shown(self, info: ListenerInfo) -> Listener:
        """One row of `ls`."""
        problem = self.history.digest.problem(*info.key, time.time())
        where = self.tunnels.declared_in(info.key) if info.lifetime == "declared" else None
        return views.listener(info, self.access.of_listener(info), problem, where)

    def _found_near(self, peer_id: PeerId) -> None:
        self.discovery.bootstrap.look()
        if self.host.hole_punch is not None:
            self.host.hole_punch.nearby(peer_id, self.near.peers().get(peer_id, ()))

    # --- events

    def _subscribers_changed(self) -> None:
        """Follow the forwarding service only while somebody listens: its events cost each stream time."""
        wanted = self.server.hub.wanted("listeners") or self.server.hub.wanted("streams")
        if wanted and self._unfollow is None:
            self._unfollow = self.forwarding.on_event(self._forwarding)
        elif not wanted and self._unfollow is not None:
            self._unfollow()
            self._unfollow = None

    def _forwarding(self, event: ForwardingEvent) -> None:
        action = _ACTIONS[event.change]
        if event.listener is not None:
            shown = result_to_json(self.shown(event.listener))
            self.server.publish("listeners", {"action": action, "id": event.listener.id, "listener": shown})
        if event.stream is not None:
            shown = result_to_json(views.stream(event.stream))
            self.server.publish("streams", {"action": action, "id": str(event.stream.id), "stream": shown})

    def _happened(self, event: Event) -> None:
        if self.server.hub.wanted("events"):
            shown = views.event(event, self.peering.names_by_id())
            self.server.publish("events", result_to_json(shown))

    def _lookup(self, progress: Progress) -> None:
        if self.server.hub.wanted("lookups"):
            data = {"action": progress.state, "peer": str(progress.peer_id), "text": progress.text}
            self.server.publish("lookups", {**data, "elapsed_s": progress.elapsed_s})

    def _peer(self, action: str, conn: Link) -> None:
        if self.server.hub.wanted("peers"):
            data = {"action": action, "peer": str(conn.remote_peer), "address": str(conn.remote_addr)}
            self.server.publish("peers", data)

    def _path(self, peer_id: PeerId, code: PathCode) -> None:
        if self.server.hub.wanted("peers"):
            data = {"action": "path", "peer": str(peer_id), "path": "direct" if code.is_direct else "relayed"}
            self.server.publish("peers", {**data, "code": code.value, "text": code.words})


def mdns_enabled(settings: Settings, network: NetworkProfile) -> bool:
    """Whether to be found on the local segment, and to look at it."""
    return network.mdns if settings.mdns == AUTO else settings.mdns == "on"


def mapping_enabled(settings: Settings, network: NetworkProfile) -> bool:
    """Whether routers are asked for a port, so that peers beyond the local network get in."""
    return not network.local_only and settings.port_mapping != "off"


def _port_mapping(host: Host) -> PortMapping:
    from p2pfwd.host.port_mapping import PortMapping  # a third of a megabyte

    return PortMapping(host.swarm)


def host_settings(settings: Settings, network: NetworkProfile) -> HostSettings:
    """The host's part of the settings."""
    swarm = _part(
        SwarmSettings,
        settings,
        psk=network.psk,
        local_only=network.local_only,
        security=tuple(_SECURITY[name] for name in settings.security),
        aes=None if settings.ciphers == (AUTO,) else AES in settings.ciphers,
    )
    return HostSettings(swarm=swarm, fall_back_to_free_port=True)


def forwarding_limits(settings: Settings) -> ForwardingLimits:
    """The forwarding service's part of the settings."""
    return _part(ForwardingLimits, settings)


def _part(kind: type[T], settings: Settings, **more: Any) -> T:
    """A part's own settings: what has the same name in the daemon's, and `more`."""
    wanted = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    named = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name in wanted}
    return kind(**{**named, **more})
