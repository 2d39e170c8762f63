"""What the parts of the node tell, as events of its history: nothing else of the daemon records any of these.

Rules: a fact comes from the callback that its part has anyway; what is one fact is recorded once. Whether a
peer is the owner's is asked as it happens. From `stop` on nothing is recorded: what a stop ends is no news.

    a tunnel   FINE ──a state with a problem──▶ TROUBLED ──ready, or the cause is over──▶ FINE
               TROUBLED ──a state with another problem──▶ TROUBLED
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from p2pfwd import __version__
from p2pfwd.core.peer_id import PeerId
from p2pfwd.daemon.differences import limit_text, option
from p2pfwd.daemon.mapping_news import MappingNews
from p2pfwd.errors import (
    AddressInUse,
    BindFailed,
    NotAllowed,
    P2PForwardError,
    PeerBlocked,
    TargetRefused,
    TargetTimeout,
)
from p2pfwd.forwarding.values import PEER_UNREACHABLE, READY, UNKNOWN, ForwardingEvent, ListenerInfo
from p2pfwd.history.stream_log import StreamLog
from p2pfwd.net.own_addresses import Change
from p2pfwd.net.upgrader import describe
from p2pfwd.policy.paths import PathCode
from p2pfwd.policy.shares import Party

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from p2pfwd.daemon.access import AccessControl
    from p2pfwd.daemon.applying import Applying
    from p2pfwd.daemon.discovery import Discovery
    from p2pfwd.daemon.inviting import InviteChange, Inviting
    from p2pfwd.daemon.peering import Peering
    from p2pfwd.daemon.relays import Relays
    from p2pfwd.daemon.reloading import Reloading
    from p2pfwd.daemon.tunnels import Tunnels
    from p2pfwd.forwarding.service import Forwarding
    from p2pfwd.forwarding.streams import StreamEntry
    from p2pfwd.history.history import History
    from p2pfwd.host.host import Host
    from p2pfwd.host.port_mapping import PortMapping
    from p2pfwd.net.link.contract import Link
    from p2pfwd.peers.invites import Invite

PROBLEM_OF_STATE: Final = {
    AddressInUse.code: "tunnel-port-taken",
    BindFailed.code: "tunnel-port-taken",
    PEER_UNREACHABLE: "tunnel-peer-away",
    TargetRefused.code: "tunnel-target-down",
    TargetTimeout.code: "tunnel-target-down",
    NotAllowed.code: "tunnel-not-allowed",
}
"""Every other state but READY and UNKNOWN is `tunnel-failing`."""

OVER: Final = {
    "tunnel-port-taken": "tunnel-port-bound",
    "tunnel-peer-away": "tunnel-peer-back",
    "tunnel-target-down": "tunnel-target-up",
    "tunnel-not-allowed": "tunnel-allowed",
    "tunnel-failing": "tunnel-works",
}

ENDS_WHEN_UNKNOWN: Final = frozenset(("tunnel-port-taken", "tunnel-peer-away"))
"""That the port is bound, or the peer connected, is known before anything has gone through."""

IN_BETWEEN: Final = (PathCode.RELAYED, PathCode.PUNCHING)
"""Ways that are about to be found out of: no news."""

SUMMED_S: Final = 0.4
"""How long streams and refusals are summed before their sum is recorded."""

COUNTED_ELSEWHERE: Final = ("tunnel-denied", "invite-refused")
"""Refusals that are events of their own."""


class Parts(Protocol):
    """What it follows beside the host and the forwarding."""

    peering: Peering
    access: AccessControl
    relays: Relays
    tunnels: Tunnels
    applying: Applying
    reloading: Reloading
    inviting: Inviting
    mapping: PortMapping | None


class Feed:
    """Of one daemon; `start` begins, `stop` ends it."""

    def __init__(self, history: History, host: Host, forwarding: Forwarding, discovery: Discovery) -> None:
        self._record = history.record
        self._host = host
        self._swarm = host.swarm
        self._forwarding = forwarding
        self._discovery = discovery
        self._streams = StreamLog(history.record, history.folding.spends, time.monotonic)
        self._loop = asyncio.get_running_loop()
        self._flush: asyncio.TimerHandle | None = None
        self._is_on = False
        self._tells_tunnels = False
        self._refusals: Counter[str] = Counter()
        self._users: set[PeerId] = set()  # connected strangers that have used a listen
        self._paths: dict[PeerId, PathCode] = {}  # of connected peers that are told
        self._silent: set[PeerId] = set()
        self._problems: dict[int, str] = {}  # by listener
        self._names: dict[PeerId, str] = {}
        self._places: set[PeerId] = set()
        self._refusing: dict[PeerId, str] = {}
        self._standing = discovery.standing()
        self._addresses = ""
        self._mappings = MappingNews(history.record)

    def start(self, parts: Parts) -> None:
        """Follow the parts, before any of them begins."""
        peering, relays = parts.peering, parts.relays
        self._is_on = True
        self._record("daemon-started", version=__version__, pid=os.getpid())
        self._standing, self._addresses = self._discovery.standing(), self._own_addresses()
        swarm = self._swarm
        swarm.on_connected(self._connected)
        swarm.on_disconnected(self._disconnected)
        swarm.on_silent(self._answers)
        swarm.paths.on_change(self._path)
        swarm.own_addresses.on_changed(self._network)
        swarm.refusals.on_noted = self._refused
        self._discovery.autonat.on_change(self._reachability)
        self._forwarding.on_listener_event(self._tunnel)
        self._forwarding.watch_streams(self)
        self._forwarding.access.on_denied = self._denied
        parts.access.on_changed = self._access
        parts.tunnels.on_ended = self._ended_by_itself
        parts.tunnels.on_limited = self._limited
        parts.applying.on_changed = self._setup
        parts.reloading.on_refused = self._not_read
        parts.inviting.on_changed = self._invite
        parts.inviting.on_refused = self._invite_refused
        if (mapping := parts.mapping) is not None:
            mapping.on_changed = lambda: self._mapping(mapping)
        peering.on_names_changed(lambda: self._named(peering))
        relays.client.on_change(lambda: self._relays(relays))

    def files_are_read(self, moved: Mapping[str, Path | None]) -> None:
        """What was in which file, and where that was moved if it was damaged."""
        for what, aside in moved.items():
            if aside is not None:
                self._record("file-damaged", what=what, file=str(aside))

    def tunnels_are_made(self, peering: Peering) -> None:
        """What was saved is there again, and the names are read: what changes from now on is news."""
        self._tells_tunnels = True
        self._names = _names(peering)

    def stop(self) -> None:
        """The daemon has stopped. Idempotent."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush_sums()
        if self._is_on:
            self._record("daemon-stopped")
        self._is_on = False

    def stopping(self) -> None:
        """It begins to: its tunnels are closed with it, and come back with it."""
        self._tells_tunnels = False

    # --- peers ------------------------------------------------------------------------------------

    def _is_own(self, peer: PeerId) -> bool:
        """Chosen by the owner: who was served for long could fill the owner's share, under many names."""
        return self._swarm.peerstore.is_chosen(peer) or self._host.keeper.status(peer) is not None

    def _stranger(self, conn: Link) -> Party | bool:
        """As whom a peer's events count."""
        return False if self._is_own(conn.remote_peer) else self._swarm.services.party(conn)

    def _connected(self, conn: Link) -> None:
        peer = conn.remote_peer
        if not self._is_on or len(self._swarm.conns(peer)) > 1:
            return
        self._silent.discard(peer)
        if not self._is_own(peer):
            self._record("strangers-up", stranger=True)
            return
        code = self._paths[peer] = self._swarm.paths.code(conn)
        address = str(conn.remote_addr)
        self._record("peer-up", peer=str(peer), path=code.words, path_code=code.value, address=address)

    def _disconnected(self, conn: Link) -> None:
        peer = conn.remote_peer
        if self._swarm.conns(peer):
            return
        self._paths.pop(peer, None)
        self._silent.discard(peer)
        has_used = peer in self._users
        self._users.discard(peer)
        if not self._is_on or not (has_used or self._is_own(peer)):
            return
        cause = conn.closed.result()
        by_us = conn.ended_by_us or isinstance(cause, PeerBlocked)
        if by_us or conn.ended_by_peer or cause is None:
            code, reason = "peer-down", "by this node" if by_us else "by the peer"
        else:
            code, reason = "peer-lost", describe(cause)
        self._record(code, peer=str(peer), stranger=self._stranger(conn), reason=reason)

    def _path(self, peer: PeerId, code: PathCode) -> None:
        before = self._paths.get(peer)
        if not self._is_on or before in (None, code) or code in IN_BETWEEN:
            return
        self._paths[peer] = code
        self._record("peer-path", peer=str(peer), path=code.words, path_code=code.value)

    def _answers(self, peer: PeerId, error: P2PForwardError | None) -> None:
        if not self._is_on or not self._is_own(peer) or (error is None) == (peer not in self._silent):
            return
        if not self._swarm.conns(peer):
            return  # that it is lost was told
        if error is None:
            self._silent.discard(peer)
            self._record("peer-answers", peer=str(peer))
        else:
            self._silent.add(peer)
            self._record("peer-silent", peer=str(peer), reason=error.message)

    def _named(self, peering: Peering) -> None:
        before, self._names = self._names, _names(peering)
        if not self._is_on or not self._tells_tunnels:
            return
        for peer, name in before.items():
            if self._names.get(peer) != name:
                self._record("peer-unnamed", peer=str(peer), name=name)
        for peer, name in self._names.items():
            if before.get(peer) != name:
                self._record("peer-named", peer=str(peer), name=name)

    # --- streams: a `StreamWatcher` ---------------------------------------------------------------

    def opened(self, entry: StreamEntry) -> None:
        """A stream is there."""
        stream, listener = entry.stream, entry.listener
        key = (str(stream.remote_peer), listener.protocol)
        if not self._is_on or key in self._streams.sums:
            return
        stranger = self._party(entry)
        if stranger is not None:
            self._users.add(stranger.peer)
        path = "relayed" if stream.conn.is_relayed else "direct"
        self._streams.opened(entry.id, key, listener.direction, path, stranger)

    def ended(self, entry: StreamEntry) -> None:
        """It is over."""
        if not self._is_on:
            return
        key = (str(entry.stream.remote_peer), entry.listener.protocol)
        if self._streams.is_told(entry.id):
            self._ended(entry, key)
            return
        found = self._streams.sums.get(key) or self._streams.sum_of(key, self._party(entry))
        if found is not None:
            splice = entry.splice
            found.ended += 1
            if splice is None or splice.error is not None:
                found.broken += 1
            if splice is not None:
                found.bytes_in += splice.bytes_in
                found.bytes_out += splice.bytes_out
        self._flush_later()

    def _ended(self, entry: StreamEntry, key: tuple[str, str]) -> None:
        splice, broken = entry.splice, None
        if splice is None:
            broken = "it did not get to the service"
        elif splice.error is not None:
            broken = describe(splice.error)
        self._streams.ended(
            entry.id,
            key,
            self._party(entry),
            duration_s=time.monotonic() - entry.opened_at,
            bytes_in=0 if splice is None else splice.bytes_in,
            bytes_out=0 if splice is None else splice.bytes_out,
            broken=broken,
        )

    def _flush_later(self) -> None:
        if self._flush is None:
            self._flush = self._loop.call_later(SUMMED_S, self._flush_sums)

    def _flush_sums(self) -> None:
        """Record what was summed up: streams and refusals."""
        self._flush = None
        self._streams.flush()
        for cause, times in self._refusals.items():
            self._record("refused", stranger=True, times=times, cause=cause)
        self._refusals.clear()

    def _party(self, entry: StreamEntry) -> Party | None:
        """Whom a stream counts for, if he is a stranger."""
        party = entry.party
        return None if party is None or self._is_own(party.peer) else party

    # --- tunnels ----------------------------------------------------------------------------------

    def _tunnel(self, event: ForwardingEvent) -> None:
        info = event.listener
        if info is None or not self._is_on:
            return
        if event.change == "removed":
            self._problems.pop(info.id, None)
            if 0 < (info.ends_at or 0) <= time.time():
                return  # `ended` tells
        if event.change != "changed":
            if self._tells_tunnels:
                self._of_tunnel("tunnel-made" if event.change == "added" else "tunnel-closed", info)
            return
        before, now = self._problems.get(info.id), _problem(info)
        if now is not None and now != before:
            self._problems[info.id] = now
            self._of_tunnel(now, info)
        elif before is not None and (info.state == READY or before in ENDS_WHEN_UNKNOWN) and now is None:
            del self._problems[info.id]
            self._of_tunnel(OVER[before], info)

    def _ended_by_itself(self, info: ListenerInfo) -> None:
        if self._is_on:
            self._of_tunnel("tunnel-ended", info)

    def _limited(self, info: ListenerInfo, changes: Mapping[str, int]) -> None:
        if self._is_on and changes:
            change = ", ".join(f"{option(name)} {limit_text(name, limit)}" for name, limit in changes.items())
            self._record("tunnel-limits", protocol=info.protocol, direction=info.direction, change=change)

    def _of_tunnel(self, code: str, info: ListenerInfo) -> None:
        is_listen = info.direction == "listen"
        target = str(info.target_address)
        self._record(
            code,
            peer=None if is_listen else target.removeprefix("/p2p/"),
            protocol=info.protocol,
            direction=info.direction,
            address=target if is_listen else str(info.listen_address),
            reason=info.reason or "",
        )

    # --- access -----------------------------------------------------------------------------------

    def _denied(self, party: Party, protocol: str, asks: bool) -> None:
        if self._is_on:
            code = "access-requested" if asks else "access-denied"
            self._record(code, peer=str(party.peer), protocol=protocol, stranger=party)

    def _access(self, protocol: str | None, change: str) -> None:
        if self._is_on and self._tells_tunnels:
            code = "blocks-changed" if protocol is None else "access-changed"
            self._record(code, protocol=protocol, change=change)

    def _setup(self, what: str, changes: Sequence[str]) -> None:
        if self._is_on and changes:
            self._record("config-changed", what=what, change=", ".join(changes))

    def _not_read(self, reason: str) -> None:
        if self._is_on:
            self._record("config-refused", reason=reason)

    def _invite(self, invite: Invite, what: InviteChange, peer: PeerId | None) -> None:
        if self._is_on:
            uses = "one machine" if invite.uses == 1 else f"{invite.uses} machines"
            self._record(
                f"invite-{what}",
                peer=None if peer is None else str(peer),
                protocol=invite.protocol,
                invite=invite.id,
                uses=uses,
            )

    def _invite_refused(self, party: Party, cause: str) -> None:
        if self._is_on:
            self._record("invite-refused", peer=str(party.peer), stranger=party, cause=cause)

    def _refused(self, cause: str, times: int) -> None:
        """As cheap as it can be: refusing a flood is."""
        if self._is_on and cause not in COUNTED_ELSEWHERE:
            self._refusals[cause] += times
            self._flush_later()

    # --- how others get here ----------------------------------------------------------------------

    def _relays(self, relays: Relays) -> None:
        places = {place.relay for place in relays.client.places()}
        refusing = relays.client.refusals()
        came, went = places - self._places, self._places - places
        refused = [it for it in refusing if it not in self._refusing and relays.is_named(it)]
        self._places, self._refusing = places, refusing
        if not self._is_on:
            return
        for code, which in (("relay-got", came), ("relay-lost", went)):
            for relay in which:
                stranger = False if self._is_own(relay) else Party(relay)
                self._record(code, peer=str(relay), stranger=stranger)
        for relay in refused:
            self._record("relay-refused", peer=str(relay), reason=refusing[relay])

    def _reachability(self) -> None:
        before, self._standing = self._standing, self._discovery.standing()
        if self._is_on and before is not self._standing:
            self._record("reachability", standing=self._standing.value, before=before.value)

    def _mapping(self, mapping: PortMapping) -> None:
        if self._is_on:
            self._mappings.look(mapping.statuses())

    def _network(self, change: Change) -> None:
        before, self._addresses = self._addresses, self._own_addresses()
        if self._is_on and change & (Change.MOVED | Change.STIRRED) and before != self._addresses:
            self._record("network-changed", addresses=self._addresses or "no address")
        self._reachability()

    def _own_addresses(self) -> str:
        return ", ".join(str(addr) for addr in self._swarm.own_addresses.bound())


def _names(peering: Peering) -> dict[PeerId, str]:
    return {named.peer_id: named.name for named in peering.names.all()}


def _problem(info: ListenerInfo) -> str | None:
    if info.state in (READY, UNKNOWN):
        return None
    return PROBLEM_OF_STATE.get(info.state, "tunnel-failing")
