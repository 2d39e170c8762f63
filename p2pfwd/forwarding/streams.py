"""The registry of live tunnelled connections, both directions.

Rules: ids are monotonic over both directions and never reused; byte counts are pulled from
the splice when asked; while a peer has streams here its connection is protected from trimming; limits
are checked before a stream is registered. A listen's stream is here from its first moment, while its
target is still being dialed.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ResourceLimitExceeded, StreamNotFound
from p2pfwd.forwarding import kubo as kubo_pipe
from p2pfwd.forwarding.events import Events
from p2pfwd.forwarding.idle import IdleWatch
from p2pfwd.forwarding.local_sockets import LocalSockets
from p2pfwd.forwarding.looks import Looks
from p2pfwd.forwarding.names import PREFIX
from p2pfwd.forwarding.registry import Listener
from p2pfwd.forwarding.values import ForwardingLimits, StreamInfo
from p2pfwd.net.connmgr import TUNNEL_TAG
from p2pfwd.policy.paths import PathCode
from p2pfwd.policy.shares import Party
from p2pfwd.system.acceptor import Sockaddr
from p2pfwd.system.sockaddrs import multiaddr_of

if TYPE_CHECKING:
    from p2pfwd.forwarding.splice import Splice
    from p2pfwd.net.link.contract import Carrier, DuplexStream
    from p2pfwd.net.swarm import Swarm

PROTECT_TAG: Final = TUNNEL_TAG
RATE_INTERVAL_S: Final = 0.2
"""Snapshots closer together than this show the rate of the one before: less is noise."""

SpliceFactory = Callable[..., "Splice"]
Origin = Sockaddr | None
"""None for a remote origin."""


class StreamEntry:
    """One tunnelled connection. Small: there are thousands."""

    __slots__ = (
        "_mark",
        "_registry",
        "abandon",
        "id",
        "listener",
        "opened_at",
        "origin",
        "party",
        "splice",
        "stream",
    )

    def __init__(
        self,
        registry: StreamRegistry,
        stream_id: int,
        listener: Listener,
        stream: DuplexStream,
        origin: Origin,
        opened_at: float,
        party: Party | None,
    ) -> None:
        self._registry = registry
        self.id = stream_id
        self.listener = listener
        self.stream = stream
        self.origin = origin
        self.party = party  # of a listen: whom the stream counts for
        self.opened_at = opened_at
        self.splice: Splice | None = None
        self.abandon: Callable[[], object] | None = None  # ends the target dial under way
        self._mark: tuple[float, int, int, float, float] | None = None

    def ended(self, splice: Splice) -> None:
        """From the splice, once: both directions are over."""
        self._registry.remove(self)
        self.listener.stream_ended(self.id, splice.error, splice.bytes_in)

    def describe(self) -> str:
        """For log lines."""
        return f"{self.listener.describe()}: stream {self.id} of {self.stream.remote_peer.short()}"

    def info(self, now: float) -> StreamInfo:
        """A snapshot; moves the mark from which the next rate counts."""
        splice, stream, listener = self.splice, self.stream, self.listener
        bytes_in, bytes_out = (splice.bytes_in, splice.bytes_out) if splice is not None else (0, 0)
        at, old_in, old_out, rate_in, rate_out = self._mark or (self.opened_at, 0, 0, 0.0, 0.0)
        elapsed = now - at
        if elapsed >= RATE_INTERVAL_S:
            rate_in, rate_out = (bytes_in - old_in) / elapsed, (bytes_out - old_out) / elapsed
            self._mark = (now, bytes_in, bytes_out, rate_in, rate_out)
        conn, peer = stream.conn, str(stream.remote_peer)
        return StreamInfo(
            id=self.id,
            listener_id=listener.id,
            direction="inbound" if listener.direction == "listen" else "outbound",
            protocol=listener.protocol,
            origin_address=_origin_text(self.origin, peer),
            target_address=str(listener.target_address),
            peer=peer,
            age_s=now - self.opened_at,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            rate_in=rate_in,
            rate_out=rate_out,
            path="relayed" if conn.is_relayed else "direct",
            code=self._registry.code(conn),
            limit_left=conn.limit_left,
            remote_address=str(conn.remote_addr),
            cipher=conn.cipher,
            rtt_s=conn.rtt_s,
            dialing_target=splice is None,
            holds_end=splice is not None and splice.holds_fin,
        )


def _was_used(splice: Splice | None) -> bool:
    """Whether the peer sent something, or at least took what was sent and closed as one does."""
    return splice is not None and bool(splice.bytes_in or (splice.bytes_out and splice.error is None))


def _origin_text(origin: Origin, peer: str) -> str:
    if origin is None:
        return f"/p2p/{peer}"
    if isinstance(origin, tuple):
        return str(multiaddr_of(origin))
    return f"/unix/{origin.lstrip('/') or '@'}"  # clients rarely have a name; Kubo shows them so too


class StreamWatcher(Protocol):
    """Is shown every stream itself, for which nothing is made; costs what it does, and must not raise."""

    def opened(self, entry: StreamEntry) -> None: ...
    def ended(self, entry: StreamEntry) -> None: ...


class StreamRegistry:
    """The only owner of tunnelled connections."""

    def __init__(
        self,
        swarm: Swarm,
        loop: asyncio.AbstractEventLoop,
        events: Events,
        limits: ForwardingLimits,
        make_splice: SpliceFactory,
    ) -> None:
        self.bytes_in = 0  # of streams that have ended
        self.bytes_out = 0
        self.watcher: StreamWatcher | None = None
        self._swarm = swarm
        self._loop = loop
        self._events = events
        self.limits = limits
        self._make_splice = make_splice
        self._entries: dict[int, StreamEntry] = {}
        self._per_peer: dict[PeerId, int] = {}
        self._next_id = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self.idle = IdleWatch(loop, self._entries.values)
        self.looks = Looks(loop)
        self.sockets = LocalSockets(loop, self._entries.values, swarm.limits.is_own, swarm.refusals)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def last_id(self) -> int:
        """Id of the newest stream there ever was; -1 if there was none."""
        return self._next_id - 1

    def admit(self, listener: Listener, peer: PeerId) -> None:
        """Raise ResourceLimitExceeded if one more stream would be too many.

        The shares of a listen's peers are `admission`'s; here strangers leave the last eighth to the
        owner's forwards and peers.
        """
        limits = self.limits
        most, is_listen, held = limits.max_streams, listener.direction == "listen", len(self._entries)
        is_in_reserve = is_listen and held >= most - most // 8
        if held >= most or (is_in_reserve and not self._swarm.limits.is_own(peer)):
            raise ResourceLimitExceeded(f"the limit of {most} streams is reached")
        if is_listen:
            return
        if self._per_peer.get(peer, 0) >= limits.max_streams_per_peer:
            raise ResourceLimitExceeded(
                f"the limit of {limits.max_streams_per_peer} streams with {peer.short()} is reached"
            )
        if listener.live >= limits.max_streams_per_listener:
            raise ResourceLimitExceeded(
                f"the limit of {limits.max_streams_per_listener} streams of one listener is reached"
            )

    def add(
        self, listener: Listener, stream: DuplexStream, origin: Origin, party: Party | None = None
    ) -> StreamEntry:
        """Register a stream that `admit` has let in, for `splice` to connect.

        `party`: whom a listen's stream counts for.
        """
        peer = stream.remote_peer
        entry = StreamEntry(self, self._next_id, listener, stream, origin, time.monotonic(), party)
        self._next_id += 1
        self._entries[entry.id] = entry
        listener.live += 1
        count = self._per_peer.get(peer, 0)
        self._per_peer[peer] = count + 1
        if not count:
            self._swarm.connmgr.protect(peer, PROTECT_TAG)
        self._empty.clear()
        if self.watcher is not None:
            self.watcher.opened(entry)
        self._events.stream("added", lambda: entry.info(time.monotonic()))
        return entry

    def splice(self, entry: StreamEntry, sock: socket.socket) -> None:
        """Connect a registered stream with its socket; the splice owns both from now on."""
        of_peer = self._per_peer.get(entry.stream.remote_peer, 0)
        if not self.sockets.take(sock, entry, of_peer, len(self._entries)):
            sock.close()
            entry.stream.reset()
            self.remove(entry)
            return
        entry.abandon = None
        known = self._swarm.peerstore
        note = known.note_served if entry.listener.direction == "listen" else known.note_forwarded
        note(entry.stream.remote_peer)
        kubo = self._is_kubo(entry)
        # Only a forward's FIN is held: it would cut the reply off. A listen's FIN is the reply's end, and
        # the client behind a Kubo waits for it.
        hold_s = self.limits.kubo_hold_s if kubo and entry.listener.direction == "forward" else None
        entry.splice = splice = self._make_splice(
            entry.listener.carry(entry.stream),
            sock,
            self._swarm.io.poller,
            self._loop,
            entry.ended,
            kubo=kubo,
            hold_s=hold_s,
            looks=self.looks,
        )
        if entry.listener.idle_timeout_s:
            self.idle.watch(entry.listener.idle_timeout_s)
        splice.start()

    def _is_kubo(self, entry: StreamEntry) -> bool:
        """Whether to treat the remote as a Kubo, whose pipe ends both ways at the first FIN."""
        mode = self.limits.kubo_half_close
        if mode != "auto":
            return mode == "on"
        if not entry.listener.protocol.startswith(PREFIX):
            return False
        agent = self._swarm.peerstore.agent(entry.stream.remote_peer)
        return agent is not None and agent.startswith(kubo_pipe.AGENTS)

    def remove(self, entry: StreamEntry) -> None:
        """Take out a stream that has ended, or whose target could not be reached; idempotent."""
        if self._entries.pop(entry.id, None) is None:
            return
        listener, splice, peer = entry.listener, entry.splice, entry.stream.remote_peer
        listener.live -= 1
        if splice is not None:
            listener.bytes_in += splice.bytes_in
            listener.bytes_out += splice.bytes_out
            self.bytes_in += splice.bytes_in
            self.bytes_out += splice.bytes_out
        left = self._per_peer[peer] - 1
        if left:
            self._per_peer[peer] = left
        else:
            del self._per_peer[peer]
            self._swarm.connmgr.unprotect(peer, PROTECT_TAG)
        listener.left(entry.party, used=_was_used(splice))
        if not self._entries:
            self._empty.set()
        if self.watcher is not None:
            self.watcher.ended(entry)
        self._events.stream("removed", lambda: entry.info(time.monotonic()))

    def code(self, conn: Carrier) -> PathCode:
        """Why a stream's connection is the one it is."""
        return self._swarm.paths.code(conn)

    # --- asking -----------------------------------------------------------------------------------

    def snapshot(self) -> list[StreamInfo]:
        """Every live stream, by id."""
        now = time.monotonic()
        return [entry.info(now) for entry in self._entries.values()]

    def live_bytes(self) -> dict[int, tuple[int, int]]:
        """Bytes in and out of the live streams, by listener id."""
        sums: dict[int, tuple[int, int]] = {}
        for entry in self._entries.values():
            if entry.splice is not None:
                bytes_in, bytes_out = sums.get(entry.listener.id, (0, 0))
                sums[entry.listener.id] = (
                    bytes_in + entry.splice.bytes_in,
                    bytes_out + entry.splice.bytes_out,
                )
        return sums

    def splices(self, listener: Listener) -> list[tuple[Splice, DuplexStream]]:
        """Of the live streams of `listener` whose target has answered."""
        entries = [it for it in self._entries.values() if it.listener is listener]
        return [(it.splice, it.stream) for it in entries if it.splice is not None]

    def newest_answered(self, listener: Listener) -> int | None:
        """Id of the newest live stream of `listener` on which the peer has sent something."""
        for entry in reversed(self._entries.values()):
            if entry.listener is listener and entry.splice is not None and entry.splice.bytes_in:
                return entry.id
        return None

    async def wait_empty(self) -> None:
        """Return when no stream is left."""
        await self._empty.wait()

    # --- ending -----------------------------------------------------------------------------------

    def close(self, stream_id: int) -> StreamInfo:
        """Reset one stream, and its local connection. Raises StreamNotFound."""
        entry = self._entries.get(stream_id)
        if entry is None:
            raise StreamNotFound(f"no live stream has id {stream_id}", hint="see `p2pfwd stream ls`")
        return self._close(entry)

    def close_all(self) -> list[StreamInfo]:
        """Reset every stream."""
        return [self._close(entry) for entry in tuple(self._entries.values())]

    def close_where(self, is_meant: Callable[[Listener, PeerId], bool]) -> list[StreamInfo]:
        """Reset the streams for whose listener and peer that is so."""
        meant = [it for it in self._entries.values() if is_meant(it.listener, it.stream.remote_peer)]
        return [self._close(entry) for entry in meant]

    def drop_dialing(self, listener: Listener) -> None:
        """Reset the streams of `listener` whose target has not answered yet."""
        for entry in tuple(self._entries.values()):
            if entry.listener is listener and entry.splice is None:
                self._close(entry)

    def _close(self, entry: StreamEntry) -> StreamInfo:
        info = entry.info(time.monotonic())
        if entry.splice is not None:
            entry.splice.reset()
        else:
            if entry.abandon is not None:
                entry.abandon()
            entry.stream.reset()
            self.remove(entry)
        return info
