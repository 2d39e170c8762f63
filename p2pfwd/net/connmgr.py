"""Which connections may be made, and which must go: limits for strangers, protection for the useful.

Pure bookkeeping; the swarm obeys. Above the high-water mark idle connections are trimmed to the
low-water mark: protected peers, peers with streams and young connections are spared.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection
from contextlib import contextmanager
from typing import TYPE_CHECKING

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ResourceLimitExceeded
from p2pfwd.net.settings import SwarmSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pfwd.net.link.conn import Conn


class ConnMgr:
    """Counts connections by address and peer, holds protections, chooses what to trim."""

    def __init__(self, settings: SwarmSettings) -> None:
        self._settings = settings
        self._protected: dict[PeerId, set[str]] = {}
        self._pending: Counter[str] = Counter()

    # --- protection -------------------------------------------------------------------------------

    def protect(self, peer_id: PeerId, tag: str) -> None:
        """Never trim this peer's connections while the tag is there."""
        self._protected.setdefault(peer_id, set()).add(tag)

    def unprotect(self, peer_id: PeerId, tag: str) -> None:
        """Take one tag away; nothing if it was not there."""
        tags = self._protected.get(peer_id)
        if tags is not None:
            tags.discard(tag)
            if not tags:
                del self._protected[peer_id]

    def is_protected(self, peer_id: PeerId) -> bool:
        """Whether any tag is there."""
        return peer_id in self._protected

    # --- admission --------------------------------------------------------------------------------

    @contextmanager
    def pending_inbound(self, remote: Multiaddr, conns: Collection[Conn]) -> Iterator[None]:
        """Admit a stranger's connection for the time of its handshake.

        Raises ResourceLimitExceeded: close it at once, before any byte.
        """
        settings, ip = self._settings, counted_ip(remote)
        if self._pending.total() >= settings.max_pending_inbound:
            raise ResourceLimitExceeded(f"{settings.max_pending_inbound} handshakes are under way")
        if len(conns) + self._pending.total() >= settings.max_connections:
            raise ResourceLimitExceeded(f"there are {settings.max_connections} connections")
        if ip is not None:
            if self._pending[ip] >= settings.max_pending_inbound_per_ip:
                raise ResourceLimitExceeded(f"{self._pending[ip]} handshakes are under way with {ip}")
            same = sum(1 for c in conns if c.direction == "inbound" and counted_ip(c.remote_addr) == ip)
            if same >= settings.max_connections_per_ip:
                raise ResourceLimitExceeded(f"there are {same} connections from {ip}")
        key = ip or ""
        self._pending[key] += 1
        try:
            yield
        finally:
            self._pending[key] -= 1
            if not self._pending[key]:
                del self._pending[key]

    # --- trimming ---------------------------------------------------------------------------------

    def to_trim(self, conns: Collection[Conn], now: float) -> list[Conn]:
        """The connections to close, the longest idle first."""
        settings = self._settings
        if len(conns) <= settings.high_water:
            return []
        idle = [
            conn
            for conn in conns
            if not conn.streams
            and not self.is_protected(conn.remote_peer)
            and now - conn.opened_at > settings.grace_s
        ]
        idle.sort(key=lambda conn: (conn.direction == "outbound", conn.opened_at))
        return idle[: len(conns) - settings.low_water]


def counted_ip(addr: Multiaddr) -> str | None:
    """The IP a limit counts: None for loopback, a /64 for IPv6 (one household has one)."""
    endpoint = tcp_endpoint(addr)
    if endpoint is None or address_class(addr) is AddressClass.LOOPBACK:
        return None
    if endpoint.family == "ip6":
        return str(ipaddress.IPv6Network((endpoint.host, 64), strict=False))
    return endpoint.host
