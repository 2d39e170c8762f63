"""The RPC's methods on named and kept peers: `peer.add`, `peer.rm`, `peer.ls` (p2pfwd-rpc(7))."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

from p2pfwd.daemon import notices
from p2pfwd.policy.dial_schedule import KeptStatus, Priority
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.server import CallContext, Handler

if TYPE_CHECKING:
    from p2pfwd.core.multiaddrs import Multiaddr
    from p2pfwd.core.peer_id import PeerId
    from p2pfwd.daemon.peering import Peering
    from p2pfwd.peers.named import NamedPeer


class PeerMethods:
    """Methods of one daemon."""

    def __init__(self, peering: Peering) -> None:
        self._peering = peering

    def table(self) -> Mapping[str, Handler]:
        """Method name -> coroutine function."""
        return {"peer.add": self.add, "peer.rm": self.rm, "peer.ls": self.ls}

    async def add(self, context: CallContext, params: s.PeerAddParams) -> s.PeerAddResult:
        """Name a peer, or change a named one. Raises PeerExists, InvalidPeerId, StorageFailed."""
        named, replaced = await self._peering.add(params.name, params.peers, params.keep)
        told = tuple(notices.of_peer_addresses(named.addrs, self._peering.swarm.why_not))
        return s.PeerAddResult(self._view(named), replaced is not None, told)

    async def rm(self, context: CallContext, params: s.PeerRmParams) -> s.PeerRmResult:
        """Forget a name, and the owner's word for its peer. Raises as `Peering.remove`."""
        removed = await self._peering.remove(params.name)
        is_own = self._peering.swarm.peerstore.is_chosen(removed.peer_id)
        return s.PeerRmResult(self._view(removed), still_own=is_own)

    async def ls(self, context: CallContext, params: s.PeerLsParams) -> s.PeerLsResult:
        """The named peers; with `all` also those kept for another reason."""
        peering = self._peering
        named = peering.names.all()
        shown = [self._view(entry) for entry in named]
        if params.all:
            known = {entry.peer_id for entry in named}
            for status in peering.keeper.statuses():
                if status.peer_id not in known:
                    addrs = peering.swarm.peerstore.pinned(status.peer_id)
                    shown.append(self._kept_view("", status.peer_id, addrs, status))
        return s.PeerLsResult(tuple(shown))

    def _view(self, named: NamedPeer) -> s.NamedPeer:
        status = self._peering.keeper.status(named.peer_id)
        return self._kept_view(named.name, named.peer_id, named.addrs, status)

    def _kept_view(
        self,
        name: str,
        peer_id: PeerId,
        addrs: list[Multiaddr] | tuple[Multiaddr, ...],
        status: KeptStatus | None,
    ) -> s.NamedPeer:
        now, conns = time.monotonic(), self._peering.swarm.conns(peer_id)
        tried_at = status.tried_at if status is not None else None
        next_try_at = status.next_try_at if status is not None else None
        return s.NamedPeer(
            name=name,
            peer=str(peer_id),
            addresses=tuple(map(str, addrs)),
            kept=_kept(status),
            state=_state(status, bool(conns)),
            remote_address=str(conns[0].remote_addr) if conns else None,
            last_outcome=status.outcome if status is not None else None,
            last_try_s=max(0.0, now - tried_at) if tried_at is not None else None,
            next_try_s=max(0.0, next_try_at - now) if next_try_at is not None else None,
            failures=status.failures if status is not None and status.state != "connected" else 0,
        )


_KEPT: Final[dict[Priority, Literal["static", "relay", "forward", "bootstrap"]]] = {
    Priority.STATIC: "static",
    Priority.RELAY: "relay",
    Priority.FORWARD: "forward",
    Priority.BOOTSTRAP: "bootstrap",
    Priority.LISTED: "bootstrap",
}


def _kept(status: KeptStatus | None) -> Literal["static", "relay", "forward", "bootstrap"] | None:
    return None if status is None else _KEPT[status.priority]


def _state(
    status: KeptStatus | None, connected: bool
) -> Literal["connected", "dialing", "waiting", "not-connected"]:
    if connected:
        return "connected"
    return status.state if status is not None else "not-connected"
