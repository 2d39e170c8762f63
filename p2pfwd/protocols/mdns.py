"""mDNS on the swarm: peers on the local network are found, and find us (libp2p spec: discovery/mdns).

Rules:
- An interface is used if this node listens on a private address of it, and only that address is told there:
  who listens on loopback alone says nothing to the network.
- Peers found go to the peerstore and to whoever follows; nobody is dialed from here for being near.
  The handshake proves who is there.
- Answers go to the group and never to one address, so that nobody can have us send anything elsewhere.
- How often, and to whom: `wire.mdns_pace`. What is said, and what of it is believed: `wire.mdns`.
- The interfaces are looked at again before each question, and when our addresses have changed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.net.own_addresses import Change
from p2pfwd.net.swarm import Swarm
from p2pfwd.policy.pace import Pace, Rate
from p2pfwd.policy.provenance import Provenance
from p2pfwd.system.interfaces import Interface
from p2pfwd.system.multicast import GroupSocket, usable
from p2pfwd.wire import mdns as wire
from p2pfwd.wire.mdns_near import NearPeers
from p2pfwd.wire.mdns_pace import AskPace, LinkPace

log = logging.getLogger("p2pfwd.mdns")

SOURCE: Final = "mdns"
"""How a peer was found, for those who ask."""

LOG_RATE: Final = Rate(per_s=0.2, burst=64)
"""Lines about peers that are near: a segment full of daemons at once, and no flood of invented ones."""

_GROUPS: Final = {4: wire.GROUP_IP4, 6: wire.GROUP_IP6}

Found = Callable[[PeerId], None]


class Group(Protocol):
    """What is needed of a `GroupSocket`."""

    def send(self, data: bytes) -> None:
        """Send to the group."""

    def send_from_all(self, data: bytes, hosts: Iterable[str]) -> None:
        """Send to the group, and once more from each of these addresses."""

    def close(self) -> None:
        """Leave it."""


OpenGroup = Callable[[Interface, str, int, int, Callable[[bytes, str], None]], Group]


@dataclass(slots=True)
class _Link:
    """One interface and IP version."""

    interface: Interface
    addrs: list[Multiaddr]
    pace: LinkPace = field(default_factory=LinkPace)
    group: Group | None = None
    tell_addrs: bool = False  # what the answer under way is to say
    tell_service: bool = False
    timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self.group is not None:
            self.group.close()


class Mdns:
    """The service; `start` begins, `close` ends. Needs a running loop."""

    def __init__(
        self,
        swarm: Swarm,
        *,
        usable: Callable[[Iterable[Interface]], list[Interface]] = usable,
        open_group: OpenGroup = GroupSocket,
    ) -> None:
        self._swarm = swarm
        self._usable = usable
        self._open_group = open_group
        self._loop = asyncio.get_running_loop()
        self._instance = wire.instance_name(os.urandom(wire.INSTANCE_BYTES))
        self._question_id = random.randrange(1, 1 << 16)
        """How our own questions are known when they come back to us; another node here has another."""
        self._pace = AskPace(self._loop.time())
        self._near = NearPeers()
        self._log_pace = Pace(LOG_RATE, self._loop.time())
        self._links: dict[tuple[str, int, int], _Link] = {}
        self._refused: set[tuple[str, int, int]] = set()
        self._followers: list[Found] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.joined = asyncio.Event()
        """Set while there is any network to ask."""

    def start(self) -> None:
        """Join, ask, and answer from now on."""
        self._swarm.own_addresses.on_changed(self._changed)
        self._tick()

    def close(self) -> None:
        """Take leave of those near, and stop. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for link in self._links.values():
            if link.group is not None:
                goodbye = wire.answer(self._instance, self._swarm.peer_id, link.addrs, wire.GOODBYE_TTL_S)
                link.group.send_from_all(goodbye, link.interface.hosts)  # it counts for its sender alone
            link.close()
        self._links.clear()
        self._note_joined()

    def peers(self) -> dict[PeerId, tuple[Multiaddr, ...]]:
        """Who was heard in the last minutes, and where it says it is."""
        return self._near.peers(self._loop.time())

    def on_found(self, callback: Found) -> Callable[[], None]:
        """Be told of every peer that is new or has a new address; returns the end of it."""
        self._followers.append(callback)
        return lambda: self._followers.remove(callback)

    def _changed(self, change: Change) -> None:
        if change & ~(Change.SEEN | Change.MAPPED):
            self.ask()

    def ask(self) -> None:
        """Ask now, on every interface there is by now (within a second, if that was just done)."""
        self._pace.restart(self._loop.time())
        self._schedule()

    # --- asking -----------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed:
            self._timer = self._loop.call_at(self._pace.next_at, self._tick)

    def _tick(self) -> None:
        now, pace, peers = self._loop.time(), self._pace, len(self._near)
        self._look_at_interfaces()
        for link in self._links.values():
            if link.group is not None and link.pace.need_ask(now, pace.interval_s, peers, random.random()):
                link.group.send(wire.query(self._question_id))
        pace.asked(now, peers, random.random())
        self._schedule()

    # --- interfaces -------------------------------------------------------------------------------

    def _look_at_interfaces(self) -> None:
        """Open what is new, close what is gone, tell addresses that changed."""
        wanted: dict[tuple[str, int, int], tuple[Interface, list[Multiaddr]]] = {}
        try:
            listening = wire.tellable(self._swarm.listen_addrs())
            for interface in self._usable(self._swarm.own_addresses.interfaces.listing()):
                addrs = [addr for addr in listening if _host(addr) in interface.hosts]
                for version in _GROUPS if addrs else ():
                    if interface.has(version):
                        wanted[interface.name, interface.index, version] = interface, addrs
        except OSError as exc:  # out of descriptors, or of memory: the next look may do
            log.debug("the interfaces cannot be read: %s", exc)
            return
        for key in [key for key in self._links if key not in wanted]:
            self._links.pop(key).close()
            log.info("mDNS: no longer on %s, IPv%d", key[0], key[2])
        self._refused &= wanted.keys()
        for key, (interface, addrs) in wanted.items():
            link = self._links.get(key)
            if link is None:
                self._join(key, interface, addrs)
                continue
            link.interface = interface
            if link.addrs != addrs:
                link.addrs = addrs
                self._announce(link)
        self._note_joined()

    def _note_joined(self) -> None:
        if self._links:
            self.joined.set()
        else:
            self.joined.clear()

    def _join(self, key: tuple[str, int, int], interface: Interface, addrs: list[Multiaddr]) -> None:
        link = _Link(interface, addrs)

        def heard(data: bytes, sender: str) -> None:
            self._heard(link, data, sender)

        try:
            link.group = self._open_group(
                interface, _GROUPS[key[2]], wire.PORT, wire.MAX_RECEIVED_BYTES, heard
            )
        except OSError as exc:
            if key not in self._refused:  # said once, tried again with every question
                self._refused.add(key)
                log.warning("mDNS: not on %s, IPv%d: %s", interface.name, key[2], exc.strerror or exc)
            return
        self._links[key] = link
        self._refused.discard(key)
        log.info("mDNS: on %s, IPv%d", interface.name, key[2])
        self._announce(link)

    # --- answering and hearing --------------------------------------------------------------------

    def _heard(self, link: _Link, data: bytes, sender: str) -> None:
        here = any(sender in other.interface.hosts for other in self._links.values())
        try:
            heard = wire.hear(data, from_here=here)
        except RemoteProtocolError as exc:
            log.debug("from %s on %s: %s", sender, link.interface.name, exc.message)
            return
        our_own = here and heard.id == self._question_id
        if (heard.asks_for_peers or heard.asks_for_services) and not our_own:
            self._asked(link, heard, sender)
        for peer in heard.peers:
            if peer.peer_id != self._swarm.peer_id:
                self._met(peer, sender)

    def _asked(self, link: _Link, heard: wire.Heard, sender: str) -> None:
        at = link.pace.heard_question(self._loop.time(), sender, random.random())
        if at is not None or link.timer is not None:
            link.tell_addrs |= heard.asks_for_peers
            link.tell_service |= heard.asks_for_services
        if at is not None:
            link.timer = self._loop.call_at(at, self._answer, link)

    def _announce(self, link: _Link) -> None:
        """Say where we are without being asked."""
        link.tell_addrs = True
        at = link.pace.want_answer(self._loop.time(), random.random())
        if at is not None:
            link.timer = self._loop.call_at(at, self._answer, link)

    def _answer(self, link: _Link) -> None:
        assert link.group is not None
        link.timer = None
        link.pace.answered(self._loop.time())
        if link.tell_addrs:
            link.group.send(wire.answer(self._instance, self._swarm.peer_id, link.addrs))
        if link.tell_service:
            link.group.send(wire.directory_answer())
        link.tell_addrs = link.tell_service = False

    def _met(self, peer: wire.NearPeer, sender: str) -> None:
        now, was_full = self._loop.time(), self._near.is_full
        news = self._near.hear(peer, sender, now)
        if peer.leaving:
            return
        self._swarm.peerstore.add_addrs(peer.peer_id, peer.addrs, wire.TTL_S, Provenance.HEARSAY)
        if not news:
            return
        if was_full:
            self._swarm.refusals.note("mdns-table-full", sender, "the table of peers near gives way")
        where = ", ".join(map(str, peer.addrs)) or "no usable address"
        level = logging.INFO if self._log_pace.take(now) else logging.DEBUG
        log.log(level, "near: %s at %s", peer.peer_id, where)
        for follower in tuple(self._followers):
            follower(peer.peer_id)


def _host(addr: Multiaddr) -> str | None:
    endpoint = tcp_endpoint(addr)
    return endpoint.host if endpoint is not None else None
