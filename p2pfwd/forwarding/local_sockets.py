"""What the sockets of tunnels hold in the kernel, whose memory is all programs'.

A peer that opens a thousand downloads and reads none costs a service's send buffer and our receive buffer
each, megabytes for a few hundred bytes of its own. So who has many tunnels gets small buffers on our side;
left to themselves they take 4 MB of what a service, or a peer, does not read. The service's buffer is not
ours: while many tunnels are open the kernel's account is looked at. When it is a good part of its pressure
mark, strangers' tunnels that have stood still for a while are reset, those of the heaviest network first,
which then gets no new ones for a moment. The fuller the account, the shorter the while. A thousand services
fill their buffers faster than anybody can look: a network of which many tunnels stand still connects slowly.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from p2pfwd.system.tcp_memory import TcpMemory, tcp_memory

if TYPE_CHECKING:
    from p2pfwd.core.peer_id import PeerId
    from p2pfwd.forwarding.splice import Splice
    from p2pfwd.net.link.contract import DuplexStream
    from p2pfwd.net.refusals import Refusals

MANY: Final = 24
"""Tunnels of one peer from which on each gets small buffers: 20 bulk transfers side by side keep theirs, for
bounded ones cost a bulk download a third of its speed (128 KiB: 2.2 s of processor a GB instead of 1.6)."""

MANY_IN_ALL: Final = 128
"""The same for those of all peers."""

SMALL_BYTES: Final = 64 * 1024
"""SO_RCVBUF and SO_SNDBUF then."""

FEW: Final = 48
"""Tunnels in all with which no look is needed: 150 MB at the worst."""

LOOK_EVERY_S: Final = 0.1
"""A flood of downloads fills a gigabyte in a second; a look costs a twentieth of a millisecond."""

PATIENCE: Final = ((0.3, 0.2), (0.2, 2.0), (0.1, 10.0))
"""From which part of the kernel's pressure mark on a tunnel may stand still for how many seconds. Beyond the
mark the kernel cuts the buffers of every socket of the machine."""

LET_IN: Final = 4
"""Tunnels connected between two looks, of a network with more than `FEW` that stand still: 150 MB/s."""

UNIX_STANDING: Final = 256
"""So many tunnels to Unix sockets may stand still for `UNIX_PATIENCE_S`, 50 MB: what waits lies in the send
buffer of the service (208 KiB unless the system was told otherwise), which nobody else can make smaller."""

UNIX_PATIENCE_S: Final = 2.0
"""As at the TCP memory's second step."""

_STOOD: Final = "its tunnels that stand still are reset"

COUNTED_S: Final = 0.02
"""How long the count of those that stand still is used: of a thousand it costs a millisecond."""

MOVES_BYTES: Final = 16 * 1024
"""Less than this within its time is no motion: a reader of a byte a second holds as much as one of none."""

STALLED_BYTES: Final = 2 << 20
"""What a tunnel that stands still holds, about: measured 3 MB for a service on loopback, its end included."""

PENALTY_S: Final = 10.0
"""For how long a network whose tunnels were reset gets no new ones."""

MAX_PENALTIES: Final = 1024
"""Networks remembered; more would mean that the account is full of single tunnels."""


