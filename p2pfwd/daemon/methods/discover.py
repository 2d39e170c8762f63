"""Who is near: mDNS as the network and the settings want it, and `swarm.discover` (p2pfwd-rpc(7)).

Rules: looking around connects to who is found, at the addresses told on the segment alone, to learn what it
is and whether it takes tunnels; a connection made for that is closed again unless somebody uses it by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from p2pfwd.errors import NotFound, P2PForwardError
from p2pfwd.host.routing import ANSWER_WAIT_S, MdnsSource
from p2pfwd.protocols import mdns
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.server import CallContext, Handler
from p2pfwd.rpc.time_limit import MAX_DISCOVER_S, check_timeout
from p2pfwd.wire.mdns_pace import ASK_REST_S

if TYPE_CHECKING:
    from p2pfwd.core.multiaddrs import Multiaddr
    from p2pfwd.core.peer_id import PeerId
    from p2pfwd.host.host import Host
    from p2pfwd.host.routing import Routing
    from p2pfwd.net.link.contract import Link

TUNNELS: Final = "/x/"
"""Below this are the names of tunnels: who takes any lists it, or a name below it."""

MAX_LOOKED_AT: Final = 64
"""Peers of one call that are connected to; the rest is told as it was heard."""

JOIN_S: Final = ASK_REST_S + 0.5
"""How long a network that has just come up is waited for: each question looks at the interfaces first."""

AT_A_TIME: Final = 8
"""Peers that are connected to at the same time."""


class Near:
    """mDNS of one daemon, where it is wanted; `start` begins, `close` ends."""

    def __init__(self, host: Host, routing: Routing, *, enabled: bool) -> None:
        self._host = host
        self._mdns: mdns.Mdns | None = None
        if enabled:
            self._mdns = mdns.Mdns(host.swarm)
            routing.add(MdnsSource(self._mdns))

    def start(self) -> None:
        """Join, ask and answer from now on."""
        if self._mdns is not None:
            self._mdns.start()

    def close(self) -> None:
        """Take leave. Idempotent."""
        if self._mdns is not None:
            self._mdns.close()

    def peers(self) -> Mapping[PeerId, Sequence[Multiaddr]]:
        """Who is near, and where; nobody where mDNS is off."""
        return self._mdns.peers() if self._mdns is not None else {}

    def on_found(self, callback: Callable[[PeerId], None]) -> None:
        """Be told of everybody who is found near."""
        if self._mdns is not None:
            self._mdns.on_found(callback)

    def table(self) -> Mapping[str, Handler]:
        """Method name -> coroutine function."""
        return {"swarm.discover": self.discover}

    async def discover(self, context: CallContext, params: s.DiscoverParams) -> s.DiscoverResult:
        """Who is on the local network. Raises NotFound where mDNS is off or there is no network."""
        check_timeout(params.timeout_s, MAX_DISCOVER_S)
        if self._mdns is None:
            raise NotFound(
                "looking around in the local network is off in this daemon",
                hint="see discovery.mdns in p2pfwd-daemon(8)",
            )
        self._mdns.ask()
        try:
            async with asyncio.timeout(JOIN_S):
                await self._mdns.joined.wait()
        except TimeoutError:
            raise NotFound(
                "this node is on no local network",
                hint="it listens on no private address of one; see `p2pfwd swarm addrs`",
            ) from None
        return s.DiscoverResult(await _Look(self._host, self._mdns).around(params.timeout_s))


class _Look:
    """One look around."""

    def __init__(self, host: Host, service: mdns.Mdns) -> None:
        self._swarm = host.swarm
        self._mdns = service
        self._slots = asyncio.Semaphore(AT_A_TIME)
        self._looks: dict[PeerId, asyncio.Task[s.NearPeer]] = {}

    async def around(self, timeout_s: float) -> tuple[s.NearPeer, ...]:
        """Every peer that is heard, with what it says of itself as far as it does in time."""
        now = asyncio.get_running_loop().time()
        unfollow = self._mdns.on_found(self._begin)
        try:
            for peer_id in self._mdns.peers():
                self._begin(peer_id)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(timeout_s, ANSWER_WAIT_S)):
                    await asyncio.Event().wait()  # others answer meanwhile
            unfinished = [look for look in self._looks.values() if not look.done()]
            if unfinished:
                rest_s = now + timeout_s - asyncio.get_running_loop().time()
                await asyncio.wait(unfinished, timeout=max(0.0, rest_s))
        finally:
            unfollow()
            for look in self._looks.values():
                look.cancel()
            await asyncio.gather(*self._looks.values(), return_exceptions=True)
        return tuple(self._outcome(peer_id, addrs) for peer_id, addrs in self._mdns.peers().items())

    def _begin(self, peer_id: PeerId) -> None:
        if peer_id not in self._looks and len(self._looks) < MAX_LOOKED_AT:
            self._looks[peer_id] = asyncio.create_task(self._look(peer_id))

    def _outcome(self, peer_id: PeerId, addrs: tuple[Multiaddr, ...]) -> s.NearPeer:
        look = self._looks.get(peer_id)
        if look is None or look.cancelled():
            reason = "it did not answer in time" if look else "too many peers are near"
            return _unknown(peer_id, addrs, reason)
        return look.result()

    async def _look(self, peer_id: PeerId) -> s.NearPeer:
        async with self._slots:
            addrs = self._mdns.peers().get(peer_id, ())
            there = bool(self._swarm.conns(peer_id))
            if not (addrs or there):
                return _unknown(peer_id, addrs, "it told no address that can be dialed from here")
            try:
                conn = await self._swarm.connect(peer_id, addrs, only=True, force=True)
            except P2PForwardError as exc:
                return _unknown(peer_id, addrs, exc.message)
            try:
                await asyncio.wait([conn.identified])
                agent = self._swarm.peerstore.agent(peer_id)
                protocols = self._swarm.peerstore.protocols(peer_id)
            finally:
                if not there:
                    self._let_go(conn)
        takes = any(name.startswith(TUNNELS) for name in protocols)
        return s.NearPeer(
            peer=str(peer_id),
            addresses=_full(peer_id, addrs),
            source=mdns.SOURCE,
            agent_version=agent,
            tunnels=takes if protocols else None,
            reason=None if protocols else "it does not say what it is",
        )

    def _let_go(self, conn: Link) -> None:
        used = conn.streams or self._swarm.connmgr.is_protected(conn.remote_peer)
        if not used and conn.direction == "outbound":
            self._swarm.spawn(conn.close(), "close after a look")


def _unknown(peer_id: PeerId, addrs: tuple[Multiaddr, ...], reason: str) -> s.NearPeer:
    return s.NearPeer(str(peer_id), _full(peer_id, addrs), mdns.SOURCE, None, None, reason)


def _full(peer_id: PeerId, addrs: tuple[Multiaddr, ...]) -> tuple[str, ...]:
    return tuple(str(addr.with_peer_id(peer_id)) for addr in addrs)
