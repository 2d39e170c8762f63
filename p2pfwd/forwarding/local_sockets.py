"""What the sockets of tunnels hold in the kernel, whose memory is all programs'.

A peer that opens a thousand downloads and reads none costs a service's send buffer and our receive buffer
each, megabytes for a few hundred bytes of its own. Buffers of our sockets are bounded: on this machine a line
needs little, and who has many tunnels needs less for each. The service's buffer is not ours; so while many
tunnels are open one look a second is taken at the kernel's account, and before it is half used up to its
pressure mark strangers' tunnels that do not move are reset, those of the heaviest network first.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from p2pfwd.policy.networks import crowd
from p2pfwd.system.tcp_memory import TcpMemory, tcp_memory

if TYPE_CHECKING:
    from p2pfwd.core.peer_id import PeerId
    from p2pfwd.forwarding.splice import Splice
    from p2pfwd.net.link.stream import Stream
    from p2pfwd.net.refusals import Refusals

LOOPBACK_RECEIVE_BYTES: Final = 128 * 1024
"""SO_RCVBUF of a service on this machine: more only lets it run ahead, out of the processor's caches."""

MANY: Final = 32
"""Tunnels of one peer from which on each gets small buffers: 20 bulk transfers side by side keep theirs."""

SMALL_BYTES: Final = 64 * 1024
"""SO_RCVBUF and SO_SNDBUF then."""

FEW: Final = 48
"""Tunnels in all with which no look is needed: 150 MB at the worst."""

LOOK_EVERY_S: Final = 1.0

PART: Final = 0.25
"""Of the kernel's pressure mark that may be in use while tunnels stand still."""

STALLED_BYTES: Final = 2 << 20
"""What a tunnel that stands still holds, about: measured 3 MB for a service on loopback, its end included."""


class Tunnel(Protocol):
    """What is asked of a tunnelled connection (`forwarding.streams.StreamEntry`)."""

    id: int
    stream: Stream
    splice: Splice | None


class LocalSockets:
    """Of one forwarding service. `entries` gives the live tunnels, `is_own` spares the owner's peers."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        entries: Callable[[], Iterable[Tunnel]],
        is_own: Callable[[PeerId], bool],
        refusals: Refusals,
        memory: Callable[[], TcpMemory | None] = tcp_memory,
    ) -> None:
        self._loop = loop
        self._entries = entries
        self._is_own = is_own
        self._refusals = refusals
        self._memory = memory
        self._moved: dict[int, tuple[int, int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def take(self, sock: socket.socket, of_peer: int, in_all: int) -> None:
        """A socket begins to serve: one of so many tunnels of its peer, and in all."""
        if sock.family == socket.AF_UNIX:
            return
        with suppress(OSError):  # it has failed already: its splice will find out
            if of_peer > MANY:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
            elif sock.getpeername()[0] in ("127.0.0.1", "::1"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LOOPBACK_RECEIVE_BYTES)
        if in_all > FEW and self._timer is None:
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        self._timer = None
        entries = [entry for entry in self._entries() if entry.splice is not None]
        if len(entries) <= FEW:
            self._moved.clear()
            return
        self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)
        memory = self._memory()
        if memory is None or memory.used <= memory.pressure * PART:
            self._moved.clear()
            return
        before, self._moved = self._moved, {}
        stalled = []
        for entry in entries:
            assert entry.splice is not None
            moved = self._moved[entry.id] = (entry.splice.bytes_in, entry.splice.bytes_out)
            still = entry.splice.is_stalled and before.get(entry.id) == moved
            if still and not self._is_own(entry.stream.remote_peer):
                stalled.append(entry)
        self._reset(stalled, int(memory.used - memory.pressure * PART) // STALLED_BYTES + 1)

    def _reset(self, stalled: list[Tunnel], count: int) -> None:
        """Reset `count` of them, of the networks that have most."""
        crowds = Counter(crowd(entry.stream.conn.remote_addr) for entry in stalled)
        stalled.sort(key=lambda entry: -crowds[crowd(entry.stream.conn.remote_addr)])
        for entry in stalled[:count]:
            peer = entry.stream.remote_peer
            why = "its tunnels that stand still are reset: this machine is short of TCP memory"
            self._refusals.note("tcp-memory", peer, why)
            assert entry.splice is not None
            entry.splice.reset()

    def close(self) -> None:
        """Look no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