class Tunnel(Protocol):
    """What is asked of a tunnelled connection (`forwarding.streams.StreamEntry`)."""

    id: int
    stream: DuplexStream
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
        self._moved: dict[int, tuple[int, float]] = {}
        """By tunnel: how many bytes it had moved when it was last seen to move, and when that was."""
        self._unix: set[int] = set()
        """Tunnels to Unix sockets, some of them over by now."""
        self._penalties: dict[str, float] = {}
        self._waiting: dict[int, tuple[Tunnel, Callable[[], None]]] = {}
        """By tunnel, the first to come first: who waits for its turn to be connected; what to call then."""
        self._let_in: Counter[str] = Counter()
        """By network: how many have been connected since the last look though many stood still."""
        self._stand_still: Counter[str] = Counter()
        self._counted_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def connect(self, tunnel: Tunnel, in_all: int, connect: Callable[[], None]) -> bool:
        """Call `connect`, which connects the tunnel to its service: at once (True), or in its turn.

        `in_all`: so many tunnels there are. `leave` ends the waiting.
        """
        if in_all <= FEW or self._may_connect(tunnel):
            connect()
            return True
        self._waiting[tunnel.id] = tunnel, connect
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)
        return False

    def leave(self, tunnel: Tunnel) -> None:
        """It does not wait any more. Idempotent."""
        self._waiting.pop(tunnel.id, None)

    def _may_connect(self, tunnel: Tunnel) -> bool:
        now, network = self._loop.time(), tunnel.stream.conn.crowd
        if now - self._counted_at > COUNTED_S:
            self._counted_at = now
            self._stand_still = Counter(
                one.stream.conn.crowd
                for one in self._entries()
                if one.splice is not None and one.splice.is_stalled
            )
        if self._stand_still[network] <= FEW or self._is_own(tunnel.stream.remote_peer):
            return True
        self._let_in[network] += 1
        return self._let_in[network] <= LET_IN

    def _connect_waiting(self) -> None:
        """Those whose turn has come, of each network the first."""
        self._let_in.clear()
        for tunnel, connect in tuple(self._waiting.values()):
            is_full = self._let_in[tunnel.stream.conn.crowd] >= LET_IN
            if is_full or tunnel.id not in self._waiting or not self._may_connect(tunnel):
                continue
            del self._waiting[tunnel.id]
            connect()

    def take(self, sock: socket.socket, tunnel: Tunnel, of_peer: int, in_all: int) -> bool:
        """A socket is to serve a tunnel, one of so many of its peer, and in all; False: refuse it."""
        if self._penalties and self._is_out(tunnel):
            return False
        if in_all <= FEW and of_peer <= MANY:  # the rest is slow, and for few
            return True
        is_unix = sock.family == socket.AF_UNIX
        if not is_unix and (of_peer > MANY or in_all > MANY_IN_ALL):
            with suppress(OSError):  # it has failed already: its splice will find out
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
        if in_all > FEW:  # else nobody looks
            if is_unix:
                self._unix.add(tunnel.id)
            if self._timer is None:
                self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)
        return True

    def _is_out(self, tunnel: Tunnel) -> bool:
        now = self._loop.time()
        self._penalties = {network: until for network, until in self._penalties.items() if until > now}
        if tunnel.stream.conn.crowd not in self._penalties:
            return False
        peer = tunnel.stream.remote_peer
        if self._is_own(peer):
            return False
        self._refusals.note("tcp-memory", peer, "a tunnel is refused: others of its network stood still")
        return True

    def _look(self) -> None:
        self._timer = None
        self._connect_waiting()
        tunnels = [tunnel for tunnel in self._entries() if tunnel.splice is not None]
        if len(tunnels) <= FEW and not self._waiting:
            self._moved.clear()
            self._unix.clear()
            return
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)
        memory = self._memory()
        is_short = memory is not None and memory.used > memory.pressure * PATIENCE[-1][0]
        self._unix.intersection_update(tunnel.id for tunnel in tunnels)
        if not is_short and len(self._unix) <= UNIX_STANDING:
            self._moved.clear()
            return
        still = self._standing_still(tunnels)
        unix = [one for one, for_s in still if one.id in self._unix and for_s >= UNIX_PATIENCE_S]
        if len(unix) > UNIX_STANDING:
            for tunnel in _of_the_heaviest(unix, len(unix) - UNIX_STANDING):
                _reset(tunnel)
                what = f"{_STOOD}: too many to Unix sockets do"
                self._refusals.note("unix-memory", tunnel.stream.remote_peer, what)
        if memory is not None and is_short:
            part, patience_s = next(step for step in PATIENCE if memory.used > memory.pressure * step[0])
            tcp = [one for one, for_s in still if one.id not in self._unix and for_s >= patience_s]
            until = self._loop.time() + PENALTY_S
            count = int(memory.used - memory.pressure * part) // STALLED_BYTES + 1
            for tunnel in _of_the_heaviest(tcp, count):
                _reset(tunnel)
                what = f"{_STOOD}: this machine is short of TCP memory"
                self._refusals.note("tcp-memory", tunnel.stream.remote_peer, what)
                if len(self._penalties) < MAX_PENALTIES:
                    self._penalties[tunnel.stream.conn.crowd] = until

    def _standing_still(self, tunnels: list[Tunnel]) -> list[tuple[Tunnel, float]]:
        """Strangers' tunnels that stand still, and for how long they have."""
        now, before, self._moved = self._loop.time(), self._moved, {}
        still = []
        for tunnel in tunnels:
            splice = tunnel.splice
            assert splice is not None
            moved = splice.bytes_in + splice.bytes_out
            was, since = before.get(tunnel.id, (moved, now))
            if moved - was >= MOVES_BYTES or not splice.is_stalled:
                was, since = moved, now
            self._moved[tunnel.id] = was, since
            if splice.is_stalled and not self._is_own(tunnel.stream.remote_peer):
                still.append((tunnel, now - since))
        return still

    def close(self) -> None:
        """Look no more. Idempotent."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _reset(tunnel: Tunnel) -> None:
    assert tunnel.splice is not None
    tunnel.splice.reset()


def _of_the_heaviest(tunnels: list[Tunnel], count: int) -> list[Tunnel]:
    """`count` of them, of the networks that have most."""
    crowds = Counter(tunnel.stream.conn.crowd for tunnel in tunnels)
    return sorted(tunnels, key=lambda tunnel: -crowds[tunnel.stream.conn.crowd])[:count]
