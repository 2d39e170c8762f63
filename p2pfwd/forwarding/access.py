"""Who may use the listens of one node, at work: asked for every stream, before its name is confirmed.

Rules: to ask costs a look-up in a dictionary. What is denied is written down a moment later, so that the
answer to a stranger takes no longer than for a name that does not exist, and the same question asked twice in
one negotiation counts once.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.forwarding.requests import Requests
from p2pfwd.policy.access import Access
from p2pfwd.policy.shares import Party

if TYPE_CHECKING:
    from p2pfwd.net.link.contract import Link
    from p2pfwd.net.swarm import Swarm

LATER_S: Final = 0.05
"""After a denial, before it is written down: longer than its answer takes to be sent."""

MAX_UNWRITTEN: Final = 1024
"""Denials that wait for it, by peer and name; more are counted only."""


class ListenAccess:
    """Of one node; `rules` are set by `Forwarding.set_access`."""

    def __init__(self, swarm: Swarm, loop: asyncio.AbstractEventLoop) -> None:
        self.rules = Access()
        self.requests = Requests(loop.time)
        self._swarm = swarm
        self._loop = loop
        self._denied: dict[tuple[PeerId, str], None] = {}
        self._left: dict[PeerId, Link] = {}  # of the peers in it those that are gone, by the last connection
        self._uncounted = 0
        self._timer: asyncio.TimerHandle | None = None
        self.on_denied: Callable[[Party, str, bool], None] = lambda _party, _protocol, _asks: None
        """Told who was denied what, and whether no rule of the owner's says so about this peer."""

    def admits(self, peer: PeerId, protocol: str) -> bool:
        """Whether a stream of this listen is the peer's to open; a denial is written down."""
        if self.rules.admits(peer, protocol):
            return True
        if len(self._denied) < MAX_UNWRITTEN:
            self._denied[peer, protocol] = None
        else:
            self._uncounted += 1
        if self._timer is None:
            self._timer = self._loop.call_later(LATER_S, self._write_down)
        return False

    def is_known(self, peer: PeerId, protocol: str) -> bool:
        """Whether the owner knows that it asks in vain: it is listed, or he has denied it by its ID."""
        return self.requests.has(peer, protocol) or self.rules.is_denied(peer, protocol)

    def disconnected(self, conn: Link) -> None:
        """A peer that leaves before its denials are written down counts for its network all the same."""
        if any(peer == conn.remote_peer for peer, _ in self._denied):
            self._left[conn.remote_peer] = conn

    def _write_down(self) -> None:
        self._timer = None
        denied, self._denied = self._denied, {}
        left, self._left = self._left, {}
        more, self._uncounted = self._uncounted, 0
        refusals = self._swarm.refusals
        for peer, protocol in denied:
            line = shlex.join(("p2pfwd", "allow", protocol, str(peer)))
            refusals.note("tunnel-denied", peer, f"denied {protocol}; to let it in: {line}")
            conn = next(iter(self._swarm.conns(peer)), None) or left.get(peer)
            party = Party(peer) if conn is None else self._swarm.services.party(conn)
            asks = not self.rules.is_denied(peer, protocol)
            if conn is not None and asks:
                self.requests.note(party, protocol, str(conn.remote_addr))
            self.on_denied(party, protocol, asks)
        if more:
            refusals.note("tunnel-denied", "many peers", "denied tunnels faster than they are listed", more)

    def settle(self) -> None:
        """The rules have changed: forget the requests that they answer."""
        rules = self.rules
        self.requests.forget(
            lambda peer, protocol: rules.admits(peer, protocol) or rules.is_denied(peer, protocol)
        )

    def close(self) -> None:
        """Write nothing down any more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
