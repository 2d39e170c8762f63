"""The way to each peer: direct or over a relay, why, and who waits for a better one.

`protocols.hole_punch` makes ways better, and notes here what came of it. What is noted lasts as long as the
peer is connected.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final
from weakref import WeakSet

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import NoDirectPath, P2PForwardError, TimedOut
from p2pfwd.net.connections import Connections
from p2pfwd.net.link.contract import Carrier, Link
from p2pfwd.net.transport.contract import Gate, HoldsMeetings, Meeting, Transport
from p2pfwd.policy import punching
from p2pfwd.policy.paths import PathCode

log = logging.getLogger("p2pfwd.net")

Changed = Callable[[PeerId, PathCode], None]

WAIT_S: Final = 20.0
"""For a direct connection, where nothing else will do: three tries on a slow line."""


class Paths:
    """Of one swarm. `gate` takes the connections that come up."""

    def __init__(self, connections: Connections, transports: Sequence[Transport], gate: Gate) -> None:
        self._connections = connections
        self._places = [one for one in transports if isinstance(one, HoldsMeetings)]
        self._gate = gate
        self._loop = asyncio.get_running_loop()
        self._codes: dict[PeerId, PathCode] = {}
        self._settled: set[PeerId] = set()
        """No direct connection is being tried, or will be soon."""
        self._meeting: Counter[PeerId] = Counter()
        """Meetings under way: both sides may lead at once, each over a circuit of its own."""
        self._punched: WeakSet[Carrier] = WeakSet()
        self._waiters: dict[PeerId, set[asyncio.Future[None]]] = {}
        self._callbacks: list[Changed] = []
        connections.on_connected(self._connected)
        connections.on_disconnected(self._disconnected)

    def on_change(self, callback: Changed) -> None:
        """Be told, soon after, when a peer's way is over a relay, why, and when no longer."""
        self._callbacks.append(callback)

    # --- what is known ----------------------------------------------------------------------------

    def code(self, conn: Carrier) -> PathCode:
        """Of one connection."""
        if not conn.is_relayed:
            return PathCode.PUNCHED if conn in self._punched else PathCode.DIRECT
        return self._codes.get(conn.remote_peer, PathCode.RELAYED)

    def direct(self, peer_id: PeerId) -> Link | None:
        """A usable direct connection."""
        found = self._connections.usable(peer_id)  # direct ones come first
        return found if found is not None and not found.is_relayed else None

    def circuits(self, peer_id: PeerId) -> list[Link]:
        """The connections over relays."""
        return [conn for conn in self._connections.of(peer_id) if conn.is_relayed and conn.can_open]

    def is_by_a_hole(self, conn: Carrier) -> bool:
        """Of one that comes up now: whether a dial of this node alone would not have made it.

        Its address is not to be dialed plainly, either: that opens this node's router for the peer's SYN of
        the next hole, which then finds a listener instead of a dial (`policy.punching.lead_s`).
        """
        return conn.remote_peer in self._meeting and punching.is_public(conn.remote_addr)

    def note(self, peer_id: PeerId, code: PathCode, *, settled: bool = False) -> None:
        """Why the peer's connections over relays are not replaced; `settled`: and will not be soon."""
        if not self._connections.of(peer_id):
            return
        if settled:
            self._settled.add(peer_id)
            self._wake(peer_id)
        else:
            self._settled.discard(peer_id)
        if self._codes.get(peer_id, PathCode.RELAYED) is not code:
            self._codes[peer_id] = code
            log.info("the way to %s: %s", peer_id, code.words)
            if self.direct(peer_id) is None:
                self._loop.call_soon(self._tell, peer_id, code)

    def _tell(self, peer_id: PeerId, code: PathCode) -> None:
        for callback in tuple(self._callbacks):
            callback(peer_id, code)

    def _connected(self, conn: Link) -> None:
        peer_id = conn.remote_peer
        if conn.is_relayed:
            self._settled.discard(peer_id)
        elif peer_id in self._meeting:
            self._punched.add(conn)
        conns = self._connections.of(peer_id)
        if conns[0] is conn and (conn.is_relayed or conns[-1].is_relayed):
            self._loop.call_soon(self._tell, peer_id, self.code(conn))
        self._wake(peer_id)

    def _disconnected(self, conn: Link) -> None:
        peer_id = conn.remote_peer
        left = self._connections.of(peer_id)
        if not left:
            self._codes.pop(peer_id, None)
            self._settled.discard(peer_id)
        elif not conn.is_relayed and left[0].is_relayed:
            self._codes.pop(peer_id, None)
            self._settled.discard(peer_id)
            self._loop.call_soon(self._tell, peer_id, PathCode.RELAYED)
        self._wake(peer_id)

    # --- waiting for a direct one -----------------------------------------------------------------

    async def wait_direct(self, peer_id: PeerId, timeout_s: float) -> Link:
        """A direct connection, once there is one. Raises NoDirectPath with the reason why there is none."""
        end = self._loop.time() + min(timeout_s, WAIT_S)
        while (conn := self.direct(peer_id)) is None:
            left_s = end - self._loop.time()
            if left_s <= 0 or peer_id in self._settled or not self._connections.of(peer_id):
                raise self._no_direct_path(peer_id)
            await self._news(peer_id, left_s)
        return conn

    def _no_direct_path(self, peer_id: PeerId) -> NoDirectPath:
        code = self._codes.get(peer_id, PathCode.RELAYED)
        return NoDirectPath(f"no direct connection to {peer_id}: {code.words}", path=code.value)

    async def _news(self, peer_id: PeerId, timeout_s: float) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        waiters = self._waiters.setdefault(peer_id, set())
        waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout_s)
        finally:
            waiters.discard(waiter)
            if not waiters:
                self._waiters.pop(peer_id, None)

    def _wake(self, peer_id: PeerId) -> None:
        for waiter in self._waiters.get(peer_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    # --- making one -------------------------------------------------------------------------------

    async def meet(self, addrs: Sequence[Multiaddr], meeting: Meeting) -> Link:
        """Dial the peer at all addresses at once, while it dials this node; the first that answers.

        Raises TimedOut at the end of the meeting.
        """
        peer_id = meeting.peer_id
        knocks: list[asyncio.Task[None]] = []
        self._meeting[peer_id] += 1
        with ExitStack() as stack:
            for place in self._places:
                stack.callback(place.expect(addrs, meeting))
            for addr in addrs:
                knocks.append(self._loop.create_task(self._knock(addr, meeting)))
            try:
                while (conn := self.direct(peer_id)) is None:
                    left_s = meeting.until - self._loop.time()
                    if left_s <= 0:
                        raise TimedOut(f"{peer_id} was not met by dialing at the same time")
                    await self._news(peer_id, left_s)
                return conn
            finally:
                self._meeting[peer_id] -= 1
                self._meeting += Counter()  # without those that are over
                for knock in knocks:
                    knock.cancel()
                await asyncio.gather(*knocks, return_exceptions=True)

    async def _knock(self, addr: Multiaddr, meeting: Meeting) -> None:
        await asyncio.sleep(meeting.begin - self._loop.time())
        try:
            for place in self._places:
                if place.why_not(addr) is None:
                    await place.knock(addr, meeting, self._gate)
                    return
        except (OSError, P2PForwardError) as exc:
            log.debug("no knock at %s: %s", addr, exc)
