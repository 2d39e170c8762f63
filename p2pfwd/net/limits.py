"""What strangers may hold of this node in all, and who gives way when it is too much.

Rules: the numbers are node-wide, declared here or beside what they measure (`wire.yamux.window`: memory and
streams; `wire.yamux.work`, `net.lanes`, `net.link.intake`: work); a limit is asked before the byte, the slot
or the descriptor is taken. What is full gives way, and never to nobody: the network (policy.networks) that
holds most loses first, in it the connection that holds most, in that its heaviest stream. The owner's peers
are spared while another is left.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ResourceLimitExceeded
from p2pfwd.net.lanes import Lanes
from p2pfwd.net.refusals import Refusals
from p2pfwd.wire.yamux.window import Ledger

RELIEF: Final = 0.875
"""How far a full account is emptied: making room byte by byte would cost a search for each read."""

MAX_VICTIMS: Final = 64
"""Streams or connections that one relief ends: at least one for each read that went over."""

STREAMS_AT_ONCE: Final = 64
"""Streams that a victim loses at once."""

class Holder(Protocol):
    """What is asked of a connection; see `net.link.holdings`."""

    remote_peer: PeerId
    remote_addr: Multiaddr
    crowd: str
    """Its network, as `policy.networks.crowd`."""
    abort: Callable[[Exception], None]

    @property
    def held_bytes(self) -> int: ...
    @property
    def streams(self) -> int: ...
    def shed_bytes(self) -> None: ...
    def shed_streams(self, count: int) -> None: ...
    def offended(self) -> None: ...


class Limits:
    """Of one node. `holders` and `is_own` (the owner's peers) are set by the swarm, who knows."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        refusals: Refusals | None = None,
        moves: Callable[[], int] = lambda: 0,
        kept_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        """`moves`: see `Lane`. `kept_bytes`: held outside of the sessions, by all conduits."""
        self.ledger = Ledger()
        self.lanes = Lanes(loop, moves)
        self.holders: Callable[[], Iterable[Holder]] = tuple
        self.is_own: Callable[[PeerId], bool] = lambda _peer: False
        self.stirred: Callable[[], None] = lambda: None
        """Called when much was held, or much was done: memory may be given back later."""
        self._refusals = refusals or Refusals()
        self._kept_bytes = kept_bytes

    # --- work -------------------------------------------------------------------------------------

    def flooded(self, holder: Holder, must_go: bool) -> None:
        """A peer sends much that is of no use: it is slowed, or `must_go`."""
        peer = holder.remote_peer
        self.stirred()
        if not must_go:
            what = f"{holder.remote_addr} is slowed: it sends too much that is of no use"
            self._refusals.note("flood-slowed", peer, what)
            return
        if self.is_own(peer):
            return
        self._refusals.note("flood-dropped", peer, f"{holder.remote_addr} is dropped: it went on")
        holder.abort(ResourceLimitExceeded("the peer sent too much that is of no use"))

    # --- memory and streams -----------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """What all connections hold."""
        return self.ledger.used + self._kept_bytes()

    @property
    def is_over(self) -> bool:
        """Whether somebody must give way; asked after every read."""
        ledger = self.ledger
        return self.used_bytes > ledger.total or ledger.streams > ledger.max_streams

    def relieve(self) -> None:
        """Make room: whoever holds most gives way."""
        ledger = self.ledger
        self.stirred()
        if self.used_bytes > ledger.total:
            self._shed(
                "memory",
                lambda: self.used_bytes > ledger.total * RELIEF,
                lambda holder: holder.held_bytes,
                lambda holder: holder.shed_bytes(),
            )
        if ledger.streams > ledger.max_streams:
            self._shed(
                "streams",
                lambda: ledger.streams > ledger.max_streams * RELIEF,
                lambda holder: holder.streams,
                lambda holder: holder.shed_streams(STREAMS_AT_ONCE),
            )

    def _shed(
        self,
        what: str,
        is_over: Callable[[], bool],
        size: Callable[[Holder], int],
        shed: Callable[[Holder], None],
    ) -> None:
        sizes = {holder: held for holder in self.holders() if (held := size(holder))}
        strangers = {holder: held for holder, held in sizes.items() if not self.is_own(holder.remote_peer)}
        for _ in range(MAX_VICTIMS):
            if not is_over() or (victim := heaviest(strangers or sizes)) is None:
                return
            self._refusals.note(f"{what}-shed", victim.remote_peer, f"{victim.remote_addr} held most {what}")
            shed(victim)
            left = size(victim)
            for sized in (strangers, sizes):
                if (was := sized.pop(victim, 0)) and 0 < left < was:
                    sized[victim] = left  # there is more to be had


def heaviest(sizes: Mapping[Holder, int]) -> Holder | None:
    """Who gives way: of the network that holds most, the one that holds most."""
    crowds: Counter[str] = Counter()
    for holder, held in sizes.items():
        crowds[holder.crowd] += held
    if not crowds.total():
        return None
    (most, _), *_rest = crowds.most_common(1)
    return max((holder for holder in sizes if holder.crowd == most), key=sizes.__getitem__)
